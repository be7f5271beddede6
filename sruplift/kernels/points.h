/* Winograd's minimal filtering F(4, 3) along one dimension: what comes before and after the products.
 *
 * Source of F(4x4, 3x3): A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural
 * Networks", CVPR 2016. Its points are 0, +-A, +-1/A and infinity with A * A = 1/2, which round off
 * half as much as the usual 0, +-1, +-2.
 */

#ifndef SRUPLIFT_POINTS_H
#define SRUPLIFT_POINTS_H

#include "lanes.h"

#define A 0.70710678118654752f /* a point; the other is 2 * A, its inverse */

/* B' d. */
ALWAYS void before(const vec d[6], vec y[6]) {
    vec p = d[4] - 2 * d[2], q = d[3] - 2 * d[1];
    vec r = d[4] - 0.5f * d[2], s = d[3] - 0.5f * d[1];
    y[0] = d[0] - 2.5f * d[2] + d[4];
    y[1] = p + A * q;
    y[2] = p - A * q;
    y[3] = r + 2 * A * s;
    y[4] = r - 2 * A * s;
    y[5] = d[1] - 2.5f * d[3] + d[5];
}

/* A' m. */
ALWAYS void after(const vec m[6], vec y[4]) {
    vec p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
    y[0] = m[0] + p + r;
    y[1] = A * q + 2 * A * s;
    y[2] = 0.5f * p + 2 * r;
    y[3] = 0.5f * A * q + (4 * A * s + m[5]);
}

#endif
