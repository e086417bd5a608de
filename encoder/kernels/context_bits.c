/* The bits of a latent under the coder's contexts, with their gradients.

   `encoder.training.context_rate` and `encoder.training.qat` have the same arithmetic in torch,
   which is the reference. Values (T, C, H, W) are in quantization steps. */

#include "exponential.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define OTHERS 4 /* sums of magnitudes: one and two times before, channels before, and around those */
#define SUMS (OTHERS + 1) /* and, for odd places of the checkerboard, around in the same channel */
#define WEIGHTS (OTHERS + SUMS)
#define LEAST_SCALE 0.05f
#define LEAST_SHARE 1e-9f
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define LN2 0.69314718f

typedef struct {
    int32_t times, channels, height, width;
    int32_t threads;
    float levels; /* of a scale's weights, per octave */
} Latent;

/* log2 of numbers from 1 on: the exponent's bits, and a series of atanh for the rest. */
static inline float logarithm2(float x) {
    union {
        float f;
        int32_t i;
    } bits = {x};
    int32_t exponent = (bits.i - 0x3f3504f3) >> 23; /* from sqrt(1/2) on */
    bits.i -= (int32_t)((uint32_t)exponent << 23);
    float s = (bits.f - 1) / (bits.f + 1), q = s * s;
    float series = 1 + q * (0.33333333f + q * (0.2f + q * (0.14285714f + q * 0.11111111f)));
    return exponent + 2.8853901f * s * series;
}

/* Number of the values of a channel at its even or odd places, of which the even ones may be one more. */
static double values_of(const Latent *l, int is_odd) {
    ptrdiff_t places = ((ptrdiff_t)l->height * l->width + 1 - is_odd) / 2;
    return (double)(l->times * MAX(places, 1));
}

/* Sums of each place's four neighbours (H, W); outside, there are zeros. */
static void add_four(const float *plane, float *out, int height, int width) {
    for (int y = 0; y < height; y++) {
        const float *row = plane + (ptrdiff_t)y * width;
        float *to = out + (ptrdiff_t)y * width;
        if (y > 0)
            for (int x = 0; x < width; x++) to[x] += row[x - width];
        if (y + 1 < height)
            for (int x = 0; x < width; x++) to[x] += row[x + width];
        for (int x = 1; x < width; x++) to[x] += row[x - 1];
        for (int x = 0; x + 1 < width; x++) to[x] += row[x + 1];
    }
}

/* Bits of a value under a Laplace model binned at integers, and their gradients. */
static inline float laplace(float y, float scale, float *by_size, float *by_scale) {
    float size = fabsf(y), s = scale < LEAST_SCALE ? LEAST_SCALE : scale, u = 1 / s;
    float a = exponential(-(size + 0.5f) * u) / 2, b = exponential((size < 0.5f ? size - 0.5f : 0) * u) / 2;
    float inside = 1 - a - b, share = inside < LEAST_SHARE ? LEAST_SHARE : inside;
    float slope = inside < LEAST_SHARE ? 0 : u / (share * LN2);
    float q = exponential(-u), rest = u < 0.01f ? u * (1 - u * (0.5f - u / 6)) : 1 - q;
    int is_inside = size < 0.5f;
    float least = is_inside ? share : rest / 2;
    /* `logarithm2` takes numbers from 1 on, which the reciprocal of a probability is. */
    float bits = logarithm2(1 / least) + (is_inside ? 0 : (size - 0.5f) * u / LN2);
    *by_size = is_inside ? (b - a) * slope : u / LN2;
    float of_scale = is_inside ? (a * (size + 0.5f) - b * (size - 0.5f)) * u * slope
                               : (q / rest - (size - 0.5f)) * u * u / LN2;
    *by_scale = scale < LEAST_SCALE ? 0 : of_scale;
    return bits;
}

