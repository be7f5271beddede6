/* Convolutions of bf16 maps on CPUs, many at a time; sums are in float32.
 *
 * A program is a list of convolutions, each with what follows it. A thread makes a band of rows of
 * the last one's result; of the maps between, it makes a row when that is first asked for and keeps it
 * for as long as it is, so that they stay in its cache.
 */

#include "lanes.h"

#if defined(__AVX512BF16__) && LANES == 16
#include <immintrin.h>
#define HALF 1
#else
#define HALF 0
#endif

/* Whether the processor multiplies bf16 by itself. */
int32_t sruplift_half(void) { return HALF; }

/* Pixels of zeros before and behind each row of a channel pair. */
#define PAD 16
#define MOST_MAPS 24
#define MOST_TAPS 25
/* Pairs behind the last row that vectors may read. */
#define SPARE (8 * LANES)
/* Rows of a band, about; what neighbours share is made twice. */
#define BAND 45

typedef uint32_t Pair; /* bf16 of an even channel, and above it that of the next one */
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uloose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Mirrored by HalfMap in kernels/library.py. A row holds a plane for each two channels. */
typedef struct {
    int32_t pairs; /* how many planes */
    int32_t scale; /* how many times larger it is than the program's height and width */
    Pair *data; /* its first row; NULL: each thread keeps what rows it needs */
    float *image; /* instead: channels of float32, to which a result is added */
    ptrdiff_t image_row, image_channel; /* in floats, from one to the next */
} HalfMap;

/* Mirrored by HalfOp in kernels/library.py: a convolution and what follows it, in this order. */
typedef struct {
    int32_t input, first_input, pairs; /* a map, its first pair and how many */
    int32_t next_input; /* how many pairs further each block of outputs begins: 0; depthwise 1 */
    int32_t output, first_output, outputs; /* a map, its first pair, and how many channels */
    int32_t block; /* how many outputs are computed together: 12, 10, 8, 4; depthwise 2 */
    int32_t enlarge; /* the map before, by nearest neighbour */
    int32_t reach; /* how many rows of that it sees above and below a pixel */
    const int32_t *taps; /* of each place in an enlarged pixel: how many, then (row, column) each */
    const Pair *weight; /* of each such place (blocks, taps, pairs, block) */
    const float *bias; /* of all blocks */
    int32_t sigmoid; /* 2 is that of a ReLU */
    int32_t mul, first_mul, add, first_add; /* maps, or -1, and their first pairs */
    int32_t share; /* an image of one channel, or -1: how much of the sum with ``add`` is not that */
    float slope; /* of a leaky ReLU */
} HalfOp;

int32_t sruplift_half_op_size(void) { return (int32_t)sizeof(HalfOp); }
int32_t sruplift_half_map_size(void) { return (int32_t)sizeof(HalfMap); }

/* An odd number of cache lines, so that planes do not fall on each other's place in the cache. */
static ptrdiff_t plane_of(int width) {
    ptrdiff_t lines = (2 * PAD + width + 15) / 16;
    return 16 * (lines | 1);
}


static void clear_ends(Pair *planes, ptrdiff_t count, int width) {
    ptrdiff_t plane = plane_of(width), end = PAD + width;
    for (ptrdiff_t p = 0; p < count; p++, planes += plane) {
        memset(planes, 0, sizeof(Pair) * PAD);
        memset(planes + end, 0, sizeof(Pair) * (size_t)(plane - end));
    }
}

static inline uvec load_pairs(const Pair *p) { return *(const uloose *)p; }

/* sums + a's even value * b's even one + their odd ones' product. */
static inline vec dot(vec sums, uvec a, uvec b) {
#if HALF
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
#else
    sums += (vec)(a << 16) * (vec)(b << 16);
    return sums + (vec)(a & 0xffff0000u) * (vec)(b & 0xffff0000u);
#endif
}

static inline uvec rounded(vec x) {
    uvec bits = (uvec)x;
    return bits + 0x7fffu + ((bits >> 16) & 1u);
}

static inline uvec pair_of(vec even, vec odd) {
#if HALF
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
    return (uvec)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    return (rounded(even) >> 16) | (rounded(odd) & 0xffff0000u);
#endif
}

static inline uint32_t half_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

/* 1 / x of finite numbers. */
static inline vec inverse(vec x) {
#if HALF
    vec y = (vec)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - x * y);
#else
    return 1.0f / x;
#endif
}

