// Changes of size, warps, changes of layout, and pixels.

#include "wasm.h"

// Resize planes along their rows: each of `out` elements is the sum of `taps` weighted elements of
// its row of `in` elements.
void EXPORT(resize_rows)(
    float *to, const float *from, uint32_t rows, uint32_t in, uint32_t out, uint32_t taps,
    const int32_t *places, const float *weights
) {
    for (uint32_t row = 0; row < rows; row++, to += out, from += in) {
        if (taps == 2) {
            for (uint32_t x = 0; x < out; x++) {
                to[x] = from[places[2 * x]] * weights[2 * x] +
                        from[places[2 * x + 1]] * weights[2 * x + 1];
            }
            continue;
        }
        for (uint32_t x = 0; x < out; x++) {
            float sum = 0;
            for (uint32_t tap = 0; tap < taps; tap++) {
                sum += from[places[taps * x + tap]] * weights[taps * x + tap];
            }
            to[x] = sum;
        }
    }
}

// Resize planes (planes, in, width) to (planes, out, width).
void EXPORT(resize_columns)(
    float *to, const float *from, uint32_t planes, uint32_t in, uint32_t out, uint32_t width,
    uint32_t taps, const int32_t *places, const float *weights
) {
    for (uint32_t plane = 0; plane < planes; plane++, from += in * width) {
        for (uint32_t y = 0; y < out; y++, to += width) {
            const float *first = from + (uint32_t)places[taps * y] * width;
            const float w = weights[taps * y];
            for (uint32_t x = 0; x < width; x++) to[x] = first[x] * w;
            for (uint32_t tap = 1; tap < taps; tap++) {
                const float *row = from + (uint32_t)places[taps * y + tap] * width;
                const float weight = weights[taps * y + tap];
                if (weight == 0) continue;
                for (uint32_t x = 0; x < width; x++) to[x] += row[x] * weight;
            }
        }
    }
}

static inline float clamp(float x, float most) {
    return MIN(MAX(x, 0.0f), most);
}

// The weights of cubic convolution with a = -0.75, as ONNX's GridSample has it.
static inline f32x4 cubic_weights(float t) {
    const float a = -0.75f;
    const float u = 1 - t;
    return wasm_f32x4_make(
        a * t * u * u, ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * u - (a + 3)) * u * u + 1, a * u * t * t
    );
}

static inline float sum_of(f32x4 x) {
    return wasm_f32x4_extract_lane(x, 0) + wasm_f32x4_extract_lane(x, 1) +
           wasm_f32x4_extract_lane(x, 2) + wasm_f32x4_extract_lane(x, 3);
}

