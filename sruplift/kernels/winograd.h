/* Winograd's minimal filtering of 4x4 outputs by 3x3 kernels: what a convolution and the gradient of
 * its kernel share.
 *
 * Source of F(4x4, 3x3): A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural
 * Networks", CVPR 2016. Its points are 0, +-A, +-1/A and infinity with A * A = 1/2, which round off
 * half as much as the usual 0, +-1, +-2.
 */

#ifndef SRUPLIFT_WINOGRAD_H
#define SRUPLIFT_WINOGRAD_H

#include "lanes.h"

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

/* An image with channels last; steps and rows in floats. */
typedef struct {
    const float *x;
    ptrdiff_t step, row;
    int height, width, channels;
} Map;

/* The size x size pixels from (top, left) on, one group of channels; zeros beyond the map. */
static inline __attribute__((always_inline)) void gather(const Map *m, int size, int top, int left,
                                                         int channel, vec d[6][6]) {
    int inside = top >= 0 && left >= 0 && top + size <= m->height && left + size <= m->width;
    if (inside && m->channels >= LANES) {
        const float *x = m->x + top * m->row + left * m->step + channel;
        EVERY for (int i = 0; i < size; i++) {
            EVERY for (int j = 0; j < size; j++) d[i][j] = load(x + i * m->row + j * m->step);
        }
        return;
    }
    ptrdiff_t places[6];
    for (int j = 0; j < size; j++) {
        int column = left + j;
        places[j] = column < 0 || column >= m->width ? -1 : column * m->step;
    }
    for (int i = 0; i < size; i++) {
        int row = top + i, none = row < 0 || row >= m->height;
        const float *x = m->x + (none ? 0 : row) * m->row + channel;
        for (int j = 0; j < size; j++) {
            float some[LANES] = {0};
            if (none || places[j] < 0)
                d[i][j] = (vec){0};
            else if (m->channels >= LANES)
                d[i][j] = load(x + places[j]);
            else
                d[i][j] = load(memcpy(some, x + places[j], sizeof(float) * (size_t)m->channels));
        }
    }
}

#endif