/* Logarithms of the sums around the values of one time, and what they say of the scales. */
static void find_scales(const Latent *l, int t, const float *values, const float *weights, float *logs,
                        float *relative, double *ratios, float *planes) {
    ptrdiff_t plane = (ptrdiff_t)l->height * l->width, all = plane * l->channels * l->times;
    float *before = planes, *sums = planes + plane, *even = sums + SUMS * plane;
    memset(before, 0, plane * sizeof(float));
    for (int c = 0; c < l->channels; c++) {
        ptrdiff_t at = ((ptrdiff_t)t * l->channels + c) * plane, back = l->channels * plane;
        const float *y = values + at;
        memset(sums + 3 * plane, 0, 2 * plane * sizeof(float));
        for (ptrdiff_t i = 0; i < plane; i++) {
            sums[i] = t > 0 ? fabsf(y[i - back]) : 0;
            sums[plane + i] = t > 1 ? fabsf(y[i - 2 * back]) : 0;
            sums[2 * plane + i] = before[i];
            even[i] = (i / l->width + i % l->width) % 2 ? 0 : fabsf(y[i]);
        }
        add_four(before, sums + 3 * plane, l->height, l->width);
        add_four(even, sums + 4 * plane, l->height, l->width);
        for (int k = 0; k < SUMS; k++)
            for (ptrdiff_t i = 0; i < plane; i++) logs[k * all + at + i] = logarithm2(1 + sums[k * plane + i]);
        for (int r = 0; r < l->height; r++)
            for (int x = 0; x < l->width; x++) {
                ptrdiff_t i = at + (ptrdiff_t)r * l->width + x;
                const float *w = weights + ((r + x) % 2 ? OTHERS : 0);
                float exponent = (r + x) % 2 ? w[OTHERS] * logs[OTHERS * all + i] : 0;
                for (int k = 0; k < OTHERS; k++) exponent += w[k] * logs[k * all + i];
                relative[i] = exponential(exponent * (LN2 / l->levels));
            }
        for (int r = 0; r < l->height; r++)
            for (int x = 0; x < l->width; x++) {
                ptrdiff_t i = (ptrdiff_t)r * l->width + x;
                ratios[2 * c + (r + x) % 2] += fabsf(y[i]) / relative[at + i];
            }
        for (ptrdiff_t i = 0; i < plane; i++) before[i] += fabsf(y[i]);
    }
}

/* Bits of the values of one time and channel; `exponents` takes the gradients of the logarithms of
   the scales. `sums` takes the bits, and the sums of these gradients at even and odd places. */
static void find_bits(const Latent *l, ptrdiff_t number, const float *values, const double *factors,
                      const float *relative, float *exponents, float *gradients, double *sums) {
    ptrdiff_t plane = (ptrdiff_t)l->height * l->width;
    for (int r = 0; r < l->height; r++) {
        ptrdiff_t at = number * plane + (ptrdiff_t)r * l->width;
        float bits = 0;
        for (int x = 0; x < l->width; x++) {
            float scale = relative[at + x] * (float)factors[(r + x) % 2], by_size, by_scale;
            bits += laplace(values[at + x], scale, &by_size, &by_scale);
            gradients[at + x] = by_size;
            exponents[at + x] = by_scale * scale;
        }
        sums[0] += bits;
        for (int k = 0; k < 2; k++)
            for (int x = (r + k) % 2; x < l->width; x += 2) sums[1 + k] += exponents[at + x];
    }
}

/* Add the gradients through the factors, which are means of the values' ratios to their relative scales.
   `pulls` has, for even and odd places, the gradient of the bits by the sum of these ratios.
   `exponents` becomes the gradients of the exponents, and `sums` takes those of the weights. */
static void add_factor_gradients(const Latent *l, ptrdiff_t number, const float *values, const double *pulls,
                                 const float *logs, const float *relative, float *exponents, float *gradients,
                                 double *sums) {
    ptrdiff_t plane = (ptrdiff_t)l->height * l->width, all = plane * l->channels * l->times;
    for (int r = 0; r < l->height; r++) {
        ptrdiff_t at = number * plane + (ptrdiff_t)r * l->width;
        float own[2][SUMS] = {{0}}, pull_of[2] = {(float)pulls[r % 2], (float)pulls[(r + 1) % 2]};
        for (int x = 0; x < l->width; x++) {
            float y = values[at + x], pull = pull_of[x % 2] / relative[at + x];
            float by_size = gradients[at + x] + pull;
            gradients[at + x] = y > 0 ? by_size : y < 0 ? -by_size : 0;
            exponents[at + x] = (exponents[at + x] - pull * fabsf(y)) * (LN2 / l->levels);
        }
        for (int k = 0; k < SUMS; k++)
            for (int x = 0; x < l->width; x++) own[(r + x) % 2][k] += exponents[at + x] * logs[k * all + at + x];
        for (int k = 0; k < OTHERS; k++) sums[k] += own[0][k];
        for (int k = 0; k < SUMS; k++) sums[OTHERS + k] += own[1][k];
    }
}

