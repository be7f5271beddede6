/* Winograd's minimal filtering of 4x4 outputs by 3x3 kernels: what a convolution and the gradient of
 * its kernel share.
 */

#ifndef SRUPLIFT_WINOGRAD_H
#define SRUPLIFT_WINOGRAD_H

#include "points.h"

/* B' d B of a tile's pixels, the 36 results a step apart. */
static inline void transform_input(vec d[6][6], float *v, ptrdiff_t step) {
    vec t[6][6];
    EVERY for (int j = 0; j < 6; j++) {
        vec c[6], e[6];
        EVERY for (int i = 0; i < 6; i++) c[i] = d[i][j];
        before(c, e);
        EVERY for (int i = 0; i < 6; i++) t[i][j] = e[i];
    }
    EVERY for (int i = 0; i < 6; i++) {
        vec e[6];
        before(t[i], e);
        EVERY for (int j = 0; j < 6; j++) store(v + (6 * i + j) * step, e[j]);
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
