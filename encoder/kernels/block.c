/* A separable block of the network `fast`, x + w2 activation(w1 depthwise(x)), and its gradients.

   `encoder.models.layers` has the same arithmetic in torch, which is the reference. Arrays are of
   float32, and the channels of a pixel lie together: (frames, height, width, channels). */

#include "activation.h"
#include "products.h"
#include <stdlib.h>
#include <string.h>

#define TAPS 9
#define BAND 8 /* rows whose sums are added up by themselves: results do not depend on the threads */

typedef struct {
    int32_t frames, height, width, channels, threads;
} Block;

/* The channels of a row's pixels. */
INLINE Inputs pixels(const float *at, const int channels) { return (Inputs){at, channels, 1, channels}; }

/* ---- depthwise convolutions ---- */

/* A pixel's sum over the taps of the columns from `first` to `last`; rows outside are NULL. */
INLINE Vector taps(const float *const rows[3], const Vector weights[TAPS], Vector sum, ptrdiff_t at, int channels,
                   int first, int last) {
    UNROLL for (int r = 0; r < 3; r++)
        if (rows[r])
            for (int c = first; c <= last; c++) sum += weights[3 * r + c] * load(rows[r] + at + (c - 1) * channels);
    return sum;
}

/* out = first + the convolution of three rows; `first` has `step` values from pixel to pixel. */
INLINE void convolve(const float *const rows[3], const float *weights, const float *first, int step, float *out,
                     const int channels, int width) {
    for (int c = 0; c < channels; c += LANES) {
        const float *at[3];
        Vector own[TAPS];
        for (int r = 0; r < 3; r++) at[r] = rows[r] ? rows[r] + c : NULL;
        UNROLL for (int k = 0; k < TAPS; k++) own[k] = load(weights + k * channels + c);
        for (int x = 0; x < width; x++) {
            Vector sum = load(first + (ptrdiff_t)x * step + c);
            ptrdiff_t place = (ptrdiff_t)x * channels;
            if (x > 0 && x + 1 < width)
                sum = taps(at, own, sum, place, channels, 0, 2);
            else
                sum = taps(at, own, sum, place, channels, x == 0, x + 1 == width ? 1 : 2);
            store(out + place + c, sum);
        }
    }
}

/* sums (TAPS, channels) += the gradients of the taps, given those of the output of one row. */
INLINE void correlate(const float *const rows[3], const float *gradients, float *sums, const int channels, int width) {
    for (int c = 0; c < channels; c += LANES)
        UNROLL for (int r = 0; r < 3; r++) {
            if (!rows[r]) continue;
            Vector own[3];
            UNROLL for (int k = 0; k < 3; k++) own[k] = load(sums + (3 * r + k) * channels + c);
            const float *in = rows[r] + c, *given = gradients + c;
            for (int x = 0; x < width; x++, in += channels, given += channels) {
                Vector g = load(given);
                if (x > 0) own[0] += g * load(in - channels);
                own[1] += g * load(in);
                if (x + 1 < width) own[2] += g * load(in + channels);
            }
            UNROLL for (int k = 0; k < 3; k++) store(sums + (3 * r + k) * channels + c, own[k]);
        }
}

/* The three rows around a row of a frame; those outside are NULL. */
static void rows_around(const Block *b, const float *x, ptrdiff_t row, const float *rows[3]) {
    ptrdiff_t length = (ptrdiff_t)b->width * b->channels;
    int y = (int)(row % b->height);
    for (int r = 0; r < 3; r++)
        rows[r] = y + r < 1 || y + r > b->height ? NULL : x + (row + r - 1) * length;
}

/* ---- rows ---- */

typedef struct {
    const float *depthwise; /* (TAPS, channels) */
    const float *first, *second; /* (in, out) */
    const float *depthwise_bias, *first_bias, *second_bias;
} Weights;

INLINE void row_forward(const Block *b, const Weights *w, ptrdiff_t row, const float *x, float *depth, float *hidden,
                        float *out, float *active, const int channels) {
    ptrdiff_t length = (ptrdiff_t)b->width * channels, at = row * length;
    const float *rows[3];
    rows_around(b, x, row, rows);
    convolve(rows, w->depthwise, w->depthwise_bias, 0, depth + at, channels, b->width);
    product(pixels(depth + at, channels), w->first, w->first_bias, NULL, hidden + at, channels, b->width);
    for (ptrdiff_t i = 0; i < length; i++) active[i] = activation(hidden[at + i]);
    product(pixels(active, channels), w->second, w->second_bias, x + at, out + at, channels, b->width);
}

/* Sums of gradients; weights are (in, out). */
typedef struct {
    float *depthwise, *first, *second, *depthwise_bias, *first_bias, *second_bias;
} Sums;

static Sums sums_at(float *place, int channels) {
    ptrdiff_t square = (ptrdiff_t)channels * channels;
    float *biases = place + 2 * square + TAPS * channels;
    return (Sums){place + 2 * square, place, place + square, biases, biases + channels, biases + 2 * channels};
}

static ptrdiff_t sums_size(int channels) { return 2 * (ptrdiff_t)channels * channels + (TAPS + 3) * channels; }

