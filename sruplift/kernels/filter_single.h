/* 3x3 kernels in float32 by Winograd's F(4x4, 3x3), with what points.h has: four rows together,
 * in tiles of 4x4 pixels, each lane another tile of a row. Part of program.h.
 */

#define FILTERED 4
#define SUMMED 6
#define POINTS 36

#include "points.h"

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(P, Q, ...) __builtin_shufflevector(P, Q, __VA_ARGS__)
#else
#define SHUFFLE(P, Q, ...) __builtin_shuffle(P, Q, (ivec){__VA_ARGS__})
#endif

/* Every other of p's and then q's values; p's and q's values by turns, of their lower or upper half. */
#if LANES == 16
#define EVEN(P, Q) SHUFFLE(P, Q, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(P, Q) SHUFFLE(P, Q, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define LOWER(P, Q) SHUFFLE(P, Q, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define UPPER(P, Q) SHUFFLE(P, Q, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define EVEN(P, Q) SHUFFLE(P, Q, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD(P, Q) SHUFFLE(P, Q, 1, 3, 5, 7, 9, 11, 13, 15)
#define LOWER(P, Q) SHUFFLE(P, Q, 0, 8, 1, 9, 2, 10, 3, 11)
#define UPPER(P, Q) SHUFFLE(P, Q, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define EVEN(P, Q) SHUFFLE(P, Q, 0, 2, 4, 6)
#define ODD(P, Q) SHUFFLE(P, Q, 1, 3, 5, 7)
#define LOWER(P, Q) SHUFFLE(P, Q, 0, 4, 1, 5)
#define UPPER(P, Q) SHUFFLE(P, Q, 2, 6, 3, 7)
#endif

/* What is to be filtered for FILTERED rows of a result. */
typedef struct {
    const Cell *rows[SUMMED]; /* their planes, from the row above on */
    ptrdiff_t plane;
    int planes, width, block, blocks;
    const Cell *weight; /* (POINTS, blocks, planes, block) */
    const float *bias;
    Cell *scratch;
} Filtering;

/* Vectors of tiles at a time: as many, or one. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define WHOLE_TILES 2
#else
#define WHOLE_TILES 3
#endif
#define MOST_TILES (WHOLE_TILES * LANES)

/* Cells that it takes. */
static size_t filter_scratch(int planes, int outputs, ptrdiff_t plane) {
    (void)plane;
    return (size_t)(planes + outputs) * POINTS * MOST_TILES;
}

/* B' d B of a plane's tiles, from ``rows``' places on. The 36 results are ``step`` apart. */
static void take_tiles(const float *const rows[SUMMED], int tiles, float *v, ptrdiff_t step) {
    float columns[SUMMED][4][MOST_TILES + LANES]; /* each fourth of a row, from its first to fourth on */
    for (int t = 0; t <= tiles; t += LANES) {
        vec c[4][SUMMED];
        for (int n = 0; n < 4; n++) {
            vec d[SUMMED];
            EVERY for (int i = 0; i < SUMMED; i++) d[i] = load(rows[i] + 4 * t + n * LANES);
            before(d, c[n]);
            if (t == tiles) break; /* of the next tile only the first pixels are needed */
        }
        for (int i = 0; i < SUMMED; i++) {
            if (t == tiles) {
                columns[i][0][t] = c[0][i][0];
                columns[i][1][t] = c[0][i][1];
                continue;
            }
            vec p = EVEN(c[0][i], c[1][i]), q = ODD(c[0][i], c[1][i]);
            vec r = EVEN(c[2][i], c[3][i]), s = ODD(c[2][i], c[3][i]);
            store(columns[i][0] + t, EVEN(p, r));
            store(columns[i][1] + t, EVEN(q, s));
            store(columns[i][2] + t, ODD(p, r));
            store(columns[i][3] + t, ODD(q, s));
        }
    }
    for (int i = 0; i < SUMMED; i++)
        for (int t = 0; t < tiles; t += LANES) {
            vec d[SUMMED], e[SUMMED];
            EVERY for (int j = 0; j < SUMMED; j++) d[j] = load(columns[i][j % 4] + t + j / 4);
            before(d, e);
            EVERY for (int j = 0; j < SUMMED; j++) store(v + (SUMMED * i + j) * step + t, e[j]);
        }
}

/* A' m A of an output's tiles, whose 36 sums are ``step`` apart, as rows of pixels; those of the same row
 * of the next output lie behind them. */
