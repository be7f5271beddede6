/* Convolutions of float32 maps with channels last, for inference on CPUs: 1x1, and 3x3 by
 * Winograd's minimal filtering. What follows a convolution in the networks (a gate, a product, a
 * sum, an activation) is done while its result is in registers.
 *
 * Source of F(4x4, 3x3): A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural
 * Networks", CVPR 2016. Its points are 0, +-A, +-1/A and infinity with A * A = 1/2, which round off
 * half as much as the usual 0, +-1, +-2.
 */

#include "lanes.h"

/* Mirrored by the class of the same name in kernels/convolution.py. Steps and rows are in floats:
 * from a pixel to the next one, and from a row to the next one. */
typedef struct {
    const float *x;
    ptrdiff_t x_step, x_row;
    int32_t height, width, inputs;
    int32_t enlarge; /* each pixel stands for enlarge x enlarge, by nearest neighbour */
    int32_t padding; /* zeros around that */
    const float *weight, *bias;
    float *y; /* overlaps none of the others */
    ptrdiff_t y_step, y_row;
    int32_t out_height, out_width, outputs;
    int32_t sigmoid; /* 1; 2 is that of a ReLU */
    const float *mul;
    ptrdiff_t mul_step, mul_row;
    const float *add;
    ptrdiff_t add_step, add_row;
    float slope; /* of the leaky ReLU; 1 is none */
} Conv;

int32_t sruplift_lanes(void) { return LANES; }

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
                if (LEAKY) r = larger(r, r * slope);                                              \
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
EMIT(emit_leaky, 0, 0, 0, 0, 1)
EMIT(emit_mul, 0, 0, 1, 0, 0)
EMIT(emit_add, 0, 0, 0, 1, 0)
EMIT(emit_bias, 1, 0, 0, 0, 0)
EMIT(emit_bias_leaky, 1, 0, 0, 0, 1)
EMIT(emit_gate, 1, 1, 0, 0, 0)
EMIT(emit_gated_leaky, 1, 1, 1, 0, 1)

static Emit *emit_of(const Conv *c) {
    int is = (c->bias ? 1 : 0) | (c->sigmoid == 1 ? 2 : c->sigmoid ? 32 : 0) |
             (c->mul ? 4 : 0) | (c->add ? 8 : 0) | (c->slope != 1.0f ? 16 : 0);
    switch (is) {
    case 0: return emit_plain;
    case 16: return emit_leaky;
    case 4: return emit_mul;
    case 8: return emit_add;
    case 1: return emit_bias;
    case 1 | 16: return emit_bias_leaky;
    case 1 | 2: return emit_gate;
    case 1 | 2 | 4 | 16: return emit_gated_leaky;
    default: return emit_any;
    }
}

/* ---- 1x1; weight: (inputs, groups * LANES) ---- */

