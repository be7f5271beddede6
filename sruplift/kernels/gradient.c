/* Kernels packed for convolution.c, and the gradients of 3x3 and of depthwise ones, for training.
 *
 * Of 3x3 ones by Winograd's filtering: as y = A' [(G w G') * (B' x B)] A for each tile, the gradient of w is the
 * sum over tiles of G' [(A y' A') * (B' x B)] G, y' being that of y.
 */

#include "winograd.h"

/* Mirrored by GradientCall in kernels/library.py; steps in floats. */
typedef struct {
    const float *x, *y; /* the input, and the gradient of the output */
    ptrdiff_t x_step, x_row, x_image, y_step, y_row, y_image;
    int32_t images, height, width, inputs, out_height, out_width, outputs, padding;
    float *weight; /* the result, (outputs, inputs, 3, 3) in any order */
    ptrdiff_t w_output, w_input, w_row, w_step;
} Gradient;

int32_t sruplift_gradient_size(void) { return (int32_t)sizeof(Gradient); }

/* Rows of G: (1, p, p * p) for each point p, divided by the distances to the other points. */
static const double G[6][3] = {
    {1, 0, 0},
    {-2 / 3., -2 / 3. * 0.70710678118654752, -1 / 3.},
    {-2 / 3., 2 / 3. * 0.70710678118654752, -1 / 3.},
    {1 / 6., 1 / 3. * 0.70710678118654752, 1 / 3.},
    {1 / 6., -1 / 3. * 0.70710678118654752, 1 / 3.},
    {0, 0, 1},
};

/* A y A' of a tile's 4x4 pixels, the 36 results a step apart. */
static inline void transform_gradient(vec d[6][6], float *v, ptrdiff_t step) {
    vec t[6][4];
    EVERY for (int j = 0; j < 4; j++) {
        vec p = d[0][j] + 0.5f * d[2][j], q = d[1][j] + 0.5f * d[3][j];
        vec r = d[0][j] + 2 * d[2][j], s = d[1][j] + 2 * d[3][j];
        t[0][j] = d[0][j];
        t[1][j] = p + A * q;
        t[2][j] = p - A * q;
        t[3][j] = r + 2 * A * s;
        t[4][j] = r - 2 * A * s;
        t[5][j] = d[3][j];
    }
    EVERY for (int i = 0; i < 6; i++) {
        vec *e = t[i];
        float *o = v + 6 * i * step;
        vec p = e[0] + 0.5f * e[2], q = e[1] + 0.5f * e[3];
        vec r = e[0] + 2 * e[2], s = e[1] + 2 * e[3];
        store(o, e[0]);
        store(o + step, p + A * q);
        store(o + 2 * step, p - A * q);
        store(o + 3 * step, r + 2 * A * s);
        store(o + 4 * step, r - 2 * A * s);
        store(o + 5 * step, e[3]);
    }
}

/* sums (ROWS, GROUPS * LANES) += a (k, ROWS)' b (k, GROUPS * LANES). */
typedef void Outer(const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_row, int k,
                   float *sums);

#define OUTER(NAME, PRODUCT, ROWS, GROUPS)                                                        \
    static void NAME(const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_row, int k,     \
                     float *sums) {                                                               \
        vec more[ROWS][GROUPS];                                                                   \
        PRODUCT(a, 1, a_row, b, b_row, k, more);                                                  \
        EVERY for (int r = 0; r < ROWS; r++) {                                                    \
            EVERY for (int g = 0; g < GROUPS; g++) {                                              \
                float *sum = sums + r * b_row + g * LANES;                                        \
                store(sum, load(sum) + more[r][g]);                                               \
            }                                                                                     \
        }                                                                                         \
    }
OUTER(outer81, product81, 8, 1)
OUTER(outer42, product42, 4, 2)
OUTER(outer43, product43, 4, 3)
OUTER(outer11, product11, 1, 1)
OUTER(outer12, product12, 1, 2)
OUTER(outer13, product13, 1, 3)

static void outer(const float *a, ptrdiff_t a_row, int rows, const float *b, int groups, int k,
                  float *sums) {
    ptrdiff_t b_row = groups * LANES;
    for (int g = 0, n; g < groups; g += n) {
        n = next_groups(groups - g);
        int many = n == 1 ? 8 : 4, r = 0;
        Outer *several = n == 3 ? outer43 : n == 2 ? outer42 : outer81;
        Outer *single = n == 3 ? outer13 : n == 2 ? outer12 : outer11;
        for (; r + many <= rows; r += many)
            several(a + r, a_row, b + g * LANES, b_row, k, sums + r * b_row + g * LANES);
        for (; r < rows; r++)
            single(a + r, a_row, b + g * LANES, b_row, k, sums + r * b_row + g * LANES);
    }
}

/* How a thread works: so many tiles at a time that its buffers stay in the second cache; its sums
 * follow them. */
typedef struct {
    int tiles, v_row, m_row;
    size_t sums, floats;
} Block;