// Sample planes (channels, height, width) at places: `xs` and `ys`, each with a `step` between two
// places, are in -1 .. 1. The corners' pixels are at -1 and 1 with `aligned`, else their edges are.
// Outside lies the border's colour, or 0 without `has_border`.
void EXPORT(sample)(
    float *to, const float *from, const float *xs, const float *ys, uint32_t step, uint32_t count,
    uint32_t channels, int32_t height, int32_t width, int cubic, int aligned, int has_border
) {
    const float scale_x = (aligned ? (float)(width - 1) : (float)width) / 2;
    const float scale_y = (aligned ? (float)(height - 1) : (float)height) / 2;
    const float shift = aligned ? 0.0f : -0.5f;
    const uint32_t plane = (uint32_t)(height * width);
    const int32_t taps = cubic ? 4 : 2;
    for (uint32_t place = 0; place < count; place++) {
        // A NaN becomes the first pixel, and a huge number stays in the range of integers.
        float x = (xs[place * step] + 1) * scale_x + shift;
        float y = (ys[place * step] + 1) * scale_y + shift;
        if (has_border && !cubic) {
            x = clamp(x, (float)(width - 1));
            y = clamp(y, (float)(height - 1));
        }
        x = x > -1e6f ? MIN(x, 1e6f) : -1e6f;
        y = y > -1e6f ? MIN(y, 1e6f) : -1e6f;
        const float floor_x = __builtin_floorf(x);
        const float floor_y = __builtin_floorf(y);
        const float tx = x - floor_x;
        const float ty = y - floor_y;
        const int32_t left = (int32_t)floor_x - (cubic ? 1 : 0);
        const int32_t top = (int32_t)floor_y - (cubic ? 1 : 0);
        const f32x4 wx = cubic ? cubic_weights(tx) : wasm_f32x4_make(1 - tx, tx, 0, 0);
        float wy[4];
        wasm_v128_store(wy, cubic ? cubic_weights(ty) : wasm_f32x4_make(1 - ty, ty, 0, 0));
        if (cubic && left >= 0 && top >= 0 && left + 4 <= width && top + 4 <= height) {
            const float *at = from + top * width + left;
            for (uint32_t channel = 0; channel < channels; channel++, at += plane) {
                f32x4 sum = wasm_f32x4_mul(wasm_v128_load(at), wasm_f32x4_splat(wy[0]));
                for (int32_t row = 1; row < 4; row++) {
                    sum = MADD(wasm_v128_load(at + row * width), wasm_f32x4_splat(wy[row]), sum);
                }
                to[channel * count + place] = sum_of(wasm_f32x4_mul(sum, wx));
            }
            continue;
        }
        float weights[4];
        wasm_v128_store(weights, wx);
        for (uint32_t channel = 0; channel < channels; channel++) {
            const float *at = from + channel * plane;
            float sum = 0;
            for (int32_t row = 0; row < taps; row++) {
                for (int32_t column = 0; column < taps; column++) {
                    int32_t ix = left + column;
                    int32_t iy = top + row;
                    const int is_inside = ix >= 0 && ix < width && iy >= 0 && iy < height;
                    if (!is_inside && !has_border) continue;
                    ix = MAX(MIN(ix, width - 1), 0);
                    iy = MAX(MIN(iy, height - 1), 0);
                    sum += at[iy * width + ix] * wy[row] * weights[column];
                }
            }
            to[channel * count + place] = sum;
        }
    }
}

// Copy elements with steps for up to six axes: `shape`, then the steps of the source and of the
// target, in elements.
SMALL void EXPORT(copy_strided)(float *to, const float *from, const uint32_t *shape) {
    const uint32_t *in = shape + 6;
    const uint32_t *out = shape + 12;
    for (uint32_t a = 0; a < shape[0]; a++)
        for (uint32_t b = 0; b < shape[1]; b++)
            for (uint32_t c = 0; c < shape[2]; c++)
                for (uint32_t d = 0; d < shape[3]; d++)
                    for (uint32_t e = 0; e < shape[4]; e++) {
                        const float *source = from + a * in[0] + b * in[1] + c * in[2] + d * in[3] + e * in[4];
                        float *target = to + a * out[0] + b * out[1] + c * out[2] + d * out[3] + e * out[4];
                        if (in[5] == 1 && out[5] == 1) {
                            memcpy(target, source, 4 * shape[5]);
                        } else {
                            for (uint32_t f = 0; f < shape[5]; f++) target[f * out[5]] = source[f * in[5]];
                        }
                    }
}

static inline uint8_t pixel_value(float x) {
    return (uint8_t)__builtin_nearbyintf(MIN(MAX(x, 0.0f), 1.0f) * 255.0f);
}

// Turn colours (3, rows of `stride`) into RGBA pixels (height, width).
void EXPORT(to_rgba)(
    uint8_t *to, const float *rgb, uint32_t height, uint32_t width, uint32_t rows, uint32_t stride
) {
    const uint32_t plane = rows * stride;
    for (uint32_t y = 0; y < height; y++) {
        const float *from = rgb + y * stride;
        for (uint32_t x = 0; x < width; x++, to += 4) {
            to[0] = pixel_value(from[x]);
            to[1] = pixel_value(from[x + plane]);
            to[2] = pixel_value(from[x + 2 * plane]);
            to[3] = 255;
        }
    }
}
