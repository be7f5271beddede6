/* Convolutions of float32 maps with channels last, on CPUs: 1x1, 3x3 by Winograd's minimal
 * filtering, and depthwise ones of 3x3 and 5x5. What follows a convolution in the networks (a gate,
 * a product, a sum, an activation) is done while its result is in registers.
 */

#include "winograd.h"

/* Mirrored by ConvCall in kernels/library.py. Steps, rows and images are in
 * floats: from a pixel, a row or an image to the next one. */
typedef struct {
    int32_t images;
    const float *x;
    ptrdiff_t x_step, x_row, x_image;
    int32_t height, width, inputs;
    int32_t padding; /* zeros around it */
    const float *weight, *bias;
    float *y; /* overlaps none of the others */
    ptrdiff_t y_step, y_row, y_image;
    int32_t out_height, out_width, outputs;
    int32_t sigmoid; /* 1; 2 is that of a ReLU */
    const float *mul;
    ptrdiff_t mul_step, mul_row, mul_image;
    const float *add;
    ptrdiff_t add_step, add_row, add_image;
    float slope; /* of the leaky ReLU; 1 is none */
} Conv;

int32_t sruplift_conv_size(void) { return (int32_t)sizeof(Conv); }

int32_t sruplift_lanes(void) { return LANES; }

static inline vec leaky(vec x, vec slope) {
    ivec is = x > 0;
    return (vec)(((ivec)x & is) | ((ivec)(x * slope) & ~is));
}

/* What follows the sums of one group of channels, and where it goes: rows x columns pixels, of
 * which those of a row lie side by side in v and rows are v_row apart. */
typedef void Emit(const Conv *c, const vec *v, int v_row, int rows, int columns, int row,
                  int column, int channel);

#define EMIT(NAME, BIAS, SIGMOID, MUL, ADD, LEAKY)                                                \
    static void NAME(const Conv *c, const vec *v, int v_row, int rows, int columns, int row,      \
                     int column, int channel) {                                                   \
        int few = c->outputs < LANES;                                                             \
        size_t bytes = sizeof(float) * (size_t)c->outputs;                                        \
        float some[LANES] = {0};                                                                  \
        vec bias = {0}, slope = all(c->slope);                                                    \
        if (BIAS) bias = few ? load(memcpy(some, c->bias, bytes)) : load(c->bias + channel);      \
        for (int i = 0; i < rows; i++, v += v_row) {                                              \
            float *y = c->y + (row + i) * c->y_row + column * c->y_step + channel;                \
            const float *mul = NULL, *add = NULL;                                                 \
            if (MUL) mul = c->mul + (row + i) * c->mul_row + column * c->mul_step + channel;      \
            if (ADD) add = c->add + (row + i) * c->add_row + column * c->add_step + channel;      \
            for (int j = 0; j < columns; j++, y += c->y_step) {                                   \
                vec r = v[j] + bias;                                                              \
                if (SIGMOID > 1) r = larger((vec){0}, r);                                         \
                if (SIGMOID) r = 1.0f / (1.0f + exponential(-r));                                 \
                if (MUL) r *= few ? load(memcpy(some, mul + j * c->mul_step, bytes))              \
                                  : load(mul + j * c->mul_step);                                  \
                if (ADD) r += few ? load(memcpy(some, add + j * c->add_step, bytes))              \
                                  : load(add + j * c->add_step);                                  \
                if (LEAKY) r = leaky(r, slope);                                                   \
                if (few) {                                                                        \
                    store(some, r);                                                               \
                    memcpy(y, some, bytes);                                                       \
                } else {                                                                          \
                    store(y, r);                                                                  \
                }                                                                                 \
            }                                                                                     \
        }                                                                                         \
    }
EMIT(emit_any, c->bias != NULL, c->sigmoid, c->mul != NULL, c->add != NULL, c->slope != 1.0f)
/* Those that the networks ask for most. */
EMIT(emit_plain, 0, 0, 0, 0, 0)
EMIT(emit_bias, 1, 0, 0, 0, 0)
EMIT(emit_bias_leaky, 1, 0, 0, 0, 1)
EMIT(emit_gated, 1, 1, 1, 0, 0)
EMIT(emit_gated_add, 1, 1, 1, 1, 0)

static Emit *emit_of(const Conv *c) {
    int is = (c->bias ? 1 : 0) | (c->sigmoid == 1 ? 2 : c->sigmoid ? 32 : 0) |
             (c->mul ? 4 : 0) | (c->add ? 8 : 0) | (c->slope != 1.0f ? 16 : 0);
    switch (is) {
    case 0: return emit_plain;
    case 1: return emit_bias;
    case 1 | 16: return emit_bias_leaky;
    case 1 | 2 | 4: return emit_gated;
    case 1 | 2 | 4 | 8: return emit_gated_add;
    default: return emit_any;
    }
}