typedef struct {
    const HalfOp *ops;
    const HalfMap *maps;
    int count, map_count, height, width;
    int next[MOST_MAPS];  /* of each op, the row that it makes next */
    int newest[MOST_MAPS]; /* of each map */
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

typedef struct {
    const Pair *places[MOST_TAPS]; /* where a tap reads for the first pixel */
    ptrdiff_t plane;
    int taps, pairs;
} Source;

/* Sums of BLOCK outputs for VECTORS * LANES pixels. */
#define SUMS(NAME, BLOCK, VECTORS)                                                                \
    static inline void NAME(const Source *s, int column, const Pair *w, const float *bias,        \
                            vec result[BLOCK][VECTORS]) {                                         \
        vec sums[BLOCK][VECTORS];                                                                 \
        EVERY for (int o = 0; o < BLOCK; o++) {                                                   \
            EVERY for (int v = 0; v < VECTORS; v++) sums[o][v] = all(bias[o]);                    \
        }                                                                                         \
        for (int t = 0; t < s->taps; t++) {                                                       \
            const Pair *x = s->places[t] + column;                                                \
            for (int c = 0; c < s->pairs; c++, x += s->plane, w += BLOCK) {                       \
                uvec d[VECTORS];                                                                  \
                EVERY for (int v = 0; v < VECTORS; v++) d[v] = load_pairs(x + v * LANES);         \
                EVERY for (int o = 0; o < BLOCK; o++) {                                           \
                    uvec one = w[o] - (uvec){0};                                                  \
                    EVERY for (int v = 0; v < VECTORS; v++)                                       \
                        sums[o][v] = dot(sums[o][v], d[v], one);                                  \
                }                                                                                 \
            }                                                                                     \
        }                                                                                         \
        EVERY for (int o = 0; o < BLOCK; o++) {                                                   \
            EVERY for (int v = 0; v < VECTORS; v++) result[o][v] = sums[o][v];                    \
        }                                                                                         \
    }

typedef struct {
    const Pair *mul, *add;
    const float *share;
    Pair *y;
    float *image; /* instead of y, a row of its first channel */
    ptrdiff_t channel; /* floats from a channel to the next one */
    int channels; /* how many the image has from there on */
    int step; /* floats from a pixel to the next one */
    int sigmoid;
    float slope;
} Finish;

static inline vec gate(vec x, int sigmoid) {
    if (sigmoid > 1) x = larger((vec){0}, x);
    return sigmoid ? inverse(1.0f + exponential(-x)) : x;
}

static inline vec low(uvec pairs) { return (vec)(pairs << 16); }
static inline vec high(uvec pairs) { return (vec)(pairs & 0xffff0000u); }

static inline vec sloped(vec x, float slope) {
    ivec is = x > 0;
    return (vec)(((ivec)x & is) | ((ivec)(x * slope) & ~is));
}

static inline vec load_some(const float *x, int count) {
    float some[LANES] = {0};
    return count >= LANES ? load(x) : load(memcpy(some, x, sizeof(float) * (size_t)count));
}

static inline void add_some(float *y, int step, vec x, int count) {
    if (count >= LANES && step == 1) store(y, load(y) + x);
    else
        for (int i = 0; i < count && i < LANES; i++) y[i * step] += x[i];
}

/* What follows the sums of two channels, for LANES pixels of which ``count`` are in the row. */
static inline void finish(const Finish *f, int output, ptrdiff_t plane, int column, int count,
                          vec even, vec odd) {
    ptrdiff_t at = output / 2 * plane + column;
    even = gate(even, f->sigmoid);
    odd = gate(odd, f->sigmoid);
    if (f->mul) {
        uvec by = load_pairs(f->mul + at);
        even *= low(by);
        odd *= high(by);
    }
    if (f->add) {
        uvec plus = load_pairs(f->add + at);
        if (f->share) {
            vec share = load_some(f->share + column, count);
            even = (even - low(plus)) * share;
            odd = (odd - high(plus)) * share;
        }
        even += low(plus);
        odd += high(plus);
    }
    if (f->slope != 1.0f) {
        even = sloped(even, f->slope);
        odd = sloped(odd, f->slope);
    }
    if (f->image) {
        float *y = f->image + output * f->channel + column * f->step;
        if (output < f->channels) add_some(y, f->step, even, count);
        if (output + 1 < f->channels) add_some(y + f->channel, f->step, odd, count);
        return;
    }
    uvec pairs = pair_of(even, odd);
    if (count < LANES) {
        for (int i = count; i < LANES; i++) pairs[i] = 0;
    }
    *(uloose *)(f->y + at) = pairs;
}

#define ROW(NAME, SUM, BLOCK, VECTORS)                                                            \
    SUMS(SUM, BLOCK, VECTORS)                                                                     \
    static void NAME(const Source *s, const Pair *w, const float *bias, const Finish *f,          \
                     ptrdiff_t plane, int width) {                                                \
        for (int column = 0; column < width; column += VECTORS * LANES) {                         \
            vec sums[BLOCK][VECTORS];                                                             \
            SUM(s, column, w, bias, sums);                                                        \
            for (int v = 0; v < VECTORS && column + v * LANES < width; v++) {                      \
                int at = column + v * LANES, count = width - at;                                  \
                for (int o = 0; o < BLOCK; o += 2)                                                \
                    finish(f, o, plane, at, count, sums[o][v], sums[o + 1][v]);                \
            }                                                                                     \
        }                                                                                         \
    }
ROW(row12, sums12, 12, 2)
ROW(row10, sums10, 10, 2)
ROW(row8, sums8, 8, 3)
ROW(row4, sums4, 4, 6)
ROW(row2, sums2, 2, 8)

typedef void RowOf(const Source *s, const Pair *w, const float *bias, const Finish *f,
                   ptrdiff_t plane, int width);

static RowOf *row_of(int block) {
    switch (block) {
    case 12: return row12;
    case 10: return row10;
    case 8: return row8;
    case 4: return row4;
    default: return row2;
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
        for (int i = 0; i < width; i++) {
            y[3 * i] = from[i];
            y[3 * i + 1] = from[apart + i];
            y[3 * i + 2] = from[2 * apart + i];
        }
}

static void make_row(const Band *b, const HalfOp *op, int row) {
    const HalfMap *out = &b->maps[op->output];
    int times = op->enlarge, in_rows = rows_of(b, op->input), width = columns_of(b, op->input);
    int blocks = (op->outputs + op->block - 1) / op->block;
    ptrdiff_t in_plane = plane_of(width), out_plane = plane_of(width * times);
    ptrdiff_t block_pairs = op->block / 2;
    const Pair *mul = place_of(b, op->mul, op->first_mul, row, out_plane);
    const Pair *add = place_of(b, op->add, op->first_add, row, out_plane);
    Pair *y = out->image ? NULL : place_of(b, op->output, op->first_output, row, out_plane);
    Finish f = {.sigmoid = op->sigmoid, .slope = op->slope};
    f.channel = out->image_channel;
    if (op->share >= 0) f.share = b->maps[op->share].image + row * b->maps[op->share].image_row;
    f.step = times;
    Source s = {.plane = in_plane, .pairs = op->pairs};
    RowOf *compute = row_of(op->block);
    const int32_t *taps = op->taps;
    const Pair *weight = op->weight;
    for (int place = 0; place < times * times; place++) {
        s.taps = *taps++;
        ptrdiff_t each = (ptrdiff_t)s.taps * s.pairs * op->block;
        for (int t = 0; t < s.taps && place / times == row % times; t++) {
            int from = row / times + taps[2 * t];
            const Pair *x = from < 0 || from >= in_rows ? b->zeros : row_at(b, op->input, from);
            s.places[t] = x + op->first_input * in_plane + PAD + taps[2 * t + 1];
        }
        for (int k = 0; k < blocks && place / times == row % times; k++) {
            ptrdiff_t at = k * block_pairs * out_plane;
            f.mul = mul ? mul + at : NULL;
            f.add = add ? add + at : NULL;
            if (out->image) {
                f.image = out->image + row * out->image_row + place % times;
                f.image += k * op->block * f.channel;
                f.channels = op->outputs - k * op->block;
            }
            f.y = times > 1 ? b->scratch + (place % times * blocks + k) * block_pairs * in_plane
                  : y ? y + at : NULL;
            for (int t = 0; t < s.taps && k > 0; t++) s.places[t] += op->next_input * in_plane;
            compute(&s, weight + k * each, op->bias + k * op->block, &f, in_plane, width);
        }
        weight += blocks * each;
        taps += 2 * s.taps;
    }
    for (int c = 0; c < blocks * block_pairs && times > 1 && y; c++)
        interleave(b->scratch + c * in_plane, blocks * block_pairs * in_plane, times, width,
                   y + c * out_plane);
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

static void make_next(Band *b, int number) {
    const HalfOp *op = &b->ops[number];
    int row = b->next[number]++, first, last;
    needs(b, op, row, &first, &last);
    make_until(b, op->input, last);
    if (op->mul >= 0) make_until(b, op->mul, row);
    if (op->add >= 0) make_until(b, op->add, row);
    if (row > b->newest[op->output]) b->newest[op->output] = row;
    if (!b->dry) {
        make_row(b, op, row);
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

/* Rows from ``first`` to before ``last`` of the last op's result. */
static void make_band(Band *b, int first, int last) {
    int least[MOST_MAPS], end = b->ops[b->count - 1].output;
    for (int m = 0; m < b->map_count; m++) {
        least[m] = rows_of(b, m);
        b->newest[m] = -1;
    }
    least[end] = first;
    for (int i = b->count - 1; i >= 0; i--) {
        const HalfOp *op = &b->ops[i];
        int from, to;
        b->next[i] = least[op->output];
        needs(b, op, least[op->output], &from, &to);
        if (from < least[op->input]) least[op->input] = from;
        if (op->mul >= 0 && b->next[i] < least[op->mul]) least[op->mul] = b->next[i];
        if (op->add >= 0 && b->next[i] < least[op->add]) least[op->add] = b->next[i];
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
        size_t outputs = (size_t)((op->outputs + op->block - 1) / op->block * op->block / 2);
        size_t some = outputs * (size_t)(plane_of(columns_of(b, op->input)) * op->enlarge);
        if (op->enlarge > 1 && some > scratch) scratch = some;
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

/* The first of ``height`` rows that is in a band. */
static int start(int band, int bands, int height) {
    return (int)((int64_t)height * band / bands);
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
        int both = p % pairs * 2 + 1 < channels;
        Pair *y = map + p * plane + PAD;
        for (int i = 0; i < width; i++)
            y[i] = half_of(even[i * step]) | (both ? half_of(even[channel + i * step]) << 16 : 0);
    }
}
