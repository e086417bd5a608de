// Functions of single elements, and what the compiler needs in place of a C library.

#include "wasm.h"

void *memset(void *to, int value, unsigned long bytes) {
    return __builtin_memset(to, value, bytes);
}

void *memcpy(void *to, const void *from, unsigned long bytes) {
    return __builtin_memcpy(to, from, bytes);
}

// The exponential function, to about one unit in the last place (Cephes' coefficients of expf).
f32x4 exp4(f32x4 x) {
    x = wasm_f32x4_min(wasm_f32x4_max(x, wasm_f32x4_splat(-87.0f)), wasm_f32x4_splat(88.0f));
    const f32x4 octaves = wasm_f32x4_nearest(wasm_f32x4_mul(x, wasm_f32x4_splat(1.44269504f)));
    x = wasm_f32x4_sub(x, wasm_f32x4_mul(octaves, wasm_f32x4_splat(0.693359375f)));
    x = wasm_f32x4_sub(x, wasm_f32x4_mul(octaves, wasm_f32x4_splat(-2.12194440e-4f)));
    f32x4 sum = wasm_f32x4_splat(1.9875691500e-4f);
    sum = MADD(sum, x, wasm_f32x4_splat(1.3981999507e-3f));
    sum = MADD(sum, x, wasm_f32x4_splat(8.3334519073e-3f));
    sum = MADD(sum, x, wasm_f32x4_splat(4.1665795894e-2f));
    sum = MADD(sum, x, wasm_f32x4_splat(1.6666665459e-1f));
    sum = MADD(sum, x, wasm_f32x4_splat(5.0000001201e-1f));
    sum = MADD(sum, wasm_f32x4_mul(x, x), x);
    sum = wasm_f32x4_add(sum, wasm_f32x4_splat(1.0f));
    const v128_t power = wasm_i32x4_shl(
        wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(octaves), wasm_i32x4_splat(127)), 23
    );
    return wasm_f32x4_mul(sum, power);
}

f32x4 sigmoid4(f32x4 x) {
    const f32x4 one = wasm_f32x4_splat(1.0f);
    return wasm_f32x4_div(one, wasm_f32x4_add(one, exp4(wasm_f32x4_neg(x))));
}

static f32x4 tanh4(f32x4 x) {
    const f32x4 two = wasm_f32x4_splat(2.0f);
    const f32x4 far = sigmoid4(wasm_f32x4_mul(x, two));
    const f32x4 large = wasm_f32x4_sub(wasm_f32x4_mul(far, two), wasm_f32x4_splat(1.0f));
    // Near 0, the difference would lose digits: x - x^3 / 3 + 2 x^5 / 15 instead.
    const f32x4 square = wasm_f32x4_mul(x, x);
    f32x4 small = wasm_f32x4_mul(square, wasm_f32x4_splat(0.133333333f));
    small = wasm_f32x4_mul(wasm_f32x4_sub(small, wasm_f32x4_splat(0.333333333f)), square);
    small = wasm_f32x4_add(x, wasm_f32x4_mul(x, small));
    const v128_t is_small = wasm_f32x4_lt(wasm_f32x4_abs(x), wasm_f32x4_splat(0.1f));
    return wasm_v128_bitselect(small, large, is_small);
}

// The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
static f32x4 erf4(f32x4 x) {
    const f32x4 one = wasm_f32x4_splat(1.0f);
    const f32x4 size = wasm_f32x4_abs(x);
    const f32x4 t = wasm_f32x4_div(
        one, wasm_f32x4_add(one, wasm_f32x4_mul(size, wasm_f32x4_splat(0.3275911f)))
    );
    f32x4 sum = wasm_f32x4_splat(1.061405429f);
    sum = MADD(sum, t, wasm_f32x4_splat(-1.453152027f));
    sum = MADD(sum, t, wasm_f32x4_splat(1.421413741f));
    sum = MADD(sum, t, wasm_f32x4_splat(-0.284496736f));
    sum = MADD(sum, t, wasm_f32x4_splat(0.254829592f));
    const f32x4 bell = exp4(wasm_f32x4_neg(wasm_f32x4_mul(x, x)));
    const f32x4 value = wasm_f32x4_sub(one, wasm_f32x4_mul(wasm_f32x4_mul(sum, t), bell));
    const v128_t sign = wasm_v128_and(x, wasm_i32x4_splat((int32_t)0x80000000));
    return wasm_v128_or(value, sign);
}

static f32x4 gelu4(f32x4 x) {
    const f32x4 half = wasm_f32x4_mul(x, wasm_f32x4_splat(0.5f));
    const f32x4 part = erf4(wasm_f32x4_mul(x, wasm_f32x4_splat(0.70710678f)));
    return wasm_f32x4_add(half, wasm_f32x4_mul(half, part));
}

// The sine of x plus a number of quarter turns. The angle is reduced with a pi / 2 of 3 doubles.
static double sine(double x, int64_t quarters) {
    const double turns = __builtin_nearbyint(x * 0.63661977236758134308);
    x -= turns * 1.57079632673412561417e+00;
    x -= turns * 6.07710050630396597660e-11;
    x -= turns * 2.02226624879595063154e-21;
    const int64_t quarter = ((int64_t)turns + quarters) & 3;
    const double z = x * x;
    double value;
    if (quarter & 1) {
        value = 1.0 + z * (-1.0 / 2 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 +
                z * (-1.0 / 3628800 + z * (1.0 / 479001600))))));
    } else {
        value = x + x * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 +
                z * (-1.0 / 39916800)))));
    }
    return quarter & 2 ? -value : value;
}

