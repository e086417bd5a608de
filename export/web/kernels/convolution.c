// Convolutions and matrix products. Planes are padded beforehand where a kernel reaches out of them.

#include "wasm.h"

enum { OUTPUTS = 4, VECTORS = 2, PIXELS = 4 * VECTORS };

// Activations that a convolution may end with.
enum { LINEAR = 0, SWISH = 1, SIGMOID = 2 };

static inline f32x4 activated(f32x4 x, int activation, f32x4 factor) {
    if (activation == SWISH) {
        x = wasm_f32x4_mul(x, factor);
        return wasm_f32x4_mul(x, sigmoid4(x));
    }
    return activation == SIGMOID ? sigmoid4(x) : x;
}

// Order weights (outputs, terms) so that those of OUTPUTS outputs stand together for each term.
// `to` has room for a multiple of OUTPUTS of outputs; the missing ones are 0.
void EXPORT(pack_weights)(float *to, const float *weights, uint32_t outputs, uint32_t terms) {
    for (uint32_t output = 0; output < outputs; output += OUTPUTS) {
        for (uint32_t term = 0; term < terms; term++) {
            for (uint32_t index = output; index < output + OUTPUTS; index++) {
                *to++ = index < outputs ? weights[index * terms + term] : 0.0f;
            }
        }
    }
}

// Convolve a row of pixels: the sum over terms of a packed weight times the row at the term's
// offset, plus the residual, for each output. Rows are read up to PIXELS - 1 pixels too far.
// With more pixels at once, the sums would not fit into a processor's 16 vectors.
static void convolve_row(
    float *to, const float *from, const int32_t *offsets, const float *packed, const float *bias,
    const float *residual, uint32_t outputs, uint32_t terms, uint32_t pixels, uint32_t plane,
    int activation, f32x4 factor
) {
    for (uint32_t pixel = 0; pixel < pixels; pixel += PIXELS) {
        const float *weights = packed;
        const float *row = from + pixel;
        for (uint32_t output = 0; output < outputs; output += OUTPUTS) {
            f32x4 sums[OUTPUTS][VECTORS];
            const uint32_t count = MIN(outputs - output, (uint32_t)OUTPUTS);
#pragma clang loop unroll(full)
            for (uint32_t o = 0; o < OUTPUTS; o++) {
                const f32x4 first =
                    wasm_f32x4_splat(bias && o < count ? bias[output + o] : 0.0f);
#pragma clang loop unroll(full)
                for (int part = 0; part < VECTORS; part++) sums[o][part] = first;
            }
            for (uint32_t term = 0; term < terms; term++) {
                const float *place = row + offsets[term];
                f32x4 x[VECTORS];
#pragma clang loop unroll(full)
                for (int part = 0; part < VECTORS; part++) x[part] = wasm_v128_load(place + 4 * part);
#pragma clang loop unroll(full)
                for (int o = 0; o < OUTPUTS; o++) {
                    const f32x4 w = wasm_v128_load32_splat(weights + o);
#pragma clang loop unroll(full)
                    for (int part = 0; part < VECTORS; part++) {
                        sums[o][part] = MADD(x[part], w, sums[o][part]);
                    }
                }
                weights += OUTPUTS;
            }
#pragma clang loop unroll(full)
            for (uint32_t o = 0; o < OUTPUTS; o++) {
                if (o >= count) continue;
                float *out = to + (output + o) * plane + pixel;
                const float *added = residual + (output + o) * plane + pixel;
#pragma clang loop unroll(full)
                for (uint32_t part = 0; part < VECTORS; part++) {
                    if (pixel + 4 * part >= pixels) continue;
                    f32x4 y = sums[o][part];
                    if (residual) y = wasm_f32x4_add(y, wasm_v128_load(added + 4 * part));
                    y = activated(y, activation, factor);
                    const uint32_t left = pixels - pixel - 4 * part;
                    if (left >= 4) {
                        wasm_v128_store(out + 4 * part, y);
                    } else {
                        float kept[4];
                        wasm_v128_store(kept, y);
                        for (uint32_t lane = 0; lane < left; lane++) out[4 * part + lane] = kept[lane];
                    }
                }
            }
        }
    }
}