/* ---- 1x1; weight: (inputs, groups * LANES) ---- */

#define POINTWISE(NAME, PRODUCT, COLUMNS, GROUPS)                                                 \
    static void NAME(const Conv *c, Emit *emit, int row, int column, int group) {                 \
        int wide = groups_of(c->outputs) * LANES;                                                 \
        vec sums[COLUMNS][GROUPS];                                                                \
        PRODUCT(c->x + row * c->x_row + column * c->x_step, c->x_step, 1,                         \
                c->weight + group * LANES, wide, c->inputs, sums);                                \
        EVERY for (int g = 0; g < GROUPS; g++) {                                                  \
            vec v[COLUMNS];                                                                       \
            EVERY for (int j = 0; j < COLUMNS; j++) v[j] = sums[j][g];                            \
            emit(c, v, COLUMNS, 1, COLUMNS, row, column, first_of(group + g, c->outputs));        \
        }                                                                                         \
    }
POINTWISE(pointwise41, product41, 4, 1)
POINTWISE(pointwise42, product42, 4, 2)
POINTWISE(pointwise43, product43, 4, 3)
POINTWISE(pointwise11, product11, 1, 1)
POINTWISE(pointwise12, product12, 1, 2)
POINTWISE(pointwise13, product13, 1, 3)

static void pointwise_row(const Conv *c, int row) {
    Emit *emit = emit_of(c);
    int groups = groups_of(c->outputs), column = 0;
    for (; column + 4 <= c->out_width; column += 4)
        for (int g = 0, n; g < groups; g += n) {
            n = next_groups(groups - g);
            (n == 3 ? pointwise43 : n == 2 ? pointwise42 : pointwise41)(c, emit, row, column, g);
        }
    for (; column < c->out_width; column++)
        for (int g = 0, n; g < groups; g += n) {
            n = next_groups(groups - g);
            (n == 3 ? pointwise13 : n == 2 ? pointwise12 : pointwise11)(c, emit, row, column, g);
        }
}

/* ---- depthwise; weight: (kernel * kernel, groups * LANES) ---- */

/* Some channels of a pixel; zeros beyond the map. */
static inline vec pixel(const Conv *c, int row, int column, int channel) {
    const float *x = c->x + row * c->x_row + column * c->x_step + channel;
    float some[LANES] = {0};
    if (column < 0 || column >= c->width) return (vec){0};
    if (c->inputs >= LANES) return load(x);
    return load(memcpy(some, x, sizeof(float) * (size_t)c->inputs));
}

#define DEPTHWISE(NAME, KERNEL)                                                                   \
    static void NAME(const Conv *c, int row) {                                                    \
        Emit *emit = emit_of(c);                                                                  \
        int groups = groups_of(c->outputs), wide = groups * LANES, top = row - c->padding;        \
        for (int column = 0; column < c->out_width; column += 4) {                                \
            int left = column - c->padding, count = c->out_width - column;                        \
            int inside = left >= 0 && left + KERNEL + 3 <= c->width && c->inputs >= LANES;        \
            for (int g = 0; g < groups; g++) {                                                    \
                int channel = first_of(g, c->outputs);                                            \
                vec sums[4] = {0}, v[4];                                                          \
                for (int i = 0; i < KERNEL; i++) {                                                \
                    if (top + i < 0 || top + i >= c->height) continue;                            \
                    const float *x = c->x + (top + i) * c->x_row + left * c->x_step + channel;    \
                    const float *weight = c->weight + (i * KERNEL * wide) + g * LANES;            \
                    vec d[KERNEL + 3];                                                            \
                    if (inside) {                                                                 \
                        EVERY for (int j = 0; j < KERNEL + 3; j++) d[j] = load(x + j * c->x_step); \
                    } else {                                                                      \
                        for (int j = 0; j < KERNEL + 3; j++)                                      \
                            d[j] = pixel(c, top + i, left + j, channel);                          \
                    }                                                                             \
                    EVERY for (int k = 0; k < KERNEL; k++) {                                      \
                        vec w = load(weight + k * wide);                                          \
                        EVERY for (int j = 0; j < 4; j++) sums[j] += d[j + k] * w;                \
                    }                                                                             \
                }                                                                                 \
                EVERY for (int j = 0; j < 4; j++) v[j] = sums[j];                                 \
                emit(c, v, 4, 1, count < 4 ? count : 4, row, column, channel);                    \
            }                                                                                     \
        }                                                                                         \
    }
DEPTHWISE(depthwise3, 3)
DEPTHWISE(depthwise5, 5)

/* ---- 3x3; weight: (36, inputs, groups * LANES) ---- */

