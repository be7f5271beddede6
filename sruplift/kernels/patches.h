/* HPINet's patches on CPUs, in bf16 or float32 (``PER``): attention and the layers for each pixel, all
 * of a patch in a core's cache. A patch's pixels are in lanes; keys and values take the place of a
 * layer's weights. What lanes beyond the last pixel hold goes nowhere.
 */

#include "cells.h"

#define STEPS 3
/* Queries that are attended for together: whole groups of vectors for each block of keys. */
#define QUERIES 96
#define QUERY_PLANE (QUERIES + PAD)
/* Below this a query's weights were all too small to count. */
#define SMALLEST 1e-20f

/* A layer: (outputs / block, planes, block) cells, and of outputs. */
typedef struct {
    const Cell *weight;
    const float *bias;
} Layer;

/* Mirrored by PatchesCall in kernels/library.py. */
typedef struct {
    const Cell *map; /* rows of planes, as in program.h */
    int32_t height, width, channels, width_of_query, hidden;
    int32_t side, down, across; /* of a patch, and how many there are */
    const int32_t *tops, *lefts;
    const int32_t *partners; /* of each patch, the one that it attends to first */
    float *result; /* (patches, channels, side * side) */
    struct {
        Layer query, key, value, widen, narrow;
    } steps[STEPS];
} Patches;

int32_t NAMED(patches_size)(void) { return (int32_t)sizeof(Patches); }

typedef struct {
    int pixels;
    ptrdiff_t plane;
    float *x;   /* (channels, plane), what layers add to */
    Cell *own, *other, *normal, *query, *key, *value, *hidden;
    Cell *keys, *values; /* as weights */
    Cell *weights; /* (pixels / PER, QUERY_PLANE) */
    float *less, *total;
} Scratch;

static size_t scratch_of(const Patches *a, void *memory, Scratch *s) {
    s->pixels = a->side * a->side;
    s->plane = plane_of(s->pixels);
    size_t plane = (size_t)s->plane, features = PLANES * ((size_t)(a->channels + 1) / 2) * plane;
    size_t query = PLANES * ((size_t)(a->width_of_query + 1) / 2) * plane, at = 0;
    Cell *from = memory;
#define TAKE(POINTER, COUNT)                                                                      \
    POINTER = (void *)(from + at);                                                                \
    at += (COUNT) + SPARE;
    TAKE(s->x, ((size_t)a->channels + 1) * plane)
    TAKE(s->own, features)
    TAKE(s->other, features)
    TAKE(s->normal, features)
    TAKE(s->query, query)
    TAKE(s->key, query)
    TAKE(s->value, features)
    TAKE(s->hidden, PLANES * ((size_t)(a->hidden + 1) / 2) * plane)
    TAKE(s->keys, query)
    TAKE(s->values, features)
    TAKE(s->weights, (size_t)s->pixels / PER * QUERY_PLANE)
    TAKE(s->less, plane)
    TAKE(s->total, plane)
    return at * sizeof(Cell);
}

/* outputs of ``pixels`` pixels from x on; ``f`` says what follows. */
static void layer(const Cell *x, ptrdiff_t plane, int inputs, const Layer *l, int outputs, Finish f,
                  ptrdiff_t to_plane, int pixels) {
    int block = block_of(outputs), blocks = (outputs + block - 1) / block;
    Source s = {.places = {x}, .plane = plane, .taps = 1, .planes = PLANES * ((inputs + 1) / 2)};
    make_blocks(&s, l->weight, l->bias, &f, block, blocks, to_plane, pixels);
}

/* The pixels of a patch of the map. */
static void gather(const Patches *a, int patch, ptrdiff_t plane, Cell *y) {
    ptrdiff_t wide = plane_of(a->width), planes = PLANES * ((a->channels + 1) / 2);
    int top = a->tops[patch / a->across], left = a->lefts[patch % a->across];
    for (int i = 0; i < a->side; i++)
        for (ptrdiff_t p = 0; p < planes; p++)
            memcpy(y + p * plane + i * a->side,
                   a->map + ((top + i) * planes + p) * wide + PAD + left,
                   sizeof(Cell) * (size_t)a->side);
}

/* Each pixel's channels less their mean, over their standard deviation. */
static void normalise(const Patches *a, const Scratch *s) {
    float share = 1.0f / (float)a->channels;
    for (int i = 0; i < s->pixels; i += LANES) {
        vec sum = {0}, squares = {0};
        for (int c = 0; c < a->channels; c++) sum += load(s->x + c * s->plane + i);
        vec mean = sum * share;
        for (int c = 0; c < a->channels; c++) {
            vec d = load(s->x + c * s->plane + i) - mean;
            squares += d * d;
        }
        float some[LANES];
        store(some, squares * share + 1e-5f);
        for (int k = 0; k < LANES; k++) some[k] = 1.0f / __builtin_sqrtf(some[k]);
        vec scale = load(some);
        for (int c = 0; c < a->channels; c += 2) {
            const float *x = s->x + c * s->plane + i;
            vec even = (load(x) - mean) * scale, odd = {0};
            if (c + 1 < a->channels) odd = (load(x + s->plane) - mean) * scale;
            store_two(s->normal + c / PER * s->plane + i, s->plane, even, odd);
        }
    }
}

