/* The squared error of pictures. */

#include <stddef.h>

#define BLOCK 4096 /* values that are added up by themselves: results do not depend on the threads */
#define LANES 16
#define MIN(a, b) ((a) < (b) ? (a) : (b))

/* Write the differences of output and target (count,), and return the sum of their squares.
   `sums` has room for a number for each block. */
double square_error(ptrdiff_t count, int threads, const float *output, const float *target, float *differences,
                    double *sums) {
    ptrdiff_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t block = 0; block < blocks; block++) {
        ptrdiff_t from = block * BLOCK, to = MIN(count, from + BLOCK), i = from;
        float own[LANES] = {0};
        for (; i + LANES <= to; i += LANES)
            for (int k = 0; k < LANES; k++) {
                float difference = output[i + k] - target[i + k];
                differences[i + k] = difference;
                own[k] += difference * difference;
            }
        double sum = 0;
        for (; i < to; i++) {
            differences[i] = output[i] - target[i];
            sum += (double)differences[i] * differences[i];
        }
        for (int k = 0; k < LANES; k++) sum += own[k];
        sums[block] = sum;
    }
    double sum = 0;
    for (ptrdiff_t block = 0; block < blocks; block++) sum += sums[block];
    return sum;
}
