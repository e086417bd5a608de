/* Muon's step of small matrices.

   `encoder.training.optimizers` has the same arithmetic in torch, which is the reference. */

#include "products.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LARGEST 64 /* rows or columns */
#define SQUARE (LARGEST * LARGEST)

typedef struct {
    int32_t rows, columns;
    float rate; /* factor of the step */
    const float *gradient;
    float *momentum, *values;
} Matrix;

typedef struct {
    float decay; /* of the momentum */
    int32_t iterations;
    float a, b, c; /* of the polynomial */
} Settings;

/* x = (a + b x x' + c (x x')^2) x, several times, for x (n, n) whose norm is at most 1. */
INLINE void orthogonalize(const Settings *s, float *x, float *work, const int n) {
    float *turned = work, *square = work + SQUARE, *powers = square + SQUARE, *more = powers + SQUARE;
    for (int step = 0; step < s->iterations; step++) {
        transpose(x, turned, n, n);
        product((Inputs){x, n, 1, n}, turned, NULL, NULL, square, n, n);
        for (int i = 0; i < n * n; i++) more[i] = s->b * square[i];
        for (int i = 0; i < n * n; i++) turned[i] = s->c * square[i];
        product((Inputs){turned, n, 1, n}, square, NULL, more, powers, n, n);
        for (int i = 0; i < n * n; i++) more[i] = s->a * x[i];
        product((Inputs){powers, n, 1, n}, x, NULL, more, turned, n, n);
        memcpy(x, turned, (size_t)n * n * sizeof(float));
    }
}

static void take_step(const Settings *s, const Matrix *m) {
    float x[SQUARE] = {0}, work[4 * SQUARE];
    int longest = m->rows > m->columns ? m->rows : m->columns, n = longest <= 32 ? 32 : longest <= 48 ? 48 : 64;
    double norm = 0;
    for (int r = 0; r < m->rows; r++)
        for (int c = 0; c < m->columns; c++) {
            int i = r * m->columns + c;
            float g = m->gradient[i], momentum = m->momentum[i] + (1 - s->decay) * (g - m->momentum[i]);
            m->momentum[i] = momentum;
            float step = g + s->decay * (momentum - g); /* Nesterov's momentum */
            x[r * n + c] = step;
            norm += (double)step * step;
        }
    float share = 1 / ((float)sqrt(norm) + 1e-7f);
    for (int i = 0; i < n * n; i++) x[i] *= share;
#define CALL(size) orthogonalize(s, x, work, size)
    FOR_CHANNELS(n, CALL)
#undef CALL
    for (int r = 0; r < m->rows; r++)
        for (int c = 0; c < m->columns; c++) m->values[r * m->columns + c] -= m->rate * x[r * n + c];
}

/* Take a step of a number of matrices, each with at most LARGEST rows and columns. */
void muon(const Settings *s, int count, int threads, const Matrix *matrices) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int i = 0; i < count; i++) take_step(s, matrices + i);
}