static void give_tiles(const float *m, ptrdiff_t step, float bias, vec *y) {
    vec t[SUMMED][FILTERED], p[FILTERED][4];
    EVERY for (int i = 0; i < SUMMED; i++) {
        vec d[SUMMED];
        EVERY for (int j = 0; j < SUMMED; j++) d[j] = load(m + (SUMMED * i + j) * step);
        after(d, t[i]);
    }
    EVERY for (int j = 0; j < 4; j++) {
        vec d[SUMMED], e[FILTERED];
        EVERY for (int i = 0; i < SUMMED; i++) d[i] = t[i][j];
        after(d, e);
        EVERY for (int i = 0; i < FILTERED; i++) p[i][j] = e[i] + all(bias);
    }
    EVERY for (int i = 0; i < FILTERED; i++, y += 8) {
        vec even = LOWER(p[i][0], p[i][2]), odd = LOWER(p[i][1], p[i][3]);
        y[0] = LOWER(even, odd);
        y[1] = UPPER(even, odd);
        even = UPPER(p[i][0], p[i][2]);
        odd = UPPER(p[i][1], p[i][3]);
        y[2] = LOWER(even, odd);
        y[3] = UPPER(even, odd);
    }
}

/* The sums of products of all outputs, of ``blocks``, at each point, for VECTORS of tiles. */
typedef void Multiply(const Source *s, const float *w, int blocks, float *m);

#define MULTIPLY(BLOCK, COUNT, VECTORS)                                                           \
    SUMS(tiles##BLOCK##x##VECTORS, BLOCK, COUNT, VECTORS)                                         \
    static void multiply##BLOCK##x##VECTORS(const Source *whole, const float *w, int blocks,      \
                                            float *m) {                                           \
        static const float none[COUNT] = {0};                                                     \
        Source s = *whole;                                                                        \
        for (int p = 0; p < POINTS; p++, s.places[0] += s.planes * s.plane)                       \
            for (int k = 0; k < blocks; k++, w += s.planes * BLOCK)                               \
                for (int first = 0; first < BLOCK; first += COUNT) {                              \
                    vec sums[COUNT][VECTORS];                                                     \
                    tiles##BLOCK##x##VECTORS(&s, 0, w + first, none, sums);                       \
                    float *y = m + ((k * BLOCK + first) * POINTS + p) * VECTORS * LANES;          \
                    EVERY for (int o = 0; o < COUNT; o++, y += POINTS * VECTORS * LANES) {        \
                        EVERY for (int v = 0; v < VECTORS; v++) store(y + v * LANES, sums[o][v]); \
                    }                                                                             \
                }                                                                                 \
    }

/* Blocks as they are for rows, but for vectors, of which there are one or WHOLE_TILES. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define EVERY_WHOLE(DO) DO(12, 12, 2) DO(10, 10, 2) DO(8, 8, 2) DO(4, 4, 2) DO(2, 2, 2)
#else
#define EVERY_WHOLE(DO) DO(12, 4, 3) DO(8, 4, 3) DO(4, 4, 3) DO(2, 2, 3)
#endif
#define MULTIPLY_ONE(BLOCK, COUNT, VECTORS) MULTIPLY(BLOCK, BLOCK, 1)
EVERY_BLOCK(MULTIPLY_ONE)
EVERY_WHOLE(MULTIPLY)

static Multiply *multiply_of(int block, int vectors) {
#define GIVE_MULTIPLY(BLOCK, COUNT, VECTORS)                                                      \
    if (block == BLOCK) return vectors == 1 ? multiply##BLOCK##x1 : multiply##BLOCK##x##VECTORS;
    EVERY_WHOLE(GIVE_MULTIPLY)
    return NULL;
}

FINISHER(2, 4)

/* ``f`` says what follows for each row, from its first outputs on. */
static void filter_rows(const Filtering *c, Finish f[FILTERED]) {
    int outputs = c->blocks * c->block;
    for (int column = 0, vectors; column < c->width; column += 4 * vectors * LANES) {
        vectors = c->width - column >= 4 * WHOLE_TILES * LANES ? WHOLE_TILES : 1;
        ptrdiff_t wide = vectors * LANES, count = c->planes * wide;
        for (int p = 0; p < c->planes; p++) {
            const float *rows[SUMMED];
            for (int i = 0; i < SUMMED; i++) rows[i] = c->rows[i] + p * c->plane + PAD + column - 1;
            take_tiles(rows, (int)wide, c->scratch + p * wide, count);
        }
        Source s = {.places = {c->scratch}, .plane = wide, .planes = c->planes, .taps = 1};
        float *m = c->scratch + POINTS * count;
        multiply_of(c->block, vectors)(&s, c->weight, c->blocks, m);
        for (int o = 0; o < outputs; o += 2, m += 2 * POINTS * wide)
            for (int v = 0; v < vectors; v++) {
                vec y[FILTERED][2][4];
                for (int i = 0; i < 2; i++)
                    give_tiles(m + i * POINTS * wide + v * LANES, wide, c->bias[o + i], y[0][i]);
                for (int i = 0; i < FILTERED; i++)
                    finish2x4(f + i, o, c->plane, column + 4 * v * LANES, c->width, &y[i][0][0]);
            }
    }
}
