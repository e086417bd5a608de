/* The activation of the network `fast` and its gradient, each in one pass. */

#include "activation.h"
#include <stddef.h>

#define BLOCK 4096 /* values that a thread takes at once */

/* Map values (count,) to as many. */
void scaled_gelu(ptrdiff_t count, int threads, const float *x, float *out) {
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t from = 0; from < count; from += BLOCK)
        for (ptrdiff_t i = from; i < (from + BLOCK < count ? from + BLOCK : count); i++) out[i] = activation(x[i]);
}

/* Map values and the gradients of their activations to the gradients of the values. */
void scaled_gelu_back(ptrdiff_t count, int threads, const float *x, const float *gradients, float *out) {
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t from = 0; from < count; from += BLOCK)
        for (ptrdiff_t i = from; i < (from + BLOCK < count ? from + BLOCK : count); i++) {
            float slope;
            activation_and_slope(x[i], &slope);
            out[i] = gradients[i] * slope;
        }
}