/* How long each pixel's features are, squared. */
static vec squared_length(const Cell *x, ptrdiff_t plane, int pairs) {
    vec sum = {0};
    for (int p = 0; p < pairs; p++) {
        vec even, odd;
        load_two(x + p * PLANES * plane, plane, &even, &odd);
        sum += even * even + odd * odd;
    }
    return sum;
}

/* Keys as a layer's weights: (blocks of pixels, planes, block). */
static void keys_as_weights(const Patches *a, const Scratch *s) {
    int block = block_of(s->pixels), planes = PLANES * ((a->width_of_query + 1) / 2);
    Cell *y = s->keys;
    for (int k = 0; k < s->pixels; k += block)
        for (int p = 0; p < planes; p++, y += block)
            memcpy(y, s->key + p * s->plane + k, sizeof(Cell) * (size_t)block);
}

/* Values likewise: (blocks of channels, pixels / PER, block). */
static void values_as_weights(const Patches *a, const Scratch *s) {
    int block = block_of(a->channels);
    Cell *y = s->values;
    for (int c = 0; c < a->channels; c += block)
        for (int j = 0; j < s->pixels; j += PER, y += block)
            for (int o = 0; o < block; o += 2) {
                const Cell *x = s->value + (c + o) / PER * s->plane + j;
#if PER == 2
                y[o] = (x[0] & 0xffffu) | x[1] << 16;
                y[o + 1] = x[0] >> 16 | (x[1] & 0xffff0000u);
#else
                y[o] = x[0];
                y[o + 1] = x[s->plane];
#endif
            }
}

/* What follows is of ``count`` queries from ``first`` on: their products with all keys. */
static void ask(const Patches *a, const Scratch *s, int first, int count, const float *none,
                Finish f) {
    Layer keys = {s->keys, none};
    f.slope = 1.0f;
    layer(s->query + first, s->plane, a->width_of_query, &keys, s->pixels, f, QUERY_PLANE, count);
}

/* Their weights: exponentials of the products less ``less``. */
static void weigh(const Patches *a, const Scratch *s, int first, int count, const float *none) {
    Finish f = {.y = s->weights, .less = s->less + first, .total = s->total + first};
    memset(f.total, 0, sizeof(float) * (size_t)count);
    ask(a, s, first, count, none, f);
}

static int all_count(const Scratch *s, int first, int count) {
    for (int i = 0; i < count; i++)
        if (!(s->total[first + i] > SMALLEST)) return 0;
    return 1;
}

/* Add to x the values' means by softmax(query key). */
static void attend(const Patches *a, const Scratch *s, const float *none) {
    int pairs = (a->width_of_query + 1) / 2;
    float longest = 0, some[LANES];
    for (int i = 0; i < s->pixels; i += LANES) {
        store(some, squared_length(s->key + i, s->plane, pairs));
        for (int k = 0; k < LANES && i + k < s->pixels; k++)
            longest = some[k] > longest ? some[k] : longest;
    }
    /* No product of a query and a key is larger than the product of their lengths. */
    for (int i = 0; i < s->pixels; i += LANES) {
        store(some, squared_length(s->query + i, s->plane, pairs) * longest);
        for (int k = 0; k < LANES; k++) s->less[i + k] = __builtin_sqrtf(some[k]);
    }
    keys_as_weights(a, s);
    values_as_weights(a, s);
    Layer values = {s->values, none};
    for (int first = 0; first < s->pixels; first += QUERIES) {
        int count = s->pixels - first < QUERIES ? s->pixels - first : QUERIES;
        weigh(a, s, first, count, none);
        if (!all_count(s, first, count)) {
            for (int i = 0; i < count; i++) s->less[first + i] = -__builtin_inff();
            ask(a, s, first, count, none, (Finish){.most = s->less + first});
            weigh(a, s, first, count, none);
        }
        for (int i = 0; i < count; i += LANES)
            store(s->total + first + i, inverse(load(s->total + first + i)));
        Finish f = {.slope = 1.0f, .step = 1, .times = s->total + first, .image = s->x + first};
        f.channel = s->plane;
        f.channels = a->channels;
        layer(s->weights, QUERY_PLANE, s->pixels, &values, a->channels, f, 0, count);
    }
}

