/* Convolutions on CPUs, many at a time, of maps in bf16 or float32 (``PER``).
 *
 * A program is a list of convolutions, each with what follows it. A thread makes a band of rows of
 * the last one's result; of the maps between, it makes a row when that is first asked for and keeps it
 * for as long as it is, so that they stay in its cache.
 */

#include "cells.h"

/* Maps, and ops, of a program; MOST in kernels/program.py. */
#define MOST_MAPS 24
/* Rows of a band, about; what neighbours share is made twice. */
#define BAND 45

/* Mirrored by MapCall in kernels/library.py. A row holds the planes of its channels. */
typedef struct {
    int32_t pairs; /* half as many as channels */
    int32_t scale; /* how many times larger it is than the program's height and width */
    Cell *data; /* its first row; NULL: each thread keeps what rows it needs */
    float *image; /* instead: channels of float32, to which a result is added, or a share's plane */
    ptrdiff_t image_row, image_channel; /* in floats, from one to the next */
} MapCall;

/* Mirrored by OpCall in kernels/library.py: a convolution and what follows it, in this order. */
typedef struct {
    int32_t input, first_input, pairs; /* a map, its first pair of channels and how many */
    int32_t output, first_output, outputs; /* a map, its first pair, and how many channels */
    int32_t block; /* how many outputs are computed together (``block_of``) */
    int32_t rows; /* how many are computed together: 1, or FILTERED of a 3x3 kernel */
    int32_t enlarge; /* the map before; what a tap reads is in pixels that are not enlarged yet */
    int32_t reach; /* how many enlarged rows it sees above and below a pixel */
    const int32_t *taps; /* of each place in an enlarged pixel: how many, then (row, column) each */
    const Cell *weight; /* of each such place, or each of POINTS, (blocks, taps, planes, block) */
    const float *bias; /* of each place in an enlarged pixel, of all blocks */
    int32_t activation; /* 1 a sigmoid, 2 that of a ReLU */
    int32_t mul, first_mul, add, first_add; /* maps, or -1, and their first pairs */
    int32_t share; /* an image of one channel, or -1: how much of the sum with ``add`` is not that */
    float slope; /* of a leaky ReLU */
} OpCall;

#if PER == 2
#include "filter_half.h"
#else
#include "filter_single.h"
#endif

int32_t NAMED(filtered)(void) { return FILTERED; }
int32_t NAMED(block_of)(int32_t outputs) { return block_of(outputs); }

int32_t NAMED(op_size)(void) { return (int32_t)sizeof(OpCall); }
int32_t NAMED(map_size)(void) { return (int32_t)sizeof(MapCall); }

typedef struct {
    const OpCall *ops;
    const MapCall *maps;
    int count, map_count, height, width;
    int next[MOST_MAPS];  /* of each op, the row that it makes next */
    int newest[MOST_MAPS]; /* of each map */
    int least[MOST_MAPS], most[MOST_MAPS]; /* the rows of it that the band needs */
    int kept[MOST_MAPS];  /* how many rows a thread keeps of it */
    Cell *rings[MOST_MAPS];
    const Cell *zeros;
    Cell *scratch;
    int dry; /* only see how many rows must be kept */
} Band;

static inline int rows_of(const Band *b, int map) { return b->height * b->maps[map].scale; }
static inline int columns_of(const Band *b, int map) { return b->width * b->maps[map].scale; }

static Cell *row_at(const Band *b, int map, int row) {
    const MapCall *m = &b->maps[map];
    ptrdiff_t size = PLANES * m->pairs * plane_of(columns_of(b, map));
    return m->data ? m->data + row * size : b->rings[map] + row % b->kept[map] * size;
}

static Cell *place_of(const Band *b, int map, int first, int row, ptrdiff_t plane) {
    return map < 0 ? NULL : row_at(b, map, row) + PLANES * first * plane + PAD;
}

