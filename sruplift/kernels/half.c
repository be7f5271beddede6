/* Convolutions of bf16 maps on CPUs, many at a time; sums are in float32.
 *
 * A program is a list of convolutions, each with what follows it. A thread makes a band of rows of
 * the last one's result; of the maps between, it makes a row when that is first asked for and keeps it
 * for as long as it is, so that they stay in its cache.
 */

#include "half.h"

/* Whether the processor multiplies bf16 by itself. */
int32_t sruplift_half(void) { return HALF; }

/* Maps, and ops, of a program; MOST in kernels/program.py. */
#define MOST_MAPS 24
/* Rows of a band, about; what neighbours share is made twice. */
#define BAND 45

/* Mirrored by HalfMap in kernels/library.py. A row holds a plane for each two channels. */
typedef struct {
    int32_t pairs; /* how many planes */
    int32_t scale; /* how many times larger it is than the program's height and width */
    Pair *data; /* its first row; NULL: each thread keeps what rows it needs */
    float *image; /* instead: channels of float32, to which a result is added, or a share's plane */
    ptrdiff_t image_row, image_channel; /* in floats, from one to the next */
} HalfMap;

/* Mirrored by HalfOp in kernels/library.py: a convolution and what follows it, in this order. */
typedef struct {
    int32_t input, first_input, pairs; /* a map, its first pair and how many */
    int32_t output, first_output, outputs; /* a map, its first pair, and how many channels */
    int32_t block; /* how many outputs are computed together: 12, 10, 8, 4, 2 */
    int32_t rows; /* how many are computed together: 1, or 2 of a 3x3 kernel by Winograd's filtering */
    int32_t enlarge; /* the map before; what a tap reads is in pixels that are not enlarged yet */
    int32_t reach; /* how many enlarged rows it sees above and below a pixel */
    const int32_t *taps; /* of each place in an enlarged pixel: how many, then (row, column) each */
    const Pair *weight; /* of each such place, or each of four rows, (blocks, taps, pairs, block) */
    const float *bias; /* of each place in an enlarged pixel, of all blocks */
    int32_t activation; /* 1 a sigmoid, 2 that of a ReLU */
    int32_t mul, first_mul, add, first_add; /* maps, or -1, and their first pairs */
    int32_t share; /* an image of one channel, or -1: how much of the sum with ``add`` is not that */
    float slope; /* of a leaky ReLU */
} HalfOp;

int32_t sruplift_half_op_size(void) { return (int32_t)sizeof(HalfOp); }
int32_t sruplift_half_map_size(void) { return (int32_t)sizeof(HalfMap); }

typedef struct {
    const HalfOp *ops;
    const HalfMap *maps;
    int count, map_count, height, width;
    int next[MOST_MAPS];  /* of each op, the row that it makes next */
    int newest[MOST_MAPS]; /* of each map */
    int least[MOST_MAPS], most[MOST_MAPS]; /* the rows of it that the band needs */
    int kept[MOST_MAPS];  /* how many rows a thread keeps of it */
    Pair *rings[MOST_MAPS];
    const Pair *zeros;
    Pair *scratch;
    int dry; /* only see how many rows must be kept */
} Band;

static inline int rows_of(const Band *b, int map) { return b->height * b->maps[map].scale; }
static inline int columns_of(const Band *b, int map) { return b->width * b->maps[map].scale; }

static Pair *row_at(const Band *b, int map, int row) {
    const HalfMap *m = &b->maps[map];
    ptrdiff_t size = m->pairs * plane_of(columns_of(b, map));
    return m->data ? m->data + row * size : b->rings[map] + row % b->kept[map] * size;
}

static Pair *place_of(const Band *b, int map, int first, int row, ptrdiff_t plane) {
    return map < 0 ? NULL : row_at(b, map, row) + first * plane + PAD;
}