// Convolve padded planes (terms' channels, ...) into planes (outputs, height, width).
// `offsets` has the place of each term in the padded input, in elements; `stride` is the padded
// width. With a height of 1, a whole plane may be one row. Steps between pixels are 1.
void EXPORT(convolve)(
    float *to, const float *from, const int32_t *offsets, const float *packed, const float *bias,
    const float *residual, uint32_t outputs, uint32_t terms, uint32_t height, uint32_t width,
    uint32_t stride, int activation, float factor
) {
    const f32x4 factors = wasm_f32x4_splat(factor);
    for (uint32_t row = 0; row < height; row++) {
        convolve_row(
            to + row * width, from + row * stride, offsets, packed, bias,
            residual ? residual + row * width : 0, outputs, terms, width, height * width,
            activation, factors
        );
    }
}

// Convolve each of the padded planes (channels, height + kernel - 1, stride) with a kernel of its
// own, (channels, rows, columns).
void EXPORT(convolve_depthwise)(
    float *to, const float *from, const float *weights, const float *bias, uint32_t channels,
    uint32_t height, uint32_t width, uint32_t rows, uint32_t columns, uint32_t stride
) {
    const uint32_t terms = rows * columns;
    for (uint32_t channel = 0; channel < channels; channel++) {
        const float *kernel = weights + channel * terms;
        const float *plane = from + channel * (height + rows - 1) * stride;
        const float first = bias ? bias[channel] : 0.0f;
        for (uint32_t y = 0; y < height; y++) {
            float *out = to + (channel * height + y) * width;
            uint32_t x = 0;
            for (; x + 8 <= width; x += 8) {
                f32x4 sum0 = wasm_f32x4_splat(first);
                f32x4 sum1 = sum0;
                for (uint32_t row = 0; row < rows; row++) {
                    const float *in = plane + (y + row) * stride + x;
                    for (uint32_t column = 0; column < columns; column++) {
                        const f32x4 w = wasm_v128_load32_splat(kernel + row * columns + column);
                        sum0 = MADD(wasm_v128_load(in + column), w, sum0);
                        sum1 = MADD(wasm_v128_load(in + column + 4), w, sum1);
                    }
                }
                wasm_v128_store(out + x, sum0);
                wasm_v128_store(out + x + 4, sum1);
            }
            for (; x < width; x++) {
                float sum = first;
                for (uint32_t row = 0; row < rows; row++) {
                    const float *in = plane + (y + row) * stride + x;
                    for (uint32_t column = 0; column < columns; column++) {
                        sum += in[column] * kernel[row * columns + column];
                    }
                }
                out[x] = sum;
            }
        }
    }
}

// Copy planes (channels, height, width) into the middle of padded planes of zeros.
void EXPORT(pad_planes)(
    float *to, const float *from, uint32_t channels, uint32_t height, uint32_t width, uint32_t top,
    uint32_t left, uint32_t padded_height, uint32_t stride
) {
    memset(to, 0, 4 * channels * padded_height * stride);
    for (uint32_t channel = 0; channel < channels; channel++) {
        for (uint32_t y = 0; y < height; y++) {
            memcpy(
                to + (channel * padded_height + y + top) * stride + left,
                from + (channel * height + y) * width, 4 * width
            );
        }
    }
}

// Multiply matrices: to (rows, columns) = factor * a (rows, terms) b (terms, columns) + what is
// there. The steps of `a` and `b` are those between rows, terms and columns, in elements.
SMALL void EXPORT(multiply)(
    float *to, const float *a, const float *b, uint32_t rows, uint32_t terms, uint32_t columns,
    uint32_t a_row, uint32_t a_term, uint32_t b_term, uint32_t b_column, float factor
) {
    for (uint32_t row = 0; row < rows; row++) {
        float *out = to + row * columns;
        for (uint32_t term = 0; term < terms; term++) {
            const float x = factor * a[row * a_row + term * a_term];
            const float *from = b + term * b_term;
            if (b_column == 1) {
                for (uint32_t column = 0; column < columns; column++) out[column] += x * from[column];
            } else {
                for (uint32_t column = 0; column < columns; column++) {
                    out[column] += x * from[column * b_column];
                }
            }
        }
    }
}