#define POINTWISE(NAME, PRODUCT, COLUMNS, GROUPS)                                                 \
    static void NAME(const Conv *c, Emit *emit, int row, int column, int group) {                 \
        int wide = groups_of(c->outputs) * LANES;                                                 \
        vec sums[COLUMNS][GROUPS];                                                                \
        PRODUCT(c->x + row * c->x_row + column * c->x_step, c->x_step,                            \
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

/* ---- 3x3; weight: (36, inputs, groups * LANES) ---- */

#define A 0.70710678118654752f /* a point; the other is 2 * A, its inverse */

/* B' d B of a tile's pixels, the 36 results a step apart. */
static inline void transform_input(vec d[6][6], float *v, ptrdiff_t step) {
    vec t[6][6];
    EVERY for (int j = 0; j < 6; j++) {
        vec p = d[4][j] - 2 * d[2][j], q = d[3][j] - 2 * d[1][j];
        vec r = d[4][j] - 0.5f * d[2][j], s = d[3][j] - 0.5f * d[1][j];
        t[0][j] = d[0][j] - 2.5f * d[2][j] + d[4][j];
        t[1][j] = p + A * q;
        t[2][j] = p - A * q;
        t[3][j] = r + 2 * A * s;
        t[4][j] = r - 2 * A * s;
        t[5][j] = d[1][j] - 2.5f * d[3][j] + d[5][j];
    }
    EVERY for (int i = 0; i < 6; i++) {
        vec *e = t[i];
        float *o = v + 6 * i * step;
        vec p = e[4] - 2 * e[2], q = e[3] - 2 * e[1];
        vec r = e[4] - 0.5f * e[2], s = e[3] - 0.5f * e[1];
        store(o, e[0] - 2.5f * e[2] + e[4]);
        store(o + step, p + A * q);
        store(o + 2 * step, p - A * q);
        store(o + 3 * step, r + 2 * A * s);
        store(o + 4 * step, r - 2 * A * s);
        store(o + 5 * step, e[1] - 2.5f * e[3] + e[5]);
    }
}

/* A' m A of a tile's 36 sums. */
static inline void transform_output(const float *m, ptrdiff_t step, vec y[4][4]) {
    vec t[4][6];
    EVERY for (int j = 0; j < 6; j++) {
        vec s[6];
        EVERY for (int i = 0; i < 6; i++) s[i] = load(m + (6 * i + j) * step);
        vec a = s[1] + s[2], b = s[1] - s[2], e = s[3] + s[4], f = s[3] - s[4];
        t[0][j] = s[0] + a + e;
        t[1][j] = A * b + 2 * A * f;
        t[2][j] = 0.5f * a + 2 * e;
        t[3][j] = 0.5f * A * b + (4 * A * f + s[5]);
    }
    EVERY for (int i = 0; i < 4; i++) {
        vec *s = t[i];
        vec a = s[1] + s[2], b = s[1] - s[2], e = s[3] + s[4], f = s[3] - s[4];
        y[i][0] = s[0] + a + e;
        y[i][1] = A * b + 2 * A * f;
        y[i][2] = 0.5f * a + 2 * e;
        y[i][3] = 0.5f * A * b + (4 * A * f + s[5]);
    }
}

/* The pixels that a tile is made of, one group of channels; zeros beyond the map. */
static inline void gather(const Conv *c, int top, int left, int channel, vec d[6][6]) {
    int height = c->height * c->enlarge, width = c->width * c->enlarge;
    int inside = top >= 0 && left >= 0 && top + 6 <= height && left + 6 <= width;
    if (inside && c->enlarge == 1 && c->inputs >= LANES) {
        const float *x = c->x + top * c->x_row + left * c->x_step + channel;
        EVERY for (int i = 0; i < 6; i++) {
            EVERY for (int j = 0; j < 6; j++) d[i][j] = load(x + i * c->x_row + j * c->x_step);
        }
        return;
    }
    ptrdiff_t places[6];
    for (int j = 0; j < 6; j++) {
        int column = left + j;
        places[j] = column < 0 || column >= width ? -1 : column / c->enlarge * c->x_step;
    }
    for (int i = 0; i < 6; i++) {
        int row = top + i, none = row < 0 || row >= height;
        const float *x = c->x + (none ? 0 : row / c->enlarge) * c->x_row + channel;
        for (int j = 0; j < 6; j++) {
            float some[LANES] = {0};
            if (none || places[j] < 0)
                d[i][j] = (vec){0};
            else if (c->inputs >= LANES)
                d[i][j] = load(x + places[j]);
            else
                d[i][j] = load(memcpy(some, x + places[j], sizeof(float) * (size_t)c->inputs));
        }
    }
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
    float *v = buffers, *m = buffers + 36 * b.tiles * b.v_row;
    int in_groups = groups_of(c->inputs), groups = groups_of(c->outputs);
    int tiles = (c->out_width + 3) / 4, top = 4 * row, rows = c->out_height - top;
    for (int first = 0; first < tiles; first += b.tiles) {
        int count = tiles - first < b.tiles ? tiles - first : b.tiles;
        for (int t = 0; t < count; t++)
            for (int g = 0; g < in_groups; g++) {
                int channel = first_of(g, c->inputs);
                vec d[6][6];
                gather(c, top - c->padding, 4 * (first + t) - c->padding, channel, d);
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

/* A whole convolution with a kernel of 1 or 3; not 0 if there is no memory for it. */
int32_t sruplift_convolve(const Conv *c, int32_t kernel, int32_t threads) {
    int rows = kernel == 3 ? (c->out_height + 3) / 4 : c->out_height, failed = 0;
    size_t bytes = sizeof(float) * block_of(c).floats;
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
        for (int row = 0; row < rows; row++) {
            if (kernel == 1) pointwise_row(c, row);
            else if (buffers) winograd_row(c, row, buffers);
        }
        free(buffers);
    }
    return failed;
}
