/* What programs and patches share: maps with pixels in lanes, sums of products, and what follows a
 * layer while its result is in registers. Sums are in float32. Needs GCC or Clang (vector extensions).
 *
 * Who includes it says how many channels a plane of a map holds, PER: two in bf16, whose values lie
 * side by side in a cell, or one in float32. Maps have an even number of channels, the last of which
 * may count for nothing.
 */

#ifndef SRUPLIFT_CELLS_H
#define SRUPLIFT_CELLS_H

#include "lanes.h"

#if PER == 2 && defined(__AVX512BF16__) && LANES == 16
#include <immintrin.h>
#define HALF 1
#else
#define HALF 0
#endif

#if PER == 2
#define NAMED(NAME) sruplift_half_##NAME
#else
#define NAMED(NAME) sruplift_single_##NAME
#endif

/* Of two channels. */
#define PLANES (2 / PER)

/* Pixels of zeros before and behind each row of a plane. */
#define PAD 16
#define MOST_TAPS 9
/* Cells behind the last row that vectors may read, of whatever width those are. */
#define SPARE 128

typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uloose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#if PER == 2
typedef uint32_t Cell; /* bf16 of an even channel, and above it that of the next one */
typedef uvec cells;
typedef uloose loose_cells;
#else
typedef float Cell;
typedef vec cells;
typedef loose loose_cells;
#endif

/* An odd number of cache lines, so that planes do not fall on each other's place in the cache. */
static inline ptrdiff_t plane_of(int width) {
    ptrdiff_t lines = (2 * PAD + width + 15) / 16;
    return 16 * (lines | 1);
}

static inline void clear_ends(Cell *planes, ptrdiff_t count, int width) {
    ptrdiff_t plane = plane_of(width), end = PAD + width;
    for (ptrdiff_t p = 0; p < count; p++, planes += plane) {
        memset(planes, 0, sizeof(Cell) * PAD);
        memset(planes + end, 0, sizeof(Cell) * (size_t)(plane - end));
    }
}

static inline cells load_cells(const Cell *p) { return *(const loose_cells *)p; }
static inline void store_cells(Cell *p, cells v) { *(loose_cells *)p = v; }

#if PER == 2

/* sums + a's even value * b's even one + their odd ones' product. */
static inline vec dot(vec sums, cells a, cells b) {
#if HALF
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
#else
    sums += (vec)(a << 16) * (vec)(b << 16);
    return sums + (vec)(a & 0xffff0000u) * (vec)(b & 0xffff0000u);
#endif
}

static inline uvec rounded(vec x) {
    uvec bits = (uvec)x, is = (uvec)((bits & 0x7fffffffu) > 0x7f800000u); /* no number */
    return ((bits + 0x7fffu + ((bits >> 16) & 1u)) & ~is) | ((bits | 0x400000u) & is);
}

static inline cells pair_of(vec even, vec odd) {
#if HALF
    static const int16_t turns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    return (uvec)_mm512_permutexvar_epi16(_mm512_loadu_si512(turns), both);
#else
    return (rounded(even) >> 16) | (rounded(odd) & 0xffff0000u);
#endif
}

static inline uint32_t half_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (bits | 0x400000u) >> 16;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

static inline vec low(cells pairs) { return (vec)(pairs << 16); }
static inline vec high(cells pairs) { return (vec)(pairs & 0xffff0000u); }

/* Two channels of a map, whose planes are so many cells apart. */
static inline void load_two(const Cell *p, ptrdiff_t plane, vec *even, vec *odd) {
    cells both = load_cells(p);
    (void)plane;
    *even = low(both);
    *odd = high(both);
}

static inline void store_two(Cell *p, ptrdiff_t plane, vec even, vec odd) {
    (void)plane;
    store_cells(p, pair_of(even, odd));
}

/* A value of the first, or the second, of two channels. */
static inline float value_at(const Cell *p, ptrdiff_t plane, int second) {
    uint32_t bits = second ? *p & 0xffff0000u : *p << 16;
    float value;
    (void)plane;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void put(Cell *p, ptrdiff_t plane, float even, float odd) {
    (void)plane;
    *p = half_of(even) | half_of(odd) << 16;
}

#else

static inline vec dot(vec sums, cells a, cells b) { return sums + a * b; }

static inline void load_two(const Cell *p, ptrdiff_t plane, vec *even, vec *odd) {
    *even = load(p);
    *odd = load(p + plane);
}

static inline void store_two(Cell *p, ptrdiff_t plane, vec even, vec odd) {
    store(p, even);
    store(p + plane, odd);
}

static inline float value_at(const Cell *p, ptrdiff_t plane, int second) {
    return second ? p[plane] : *p;
}

static inline void put(Cell *p, ptrdiff_t plane, float even, float odd) {
    p[0] = even;
    p[plane] = odd;
}

#endif

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
    const Cell *places[MOST_TAPS]; /* where a tap reads for the first pixel */
    ptrdiff_t plane;
    int taps, planes;
} Source;