/* From the gradients of the output to those of the depthwise convolution's output. Here, the weights are (out, in). */
INLINE void row_back(const Block *b, const Weights *w, const Sums *s, ptrdiff_t row, const float *depth,
                     const float *hidden, const float *given, float *back, float *work, const int channels) {
    ptrdiff_t length = (ptrdiff_t)b->width * channels, at = row * length;
    float *active = work, *slope = work + length, *inner = slope + length;
    for (ptrdiff_t i = 0; i < length; i++) active[i] = activation_and_slope(hidden[at + i], slope + i);
    outer(pixels(active, channels), given + at, s->second, channels, b->width);
    add_pixels(given + at, s->second_bias, channels, b->width);
    product(pixels(given + at, channels), w->second, NULL, NULL, inner, channels, b->width);
    for (ptrdiff_t i = 0; i < length; i++) inner[i] *= slope[i];
    outer(pixels(depth + at, channels), inner, s->first, channels, b->width);
    add_pixels(inner, s->first_bias, channels, b->width);
    product(pixels(inner, channels), w->first, NULL, NULL, back + at, channels, b->width);
}

/* From those to the gradients of the input. The taps of the weights are in the opposite order. */
INLINE void row_back_depthwise(const Block *b, const Weights *w, const Sums *s, ptrdiff_t row, const float *x,
                               const float *back, const float *given, float *wanted, const int channels) {
    ptrdiff_t at = row * b->width * channels;
    const float *rows[3];
    rows_around(b, x, row, rows);
    correlate(rows, back + at, s->depthwise, channels, b->width);
    add_pixels(back + at, s->depthwise_bias, channels, b->width);
    rows_around(b, back, row, rows);
    convolve(rows, w->depthwise, given + at, channels, wanted + at, channels, b->width);
}

/* ---- entry points ---- */

/* Map pixels x to `out`; `depth` and `hidden` take what the gradients need. Weights are those of torch:
   depthwise (channels, TAPS), first and second (out, in). Return 0, or 1 for want of memory. */
int block(const Block *b, const float *x, const float *depthwise, const float *depthwise_bias, const float *first,
          const float *first_bias, const float *second, const float *second_bias, float *depth, float *hidden,
          float *out) {
    int channels = b->channels, is_short = 0;
    ptrdiff_t square = (ptrdiff_t)channels * channels, rows = (ptrdiff_t)b->frames * b->height;
    float *turned = malloc((2 * square + TAPS * channels) * sizeof(float));
    if (!turned) return 1;
    transpose(first, turned, channels, channels);
    transpose(second, turned + square, channels, channels);
    transpose(depthwise, turned + 2 * square, channels, TAPS);
    Weights w = {turned + 2 * square, turned, turned + square, depthwise_bias, first_bias, second_bias};
#pragma omp parallel num_threads(b->threads) reduction(| : is_short)
    {
        float *active = malloc((size_t)b->width * channels * sizeof(float));
        is_short |= !active;
#pragma omp for
        for (ptrdiff_t row = 0; row < rows; row++)
            if (active) {
#define CALL(n) row_forward(b, &w, row, x, depth, hidden, out, active, n)
                FOR_CHANNELS(channels, CALL)
#undef CALL
            }
        free(active);
    }
    free(turned);
    return is_short;
}

/* Map the gradients of the output, `given`, to those of the input and of all weights. */
int block_back(const Block *b, const float *x, const float *depthwise, const float *first, const float *second,
               const float *depth, const float *hidden, const float *given, float *wanted, float *by_depthwise,
               float *by_depthwise_bias, float *by_first, float *by_first_bias, float *by_second,
               float *by_second_bias) {
    int channels = b->channels, is_short = 0;
    ptrdiff_t rows = (ptrdiff_t)b->frames * b->height, length = (ptrdiff_t)b->width * channels;
    ptrdiff_t bands = (rows + BAND - 1) / BAND, size = sums_size(channels);
    float *back = malloc(rows * length * sizeof(float)), *turned = malloc(TAPS * channels * sizeof(float));
    float *sums = calloc((size_t)(bands * size), sizeof(float));
    if (back && turned && sums) {
        for (int c = 0; c < channels; c++)
            for (int k = 0; k < TAPS; k++) turned[k * channels + c] = depthwise[c * TAPS + TAPS - 1 - k];
        Weights w = {turned, first, second, NULL, NULL, NULL};
#pragma omp parallel num_threads(b->threads) reduction(| : is_short)
        {
            float *work = malloc(3 * length * sizeof(float));
            is_short |= !work;
#pragma omp for
            for (ptrdiff_t band = 0; band < bands; band++) {
                Sums s = sums_at(sums + band * size, channels);
                for (ptrdiff_t row = band * BAND; work && row < MIN(rows, (band + 1) * BAND); row++) {
#define CALL(n) row_back(b, &w, &s, row, depth, hidden, given, back, work, n)
                    FOR_CHANNELS(channels, CALL)
#undef CALL
                }
            }
#pragma omp for
            for (ptrdiff_t band = 0; band < bands; band++) {
                Sums s = sums_at(sums + band * size, channels);
                for (ptrdiff_t row = band * BAND; row < MIN(rows, (band + 1) * BAND); row++) {
#define CALL(n) row_back_depthwise(b, &w, &s, row, x, back, given, wanted, n)
                    FOR_CHANNELS(channels, CALL)
#undef CALL
                }
            }
            free(work);
        }
        for (ptrdiff_t band = 1; band < bands; band++)
            for (ptrdiff_t i = 0; i < size; i++) sums[i] += sums[band * size + i];
        Sums s = sums_at(sums, channels);
        transpose(s.first, by_first, channels, channels);
        transpose(s.second, by_second, channels, channels);
        transpose(s.depthwise, by_depthwise, TAPS, channels);
        memcpy(by_depthwise_bias, s.depthwise_bias, channels * sizeof(float));
        memcpy(by_first_bias, s.first_bias, channels * sizeof(float));
        memcpy(by_second_bias, s.second_bias, channels * sizeof(float));
    } else
        is_short = 1;
    free(back);
    free(turned);
    free(sums);
    return is_short;
}