/* Two rows at once, of four sources; their weights are ``next`` pairs apart. */
#define ROWS(NAME, SUM, BLOCK, VECTORS)                                                           \
    static void NAME(const Source *s, const Pair *w, ptrdiff_t next, const float *bias,           \
                     const Finish *f, ptrdiff_t plane, int width) {                               \
        static const float none[BLOCK] = {0};                                                     \
        for (int column = 0; column < width; column += VECTORS * LANES) {                         \
            vec a[BLOCK][VECTORS], b[BLOCK][VECTORS], m[BLOCK][VECTORS];                          \
            SUM(s, column, w, none, a);                                                           \
            SUM(s + 3, column, w + 3 * next, none, b);                                            \
            SUM(s + 1, column, w + next, bias, m);                                                \
            for (int o = 0; o < BLOCK; o++) {                                                     \
                EVERY for (int v = 0; v < VECTORS; v++) {                                         \
                    a[o][v] += m[o][v];                                                           \
                    b[o][v] = m[o][v] - b[o][v];                                                  \
                }                                                                                 \
            }                                                                                     \
            SUM(s + 2, column, w + 2 * next, none, m);                                            \
            for (int o = 0; o < BLOCK; o++) {                                                     \
                EVERY for (int v = 0; v < VECTORS; v++) {                                         \
                    a[o][v] += m[o][v];                                                           \
                    b[o][v] -= m[o][v];                                                           \
                }                                                                                 \
            }                                                                                     \
            if (!f[0].nothing) FINISH(BLOCK, VECTORS, f, a)                                       \
            if (!f[1].nothing) FINISH(BLOCK, VECTORS, f + 1, b)                                   \
        }                                                                                         \
    }
ROWS(rows12, sums12, 12, 2)
ROWS(rows10, sums10, 10, 2)
ROWS(rows8, sums8, 8, 3)

typedef void RowsOf(const Source *s, const Pair *w, ptrdiff_t next, const float *bias,
                    const Finish *f, ptrdiff_t plane, int width);

static RowsOf *rows_of_block(int block) {
    return block == 12 ? rows12 : block == 10 ? rows10 : rows8;
}

/* a + b, or a - b, of some pairs. */
static void combine(const Pair *a, const Pair *b, int minus, ptrdiff_t count, Pair *y) {
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        uvec p = load_pairs(a + i), q = load_pairs(b + i);
        uvec sum = minus ? pair_of(low(p) - low(q), high(p) - high(q))
                         : pair_of(low(p) + low(q), high(p) + high(q));
        *(uloose *)(y + i) = sum;
    }
}

/* Put ``from``'s pixels, of ``places`` rows, by turns. */
static void interleave(const Pair *from, ptrdiff_t apart, int places, int width, Pair *y) {
    if (places == 2)
        for (int i = 0; i < width; i++) {
            y[2 * i] = from[i];
            y[2 * i + 1] = from[apart + i];
        }
    else
        for (int p = 0; p < places; p++)
            for (int i = 0; i < width; i++) y[places * i + p] = from[p * apart + i];
}

/* The row of a map that an op reads, zeros beyond the map. */
static const Pair *input_at(const Band *b, const HalfOp *op, int row, ptrdiff_t plane) {
    int inside = row >= 0 && row < rows_of(b, op->input);
    return (inside ? row_at(b, op->input, row) : b->zeros) + op->first_input * plane;
}

static int blocks_of(const HalfOp *op) { return (op->outputs + op->block - 1) / op->block; }

/* What follows an op's sums for a row, but for where its first block of outputs goes. */
static Finish finish_of(const Band *b, const HalfOp *op, int row, ptrdiff_t plane) {
    const HalfMap *out = &b->maps[op->output];
    Finish f = {.activation = op->activation, .slope = op->slope, .step = op->enlarge};
    int held = out->data || out->image;
    f.nothing = row >= rows_of(b, op->output) ||
                (held && (row < b->least[op->output] || row > b->most[op->output]));
    if (f.nothing) return f;
    f.mul = place_of(b, op->mul, op->first_mul, row, plane);
    f.add = place_of(b, op->add, op->first_add, row, plane);
    if (op->share >= 0) f.share = b->maps[op->share].image + row * b->maps[op->share].image_row;
    if (out->image) {
        f.image = out->image + row * out->image_row;
        f.channel = out->image_channel;
        f.channels = op->outputs;
    } else {
        f.y = place_of(b, op->output, op->first_output, row, plane);
    }
    return f;
}

