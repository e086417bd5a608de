/* The activation of the network `fast`, silu(GAIN x), and its gradient, each in one pass. */

#include "exponential.h"
#include <stddef.h>

#define GAIN 1.702f
#define BLOCK 4096 /* values that a thread takes at once */

/* Map values (count,) to as many. */
void scaled_gelu(ptrdiff_t count, int threads, const float *x, float *out) {
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t from = 0; from < count; from += BLOCK)
        for (ptrdiff_t i = from; i < (from + BLOCK < count ? from + BLOCK : count); i++) {
            float u = GAIN * x[i];
            out[i] = u * sigmoid(u);
        }
}

/* Map values and the gradients of their activations to the gradients of the values. */
void scaled_gelu_back(ptrdiff_t count, int threads, const float *x, const float *gradients, float *out) {
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t from = 0; from < count; from += BLOCK)
        for (ptrdiff_t i = from; i < (from + BLOCK < count ? from + BLOCK : count); i++) {
            float u = GAIN * x[i], s = sigmoid(u);
            out[i] = gradients[i] * GAIN * s * (1 + u * (1 - s));
        }
}
