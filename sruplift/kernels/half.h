/* What kernels in bf16 share: maps of two channels' values side by side with pixels in lanes, sums of
 * products of such pairs, and what follows a layer while its result is in registers. Sums are in
 * float32. Needs GCC or Clang (vector extensions).
 */

#ifndef SRUPLIFT_HALF_H
#define SRUPLIFT_HALF_H

#include "lanes.h"

#if defined(__AVX512BF16__) && LANES == 16
#include <immintrin.h>
#define HALF 1
#else
#define HALF 0
#endif

/* Pixels of zeros before and behind each row of a channel pair. */
#define PAD 16
#define MOST_TAPS 9
/* Pairs behind the last row that vectors may read, of whatever width those are. */
#define SPARE 128

typedef uint32_t Pair; /* bf16 of an even channel, and above it that of the next one */
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uloose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* An odd number of cache lines, so that planes do not fall on each other's place in the cache. */
static inline ptrdiff_t plane_of(int width) {
    ptrdiff_t lines = (2 * PAD + width + 15) / 16;
    return 16 * (lines | 1);
}


static inline void clear_ends(Pair *planes, ptrdiff_t count, int width) {
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
    uvec bits = (uvec)x, is = (uvec)((bits & 0x7fffffffu) > 0x7f800000u); /* no number */
    return ((bits + 0x7fffu + ((bits >> 16) & 1u)) & ~is) | ((bits | 0x400000u) & is);
}

static inline uvec pair_of(vec even, vec odd) {
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
    int nothing; /* the row is not wanted */
    const Pair *mul, *add;
    const float *share;
    Pair *y;
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

/* 2 to the x, to some millionths, of x from -126 to 126, what is beyond as there; of no number (a quiet one without a message) none. */
static inline vec power_of_two(vec x) {
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

#define LOG2E 1.44269504f

/* 1 / (1 + exp(-x)) */
static inline vec logistic(vec x) { return inverse(1.0f + power_of_two(x * -LOG2E)); }

/* x times the normal distribution's share below x: x (1 + erf(x / sqrt 2)) / 2. After Abramowitz and
 * Stegun, Handbook of Mathematical Functions, 7.1.26. */
static inline vec gelu(vec x) {
    vec z = larger(x, -x) * 0.70710678f, t = inverse(1.0f + 0.3275911f * z);
    vec p = all(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec beyond = 0.5f * p * t * power_of_two(z * z * -LOG2E);
    ivec is = x > 0;
    return x * (vec)(((ivec)(1.0f - beyond) & is) | ((ivec)beyond & ~is));
}

/* By Finish.activation, not 0. */
static inline vec activated(vec x, int activation) {
    if (activation == 3) return gelu(x);
    if (activation > 1) x = larger((vec){0}, x);
    return logistic(x);
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
    if (f->most) {
        store(f->most + column, larger(larger(even, odd), load(f->most + column)));
        return;
    }
    if (f->less) {
        even = power_of_two((even - load(f->less + column)) * LOG2E);
        odd = power_of_two((odd - load(f->less + column)) * LOG2E);
        uvec held = pair_of(even, odd); /* or what is rounded up or down alike would not cancel out */
        store(f->total + column, load(f->total + column) + low(held) + high(held));
        *(uloose *)(f->y + at) = held;
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

/* What follows the sums of a block for VECTORS * LANES pixels from ``column`` on. */
#define FINISH(BLOCK, VECTORS, f, sums)                                                           \
    for (int v = 0; v < VECTORS && column + v * LANES < width; v++) {                              \
        int at = column + v * LANES;                                                              \
        for (int o = 0; o < BLOCK; o += 2)                                                        \
            finish(f, o, plane, at, width - at, sums[o][v], sums[o + 1][v]);                      \
    }

#define ROW(NAME, SUM, BLOCK, VECTORS)                                                            \
    SUMS(SUM, BLOCK, VECTORS)                                                                     \
    static void NAME(const Source *s, const Pair *w, const float *bias, const Finish *f,          \
                     ptrdiff_t plane, int width) {                                                \
        for (int column = 0; column < width; column += VECTORS * LANES) {                         \
            vec sums[BLOCK][VECTORS];                                                             \
            SUM(s, column, w, bias, sums);                                                        \
            FINISH(BLOCK, VECTORS, f, sums)                                                       \
        }                                                                                         \
    }
ROW(row12, sums12, 12, 2)
ROW(row10, sums10, 10, 2)
ROW(row8, sums8, 8, 3)
ROW(row4, sums4, 4, 6)
ROW(row2, sums2, 2, 8)

typedef void RowOf(const Source *s, const Pair *w, const float *bias, const Finish *f,
                   ptrdiff_t plane, int width);

static inline RowOf *row_of(int block) {
    switch (block) {
    case 12: return row12;
    case 10: return row10;
    case 8: return row8;
    case 4: return row4;
    default: return row2;
    }
}

/* The same for the next block of outputs. */
static inline void next_block(Finish *f, int block, ptrdiff_t plane) {
    ptrdiff_t further = block / 2 * plane;
    if (f->mul) f->mul += further;
    if (f->add) f->add += further;
    if (f->y) f->y += further;
    if (f->image) f->image += block * f->channel;
    f->channels -= block;
}

#endif