static void make_patch(const Patches *a, int patch, const Scratch *s, const float *none) {
    int pixels = s->pixels;
    ptrdiff_t plane = s->plane;
    gather(a, patch, plane, s->own);
    gather(a, a->partners[patch], plane, s->other);
    for (int c = 0; c < a->channels; c += 2)
        for (int i = 0; i < pixels; i += LANES) {
            vec even, odd;
            load_two(s->own + c / PER * plane + i, plane, &even, &odd);
            store(s->x + c * plane + i, even);
            store(s->x + (c + 1) * plane + i, odd);
        }
    for (int step = 0; step < STEPS; step++) {
        Finish f = {.slope = 1.0f};
        normalise(a, s);
        const Cell *seen = step ? s->normal : s->other;
        f.y = s->query;
        layer(s->normal, plane, a->channels, &a->steps[step].query, a->width_of_query, f, plane, pixels);
        f.y = s->key;
        layer(seen, plane, a->channels, &a->steps[step].key, a->width_of_query, f, plane, pixels);
        f.y = s->value;
        layer(seen, plane, a->channels, &a->steps[step].value, a->channels, f, plane, pixels);
        attend(a, s, none);
        normalise(a, s);
        f.y = s->hidden;
        f.activation = 3;
        layer(s->normal, plane, a->channels, &a->steps[step].widen, a->hidden, f, plane, pixels);
        Finish sum = {.slope = 1.0f, .step = 1, .image = s->x, .channel = plane};
        sum.channels = a->channels;
        layer(s->hidden, plane, a->hidden, &a->steps[step].narrow, a->channels, sum, 0, pixels);
    }
    float *result = a->result + (ptrdiff_t)patch * a->channels * pixels;
    for (int c = 0; c < a->channels; c++)
        memcpy(result + c * pixels, s->x + c * plane, sizeof(float) * (size_t)pixels);
}

/* All patches; not 0 if there is no memory for it. */
int32_t NAMED(patches)(const Patches *a, int32_t threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        Scratch s;
        size_t bytes = scratch_of(a, NULL, &s);
        /* Behind it no bias: of as many keys, or values, in whole blocks. */
        size_t most = (size_t)(s.pixels > a->channels ? s.pixels : a->channels) + 16;
        char *memory = calloc(64 + bytes + sizeof(float) * most, 1);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        } else {
            scratch_of(a, memory + (64 - (uintptr_t)memory % 64) % 64, &s);
        }
        const float *none = memory ? (const float *)((char *)s.x + bytes) : NULL;
#pragma omp for schedule(dynamic)
        for (int patch = 0; patch < a->down * a->across; patch++)
            if (memory) make_patch(a, patch, &s, none);
        free(memory);
    }
    return failed;
}

/* Mirrored by JoinCall in kernels/library.py. The map that patches are made of, as a map: where
 * patches overlap their sum, times a weight of the row and one of the column. */
typedef struct {
    const float *patches; /* (patches, channels, side * side) */
    int32_t channels, height, width, side, down, across;
    const int32_t *tops, *lefts;
    const float *rows, *columns;
    Cell *map;
} Join;

int32_t NAMED(join_size)(void) { return (int32_t)sizeof(Join); }

static void join_row(const Join *a, int row, float *sums) {
    ptrdiff_t pairs = (a->channels + 1) / 2, plane = plane_of(a->width), pixels = a->side * a->side;
    memset(sums, 0, sizeof(float) * (size_t)(2 * pairs * plane));
    for (int r = 0; r < a->down; r++) {
        int inside = row - a->tops[r];
        if (inside < 0 || inside >= a->side) continue;
        for (int q = 0; q < a->across; q++)
            for (int c = 0; c < a->channels; c++) {
                const float *x = a->patches + ((ptrdiff_t)(r * a->across + q) * a->channels + c) * pixels;
                float *y = sums + c * plane + a->lefts[q];
                x += inside * a->side;
                for (int i = 0; i < a->side; i++) y[i] += x[i];
            }
    }
    for (ptrdiff_t p = 0; p < pairs; p++) {
        Cell *y = a->map + PLANES * (row * pairs + p) * plane + PAD;
        const float *even = sums + 2 * p * plane;
        for (int i = 0; i < a->width; i++) {
            float weight = a->rows[row] * a->columns[i];
            put(y + i, plane, even[i] * weight, even[plane + i] * weight);
        }
    }
}

/* The whole map, whose rows' ends are zeros already; not 0 if there is no memory for it. */
int32_t NAMED(join)(const Join *a, int32_t threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        size_t pairs = (size_t)(a->channels + 1) / 2;
        float *sums = malloc(sizeof(float) * 2 * pairs * (size_t)plane_of(a->width));
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int row = 0; row < a->height; row++)
            if (sums) join_row(a, row, sums);
        free(sums);
    }
    return failed;
}

/* The mean of each channel of each patch, (patches, channels). */
void NAMED(patch_means)(const Patches *a, float *means, int32_t threads) {
    ptrdiff_t wide = plane_of(a->width), pairs = (a->channels + 1) / 2;
#pragma omp parallel for num_threads(threads)
    for (int patch = 0; patch < a->down * a->across; patch++) {
        int top = a->tops[patch / a->across], left = a->lefts[patch % a->across];
        for (int c = 0; c < a->channels; c++) {
            float sum = 0;
            for (int i = 0; i < a->side; i++) {
                const Cell *x = a->map + PLANES * ((top + i) * pairs + c / 2) * wide + PAD + left;
                for (int j = 0; j < a->side; j++) sum += value_at(x + j, wide, c % 2);
            }
            means[patch * a->channels + c] = sum / (float)(a->side * a->side);
        }
    }
}
