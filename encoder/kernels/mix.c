/* The first layer of the network `fast`, activation(weights moving + bias + still), and its gradients.

   `encoder.models.pyramid` has the same arithmetic in torch, which is the reference. Arrays are of
   float32: moving is (frames, inputs, height, width), still is (height, width, channels), and all
   others are (frames, height, width, channels). */

#include "activation.h"
#include "products.h"
#include <stdlib.h>
#include <string.h>

#define BAND 4 /* rows whose sums are added up by themselves: results do not depend on the threads */

typedef struct {
    int32_t frames, height, width, inputs, channels, threads;
} Mix;

/* The inputs of a row of a frame. */
INLINE Inputs row_of(const Mix *m, const float *moving, int frame, int y) {
    ptrdiff_t plane = (ptrdiff_t)m->height * m->width;
    return (Inputs){moving + frame * m->inputs * plane + (ptrdiff_t)y * m->width, 1, plane, m->inputs};
}

INLINE ptrdiff_t place_of(const Mix *m, int frame, int y, const int channels) {
    return ((ptrdiff_t)frame * m->height + y) * m->width * channels;
}

INLINE void row_forward(const Mix *m, int frame, int y, const float *moving, const float *weights, const float *bias,
                        const float *still, float *hidden, float *out, const int channels) {
    ptrdiff_t at = place_of(m, frame, y, channels), length = (ptrdiff_t)m->width * channels;
    product(row_of(m, moving, frame, y), weights, bias, still + y * length, hidden + at, channels, m->width);
    for (ptrdiff_t i = 0; i < length; i++) out[at + i] = activation(hidden[at + i]);
}

/* One row of all frames. `weights` are (channels, padded inputs), and `work` has room for a row of each. */
INLINE void row_back(const Mix *m, int y, const float *moving, const float *weights, int padded, const float *hidden,
                     const float *given, float *by_moving, float *sums, float *by_still, float *work,
                     const int channels) {
    ptrdiff_t length = (ptrdiff_t)m->width * channels, plane = (ptrdiff_t)m->height * m->width;
    float *inner = work, *wanted = work + length, *still = by_still + y * length;
    memset(still, 0, length * sizeof(float));
    for (int frame = 0; frame < m->frames; frame++) {
        ptrdiff_t at = place_of(m, frame, y, channels);
        for (ptrdiff_t i = 0; i < length; i++) {
            float slope;
            activation_and_slope(hidden[at + i], &slope);
            inner[i] = given[at + i] * slope;
            still[i] += inner[i];
        }
        outer(row_of(m, moving, frame, y), inner, sums, channels, m->width);
        add_pixels(inner, sums + m->inputs * channels, channels, m->width);
        for (int k = 0; k < padded; k += LANES) {
            product((Inputs){inner, channels, 1, channels}, weights + k * channels, NULL, NULL, wanted, LANES,
                    m->width);
            float *to = by_moving + ((ptrdiff_t)frame * m->inputs + k) * plane + (ptrdiff_t)y * m->width;
            for (int i = 0; i < MIN(LANES, m->inputs - k); i++)
                for (int x = 0; x < m->width; x++) to[i * plane + x] = wanted[x * LANES + i];
        }
    }
}

/* Map moving, weights (channels, inputs), bias and still to `hidden`, and to its activation `out`.
   Return 0, or 1 for want of memory. */
int mix(const Mix *m, const float *moving, const float *weights, const float *bias, const float *still, float *hidden,
        float *out) {
    float *turned = malloc((size_t)m->inputs * m->channels * sizeof(float));
    if (!turned) return 1;
    transpose(weights, turned, m->channels, m->inputs);
#pragma omp parallel for num_threads(m->threads)
    for (int row = 0; row < m->frames * m->height; row++) {
#define CALL(n) row_forward(m, row / m->height, row % m->height, moving, turned, bias, still, hidden, out, n)
        FOR_CHANNELS(m->channels, CALL)
#undef CALL
    }
    free(turned);
    return 0;
}

/* Map the gradients of the activation, `given`, to those of moving, the weights, the bias and still. */
int mix_back(const Mix *m, const float *moving, const float *weights, const float *hidden, const float *given,
             float *by_moving, float *by_weights, float *by_bias, float *by_still) {
    int channels = m->channels, inputs = m->inputs, is_short = 0;
    int padded = (inputs + LANES - 1) / LANES * LANES, bands = (m->height + BAND - 1) / BAND;
    ptrdiff_t size = (ptrdiff_t)(inputs + 1) * channels;
    /* Of each vector of inputs, the weights of all channels. */
    float *packed = calloc((size_t)channels * padded, sizeof(float));
    float *sums = calloc((size_t)(bands * size), sizeof(float));
    if (packed && sums) {
        for (int c = 0; c < channels; c++)
            for (int k = 0; k < inputs; k++)
                packed[(k / LANES * channels + c) * LANES + k % LANES] = weights[c * inputs + k];
#pragma omp parallel num_threads(m->threads) reduction(| : is_short)
        {
            float *work = malloc((size_t)m->width * (channels + LANES) * sizeof(float));
            is_short |= !work;
#pragma omp for
            for (int band = 0; band < bands; band++)
                for (int y = band * BAND; work && y < MIN(m->height, (band + 1) * BAND); y++) {
#define CALL(n)                                                                                                      \
    row_back(m, y, moving, packed, padded, hidden, given, by_moving, sums + band * size, by_still, work, n)
                    FOR_CHANNELS(channels, CALL)
#undef CALL
                }
            free(work);
        }
        for (int band = 1; band < bands; band++)
            for (ptrdiff_t i = 0; i < size; i++) sums[i] += sums[band * size + i];
        transpose(sums, by_weights, inputs, channels);
        memcpy(by_bias, sums + inputs * channels, channels * sizeof(float));
    } else
        is_short = 1;
    free(packed);
    free(sums);
    return is_short;
}