/* A' m A of a tile's 36 sums. */
static inline void transform_output(const float *m, ptrdiff_t step, vec y[4][4]) {
    vec t[4][6];
    EVERY for (int j = 0; j < 6; j++) {
        vec s[6], e[4];
        EVERY for (int i = 0; i < 6; i++) s[i] = load(m + (6 * i + j) * step);
        after(s, e);
        EVERY for (int i = 0; i < 4; i++) t[i][j] = e[i];
    }
    EVERY for (int i = 0; i < 4; i++) after(t[i], y[i]);
}

/* How a thread works through a row of tiles: so many at a time, a multiple of 8, that its two
 * buffers stay in the second cache. */
typedef struct {
    int tiles, v_row, m_row;
    size_t floats;
} Block;

static Block block_of(const Conv *c) {
    Block b = {.v_row = c->inputs < LANES ? LANES : c->inputs};
    b.m_row = groups_of(c->outputs) * LANES;
    int a_tile = 36 * (b.v_row + b.m_row), fit = (192 * 1024 / 4 / a_tile + 4) / 8 * 8;
    b.tiles = fit < 8 ? 8 : fit > 64 ? 64 : fit;
    b.floats = (size_t)b.tiles * (size_t)a_tile;
    return b;
}

static void winograd_row(const Conv *c, int row, float *buffers) {
    Emit *emit = emit_of(c);
    Block b = block_of(c);
    Map x = {c->x, c->x_step, c->x_row, c->height, c->width, c->inputs};
    float *v = buffers, *m = buffers + 36 * b.tiles * b.v_row;
    int in_groups = groups_of(c->inputs), groups = groups_of(c->outputs);
    int tiles = (c->out_width + 3) / 4, top = 4 * row, rows = c->out_height - top;
    for (int first = 0; first < tiles; first += b.tiles) {
        int count = tiles - first < b.tiles ? tiles - first : b.tiles;
        for (int t = 0; t < count; t++)
            for (int g = 0; g < in_groups; g++) {
                int channel = first_of(g, c->inputs);
                vec d[6][6];
                gather(&x, 6, top - c->padding, 4 * (first + t) - c->padding, channel, d);
                transform_input(d, v + t * b.v_row + channel, (ptrdiff_t)b.tiles * b.v_row);
            }
        /* The last four or eight tiles may be fewer: what is left in the buffers then goes nowhere. */
        for (int p = 0; p < 36; p++)
            for (int g = 0, n; g < groups; g += n) {
                const float *weight = c->weight + ((ptrdiff_t)p * c->inputs * groups + g) * LANES;
                n = next_groups(groups - g);
                Into *into = n == 3 ? into43 : n == 2 ? into42 : into81;
                for (int t = 0; t < count; t += n == 1 ? 8 : 4)
                    into(v + (p * b.tiles + t) * b.v_row, b.v_row, weight, b.m_row, c->inputs,
                         m + (p * b.tiles + t) * b.m_row + g * LANES);
            }
        for (int t = 0; t < count; t++)
            for (int g = 0; g < groups; g++) {
                int left = 4 * (first + t), columns = c->out_width - left;
                vec y[4][4];
                transform_output(m + t * b.m_row + g * LANES, (ptrdiff_t)b.tiles * b.m_row, y);
                emit(c, y[0], 4, rows < 4 ? rows : 4, columns < 4 ? columns : 4, top, left,
                     first_of(g, c->outputs));
            }
    }
}

static Conv image_of(const Conv *batch, int image) {
    Conv c = *batch;
    c.x += image * c.x_image;
    c.y += image * c.y_image;
    if (c.mul) c.mul += image * c.mul_image;
    if (c.add) c.add += image * c.add_image;
    return c;
}

/* One with a kernel of 3 or 5 for each channel by itself. */
void sruplift_convolve_channels(const Conv *batch, int32_t kernel, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < batch->images * batch->out_height; i++) {
        Conv c = image_of(batch, i / batch->out_height);
        (kernel == 3 ? depthwise3 : depthwise5)(&c, i % batch->out_height);
    }
}

/* A whole convolution with a kernel of 1 or 3; not 0 if there is no memory for it. */
int32_t sruplift_convolve(const Conv *batch, int32_t kernel, int32_t threads) {
    int height = batch->out_height, rows = kernel == 3 ? (height + 3) / 4 : height, failed = 0;
    size_t bytes = sizeof(float) * block_of(batch).floats;
#pragma omp parallel num_threads(threads)
    {
        void *buffers = NULL;
        if (kernel == 3 && posix_memalign(&buffers, 64, bytes)) {
            buffers = NULL;
#pragma omp atomic write
            failed = 1;
        }
        if (buffers) memset(buffers, 0, bytes);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < batch->images * rows; i++) {
            Conv c = image_of(batch, i / rows);
            if (kernel == 1) pointwise_row(&c, i % rows);
            else if (buffers) winograd_row(&c, i % rows, buffers);
        }
        free(buffers);
    }
    return failed;
}
