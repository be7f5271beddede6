/* Attention of small patches, for inference on CPUs: means of values by softmax(query key'). A
 * patch's keys and values stay in the cache, and the weights of four queries at a time.
 */

#include "lanes.h"

/* Mirrored by AttentionCall in kernels/library.py. Maps are (patches, pixels, width), one after
 * another; the result is (patches, queries, values). Queries have the softmax's scale in them. */
typedef struct {
    const float *query, *key, *value;
    float *y;
    int32_t patches, queries, keys; /* pixels of a patch */
    int32_t width, values;
} Attention;

int32_t sruplift_attention_size(void) { return (int32_t)sizeof(Attention); }

/* (4, k) times (k, groups * LANES), rows of that width. */
static void product_of_four(const float *a, int a_row, const float *b, int groups, int k,
                            float *y) {
    int wide = groups * LANES;
    for (int g = 0, n; g < groups; g += n) {
        n = next_groups(groups - g);
        (n == 3 ? into43 : n == 2 ? into42 : into41)(a, a_row, b + g * LANES, wide, k,
                                                  y + g * LANES);
    }
}

/* exp(w - the largest w) of the first ``count``; those after them become 0. Their sum. */
static float exponentials(float *w, int count) {
    int many = groups_of(count) * LANES;
    float some[LANES], most, sum = 0;
    for (int j = count; j < many; j++) w[j] = -__builtin_inff();
    vec high = load(w), total = {0};
    for (int j = LANES; j < many; j += LANES) high = larger(high, load(w + j));
    store(some, high);
    most = some[0];
    for (int i = 1; i < LANES; i++) most = some[i] > most ? some[i] : most;
    for (int j = 0; j < many; j += LANES) {
        vec e = exponential(load(w + j) - most);
        store(w + j, e);
        total += e;
    }
    store(some, total);
    for (int i = 0; i < LANES; i++) sum += some[i];
    return sum;
}

/* What a thread needs for a patch. Columns of ``key`` beyond the last pixel are zero. */
typedef struct {
    int many, wide; /* keys and values, in whole groups */
    float *key;     /* (width, many) */
    float *value;   /* (keys, wide) */
    float *query;   /* (4, width) */
    float *weights; /* (4, many) */
    float *result;  /* (4, wide) */
} Scratch;

static size_t floats_of(const Attention *a) {
    size_t many = (size_t)groups_of(a->keys) * LANES, wide = (size_t)groups_of(a->values) * LANES;
    size_t width = (size_t)a->width;
    return width * many + (size_t)a->keys * wide + 4 * (width + many + wide);
}

static Scratch scratch_of(const Attention *a, float *buffer) {
    Scratch s = {.many = groups_of(a->keys) * LANES, .wide = groups_of(a->values) * LANES};
    s.key = buffer;
    s.value = s.key + (ptrdiff_t)a->width * s.many;
    s.query = s.value + (ptrdiff_t)a->keys * s.wide;
    s.weights = s.query + 4 * a->width;
    s.result = s.weights + 4 * s.many;
    return s;
}

static void attend_patch(const Attention *a, int patch, const Scratch *s) {
    int groups = s->wide / LANES, lanes = a->values < LANES ? a->values : LANES;
    const float *key = a->key + (ptrdiff_t)patch * a->keys * a->width;
    for (int j = 0; j < a->keys; j++)
        for (int i = 0; i < a->width; i++) s->key[i * s->many + j] = key[j * a->width + i];
    const float *value = a->value + (ptrdiff_t)patch * a->keys * a->values;
    for (int j = 0; j < a->keys; j++)
        for (int g = 0; g < groups; g++)
            memcpy(s->value + j * s->wide + g * LANES,
                   value + j * a->values + first_of(g, a->values), sizeof(float) * (size_t)lanes);
    for (int first = 0; first < a->queries; first += 4) {
        for (int r = 0; r < 4; r++) {
            /* Where fewer than four are left, the last one again. */
            int row = first + r < a->queries ? first + r : a->queries - 1;
            memcpy(s->query + r * a->width,
                   a->query + ((ptrdiff_t)patch * a->queries + row) * a->width,
                   sizeof(float) * (size_t)a->width);
        }
        product_of_four(s->query, a->width, s->key, s->many / LANES, a->width, s->weights);
        float sums[4];
        for (int r = 0; r < 4; r++) sums[r] = exponentials(s->weights + r * s->many, a->keys);
        product_of_four(s->weights, s->many, s->value, groups, a->keys, s->result);
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < s->wide; i += LANES)
                store(s->result + r * s->wide + i, load(s->result + r * s->wide + i) / sums[r]);
        for (int r = 0; r < 4 && first + r < a->queries; r++) {
            float *y = a->y + ((ptrdiff_t)patch * a->queries + first + r) * a->values;
            for (int g = 0; g < groups; g++)
                memcpy(y + first_of(g, a->values), s->result + r * s->wide + g * LANES,
                       sizeof(float) * (size_t)lanes);
        }
    }
}

/* All patches; not 0 if there is no memory for it. */
int32_t sruplift_attend(const Attention *a, int32_t threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *buffer = calloc(floats_of(a), sizeof(float));
        if (!buffer) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int patch = 0; patch < a->patches; patch++)
            if (buffer) {
                Scratch scratch = scratch_of(a, buffer);
                attend_patch(a, patch, &scratch);
            }
        free(buffer);
    }
    return failed;
}
