/* Products of matrices with few columns, which stay in registers.

   Numbers of vectors and tiles are constants once these functions are inlined. */

#include <stddef.h>

#ifdef __AVX512F__
#define LANES 16
#define TILE 12 /* pixels of a product at once, as many as there are registers for */
#define OUTER_TILE 8 /* channels of a sum of outer products at once */
#else
#define LANES 8
#define TILE 6
#define OUTER_TILE 4
#endif
#define SMALL_TILE 4
#define PAIR 2 /* vectors of outputs at once */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Place __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* in memory */

INLINE Vector load(const float *at) { return *(const Place *)at; }
INLINE void store(float *at, Vector x) { *(Place *)at = x; }

/* Inputs (pixels, channels) of a product, with any steps between pixels and between channels. */
typedef struct {
    const float *at;
    ptrdiff_t pixel, channel;
    int channels;
} Inputs;

INLINE void product_tile(Inputs in, const float *weights, const float *bias, const float *more, float *out,
                         int outputs, const int pixels, const int vectors) {
    Vector sums[TILE][PAIR];
    UNROLL for (int p = 0; p < pixels; p++) UNROLL for (int v = 0; v < vectors; v++) {
        Vector first = bias ? load(bias + v * LANES) : (Vector){0};
        sums[p][v] = more ? first + load(more + p * outputs + v * LANES) : first;
    }
    for (int k = 0; k < in.channels; k++) {
        const float *from = in.at + k * in.channel;
        Vector row[PAIR];
        UNROLL for (int v = 0; v < vectors; v++) row[v] = load(weights + k * outputs + v * LANES);
        UNROLL for (int p = 0; p < pixels; p++) UNROLL for (int v = 0; v < vectors; v++)
            sums[p][v] += row[v] * from[p * in.pixel];
    }
    UNROLL for (int p = 0; p < pixels; p++) UNROLL for (int v = 0; v < vectors; v++)
        store(out + p * outputs + v * LANES, sums[p][v]);
}

/* out (count, outputs) = bias + more + in weights; the weights are (in, out). bias and more may be NULL. */
INLINE void product(Inputs in, const float *weights, const float *bias, const float *more, float *out,
                    const int outputs, int count) {
    UNROLL for (int c = 0; c < outputs; c += PAIR * LANES) {
        const int vectors = MIN(PAIR, (outputs - c) / LANES);
        const float *own = bias ? bias + c : NULL;
        Inputs from = in;
        ptrdiff_t at = c;
        int p = 0;
#define TILES(size)                                                                                                  \
    for (; p + size <= count; p += size, from.at += size * in.pixel, at += size * outputs)                           \
        product_tile(from, weights + c, own, more ? more + at : NULL, out + at, outputs, size, vectors)
        TILES(TILE);
        TILES(SMALL_TILE);
        TILES(1);
#undef TILES
    }
}

INLINE void outer_tile(Inputs left, const float *right, float *sums, int outputs, int count, const int channels,
                       const int vectors) {
    Vector own[OUTER_TILE][PAIR];
    UNROLL for (int i = 0; i < channels; i++) UNROLL for (int v = 0; v < vectors; v++)
        own[i][v] = load(sums + i * outputs + v * LANES);
    for (int p = 0; p < count; p++, left.at += left.pixel, right += outputs) {
        Vector row[PAIR];
        UNROLL for (int v = 0; v < vectors; v++) row[v] = load(right + v * LANES);
        UNROLL for (int i = 0; i < channels; i++) UNROLL for (int v = 0; v < vectors; v++)
            own[i][v] += row[v] * left.at[i * left.channel];
    }
    UNROLL for (int i = 0; i < channels; i++) UNROLL for (int v = 0; v < vectors; v++)
        store(sums + i * outputs + v * LANES, own[i][v]);
}

/* sums (left's channels, outputs) += the outer products of all pixels' left and right. */
INLINE void outer(Inputs left, const float *right, float *sums, const int outputs, int count) {
    UNROLL for (int c = 0; c < outputs; c += PAIR * LANES) {
        const int vectors = MIN(PAIR, (outputs - c) / LANES);
        Inputs from = left;
        int k = 0;
#define TILES(size)                                                                                                  \
    for (; k + size <= left.channels; k += size, from.at += size * left.channel)                                     \
        outer_tile(from, right + c, sums + k * outputs + c, outputs, count, size, vectors)
        TILES(OUTER_TILE);
        TILES(1);
#undef TILES
    }
}

/* sums (channels,) += all pixels of x (count, channels). */
INLINE void add_pixels(const float *x, float *sums, const int channels, int count) {
    UNROLL for (int c = 0; c < channels; c += LANES) {
        Vector sum = load(sums + c);
        for (int p = 0; p < count; p++) sum += load(x + p * channels + c);
        store(sums + c, sum);
    }
}

static inline void transpose(const float *x, float *out, int rows, int columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) out[c * rows + r] = x[r * columns + c];
}

/* Calls of a function for the numbers of channels that are known; they become constants. */
#define FOR_CHANNELS(channels, call)                                                                                 \
    switch (channels) {                                                                                              \
    case 32: call(32); break;                                                                                        \
    case 48: call(48); break;                                                                                        \
    case 64: call(64); break;                                                                                        \
    }