static void make_row(const Band *b, const HalfOp *op, int row) {
    int width = columns_of(b, op->input);
    ptrdiff_t plane = plane_of(width);
    Finish f = finish_of(b, op, row, plane);
    if (f.nothing) return;
    Source s = {.plane = plane, .pairs = op->pairs, .taps = op->taps[0]};
    const Pair *weight = op->weight;
    for (int t = 0; t < s.taps; t++)
        s.places[t] = input_at(b, op, row + op->taps[1 + 2 * t], plane) + PAD + op->taps[2 + 2 * t];
    for (int k = 0; k < blocks_of(op); k++) {
        row_of(op->block)(&s, weight, op->bias + k * op->block, &f, plane, width);
        weight += (ptrdiff_t)s.taps * s.pairs * op->block;
        next_block(&f, op->block, plane);
    }
}

/* Of an enlarged map: pixels with the same place in their enlarged one at a time. */
static void make_enlarged_row(const Band *b, const HalfOp *op, int row) {
    int times = op->enlarge, width = columns_of(b, op->input), blocks = blocks_of(op);
    ptrdiff_t in_plane = plane_of(width), out_plane = plane_of(width * times);
    Finish whole = finish_of(b, op, row, out_plane);
    if (whole.nothing) return;
    Source s = {.plane = in_plane, .pairs = op->pairs};
    const int32_t *taps = op->taps;
    const Pair *weight = op->weight;
    ptrdiff_t apart = blocks * op->block / 2 * in_plane;
    for (int place = 0; place < times * times; place++) {
        s.taps = *taps++;
        if (place / times == row % times) {
            Finish f = whole;
            if (f.image) f.image += place % times;
            else f.y = b->scratch + place % times * apart;
            for (int t = 0; t < s.taps; t++)
                s.places[t] = input_at(b, op, row / times + taps[2 * t], in_plane) + PAD +
                              taps[2 * t + 1];
            const Pair *w = weight;
            for (int k = 0; k < blocks; k++) {
                const float *bias = op->bias + (place * blocks + k) * op->block;
                row_of(op->block)(&s, w, bias, &f, in_plane, width);
                w += (ptrdiff_t)s.taps * s.pairs * op->block;
                next_block(&f, op->block, in_plane);
            }
        }
        weight += (ptrdiff_t)s.taps * s.pairs * blocks * op->block;
        taps += 2 * s.taps;
    }
    for (int c = 0; c < blocks * op->block / 2 && whole.y; c++)
        interleave(b->scratch + c * in_plane, apart, times, width, whole.y + c * out_plane);
}

/* Winograd's F(2, 3) along columns: ``row``, which is even, and the next one. */
static void make_two_rows(const Band *b, const HalfOp *op, int row) {
    int width = columns_of(b, op->input);
    ptrdiff_t plane = plane_of(width), count = op->pairs * plane;
    Finish f[2] = {finish_of(b, op, row, plane), finish_of(b, op, row + 1, plane)};
    if (f[0].nothing && f[1].nothing) return;
    const Pair *d[4];
    for (int i = 0; i < 4; i++) d[i] = input_at(b, op, row - 1 + i, plane);
    combine(d[0], d[2], 1, count, b->scratch);
    combine(d[1], d[2], 0, count, b->scratch + count);
    combine(d[2], d[1], 1, count, b->scratch + 2 * count);
    combine(d[1], d[3], 1, count, b->scratch + 3 * count);
    Source s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = (Source){.plane = plane, .pairs = op->pairs, .taps = 3};
        for (int t = 0; t < 3; t++) s[i].places[t] = b->scratch + i * count + PAD + t - 1;
    }
    ptrdiff_t each = 3 * (ptrdiff_t)op->pairs * op->block;
    for (int k = 0; k < blocks_of(op); k++) {
        rows_of_block(op->block)(s, op->weight + k * each, blocks_of(op) * each,
                                 op->bias + k * op->block, f, plane, width);
        for (int i = 0; i < 2; i++) next_block(&f[i], op->block, plane);
    }
}

