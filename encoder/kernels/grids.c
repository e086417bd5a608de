/* Values at times between those of grids, enlarged to one size, and their gradients.

   `encoder.models.layers` (TemporalGrid) and `torch.nn.functional.interpolate` (bilinear) have the
   same arithmetic in torch, which is the reference. Arrays are contiguous, of float32. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef struct {
    int32_t times, channels, height, width;
    int32_t factor; /* by which the sides are enlarged */
    float period;   /* frames from one time to the next */
    float *values;  /* (times, channels, height, width); or their gradients */
} Grid;

typedef struct {
    int32_t frames, channels; /* of all grids together */
    int32_t height, width;    /* enlarged */
    int32_t grids, threads;
} Batch;

/* What a place between two values is made of. */
typedef struct {
    int before, after;
    float share; /* of the value after */
} Between;

static Between at_time(const Grid *g, float time) {
    float last = (float)(g->times - 1), position = time / g->period;
    position = position > 0 ? MIN(position, last) : 0; /* no number is the start */
    int before = MIN((int)floorf(position), g->times > 1 ? g->times - 2 : 0);
    return (Between){before, MIN(before + 1, g->times - 1), position - (float)before};
}

static Between at_place(int place, int factor, int length) {
    float position = ((float)place + 0.5f) / (float)factor - 0.5f;
    position = position < 0 ? 0 : position;
    int before = MIN((int)position, length - 1);
    return (Between){before, MIN(before + 1, length - 1), position - (float)before};
}

static void enlarge(const Grid *g, const Batch *b, const Between *columns, const float *values, float *wide, float *out) {
    for (int y = 0; y < g->height; y++, values += g->width)
        for (int x = 0; x < b->width; x++)
            wide[y * b->width + x] =
                values[columns[x].before] + columns[x].share * (values[columns[x].after] - values[columns[x].before]);
    for (int y = 0; y < b->height; y++, out += b->width) {
        Between row = at_place(y, g->factor, g->height);
        const float *before = wide + row.before * b->width, *after = wide + row.after * b->width;
        for (int x = 0; x < b->width; x++) out[x] = before[x] + row.share * (after[x] - before[x]);
    }
}

static void reduce(const Grid *g, const Batch *b, const Between *columns, const float *given, float *wide, float *values) {
    memset(wide, 0, (size_t)g->height * b->width * sizeof(float));
    for (int y = 0; y < b->height; y++, given += b->width) {
        Between row = at_place(y, g->factor, g->height);
        float *before = wide + row.before * b->width, *after = wide + row.after * b->width;
        for (int x = 0; x < b->width; x++) before[x] += (1 - row.share) * given[x];
        for (int x = 0; x < b->width; x++) after[x] += row.share * given[x];
    }
    memset(values, 0, (size_t)g->height * g->width * sizeof(float));
    for (int y = 0; y < g->height; y++, values += g->width)
        for (int x = 0; x < b->width; x++) {
            float own = wide[y * b->width + x];
            values[columns[x].before] += (1 - columns[x].share) * own;
            values[columns[x].after] += columns[x].share * own;
        }
}

/* One channel of a grid at all times; channels are independent, so that threads need not wait. */
static void run_channel(const Batch *b, const Grid *g, int channel, int place, const float *times, float *pictures,
                        int is_back, const Between *columns, float *wide, float *small) {
    ptrdiff_t plane = (ptrdiff_t)g->height * g->width, large = (ptrdiff_t)b->height * b->width;
    for (int frame = 0; frame < b->frames; frame++) {
        Between time = at_time(g, times[frame]);
        float *picture = pictures + ((ptrdiff_t)frame * b->channels + place) * large;
        float *before = g->values + ((ptrdiff_t)time.before * g->channels + channel) * plane;
        float *after = g->values + ((ptrdiff_t)time.after * g->channels + channel) * plane;
        if (is_back) {
            reduce(g, b, columns, picture, wide, small);
            for (ptrdiff_t i = 0; i < plane; i++) before[i] += (1 - time.share) * small[i];
            for (ptrdiff_t i = 0; i < plane; i++) after[i] += time.share * small[i];
        } else {
            for (ptrdiff_t i = 0; i < plane; i++) small[i] = before[i] + time.share * (after[i] - before[i]);
            enlarge(g, b, columns, small, wide, picture);
        }
    }
}

/* Map grids at times (frames,) to pictures (frames, channels, height, width); or, if `is_back`, add the
   gradients of the pictures to those of the grids' values. Return 0, or 1 for want of memory. */
int grids(const Batch *b, const Grid *all, const float *times, float *pictures, int is_back) {
    int is_short = 0;
    size_t most = 0;
    for (int i = 0; i < b->grids; i++) {
        size_t rows = (size_t)all[i].height;
        most = rows > most ? rows : most;
    }
#pragma omp parallel num_threads(b->threads) reduction(| : is_short)
    {
        float *wide = malloc(2 * most * b->width * sizeof(float)), *small = wide + most * b->width;
        Between *columns = malloc(b->width * sizeof(Between));
        is_short |= !wide || !columns;
#pragma omp for schedule(dynamic)
        for (int place = 0; place < b->channels; place++) {
            const Grid *g = all;
            int channel = place;
            while (channel >= g->channels) channel -= g++->channels;
            if (!wide || !columns) continue;
            for (int x = 0; x < b->width; x++) columns[x] = at_place(x, g->factor, g->width);
            run_channel(b, g, channel, place, times, pictures, is_back, columns, wide, small);
        }
        free(wide);
        free(columns);
    }
    return is_short;
}