/* Sums of COUNT outputs of a block for VECTORS * LANES pixels. */
#define SUMS(NAME, BLOCK, COUNT, VECTORS)                                                         \
    static inline void NAME(const Source *s, int column, const Cell *w, const float *bias,        \
                            vec result[COUNT][VECTORS]) {                                         \
        vec sums[COUNT][VECTORS];                                                                 \
        EVERY for (int o = 0; o < COUNT; o++) {                                                   \
            EVERY for (int v = 0; v < VECTORS; v++) sums[o][v] = all(bias[o]);                    \
        }                                                                                         \
        for (int t = 0; t < s->taps; t++) {                                                       \
            const Cell *x = s->places[t] + column;                                                \
            for (int c = 0; c < s->planes; c++, x += s->plane, w += BLOCK) {                      \
                cells d[VECTORS];                                                                 \
                EVERY for (int v = 0; v < VECTORS; v++) {                                         \
                    d[v] = load_cells(x + v * LANES);                                             \
                    KEEP(d[v]);                                                                   \
                }                                                                                 \
                EVERY for (int o = 0; o < COUNT; o++) {                                           \
                    cells one = w[o] - (cells){0};                                                \
                    EVERY for (int v = 0; v < VECTORS; v++)                                       \
                        sums[o][v] = dot(sums[o][v], d[v], one);                                  \
                }                                                                                 \
            }                                                                                     \
        }                                                                                         \
        EVERY for (int o = 0; o < COUNT; o++) {                                                   \
            EVERY for (int v = 0; v < VECTORS; v++) result[o][v] = sums[o][v];                    \
        }                                                                                         \
    }

typedef struct {
    int nothing; /* the row is not wanted */
    const Cell *mul, *add;
    const float *share;
    Cell *y;
    float *image; /* instead of y, a row of its first channel */
    ptrdiff_t channel; /* floats from a channel to the next one */
    int channels; /* how many the image has from there on */
    int step; /* floats from a pixel to the next one */
    int activation; /* 1 a sigmoid, 2 that of a ReLU, 3 GELU */
    float slope;
    const float *less; /* nothing but an exponential of each pixel's sums less this, into y */
    float *total; /* to which those are added */
    float *most; /* nothing but the largest of each pixel's sums, and of what is here */
    const float *times; /* what each pixel is multiplied by */
} Finish;

#if PER == 2

/* exp(x), to some millionths, of x within 87 of 0, what is beyond as there; of no number (a quiet one
 * without a message) none. */
static inline vec power(vec x) {
    x *= 1.44269504f;
    x = larger(all(-126.0f), x);
    x = -larger(all(-126.0f), -x);
    vec n = x + 12582912.0f; /* its last bits are the nearest whole number */
    vec r = x - (n - 12582912.0f);
    vec p = all(1.33335581e-3f); /* the Taylor series of what is left */
    p = p * r + 9.61812911e-3f;
    p = p * r + 5.55041087e-2f;
    p = p * r + 2.40226507e-1f;
    p = p * r + 6.93147181e-1f;
    p = p * r + 1.0f;
    return (vec)((ivec)p + ((ivec)n << 23));
}

#else

static inline vec power(vec x) { return exponential(x); }

#endif

/* 1 / (1 + exp(-x)) */
static inline vec logistic(vec x) { return inverse(1.0f + power(-x)); }

/* x times the normal distribution's share below x: x (1 + erf(x / sqrt 2)) / 2. After Abramowitz and
 * Stegun, Handbook of Mathematical Functions, 7.1.26. */
static inline vec gelu(vec x) {
    vec z = larger(x, -x) * 0.70710678f, t = inverse(1.0f + 0.3275911f * z);
    vec p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec beyond = 0.5f * p * t * power(-z * z);
    ivec is = x > 0;
    return x * (vec)(((ivec)(1.0f - beyond) & is) | ((ivec)beyond & ~is));
}

/* By Finish.activation, not 0. */
static inline vec activated(vec x, int activation) {
    if (activation == 3) return gelu(x);
    if (activation > 1) x = larger((vec){0}, x);
    return logistic(x);
}

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

/* What follows the sums of two channels, whatever it is, for LANES pixels of which ``count`` are in
 * the row. */