/* ---- rows on demand ---- */

/* The rows of its input that an op needs for a row of its result. */
static void needs(const Band *b, const HalfOp *op, int row, int *first, int *last) {
    int reach = op->reach, rows = rows_of(b, op->input);
    *first = row - reach < 0 ? 0 : (row - reach) / op->enlarge;
    *last = (row + reach) / op->enlarge;
    if (*last >= rows) *last = rows - 1;
}

static void make_until(Band *b, int map, int row);

static void used(Band *b, int map, int row) {
    if (b->dry && !b->maps[map].data && b->newest[map] - row >= b->kept[map])
        b->kept[map] = b->newest[map] - row + 1;
}

static int smaller(int a, int b) { return a < b ? a : b; }

static void make_next(Band *b, int number) {
    const HalfOp *op = &b->ops[number];
    int row = b->next[number], end = smaller(row + op->rows, rows_of(b, op->output));
    int first, last, ignored;
    b->next[number] = row + op->rows;
    needs(b, op, row, &first, &ignored);
    needs(b, op, end - 1, &ignored, &last);
    make_until(b, op->input, last);
    if (op->mul >= 0) make_until(b, op->mul, end - 1);
    if (op->add >= 0) make_until(b, op->add, end - 1);
    if (end > b->newest[op->output]) b->newest[op->output] = end - 1;
    if (!b->dry) {
        (op->rows == 2 ? make_two_rows : op->enlarge > 1 ? make_enlarged_row : make_row)(b, op, row);
        return;
    }
    used(b, op->input, first);
    used(b, op->output, row);
    if (op->mul >= 0) used(b, op->mul, row);
    if (op->add >= 0) used(b, op->add, row);
}

static void make_until(Band *b, int map, int row) {
    for (int i = 0; i < b->count; i++) {
        while (b->ops[i].output == map && b->next[i] <= row) make_next(b, i);
    }
}

static void ask(Band *b, int map, int first, int last) {
    if (map < 0) return;
    if (first < b->least[map]) b->least[map] = first;
    if (last > b->most[map]) b->most[map] = last;
}

/* Rows from ``first`` to before ``last`` of the last op's result. */
static void make_band(Band *b, int first, int last) {
    int end = b->ops[b->count - 1].output;
    for (int m = 0; m < b->map_count; m++) {
        b->least[m] = rows_of(b, m);
        b->most[m] = b->newest[m] = -1;
    }
    ask(b, end, first, last - 1);
    for (int i = b->count - 1; i >= 0; i--) {
        const HalfOp *op = &b->ops[i];
        int from = b->least[op->output] / op->rows * op->rows, to = b->most[op->output];
        if (to < 0) continue; /* nobody asks for it */
        to = smaller(to / op->rows * op->rows + op->rows, rows_of(b, op->output)) - 1;
        b->next[i] = from;
        ask(b, op->mul, from, to);
        ask(b, op->add, from, to);
        int above, below, ignored;
        needs(b, op, from, &above, &ignored);
        needs(b, op, to, &ignored, &below);
        ask(b, op->input, above, below);
    }
    make_until(b, end, last - 1);
}