/* Put ``from``'s pixels, of ``places`` rows, by turns. */
static void interleave(const Cell *from, ptrdiff_t apart, int places, int width, Cell *y) {
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
static const Cell *input_at(const Band *b, const OpCall *op, int row, ptrdiff_t plane) {
    int inside = row >= 0 && row < rows_of(b, op->input);
    return (inside ? row_at(b, op->input, row) : b->zeros) + PLANES * op->first_input * plane;
}

static int blocks_of(const OpCall *op) { return (op->outputs + op->block - 1) / op->block; }

/* What follows an op's sums for a row, but for where its first block of outputs goes. */
static Finish finish_of(const Band *b, const OpCall *op, int row, ptrdiff_t plane) {
    const MapCall *out = &b->maps[op->output];
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

static void make_row(const Band *b, const OpCall *op, int row) {
    int width = columns_of(b, op->input);
    ptrdiff_t plane = plane_of(width);
    Finish f = finish_of(b, op, row, plane);
    if (f.nothing) return;
    Source s = {.plane = plane, .planes = PLANES * op->pairs, .taps = op->taps[0]};
    for (int t = 0; t < s.taps; t++)
        s.places[t] = input_at(b, op, row + op->taps[1 + 2 * t], plane) + PAD + op->taps[2 + 2 * t];
    make_blocks(&s, op->weight, op->bias, &f, op->block, blocks_of(op), plane, width);
}

/* Of an enlarged map: pixels with the same place in their enlarged one at a time. */
static void make_enlarged_row(const Band *b, const OpCall *op, int row) {
    int times = op->enlarge, width = columns_of(b, op->input), blocks = blocks_of(op);
    ptrdiff_t in_plane = plane_of(width), out_plane = plane_of(width * times);
    Finish whole = finish_of(b, op, row, out_plane);
    if (whole.nothing) return;
    Source s = {.plane = in_plane, .planes = PLANES * op->pairs};
    const int32_t *taps = op->taps;
    const Cell *weight = op->weight;
    ptrdiff_t apart = blocks * op->block / PER * in_plane;
    for (int place = 0; place < times * times; place++) {
        s.taps = *taps++;
        if (place / times == row % times) {
            Finish f = whole;
            if (f.image) f.image += place % times;
            else f.y = b->scratch + place % times * apart;
            for (int t = 0; t < s.taps; t++)
                s.places[t] = input_at(b, op, row / times + taps[2 * t], in_plane) + PAD +
                              taps[2 * t + 1];
            make_blocks(&s, weight, op->bias + place * blocks * op->block, &f, op->block, blocks,
                        in_plane, width);
        }
        weight += (ptrdiff_t)s.taps * s.planes * blocks * op->block;
        taps += 2 * s.taps;
    }
    for (int c = 0; c < blocks * op->block / PER && whole.y; c++)
        interleave(b->scratch + c * in_plane, apart, times, width, whole.y + c * out_plane);
}

/* ``row``, a multiple of FILTERED, and the next ones of a filtered kernel. */
static void make_rows(const Band *b, const OpCall *op, int row) {
    int wanted = 0;
    Filtering c = {.plane = plane_of(columns_of(b, op->input)), .planes = PLANES * op->pairs,
                   .width = columns_of(b, op->input), .block = op->block, .blocks = blocks_of(op),
                   .weight = op->weight, .bias = op->bias, .scratch = b->scratch};
    Finish f[FILTERED];
    for (int i = 0; i < FILTERED; i++) {
        f[i] = finish_of(b, op, row + i, c.plane);
        wanted |= !f[i].nothing;
    }
    if (!wanted) return;
    for (int i = 0; i < SUMMED; i++) c.rows[i] = input_at(b, op, row - 1 + i, c.plane);
    filter_rows(&c, f);
}

/* ---- rows on demand ---- */

/* The rows of its input that an op needs for a row of its result. */
static void needs(const Band *b, const OpCall *op, int row, int *first, int *last) {
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
    const OpCall *op = &b->ops[number];
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
        (op->rows > 1 ? make_rows : op->enlarge > 1 ? make_enlarged_row : make_row)(b, op, row);
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

static void ask_for(Band *b, int map, int first, int last) {
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
    ask_for(b, end, first, last - 1);
    for (int i = b->count - 1; i >= 0; i--) {
        const OpCall *op = &b->ops[i];
        int from = b->least[op->output] / op->rows * op->rows, to = b->most[op->output];
        if (to < 0) continue; /* nobody asks for it */
        to = smaller(to / op->rows * op->rows + op->rows, rows_of(b, op->output)) - 1;
        b->next[i] = from;
        ask_for(b, op->mul, from, to);
        ask_for(b, op->add, from, to);
        int above, below, ignored;
        needs(b, op, from, &above, &ignored);
        needs(b, op, to, &ignored, &below);
        ask_for(b, op->input, above, below);
    }
    make_until(b, end, last - 1);
}

/* The rings of a thread, whose rows begin and end with zeros; NULL without memory for them. */
static Cell *make_rings(Band *b) {
    size_t total = 0, zeros = 0, places[MOST_MAPS], scratch = 0;
    for (int m = 0; m < b->map_count; m++) {
        const MapCall *map = &b->maps[m];
        size_t row = (size_t)(PLANES * map->pairs * plane_of(columns_of(b, m)));
        places[m] = total;
        if (!map->data && !map->image) total += row * (size_t)b->kept[m];
        if (row > zeros) zeros = row;
    }
    for (int i = 0; i < b->count; i++) {
        const OpCall *op = &b->ops[i];
        size_t plane = (size_t)plane_of(columns_of(b, op->input)), own = 0;
        int outputs = blocks_of(op) * op->block;
        if (op->rows > 1) own = filter_scratch(PLANES * op->pairs, outputs, (ptrdiff_t)plane);
        if (op->enlarge > 1) own = (size_t)(outputs / PER * op->enlarge) * plane;
        if (own > scratch) scratch = own;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, 64, sizeof(Cell) * (total + zeros + scratch + SPARE))) return NULL;
    Cell *rows = memory;
    for (int m = 0; m < b->map_count; m++) {
        const MapCall *map = &b->maps[m];
        b->rings[m] = rows + places[m];
        if (!map->data && !map->image)
            clear_ends(b->rings[m], (ptrdiff_t)PLANES * map->pairs * b->kept[m], columns_of(b, m));
    }
    memset(rows + total, 0, sizeof(Cell) * zeros);
    b->zeros = rows + total;
    b->scratch = rows + total + zeros;
    return rows;
}

/* The first of ``height`` rows that is in a band, of which some are made together. */
static int start(int band, int bands, int height) {
    int first = (int)((int64_t)height * band / bands);
    return band == bands ? height : first / FILTERED * FILTERED;
}

/* A program for one image of height x width; not 0 if there is no memory for it. */
int32_t NAMED(run)(const OpCall *ops, int32_t count, const MapCall *maps, int32_t map_count,
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
        Cell *memory = make_rings(&mine);
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

/* How many cells a map has, with what vectors may read behind it. */
int64_t NAMED(cells)(int32_t pairs, int32_t height, int32_t width) {
    return (int64_t)height * PLANES * pairs * plane_of(width) + SPARE;
}

/* Zeros before and behind each row of a map. */
void NAMED(clear)(Cell *map, int32_t pairs, int32_t height, int32_t width) {
    clear_ends(map, (ptrdiff_t)PLANES * pairs * height, width);
}

/* Channels of float32, ``channel`` floats apart, rows ``row`` and pixels ``step``, as a map. */
void NAMED(pack)(const float *x, ptrdiff_t channel, ptrdiff_t row, ptrdiff_t step,
                        int32_t channels, int32_t height, int32_t width, Cell *map) {
    ptrdiff_t plane = plane_of(width), pairs = (channels + 1) / 2;
    NAMED(clear)(map, (int32_t)pairs, height, width);
    for (ptrdiff_t p = 0; p < pairs * height; p++) {
        const float *even = x + p % pairs * 2 * channel + p / pairs * row;
        const float *odd = p % pairs * 2 + 1 < channels ? even + channel : NULL;
        Cell *y = map + PLANES * p * plane + PAD;
        int i = 0;
        for (; step == 1 && odd && i + LANES <= width; i += LANES)
            store_two(y + i, plane, load(even + i), load(odd + i));
        for (; i < width; i++) put(y + i, plane, even[i * step], odd ? odd[i * step] : 0);
    }
}