#define UNARY(name, expression)                                               \
    void EXPORT(name)(float *to, const float *from, uint32_t count) {         \
        for (uint32_t index = 0; index < count; index += 4) {                 \
            const f32x4 x = wasm_v128_load(from + index);                     \
            wasm_v128_store(to + index, expression);                          \
        }                                                                     \
    }

// These read and write up to three elements too far: buffers have a multiple of four.
UNARY(absolute, wasm_f32x4_abs(x))
UNARY(ceiling, wasm_f32x4_ceil(x))
UNARY(error_function, erf4(x))
UNARY(exponential, exp4(x))
UNARY(floor_of, wasm_f32x4_floor(x))
UNARY(gelu, gelu4(x))
UNARY(negative, wasm_f32x4_neg(x))
UNARY(relu, wasm_f32x4_max(x, wasm_f32x4_splat(0.0f)))
UNARY(sigmoid, sigmoid4(x))
UNARY(square_root, wasm_f32x4_sqrt(x))
UNARY(tangent, tanh4(x))

// Sines, or with 1 quarter turn cosines.
SMALL void EXPORT(sines)(float *to, const float *from, uint32_t count, int quarters) {
    for (uint32_t index = 0; index < count; index++) {
        to[index] = (float)sine((double)from[index], quarters);
    }
}

void EXPORT(clip)(float *to, const float *from, uint32_t count, float least, float most) {
    for (uint32_t index = 0; index < count; index++) {
        to[index] = MIN(MAX(from[index], least), most);
    }
}

// Compute x * factor * sigmoid(x * factor).
void EXPORT(swish)(float *to, const float *from, uint32_t count, float factor) {
    const f32x4 factors = wasm_f32x4_splat(factor);
    for (uint32_t index = 0; index < count; index += 4) {
        const f32x4 x = wasm_f32x4_mul(wasm_v128_load(from + index), factors);
        wasm_v128_store(to + index, wasm_f32x4_mul(x, sigmoid4(x)));
    }
}

// Functions of two elements. `a` and `b` are (outer, middle, inner), each with steps of 0 where it
// is broadcast; `inner` has a step of 0 or 1.
#define BINARY(name, vector, scalar)                                                          \
    SMALL void EXPORT(name)(                                                                  \
        float *to, const float *a, const float *b, uint32_t outer, uint32_t middle,           \
        uint32_t inner, uint32_t a_outer, uint32_t a_middle, uint32_t a_inner,                \
        uint32_t b_outer, uint32_t b_middle, uint32_t b_inner                                 \
    ) {                                                                                       \
        for (uint32_t i = 0; i < outer; i++) {                                                \
            for (uint32_t j = 0; j < middle; j++, to += inner) {                              \
                const float *p = a + i * a_outer + j * a_middle;                              \
                const float *q = b + i * b_outer + j * b_middle;                              \
                uint32_t k = 0;                                                               \
                for (; k + 4 <= inner; k += 4) {                                              \
                    const f32x4 x = a_inner ? wasm_v128_load(p + k)                           \
                                            : wasm_v128_load32_splat(p);                      \
                    const f32x4 y = b_inner ? wasm_v128_load(q + k)                           \
                                            : wasm_v128_load32_splat(q);                      \
                    wasm_v128_store(to + k, vector);                                          \
                }                                                                             \
                for (; k < inner; k++) {                                                      \
                    const float x = p[k * a_inner];                                           \
                    const float y = q[k * b_inner];                                           \
                    to[k] = scalar;                                                           \
                }                                                                             \
            }                                                                                 \
        }                                                                                     \
    }

BINARY(add, wasm_f32x4_add(x, y), x + y)
BINARY(subtract, wasm_f32x4_sub(x, y), x - y)
BINARY(times, wasm_f32x4_mul(x, y), x * y)
BINARY(divide, wasm_f32x4_div(x, y), x / y)
BINARY(minimum, wasm_f32x4_min(x, y), MIN(x, y))
BINARY(maximum, wasm_f32x4_max(x, y), MAX(x, y))

// Normalize each of a number of rows to mean 0 and variance 1.
SMALL void EXPORT(normalize)(float *to, const float *from, uint32_t rows, uint32_t size, float epsilon) {
    for (uint32_t row = 0; row < rows; row++, to += size, from += size) {
        double sum = 0;
        for (uint32_t index = 0; index < size; index++) sum += from[index];
        const double mean = sum / size;
        double squares = 0;
        for (uint32_t index = 0; index < size; index++) {
            squares += (from[index] - mean) * (from[index] - mean);
        }
        const double factor = 1.0 / __builtin_sqrt(squares / size + epsilon);
        for (uint32_t index = 0; index < size; index++) {
            to[index] = (float)((from[index] - mean) * factor);
        }
    }
}

// The softmax of each of a number of rows.
SMALL void EXPORT(softmax)(float *to, const float *from, uint32_t rows, uint32_t size) {
    for (uint32_t row = 0; row < rows; row++, to += size, from += size) {
        float most = from[0];
        for (uint32_t index = 1; index < size; index++) most = MAX(most, from[index]);
        float sum = 0;
        for (uint32_t index = 0; index < size; index++) {
            const f32x4 power = exp4(wasm_f32x4_splat(from[index] - most));
            to[index] = wasm_f32x4_extract_lane(power, 0);
            sum += to[index];
        }
        for (uint32_t index = 0; index < size; index++) to[index] /= sum;
    }
}