static void finish(const Finish *f, int output, ptrdiff_t plane, int column, int count, vec even,
                   vec odd) {
    ptrdiff_t at = output / PER * plane + column;
    if (f->most) {
        store(f->most + column, larger(larger(even, odd), load(f->most + column)));
        return;
    }
    if (f->less) {
        even = power(even - load(f->less + column));
        odd = power(odd - load(f->less + column));
        store_two(f->y + at, plane, even, odd);
        /* As they are held, or what is rounded up or down alike would not cancel out. */
        load_two(f->y + at, plane, &even, &odd);
        store(f->total + column, load(f->total + column) + even + odd);
        return;
    }
    if (f->activation) {
        even = activated(even, f->activation);
        odd = activated(odd, f->activation);
    }
    if (f->times) {
        even *= load(f->times + column);
        odd *= load(f->times + column);
    }
    if (f->mul) {
        vec by, next;
        load_two(f->mul + at, plane, &by, &next);
        even *= by;
        odd *= next;
    }
    if (f->add) {
        vec plus, next;
        load_two(f->add + at, plane, &plus, &next);
        if (f->share) {
            vec share = load_some(f->share + column, count);
            even = (even - plus) * share;
            odd = (odd - next) * share;
        }
        even += plus;
        odd += next;
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
    if (count < LANES) {
        for (int i = count; i < LANES; i++) even[i] = odd[i] = 0;
    }
    store_two(f->y + at, plane, even, odd);
}

/* The same for whole vectors where little follows, which is known when it is compiled. */
ALWAYS void finish_whole(const Finish *f, int activation, int mul, int add, int slope, int first, int count,
                         int vectors, ptrdiff_t plane, int column, const vec *sums) {
    for (int o = 0; o < count; o += 2) {
        ptrdiff_t at = (first + o) / PER * plane + column;
        for (int v = 0; v < vectors; v++, at += LANES) {
            vec even = sums[o * vectors + v], odd = sums[(o + 1) * vectors + v], by, next;
            if (activation) {
                even = activated(even, activation);
                odd = activated(odd, activation);
            }
            if (mul) {
                load_two(f->mul + at, plane, &by, &next);
                even *= by;
                odd *= next;
            }
            if (add) {
                load_two(f->add + at, plane, &by, &next);
                even += by;
                odd += next;
            }
            if (slope) {
                even = sloped(even, f->slope);
                odd = sloped(odd, f->slope);
            }
            store_two(f->y + at, plane, even, odd);
        }
    }
}

/* The weights of whole vectors of queries for some keys. */
ALWAYS void finish_weights(const Finish *f, int first, int count, int vectors, ptrdiff_t plane, int column,
                           const vec *sums) {
    for (int v = 0; v < vectors; v++, column += LANES) {
        vec less = load(f->less + column), total = load(f->total + column);
        for (int o = 0; o < count; o += 2) {
            Cell *y = f->y + (first + o) / PER * plane + column;
            vec even = power(sums[o * vectors + v] - less);
            vec odd = power(sums[(o + 1) * vectors + v] - less);
            store_two(y, plane, even, odd);
            /* As they are held, or what is rounded up or down alike would not cancel out. */
            load_two(y, plane, &even, &odd);
            total += even + odd;
        }
        store(f->total + column, total);
    }
}

/* Sums that are added to an image, whole vectors. */
ALWAYS void finish_image(const Finish *f, int first, int count, int vectors, int column,
                         const vec *sums) {
    for (int o = 0; o < count && first + o < f->channels; o++) {
        float *y = f->image + (first + o) * f->channel + column;
        for (int v = 0; v < vectors; v++) {
            vec x = sums[o * vectors + v];
            if (f->times) x *= load(f->times + column + v * LANES);
            store(y + v * LANES, load(y + v * LANES) + x);
        }
    }
}

/* What follows the sums (count, vectors), as it is. */
ALWAYS void finish_any(const Finish *f, int first, int count, int vectors, ptrdiff_t plane, int column,
                       int width, const vec *sums) {
    if (f->nothing) return;
    if (column + vectors * LANES <= width) {
        int leaks = f->slope != 1.0f;
        int is = (f->activation == 1 ? 1 : f->activation == 3 ? 32 : f->activation ? 64 : 0) |
                 (f->mul ? 2 : 0) | (f->add ? 4 : 0) | (leaks ? 8 : 0) | (f->times ? 16 : 0) |
                 (f->share || f->most ? 64 : 0);
        if (f->less) {
            finish_weights(f, first, count, vectors, plane, column, sums);
            return;
        }
        if (f->image) {
            if ((is & ~16) == 0 && f->step == 1) {
                finish_image(f, first, count, vectors, column, sums);
                return;
            }
            is = 64;
        }
#define WHOLE(SIGMOID, MUL, ADD, SLOPE)                                                           \
    case SIGMOID | MUL << 1 | ADD << 2 | SLOPE << 3:                                              \
        finish_whole(f, SIGMOID, MUL, ADD, SLOPE, first, count, vectors, plane, column, sums);    \
        return;
        switch (is) {
            WHOLE(0, 0, 0, 0)
            WHOLE(0, 0, 0, 1)
            WHOLE(1, 0, 0, 0)
            WHOLE(0, 1, 0, 0)
            WHOLE(0, 0, 1, 0)
            WHOLE(1, 1, 0, 1)
        case 32:
            finish_whole(f, 3, 0, 0, 0, first, count, vectors, plane, column, sums);
            return;
        }
    }
    for (int v = 0; v < vectors && column + v * LANES < width; v++) {
        int at = column + v * LANES;
        for (int o = 0; o < count; o += 2)
            finish(f, first + o, plane, at, width - at, sums[o * vectors + v],
                   sums[(o + 1) * vectors + v]);
    }
}

/* What follows the sums of outputs from ``first`` on for pixels from ``column`` on. */
#define FINISHER(COUNT, VECTORS)                                                                  \
    static __attribute__((noinline)) void finish##COUNT##x##VECTORS(                              \
        const Finish *f, int first, ptrdiff_t plane, int column, int width, const vec *sums) {    \
        finish_any(f, first, COUNT, VECTORS, plane, column, width, sums);                         \
    }