static Block block_of(const Gradient *c) {
    Block b = {.v_row = c->inputs < LANES ? LANES : c->inputs};
    b.m_row = groups_of(c->outputs) * LANES;
    int a_tile = 36 * (b.v_row + b.m_row), fit = 160 * 1024 / 4 / a_tile;
    b.tiles = fit < 8 ? 8 : fit > 64 ? 64 : fit;
    b.sums = 36 * (size_t)c->inputs * (size_t)b.m_row;
    b.floats = (size_t)b.tiles * (size_t)a_tile + b.sums;
    b.floats = (b.floats + 15) / 16 * 16;
    return b;
}

/* Add what the tiles from first to end give. */
static void add_tiles(const Gradient *c, int first, int end, float *buffers) {
    Block b = block_of(c);
    float *v = buffers, *m = v + 36 * b.tiles * b.v_row, *sums = buffers + b.floats - b.sums;
    int in_groups = groups_of(c->inputs), groups = groups_of(c->outputs);
    int across = (c->out_width + 3) / 4, down = (c->out_height + 3) / 4;
    ptrdiff_t v_step = (ptrdiff_t)b.tiles * b.v_row, m_step = (ptrdiff_t)b.tiles * b.m_row;
    for (; first < end; first += b.tiles) {
        int count = end - first < b.tiles ? end - first : b.tiles;
        for (int t = 0; t < count; t++) {
            int image = (first + t) / (across * down);
            int top = (first + t) / across % down * 4, left = (first + t) % across * 4;
            Map x = {c->x + image * c->x_image, c->x_step, c->x_row, c->height,
                     c->width, c->inputs};
            Map y = {c->y + image * c->y_image, c->y_step, c->y_row, c->out_height,
                     c->out_width, c->outputs};
            vec d[6][6];
            for (int g = 0; g < in_groups; g++) {
                int channel = first_of(g, c->inputs);
                gather(&x, 6, top - c->padding, left - c->padding, channel, d);
                transform_input(d, v + t * b.v_row + channel, v_step);
            }
            for (int g = 0; g < groups; g++) {
                gather(&y, 4, top, left, first_of(g, c->outputs), d);
                transform_gradient(d, m + t * b.m_row + g * LANES, m_step);
            }
        }
        for (int p = 0; p < 36; p++)
            outer(v + p * v_step, b.v_row, c->inputs, m + p * m_step, groups, count,
                  sums + (ptrdiff_t)p * c->inputs * b.m_row);
    }
}

/* G' u G of one input and one group of outputs, into the result. */
static void finish(const Gradient *c, const float *sums, int input, int group) {
    Block b = block_of(c);
    ptrdiff_t step = (ptrdiff_t)c->inputs * b.m_row;
    const float *u = sums + (ptrdiff_t)input * b.m_row + group * LANES;
    int first = first_of(group, c->outputs);
    int count = c->outputs - first < LANES ? c->outputs - first : LANES;
    float *w = c->weight + first * c->w_output + input * c->w_input;
    vec half[3][6];
    for (int k = 0; k < 3; k++)
        for (int j = 0; j < 6; j++) {
            half[k][j] = (vec){0};
            for (int i = 0; i < 6; i++) half[k][j] += (float)G[i][k] * load(u + (6 * i + j) * step);
        }
    for (int k = 0; k < 3; k++)
        for (int l = 0; l < 3; l++) {
            vec r = {0};
            for (int j = 0; j < 6; j++) r += (float)G[j][l] * half[k][j];
            for (int o = 0; o < count; o++)
                w[o * c->w_output + k * c->w_row + l * c->w_step] = r[o];
        }
}

/* The gradient of a kernel, always the same for so many threads; not 0 if there is no memory for
 * it. */
int32_t sruplift_gradient(const Gradient *c, int32_t threads) {
    int tiles = c->images * ((c->out_width + 3) / 4) * ((c->out_height + 3) / 4);
    Block b = block_of(c);
    void *memory = NULL;
    size_t bytes = sizeof(float) * b.floats * (size_t)threads;
    if (posix_memalign(&memory, 64, bytes)) return 1;
    memset(memory, 0, bytes);
    float *buffers = memory, *sums = buffers + b.floats - b.sums;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static, 1)
        for (int t = 0; t < threads; t++)
            add_tiles(c, (int)((int64_t)tiles * t / threads),
                      (int)((int64_t)tiles * (t + 1) / threads), buffers + (size_t)t * b.floats);
#pragma omp for schedule(static)
        for (int input = 0; input < c->inputs; input++) {
            ptrdiff_t width = b.m_row, step = (ptrdiff_t)c->inputs * width;
            for (int t = 1; t < threads; t++)
                for (int p = 0; p < 36; p++) {
                    float *total = sums + p * step + input * width;
                    const float *own = total + (size_t)t * b.floats;
                    for (int i = 0; i < width; i++) total[i] += own[i];
                }
            for (int group = 0; group < groups_of(c->outputs); group++)
                finish(c, sums, input, group);
        }
    }
    free(memory);
    return 0;
}

/* A kernel (outputs, inputs, kernel, kernel), its values so many floats apart, as convolution.c takes
 * it: ([36,] inputs, groups * LANES). The last group ends with the last output; a single one is filled
 * up with zeros. */