/* Add to the gradients of one time's values those of their magnitudes, through other scales. */
static void add_context_gradients(const Latent *l, int t, const float *values, const float *weights,
                                  const float *logs, const float *exponents, float *gradients, float *planes) {
    ptrdiff_t plane = (ptrdiff_t)l->height * l->width, all = plane * l->channels * l->times;
    float *later = planes, *whole = planes + plane, *spread = whole + plane, *odd = spread + plane;
    memset(later, 0, plane * sizeof(float)); /* of all channels after */
    for (int c = l->channels - 1; c >= 0; c--) {
        ptrdiff_t at = ((ptrdiff_t)t * l->channels + c) * plane, ahead = l->channels * plane;
        memset(whole, 0, plane * sizeof(float));
        for (int r = 0; r < l->height; r++)
            for (int x = 0; x < l->width; x++) {
                ptrdiff_t i = (ptrdiff_t)r * l->width + x, j = at + i;
                const float *w = weights + ((r + x) % 2 ? OTHERS : 0);
                /* d log2(1 + s) / ds = 2^-log2(1 + s) / ln 2 */
                spread[i] = exponents[j] * w[3] * exponential(-LN2 * logs[3 * all + j]);
                odd[i] = (r + x) % 2 ? exponents[j] * w[OTHERS] * exponential(-LN2 * logs[OTHERS * all + j]) : 0;
            }
        add_four(odd, whole, l->height, l->width);
        for (int r = 0; r < l->height; r++)
            for (int x = 0; x < l->width; x++) {
                ptrdiff_t i = (ptrdiff_t)r * l->width + x, j = at + i;
                const float *w = weights + ((r + x) % 2 ? OTHERS : 0);
                float g = later[i] + ((r + x) % 2 ? 0 : whole[i]);
                if (t + 1 < l->times) g += exponents[j + ahead] * w[0] * exponential(-LN2 * logs[j + ahead]);
                if (t + 2 < l->times)
                    g += exponents[j + 2 * ahead] * w[1] * exponential(-LN2 * logs[all + j + 2 * ahead]);
                float sign = values[j] > 0 ? 1 : values[j] < 0 ? -1 : 0;
                gradients[j] += sign * g / LN2;
                later[i] += exponents[j] * w[2] * exponential(-LN2 * logs[2 * all + j]);
            }
        add_four(spread, later, l->height, l->width);
    }
}

/* Map values (T, C, H, W) and weights (WEIGHTS,) to their bits, (1,), and the gradients of both.
   Return 0, or 1 for want of memory. */
int context_bits(const Latent *l, const float *values, const float *weights, float *bits, float *gradients,
                 float *weight_gradients) {
    ptrdiff_t plane = (ptrdiff_t)l->height * l->width, pieces = (ptrdiff_t)l->times * l->channels;
    ptrdiff_t all = plane * pieces;
    int parities = 2 * l->channels, is_short = 0;
    float *logs = malloc((SUMS + 2) * all * sizeof(float));
    /* Each time, and each piece, has sums of its own, which are added up in order: the results do
       not depend on the number of threads. */
    double *ratios = calloc((size_t)(l->times + 2) * parities + pieces * (WEIGHTS + 3), sizeof(double));
    if (logs && ratios) {
        float *relative = logs + SUMS * all, *exponents = relative + all;
        double *factors = ratios + (size_t)l->times * parities, *pulls = factors + parities;
        double *sums = pulls + parities, *weighed = sums + 3 * pieces;
#pragma omp parallel num_threads(l->threads) reduction(| : is_short)
        {
            float *planes = malloc((SUMS + 2) * plane * sizeof(float));
            is_short |= !planes;
#pragma omp for
            for (int t = 0; t < l->times; t++)
                if (planes) find_scales(l, t, values, weights, logs, relative, ratios + t * parities, planes);
#pragma omp for
            for (int k = 0; k < parities; k++) {
                for (int t = 0; t < l->times; t++) factors[k] += ratios[t * parities + k];
                factors[k] /= values_of(l, k % 2);
            }
#pragma omp for
            for (ptrdiff_t i = 0; i < pieces; i++)
                find_bits(l, i, values, factors + 2 * (i % l->channels), relative, exponents, gradients,
                          sums + 3 * i);
#pragma omp for
            for (int k = 0; k < parities; k++) {
                for (ptrdiff_t i = k / 2; i < pieces; i += l->channels) pulls[k] += sums[3 * i + 1 + k % 2];
                pulls[k] = factors[k] > 0 ? pulls[k] / (factors[k] * values_of(l, k % 2)) : 0;
            }
#pragma omp for
            for (ptrdiff_t i = 0; i < pieces; i++)
                add_factor_gradients(l, i, values, pulls + 2 * (i % l->channels), logs, relative, exponents,
                                     gradients, weighed + i * WEIGHTS);
#pragma omp for
            for (int t = 0; t < l->times; t++)
                if (planes) add_context_gradients(l, t, values, weights, logs, exponents, gradients, planes);
            free(planes);
        }
        double totals[WEIGHTS + 1] = {0};
        for (ptrdiff_t i = 0; i < pieces; i++) {
            for (int k = 0; k < WEIGHTS; k++) totals[k] += weighed[i * WEIGHTS + k];
            totals[WEIGHTS] += sums[3 * i];
        }
        for (int k = 0; k < WEIGHTS; k++) weight_gradients[k] = (float)totals[k];
        *bits = (float)totals[WEIGHTS];
    } else
        is_short = 1;
    free(logs);
    free(ratios);
    return is_short;
}