/* A block of outputs for a row's pixels, COUNT at a time. */
#define ROW(NAME, SUM, BLOCK, COUNT, VECTORS)                                                     \
    SUMS(SUM, BLOCK, COUNT, VECTORS)                                                              \
    static void NAME(const Source *s, const Cell *w, const float *bias, const Finish *f,          \
                     ptrdiff_t plane, int from, int to, int width) {                              \
        for (int column = from; column < to; column += VECTORS * LANES)                           \
            for (int first = 0; first < BLOCK; first += COUNT) {                                  \
                vec sums[COUNT][VECTORS];                                                         \
                SUM(s, column, w + first, bias + first, sums);                                    \
                finish##COUNT##x##VECTORS(f, first, plane, column, width, &sums[0][0]);           \
            }                                                                                     \
    }

/* The blocks: how many outputs, how many of them at a time and for how many vectors of pixels, so
 * that sums, pixels and a weight have registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define EVERY_BLOCK(DO) DO(12, 12, 2) DO(10, 10, 2) DO(8, 8, 3) DO(4, 4, 6) DO(2, 2, 8)
FINISHER(12, 2)
FINISHER(10, 2)
FINISHER(8, 3)
FINISHER(4, 6)
FINISHER(2, 8)
/* Whole vectors of each. */
#define PIXELS (24 * LANES)
#else
#define EVERY_BLOCK(DO) DO(12, 6, 2) DO(8, 4, 3) DO(4, 4, 3) DO(2, 2, 6)
FINISHER(6, 2)
FINISHER(4, 3)
FINISHER(2, 6)
#define PIXELS (6 * LANES)
#endif

#define MAKE_ROW(BLOCK, COUNT, VECTORS) ROW(row##BLOCK, sums##BLOCK, BLOCK, COUNT, VECTORS)
EVERY_BLOCK(MAKE_ROW)

typedef void RowOf(const Source *s, const Cell *w, const float *bias, const Finish *f,
                   ptrdiff_t plane, int from, int to, int width);

static inline RowOf *row_of(int block) {
#define GIVE_ROW(BLOCK, COUNT, VECTORS)                                                           \
    if (block == BLOCK) return row##BLOCK;
    EVERY_BLOCK(GIVE_ROW)
    return NULL;
}

/* How many outputs are computed together: the most that leave none over. */
static inline int block_of(int outputs) {
#define GIVE_BLOCK(BLOCK, COUNT, VECTORS)                                                         \
    if ((outputs + 1) / 2 * 2 % BLOCK == 0) return BLOCK;
    EVERY_BLOCK(GIVE_BLOCK)
    return 0;
}

/* The same for the next block of outputs. */
static inline void next_block(Finish *f, int block, ptrdiff_t plane) {
    ptrdiff_t further = block / PER * plane;
    if (f->mul) f->mul += further;
    if (f->add) f->add += further;
    if (f->y) f->y += further;
    if (f->image) f->image += block * f->channel;
    f->channels -= block;
}

/* All ``blocks`` of outputs of a row. So many pixels at a time that what they are made of is read again
 * from the first cache. */
static void make_blocks(const Source *s, const Cell *w, const float *bias, const Finish *f, int block,
                        int blocks, ptrdiff_t plane, int width) {
    RowOf *row = row_of(block);
    ptrdiff_t next = (ptrdiff_t)s->taps * s->planes * block;
    for (int from = 0; from < width; from += PIXELS) {
        Finish now = *f;
        int to = from + PIXELS < width ? from + PIXELS : width;
        for (int k = 0; k < blocks; k++) {
            row(s, w + k * next, bias + k * block, &now, plane, from, to, width);
            next_block(&now, block, plane);
        }
    }
}

#endif
