/* What all kernels share: vectors of channels, an exponential, and small matrix products whose sums
 * stay in registers. Needs GCC or Clang (vector extensions). */

#ifndef SRUPLIFT_LANES_H
#define SRUPLIFT_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* As wide as a register; a compiler that is told another width makes do with several. */
#ifndef LANES
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define EVERY _Pragma("GCC unroll 16")
#define ALWAYS static inline __attribute__((always_inline))
/* Keeps a value in a register: compilers would load it again for each of its products. */
#if (defined(__AVX512F__) && LANES == 16) || (defined(__AVX__) && LANES == 8) ||                  \
    (defined(__SSE__) && LANES == 4)
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v) (void)(v)
#endif

static inline vec load(const float *p) { return *(const loose *)p; }
static inline void store(float *p, vec v) { *(loose *)p = v; }
static inline vec all(float x) { return x - (vec){0}; }

/* Channels go by groups of LANES. The last group ends with the last channel, so that it overlaps
 * the one before; fewer channels than LANES are one group, with zeros. */
static inline int groups_of(int channels) { return (channels + LANES - 1) / LANES; }
static inline int first_of(int group, int channels) {
    int first = group * LANES;
    return first + LANES > channels && channels >= LANES ? channels - LANES : first;
}

/* a > b ? a : b, which is b where one is no number. */
static inline vec larger(vec a, vec b) {
    ivec is = a > b;
    return (vec)(((ivec)a & is) | ((ivec)b & ~is));
}

/* exp(x), to some units in the last place; x is taken to be within 87 of 0. After S. Moshier's
 * Cephes library (expf): powers of two, and a polynomial for what is left. */
static inline vec exponential(vec x) {
    x = -larger(all(-87.0f), -larger(all(-87.0f), x));
    vec n = x * 1.44269504f + 12582912.0f; /* its last bits are the nearest whole number */
    ivec power = (ivec)n << 23;
    n -= 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vec)(power + (127 << 23));
}

/* (ROWS, k) times (k, GROUPS * LANES), sums in registers. Values of ``a`` are a_row and a_step apart
 * from row to row and along one, of which a_step or a_row is 1. */
#define PRODUCT(NAME, ROWS, GROUPS)                                                               \
    static inline void NAME(const float *a, ptrdiff_t a_row, ptrdiff_t a_step, const float *b,    \
                            ptrdiff_t b_row, int k, vec sums[ROWS][GROUPS]) {                     \
        EVERY for (int r = 0; r < ROWS; r++) {                                                    \
            EVERY for (int g = 0; g < GROUPS; g++) sums[r][g] = (vec){0};                         \
        }                                                                                         \
        for (int i = 0; i < k; i++) {                                                             \
            vec w[GROUPS];                                                                        \
            EVERY for (int g = 0; g < GROUPS; g++) {                                              \
                w[g] = load(b + i * b_row + g * LANES);                                           \
                KEEP(w[g]);                                                                       \
            }                                                                                     \
            EVERY for (int r = 0; r < ROWS; r++) {                                                \
                vec v = all(a[r * a_row + i * a_step]);                                           \
                EVERY for (int g = 0; g < GROUPS; g++) sums[r][g] += v * w[g];                    \
            }                                                                                     \
        }                                                                                         \
    }
PRODUCT(product41, 4, 1)
PRODUCT(product42, 4, 2)
PRODUCT(product43, 4, 3)
PRODUCT(product81, 8, 1)
PRODUCT(product11, 1, 1)
PRODUCT(product12, 1, 2)
PRODUCT(product13, 1, 3)

/* How many groups a product takes of those that are left: up to 3, and 2 and 2 of 4. */
static inline int next_groups(int left) { return left == 4 ? 2 : left < 3 ? left : 3; }

/* The same, into memory. */
typedef void Into(const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_row, int k,
                  float *y);

#define INTO(NAME, PRODUCT, ROWS, GROUPS)                                                         \
    static inline void NAME(const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_row,     \
                            int k, float *y) {                                                    \
        vec sums[ROWS][GROUPS];                                                                   \
        PRODUCT(a, a_row, 1, b, b_row, k, sums);                                                     \
        EVERY for (int r = 0; r < ROWS; r++) {                                                    \
            EVERY for (int g = 0; g < GROUPS; g++) store(y + r * b_row + g * LANES, sums[r][g]);  \
        }                                                                                         \
    }
INTO(into41, product41, 4, 1)
INTO(into42, product42, 4, 2)
INTO(into43, product43, 4, 3)
INTO(into81, product81, 8, 1)

#endif