void sruplift_pack(const float *weight, const ptrdiff_t *steps, int32_t outputs, int32_t inputs,
                   int32_t kernel, float *packed) {
    int groups = groups_of(outputs);
    ptrdiff_t wide = groups * LANES, step = inputs * wide;
    for (int input = 0; input < inputs; input++)
        for (int group = 0; group < groups; group++) {
            int first = first_of(group, outputs);
            int count = outputs - first < LANES ? outputs - first : LANES;
            const float *from = weight + first * steps[0] + input * steps[1];
            float *to = packed + input * wide + group * LANES;
            double w[3][3][LANES] = {0}, half[6][3][LANES];
            if (kernel == 1) {
                for (int o = 0; o < LANES; o++) to[o] = o < count ? from[o * steps[0]] : 0;
                continue;
            }
            for (int k = 0; k < 3; k++)
                for (int l = 0; l < 3; l++)
                    for (int o = 0; o < count; o++)
                        w[k][l][o] = from[o * steps[0] + k * steps[2] + l * steps[3]];
            for (int i = 0; i < 6; i++)
                for (int l = 0; l < 3; l++)
                    for (int o = 0; o < LANES; o++)
                        half[i][l][o] =
                            G[i][0] * w[0][l][o] + G[i][1] * w[1][l][o] + G[i][2] * w[2][l][o];
            for (int i = 0; i < 6; i++)
                for (int j = 0; j < 6; j++)
                    for (int o = 0; o < LANES; o++)
                        to[(6 * i + j) * step + o] =
                            (float)(G[j][0] * half[i][0][o] + G[j][1] * half[i][1][o] +
                                    G[j][2] * half[i][2][o]);
        }
}

/* ---- depthwise; the result is (channels, 1, kernel, kernel) in any order ---- */

/* Some channels of a pixel. */
static inline vec channels_of(const float *p, int channels) {
    float some[LANES] = {0};
    return channels < LANES ? load(memcpy(some, p, sizeof(float) * (size_t)channels)) : load(p);
}

/* One row of a group's kernels. Sums are of a map's row first, so that few are added to many. */
#define DEPTHWISE(NAME, KERNEL)                                                                   \
    static void NAME(const Gradient *c, int group, int i) {                                       \
        int channel = first_of(group, c->inputs), few = c->inputs < LANES;                        \
        vec total[KERNEL] = {0};                                                                  \
        for (int n = 0; n < c->images * c->out_height; n++) {                                     \
            int image = n / c->out_height, row = n % c->out_height, from = row + i - c->padding;  \
            if (from < 0 || from >= c->height) continue;                                          \
            const float *x = c->x + image * c->x_image + from * c->x_row + channel;               \
            const float *y = c->y + image * c->y_image + row * c->y_row + channel;                \
            vec sums[KERNEL] = {0}, d[KERNEL + 3], e[4];                                          \
            for (int column = 0; column < c->out_width; column += 4) {                            \
                int left = column - c->padding, right = left + KERNEL + 3;                        \
                if (!few && left >= 0 && right <= c->width && column + 4 <= c->out_width) {       \
                    EVERY for (int j = 0; j < KERNEL + 3; j++)                                    \
                        d[j] = load(x + (left + j) * c->x_step);                                  \
                    EVERY for (int j = 0; j < 4; j++) e[j] = load(y + (column + j) * c->y_step);  \
                } else {                                                                          \
                    for (int j = 0, at = left; j < KERNEL + 3; j++, at++)                         \
                        d[j] = at < 0 || at >= c->width ? (vec){0}                                \
                                                        : channels_of(x + at * c->x_step, c->inputs); \
                    for (int j = 0, at = column; j < 4; j++, at++)                                \
                        e[j] = at >= c->out_width ? (vec){0}                                      \
                                                  : channels_of(y + at * c->y_step, c->inputs);   \
                }                                                                                 \
                EVERY for (int k = 0; k < KERNEL; k++) {                                          \
                    EVERY for (int j = 0; j < 4; j++) sums[k] += d[j + k] * e[j];                 \
                }                                                                                 \
            }                                                                                     \
            EVERY for (int k = 0; k < KERNEL; k++) total[k] += sums[k];                           \
        }                                                                                         \
        /* The last group's first channels may be those of the one before. */                     \
        for (int lane = group * LANES - channel; lane < LANES && channel + lane < c->inputs; lane++) { \
            float *w = c->weight + (channel + lane) * c->w_output + i * c->w_row;                 \
            for (int k = 0; k < KERNEL; k++) w[k * c->w_step] = total[k][lane];                   \
        }                                                                                         \
    }
DEPTHWISE(depthwise3, 3)
DEPTHWISE(depthwise5, 5)

/* The gradient of kernels of 3 or 5 that each see one channel alone. */
void sruplift_gradient_channels(const Gradient *c, int32_t kernel, int32_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < groups_of(c->inputs) * kernel; i++)
        (kernel == 3 ? depthwise3 : depthwise5)(c, i / kernel, i % kernel);
}
