/* The exponential and the logistic function, which compilers make vector instructions of. */

#include <math.h>
#include <stdint.h>

/* exp by a polynomial (Cephes); NaN stays NaN, and what would overflow or vanish stays within. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = nearbyintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665795e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1;
    union {
        int32_t i;
        float f;
    } power = {(int32_t)((uint32_t)((int32_t)n + 127) << 23)};
    return p * power.f;
}

static inline float sigmoid(float x) { return 1 / (1 + exponential(-x)); }
