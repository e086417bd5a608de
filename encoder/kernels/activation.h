/* The activation of the network `fast`, silu(GAIN x), and its slope. */

#include "exponential.h"

#define GAIN 1.702f

static inline float activation(float x) {
    float u = GAIN * x;
    return u * sigmoid(u);
}

/* Return the activation of a value; its slope is written to `slope`. */
static inline float activation_and_slope(float x, float *slope) {
    float u = GAIN * x, s = sigmoid(u);
    *slope = GAIN * s * (1 + u * (1 - s));
    return u * s;
}