/* The rings of a thread, whose rows begin and end with zeros; NULL without memory for them. */
static Pair *make_rings(Band *b) {
    size_t total = 0, zeros = 0, places[MOST_MAPS], scratch = 0;
    for (int m = 0; m < b->map_count; m++) {
        const HalfMap *map = &b->maps[m];
        size_t row = (size_t)(map->pairs * plane_of(columns_of(b, m)));
        places[m] = total;
        if (!map->data && !map->image) total += row * (size_t)b->kept[m];
        if (row > zeros) zeros = row;
    }
    for (int i = 0; i < b->count; i++) {
        const HalfOp *op = &b->ops[i];
        size_t plane = (size_t)plane_of(columns_of(b, op->input)), planes = 0;
        if (op->rows == 2) planes = (size_t)op->pairs * 4;
        if (op->enlarge > 1) planes = (size_t)(blocks_of(op) * op->block / 2 * op->enlarge);
        if (planes * plane > scratch) scratch = planes * plane;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, 64, sizeof(Pair) * (total + zeros + scratch + SPARE))) return NULL;
    Pair *rows = memory;
    for (int m = 0; m < b->map_count; m++) {
        const HalfMap *map = &b->maps[m];
        b->rings[m] = rows + places[m];
        if (!map->data && !map->image)
            clear_ends(b->rings[m], (ptrdiff_t)map->pairs * b->kept[m], columns_of(b, m));
    }
    memset(rows + total, 0, sizeof(Pair) * zeros);
    b->zeros = rows + total;
    b->scratch = rows + total + zeros;
    return rows;
}

/* The first of ``height`` rows that is in a band: an even one, since some are made by twos. */
static int start(int band, int bands, int height) {
    int first = (int)((int64_t)height * band / bands);
    return band == bands ? height : first / 2 * 2;
}

/* A program for one image of height x width; not 0 if there is no memory for it. */
int32_t sruplift_half_run(const HalfOp *ops, int32_t count, const HalfMap *maps, int32_t map_count,
                          int32_t height, int32_t width, int32_t threads) {
    Band whole = {.ops = ops, .maps = maps, .count = count, .map_count = map_count,
                  .height = height, .width = width, .dry = 1};
    for (int m = 0; m < map_count; m++) whole.kept[m] = 1;
    int unit = maps[ops[count - 1].output].scale, failed = 0;
    int bands = (height / BAND + threads - 1) / threads * threads;
    bands = bands < threads ? threads : bands;
    bands = bands > height ? height : bands;
    for (int i = 0; i < bands; i++)
        make_band(&whole, unit * start(i, bands, height), unit * start(i + 1, bands, height));
    whole.dry = 0;
#pragma omp parallel num_threads(threads)
    {
        Band mine = whole;
        Pair *memory = make_rings(&mine);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int i = 0; i < bands; i++) {
            if (memory)
                make_band(&mine, unit * start(i, bands, height), unit * start(i + 1, bands, height));
        }
        free(memory);
    }
    return failed;
}

/* How many pairs a map has, with what vectors may read behind it. */
int64_t sruplift_half_pairs(int32_t pairs, int32_t height, int32_t width) {
    return (int64_t)height * pairs * plane_of(width) + SPARE;
}

/* Zeros before and behind each row of a map. */
void sruplift_half_clear(Pair *map, int32_t pairs, int32_t height, int32_t width) {
    clear_ends(map, (ptrdiff_t)pairs * height, width);
}

/* Channels of float32, ``channel`` floats apart, rows ``row`` and pixels ``step``, as a map. */
void sruplift_half_pack(const float *x, ptrdiff_t channel, ptrdiff_t row, ptrdiff_t step,
                        int32_t channels, int32_t height, int32_t width, Pair *map) {
    ptrdiff_t plane = plane_of(width), pairs = (channels + 1) / 2;
    sruplift_half_clear(map, (int32_t)pairs, height, width);
    for (ptrdiff_t p = 0; p < pairs * height; p++) {
        const float *even = x + p % pairs * 2 * channel + p / pairs * row;
        const float *odd = p % pairs * 2 + 1 < channels ? even + channel : NULL;
        Pair *y = map + p * plane + PAD;
        int i = 0;
        for (; step == 1 && odd && i + LANES <= width; i += LANES)
            *(uloose *)(y + i) = pair_of(load(even + i), load(odd + i));
        for (; i < width; i++)
            y[i] = half_of(even[i * step]) | (odd ? half_of(odd[i * step]) << 16 : 0);
    }
}
