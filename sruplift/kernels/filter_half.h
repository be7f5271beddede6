/* 3x3 kernels in bf16 by Winograd's F(2, 3) along columns: two rows together, of four sums. More would
 * multiply less, and round more than bf16 allows. Part of program.h.
 */

#define FILTERED 2
#define SUMMED 4
/* Sums of products with the kernel as it is packed. */
#define POINTS 4
#define POINT_TAPS 3

/* What is to be filtered for FILTERED rows of a result. */
typedef struct {
    const Cell *rows[SUMMED]; /* their planes, from the row above on */
    ptrdiff_t plane;
    int planes, width, block, blocks;
    const Cell *weight; /* (POINTS, blocks, POINT_TAPS, planes, block) */
    const float *bias;
    Cell *scratch;
} Filtering;

/* Cells that it takes. */
static size_t filter_scratch(int planes, int outputs, ptrdiff_t plane) {
    (void)outputs;
    return (size_t)planes * SUMMED * (size_t)plane;
}

/* What the sums are of, from four rows of so many cells. */
static void combine(const Cell *const d[SUMMED], ptrdiff_t count, Cell *y) {
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        cells e[SUMMED];
        for (int k = 0; k < SUMMED; k++) e[k] = load_cells(d[k] + i);
#define DIFFERENCE(A, B) pair_of(low(A) - low(B), high(A) - high(B))
        store_cells(y + i, DIFFERENCE(e[0], e[2]));
        store_cells(y + count + i, pair_of(low(e[1]) + low(e[2]), high(e[1]) + high(e[2])));
        store_cells(y + 2 * count + i, DIFFERENCE(e[2], e[1]));
        store_cells(y + 3 * count + i, DIFFERENCE(e[1], e[3]));
    }
}

/* Of a block of outputs; the weights of the sums are ``next`` cells apart. */
#define FILTER(BLOCK, COUNT, VECTORS)                                                             \
    static void filter##BLOCK(const Source *s, const Cell *w, ptrdiff_t next, const float *bias,  \
                              const Finish *f, ptrdiff_t plane, int width) {                      \
        static const float none[COUNT] = {0};                                                     \
        for (int column = 0; column < width; column += VECTORS * LANES)                           \
            for (int first = 0; first < BLOCK; first += COUNT) {                                  \
                vec a[COUNT][VECTORS], b[COUNT][VECTORS], m[COUNT][VECTORS];                      \
                sums##BLOCK(s, column, w + first, none, a);                                       \
                sums##BLOCK(s + 3, column, w + 3 * next + first, none, b);                        \
                sums##BLOCK(s + 1, column, w + next + first, bias + first, m);                    \
                for (int o = 0; o < COUNT; o++) {                                                 \
                    EVERY for (int v = 0; v < VECTORS; v++) {                                     \
                        a[o][v] += m[o][v];                                                       \
                        b[o][v] = m[o][v] - b[o][v];                                              \
                    }                                                                             \
                }                                                                                 \
                sums##BLOCK(s + 2, column, w + 2 * next + first, none, m);                        \
                for (int o = 0; o < COUNT; o++) {                                                 \
                    EVERY for (int v = 0; v < VECTORS; v++) {                                     \
                        a[o][v] += m[o][v];                                                       \
                        b[o][v] -= m[o][v];                                                       \
                    }                                                                             \
                }                                                                                 \
                finish##COUNT##x##VECTORS(f, first, plane, column, width, &a[0][0]);              \
                finish##COUNT##x##VECTORS(f + 1, first, plane, column, width, &b[0][0]);          \
            }                                                                                     \
    }
EVERY_BLOCK(FILTER)

typedef void Filter(const Source *s, const Cell *w, ptrdiff_t next, const float *bias,
                    const Finish *f, ptrdiff_t plane, int width);

static Filter *filter_of(int block) {
#define GIVE_FILTER(BLOCK, COUNT, VECTORS)                                                        \
    if (block == BLOCK) return filter##BLOCK;
    EVERY_BLOCK(GIVE_FILTER)
    return NULL;
}

/* ``f`` says what follows for each row, from its first outputs on. */
static void filter_rows(const Filtering *c, Finish f[FILTERED]) {
    ptrdiff_t count = c->planes * c->plane, each = POINT_TAPS * (ptrdiff_t)c->planes * c->block;
    Source s[SUMMED];
    combine(c->rows, count, c->scratch);
    for (int i = 0; i < SUMMED; i++) {
        s[i] = (Source){.plane = c->plane, .planes = c->planes, .taps = POINT_TAPS};
        for (int t = 0; t < POINT_TAPS; t++)
            s[i].places[t] = c->scratch + i * count + PAD + t - 1;
    }
    for (int k = 0; k < c->blocks; k++) {
        filter_of(c->block)(s, c->weight + k * each, c->blocks * each, c->bias + k * c->block, f,
                            c->plane, c->width);
        for (int i = 0; i < FILTERED; i++) next_block(&f[i], c->block, c->plane);
    }
}
