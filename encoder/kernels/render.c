/* The last part of the network `fast`, and its gradients, on CPUs.

   `encoder.models.pyramid` has the same arithmetic in torch, which is the reference.
   Arrays are contiguous, of float32. B frames; a head has h x w places, a canvas FACTOR times as
   many rows and columns. Nodes (B, 2, rows, columns) are x and y on the canvas, -1..1 from the
   centre of its first pixel to that of its last. */

#include "exponential.h"
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define LUMA_FACTOR 4
#define CHROMA_FACTOR 2
#define LUMA_CHANNELS 16 /* of the heads, before the shuffle */
#define CHROMA_CHANNELS 8
#define CHANNELS (LUMA_CHANNELS + CHROMA_CHANNELS)
#define MARGIN 3 /* places further outside the canvas see nothing but its border */
#define FAR 100.0f /* half canvases from the middle; rounding is less than a row within them */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CLAMP(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))

/* Differences of R, G and B from the luma, by Cb and Cr (JPEG, ITU-T T.871, section 7). */
static const float RED_CR = 1.402f, GREEN_CB = -0.344136f, GREEN_CR = -0.714136f, BLUE_CB = 1.772f;

typedef float vec4 __attribute__((vector_size(16)));
typedef float vec4u __attribute__((vector_size(16), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec8u __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t ints8 __attribute__((vector_size(32)));
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (ints8){__VA_ARGS__})
#endif

/* Bicubic weights of the four nearest pixels, as polynomials of the distance from the second one
   (Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.75). */
static const vec4 CUBIC = {-0.75f, 1.25f, -1.25f, 0.75f}, SQUARE = {1.5f, -2.25f, 1.5f, -0.75f},
                  LINEAR = {-0.75f, 0, 0.75f, 0}, CONSTANT = {0, 1, 0, 0};

typedef struct {
    int32_t frames, height, width;
    int32_t head_height, head_width;
    int32_t node_rows, node_columns;
    int32_t threads;
} Shape;

/* Luma or chroma: canvases, and what is sampled from them. */
typedef struct {
    int channels;
    float gain, offset; /* a canvas's value is sigmoid(gain * head) - offset */
    int canvas_height, canvas_width;
    int height, width;
} Layer;

static Layer luma_of(const Shape *s) {
    return (Layer){1, 1, 0, s->head_height * LUMA_FACTOR, s->head_width * LUMA_FACTOR,
                   s->height, s->width};
}

static Layer chroma_of(const Shape *s) {
    int reduction = LUMA_FACTOR / CHROMA_FACTOR;
    return (Layer){2, 2, 0.5f, s->head_height * CHROMA_FACTOR, s->head_width * CHROMA_FACTOR,
                   (s->height + reduction - 1) / reduction, (s->width + reduction - 1) / reduction};
}

static size_t canvas_size(const Layer *l) { return (size_t)l->canvas_height * l->canvas_width; }

/* Linear interpolation of `places` values between `nodes` values, ends upon ends. */
typedef struct {
    int nodes;
    int *before;
    float *share; /* weight of the node after */
    int *start; /* (nodes + 1): of the places between a node and the next; the last node has none */
} Axis;

static int axis(Axis *a, int nodes, int places) {
    *a = (Axis){nodes, malloc(places * sizeof(int)), malloc(places * sizeof(float)),
                malloc((nodes + 1) * sizeof(int))};
    if (!a->before || !a->share || !a->start) return 0;
    for (int i = 0; i < places; i++) {
        double position = places > 1 ? (double)i * (nodes - 1) / (places - 1) : 0;
        a->before[i] = CLAMP((int)position, 0, MAX(nodes - 2, 0));
        a->share[i] = (float)(position - a->before[i]);
    }
    for (int i = 0, place = 0; i <= nodes; i++) {
        while (place < places && a->before[place] < i) place++;
        a->start[i] = place;
    }
    return 1;
}

static void free_axis(Axis *a) {
    free(a->before);
    free(a->share);
    free(a->start);
}

static inline int after(const Axis *a, int i) { return MIN(a->before[i] + 1, a->nodes - 1); }

/* ---- heads and canvases ---- */

/* One row of heads (h, w, CHANNELS), from a layer's first channel on, to `factor` rows of its
   canvases: PixelShuffle. */
static inline void shuffle(const Layer *l, int channels, int factor, const float *head, float *canvas, int y, int w) {
    const float *in = head + (size_t)y * w * CHANNELS;
    float *out = canvas + (size_t)y * factor * l->canvas_width;
    for (int x = 0; x < w; x++, in += CHANNELS, out += factor) {
        float values[LUMA_CHANNELS];
        for (int k = 0; k < channels * factor * factor; k++)
            values[k] = sigmoid(l->gain * in[k]) - l->offset;
        for (int c = 0; c < channels; c++)
            for (int dy = 0; dy < factor; dy++)
                memcpy(out + c * canvas_size(l) + (size_t)dy * l->canvas_width,
                       values + (c * factor + dy) * factor, factor * sizeof(float));
    }
}

/* The gradient of `shuffle`, for one row of a canvas with values and their gradients. */
static inline void unshuffle(const Layer *l, int factor, const float *values, const float *gradients,
                             float *head, int channel, int row, int w) {
    float *out = head + (size_t)(row / factor) * w * CHANNELS + (channel * factor + row % factor) * factor;
    for (int x = 0; x < w; x++, out += CHANNELS)
        for (int dx = 0; dx < factor; dx++) {
            float s = values[x * factor + dx] + l->offset;
            out[dx] = gradients[x * factor + dx] * l->gain * s * (1 - s);
        }
}

/* ---- places ---- */

/* What is known of the places of a row: first of the four pixels, and the way from the second. */
typedef struct {
    float *line; /* (2, node_columns) */
    float *place; /* (2, width) */
    int32_t *x, *y;
    float *tx, *ty;
} Row;

static inline void split(const float *place, int size, int width, int32_t *index, float *share) {
    float low = -MARGIN, high = size + MARGIN - 1;
    for (int x = 0; x < width; x++) {
        float at = (place[x] + 1) * 0.5f * (size - 1);
        float near = CLAMP(at, low, high); /* NaN stays, and makes its pixel NaN */
        float whole = floorf(near);
        index[x] = (int32_t)(whole >= low ? whole : low) - 1;
        share[x] = near - whole;
    }
}

static void find_places(const Layer *l, const Shape *s, const Axis *rows, const Axis *columns,
                        const float *nodes, int y, Row *row) {
    int count = s->node_columns;
    for (int axis = 0; axis < 2; axis++) {
        const float *a = nodes + ((size_t)axis * s->node_rows + rows->before[y]) * count;
        const float *b = nodes + ((size_t)axis * s->node_rows + after(rows, y)) * count;
        float *line = row->line + axis * count, *place = row->place + axis * l->width;
        for (int i = 0; i < count; i++) line[i] = a[i] + rows->share[y] * (b[i] - a[i]);
        for (int i = 0; i < count; i++) {
            float here = line[i], way = line[MIN(i + 1, count - 1)] - here;
            for (int x = columns->start[i]; x < columns->start[i + 1]; x++)
                place[x] = here + columns->share[x] * way;
        }
    }
    split(row->place, l->canvas_width, l->width, row->x, row->tx);
    split(row->place + l->width, l->canvas_height, l->width, row->y, row->ty);
}

static size_t row_floats(const Shape *s) { return 2 * (size_t)s->node_columns + 6 * (size_t)s->width; }

static Row row_in(float *memory, const Shape *s) {
    float *line = memory, *place = line + 2 * s->node_columns, *tx = place + 2 * s->width;
    float *ty = tx + s->width, *x = ty + s->width;
    return (Row){line, place, (int32_t *)x, (int32_t *)(x + s->width), tx, ty};
}

/* ---- sampling ---- */

static inline vec4 weights(float t) { return ((CUBIC * t + SQUARE) * t + LINEAR) * t + CONSTANT; }
static inline vec4 slopes(float t) { return (3 * CUBIC * t + 2 * SQUARE) * t + LINEAR; }
static inline float sum(vec4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
static inline int is_inside(int x, int y, int width, int height) {
    return x >= 0 && y >= 0 && x + 4 <= width && y + 4 <= height;
}

/* Four rows of four pixels; those outside the canvas are those on its border. */
static inline void load(const float *canvas, int x, int y, int width, int height, vec4 *pixels) {
    if (is_inside(x, y, width, height)) {
        const float *from = canvas + (size_t)y * width + x;
        for (int i = 0; i < 4; i++) pixels[i] = *(const vec4u *)(from + (size_t)i * width);
        return;
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            pixels[i][j] = canvas[(size_t)CLAMP(y + i, 0, height - 1) * width + CLAMP(x + j, 0, width - 1)];
}

/* Where the camera neither turns nor zooms, pixels side by side see pixels side by side. Runs of
   RUN such pixels are sampled at once, and look at REACH pixels of each of four rows. */
#define RUN 8
#define REACH 12

static inline int is_run(const Layer *l, const Row *row, int x) {
    if (x + RUN > l->width) return 0;
    int left = row->x[x], top = row->y[x], apart = 0;
    for (int k = 0; k < RUN; k++) apart |= (row->x[x + k] - left - k) | (row->y[x + k] - top);
    return !apart && left >= 0 && top >= 0 && left + REACH <= l->canvas_width && top + 4 <= l->canvas_height;
}

static inline vec8 load8(const float *from) { return *(const vec8u *)from; }
static inline void store8(float *to, vec8 values) { *(vec8u *)to = values; }

/* `weights` and `slopes` of RUN pixels. */
static inline void weights8(vec8 t, vec8 *w) {
    w[0] = ((-0.75f * t + 1.5f) * t - 0.75f) * t;
    w[1] = (1.25f * t - 2.25f) * t * t + 1;
    w[2] = ((-1.25f * t + 1.5f) * t + 0.75f) * t;
    w[3] = (0.75f * t - 0.75f) * t * t;
}

static inline void slopes8(vec8 t, vec8 *w) {
    w[0] = (-2.25f * t + 3) * t - 0.75f;
    w[1] = (3.75f * t - 4.5f) * t;
    w[2] = (-3.75f * t + 3) * t + 0.75f;
    w[3] = (2.25f * t - 1.5f) * t;
}

static inline vec8 across8(const float *from, const vec8 *w) {
    return w[0] * load8(from) + w[1] * load8(from + 1) + w[2] * load8(from + 2) + w[3] * load8(from + 3);
}

/* One row of frames (channels, height, width), from canvases. */
static inline void sample(const Layer *l, int channels, const float *canvas, const Row *row, float *out, size_t plane) {
    for (int x = 0; x < l->width; x++) {
        if (is_run(l, row, x)) {
            vec8 wx[4], wy[4];
            weights8(load8(row->tx + x), wx);
            weights8(load8(row->ty + x), wy);
            for (int c = 0; c < channels; c++) {
                const float *from = canvas + c * canvas_size(l) + (size_t)row->y[x] * l->canvas_width + row->x[x];
                vec8 value = {0};
                for (int i = 0; i < 4; i++, from += l->canvas_width) value += wy[i] * across8(from, wx);
                store8(out + c * plane + x, value);
            }
            x += RUN - 1;
            continue;
        }
        vec4 across = weights(row->tx[x]), down = weights(row->ty[x]), p[4];
        for (int c = 0; c < channels; c++) {
            load(canvas + c * canvas_size(l), row->x[x], row->y[x], l->canvas_width, l->canvas_height, p);
            out[c * plane + x] =
                sum(across * (down[0] * p[0] + down[1] * p[1] + down[2] * p[2] + down[3] * p[3]));
        }
    }
}

/* Add to a row what RUN pixels give back to each of the four pixels that they see. */
static inline void add_across8(float *to, vec8 values, const vec8 *w) {
    vec8 a = values * w[0], b = values * w[1], c = values * w[2], d = values * w[3], zero = {0};
    vec8 low = a + PICK(zero, b, 7, 8, 9, 10, 11, 12, 13, 14) + PICK(zero, c, 6, 7, 8, 9, 10, 11, 12, 13) +
               PICK(zero, d, 5, 6, 7, 8, 9, 10, 11, 12);
    store8(to, load8(to) + low);
    to[8] += b[7] + c[6] + d[5];
    to[9] += c[7] + d[6];
    to[10] += d[7];
}

/* `sample_back` of a run; `canvas` and `back` are at its first pixel. */
static inline void run_back(const Layer *l, int channels, const float *canvas, const Row *row, int x,
                            const float *gradients, float *back, size_t plane, float *gx, float *gy) {
    vec8 wx[4], wy[4], sx[4], sy[4], right = {0}, below = {0};
    weights8(load8(row->tx + x), wx), weights8(load8(row->ty + x), wy);
    slopes8(load8(row->tx + x), sx), slopes8(load8(row->ty + x), sy);
    for (int c = 0; c < channels; c++) {
        vec8 g = load8(gradients + (size_t)c * l->width + x);
        for (int i = 0; i < 4; i++) {
            const float *from = canvas + c * canvas_size(l) + (size_t)i * l->canvas_width;
            right += g * wy[i] * across8(from, sx);
            below += g * sy[i] * across8(from, wx);
            add_across8(back + c * plane + (size_t)i * l->canvas_width, g * wy[i], wx);
        }
    }
    store8(gx + x, right);
    store8(gy + x, below);
}

/* Gradients of one row: of the canvases' rows from `first` on, and of the places. */
static inline void sample_back(const Layer *l, int channels, const float *canvas, const Row *row,
                               const float *gradients, float *back, int first, int rows,
                               float *gx, float *gy) {
    size_t plane = (size_t)rows * l->canvas_width;
    for (int x = 0; x < l->width; x++) {
        if (is_run(l, row, x)) {
            const float *at = canvas + (size_t)row->y[x] * l->canvas_width + row->x[x];
            float *to = back + (size_t)(row->y[x] - first) * l->canvas_width + row->x[x];
            run_back(l, channels, at, row, x, gradients, to, plane, gx, gy);
            x += RUN - 1;
            continue;
        }
        vec4 across = weights(row->tx[x]), down = weights(row->ty[x]), p[4];
        vec4 across_slope = slopes(row->tx[x]), down_slope = slopes(row->ty[x]);
        int left = row->x[x], top = row->y[x];
        float sx = 0, sy = 0;
        for (int c = 0; c < channels; c++) {
            float g = gradients[(size_t)c * l->width + x];
            load(canvas + c * canvas_size(l), left, top, l->canvas_width, l->canvas_height, p);
            sx += g * sum(across_slope * (down[0] * p[0] + down[1] * p[1] + down[2] * p[2] + down[3] * p[3]));
            sy += g * sum(across * (down_slope[0] * p[0] + down_slope[1] * p[1] +
                                    down_slope[2] * p[2] + down_slope[3] * p[3]));
            vec4 share = g * across;
            float *to = back + c * plane;
            if (is_inside(left, top, l->canvas_width, l->canvas_height)) {
                to += (size_t)(top - first) * l->canvas_width + left;
                for (int i = 0; i < 4; i++, to += l->canvas_width)
                    *(vec4u *)to = *(vec4u *)to + down[i] * share;
            } else
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++)
                        to[(size_t)(CLAMP(top + i, 0, l->canvas_height - 1) - first) * l->canvas_width +
                           CLAMP(left + j, 0, l->canvas_width - 1)] += down[i] * share[j];
        }
        gx[x] = sx;
        gy[x] = sy;
    }
}

/* ---- forward ---- */

/* Interpolate one row of chroma frames (2, height, width) to the width of the luma's. */
static void blend(const Layer *chroma, const Axis *rows, const Axis *columns, const float *frames,
                  int y, int width, float *line, float *out) {
    for (int c = 0; c < 2; c++) {
        const float *plane = frames + (size_t)c * chroma->height * chroma->width;
        const float *a = plane + (size_t)rows->before[y] * chroma->width;
        const float *b = plane + (size_t)after(rows, y) * chroma->width;
        for (int x = 0; x < chroma->width; x++) line[x] = a[x] + rows->share[y] * (b[x] - a[x]);
        line[chroma->width] = line[chroma->width - 1];
        for (int x = 0; x < width; x++) {
            int i = columns->before[x];
            out[c * width + x] = line[i] + columns->share[x] * (line[i + 1] - line[i]);
        }
    }
}

/* The axes of both layers' places, and those between the chroma's and the luma's frames. */
typedef struct {
    Axis luma_rows, luma_columns, chroma_rows, chroma_columns, up_rows, up_columns;
} Axes;

static int make_axes(Axes *a, const Shape *s, const Layer *luma, const Layer *chroma) {
    memset(a, 0, sizeof *a);
    return axis(&a->luma_rows, s->node_rows, luma->height) &
           axis(&a->luma_columns, s->node_columns, luma->width) &
           axis(&a->chroma_rows, s->node_rows, chroma->height) &
           axis(&a->chroma_columns, s->node_columns, chroma->width) &
           axis(&a->up_rows, chroma->height, luma->height) &
           axis(&a->up_columns, chroma->width, luma->width);
}

static void free_axes(Axes *a) {
    free_axis(&a->luma_rows), free_axis(&a->luma_columns);
    free_axis(&a->chroma_rows), free_axis(&a->chroma_columns);
    free_axis(&a->up_rows), free_axis(&a->up_columns);
}

/* Map heads (B, h, w, CHANNELS), 16 channels for the luma and 8 for the chroma, and nodes to frames
   (B, 3, height, width). The canvases of the luma (B, 4h, 4w) and the chroma (B, 2, 2h, 2w) are
   for `render_back`. Return 0, or 1 for want of memory. */
int render(const Shape *s, const float *heads, const float *nodes,
           float *luma_canvas, float *chroma_canvas, float *frames) {
    Layer luma = luma_of(s), chroma = chroma_of(s);
    Axes axes;
    size_t colours = 2 * (size_t)chroma.height * chroma.width, pixels = (size_t)s->height * s->width;
    size_t own = row_floats(s) + 4 * (size_t)s->width + 1, head = (size_t)s->head_height * s->head_width;
    size_t node_count = 2 * (size_t)s->node_rows * s->node_columns;
    float *seen = malloc(s->frames * colours * sizeof(float));
    float *memory = malloc(s->threads * own * sizeof(float));
    int is_ready = make_axes(&axes, s, &luma, &chroma) && seen && memory;
    if (is_ready) {
#pragma omp parallel num_threads(s->threads)
        {
            float *mine = memory + own * omp_get_thread_num();
            Row row = row_in(mine, s);
            float *grey = mine + row_floats(s), *line = grey + s->width, *blended = line + s->width + 1;
#pragma omp for collapse(2)
            for (int b = 0; b < s->frames; b++)
                for (int y = 0; y < s->head_height; y++) {
                    const float *own = heads + b * head * CHANNELS;
                    shuffle(&luma, 1, LUMA_FACTOR, own, luma_canvas + b * head * LUMA_CHANNELS,
                            y, s->head_width);
                    shuffle(&chroma, 2, CHROMA_FACTOR, own + LUMA_CHANNELS,
                            chroma_canvas + b * head * CHROMA_CHANNELS, y, s->head_width);
                }
#pragma omp for collapse(2)
            for (int b = 0; b < s->frames; b++)
                for (int y = 0; y < chroma.height; y++) {
                    find_places(&chroma, s, &axes.chroma_rows, &axes.chroma_columns, nodes + b * node_count, y, &row);
                    sample(&chroma, 2, chroma_canvas + b * head * CHROMA_CHANNELS, &row,
                           seen + b * colours + (size_t)y * chroma.width, colours / 2);
                }
#pragma omp for collapse(2)
            for (int b = 0; b < s->frames; b++)
                for (int y = 0; y < s->height; y++) {
                    find_places(&luma, s, &axes.luma_rows, &axes.luma_columns, nodes + b * node_count, y, &row);
                    sample(&luma, 1, luma_canvas + b * head * LUMA_CHANNELS, &row, grey, 0);
                    blend(&chroma, &axes.up_rows, &axes.up_columns, seen + b * colours, y, s->width, line, blended);
                    float *out = frames + 3 * b * pixels + (size_t)y * s->width;
                    const float *cb = blended, *cr = blended + s->width;
                    for (int x = 0; x < s->width; x++) {
                        out[x] = grey[x] + RED_CR * cr[x];
                        out[pixels + x] = grey[x] + GREEN_CB * cb[x] + GREEN_CR * cr[x];
                        out[2 * pixels + x] = grey[x] + BLUE_CB * cb[x];
                    }
                }
        }
    }
    free_axes(&axes);
    free(seen);
    free(memory);
    return !is_ready;
}

/* ---- backward ---- */

/* A part of the rows of a layer's frame: its gradients are summed in memory of its own. */
typedef struct {
    int frame, from, to;
    int first, rows; /* of the canvas, that the band may change */
    float *canvas, *nodes;
} Band;

/* The gradient of one row of luma frames, given that of the pictures (3, height, width). */
static void luma_gradient(const Shape *s, const float *pictures, int y, float *out) {
    size_t pixels = (size_t)s->height * s->width;
    const float *red = pictures + (size_t)y * s->width, *green = red + pixels, *blue = green + pixels;
    for (int x = 0; x < s->width; x++) out[x] = red[x] + green[x] + blue[x];
}

/* The gradient of one row of chroma frames (2, width): what `blend` spreads is collected. */
static void chroma_gradient(const Shape *s, const Layer *chroma, const Axis *rows, const Axis *columns,
                            const float *pictures, int row, float *sums, float *out) {
    size_t pixels = (size_t)s->height * s->width;
    int first = chroma->height > 1 ? (int)((int64_t)MAX(row - 1, 0) * (s->height - 1) / (chroma->height - 1)) : 0;
    memset(sums, 0, 2 * s->width * sizeof(float));
    for (int y = first; y < s->height && rows->before[y] <= row; y++) {
        float weight = (rows->before[y] == row ? 1 - rows->share[y] : 0) + (after(rows, y) == row ? rows->share[y] : 0);
        const float *red = pictures + (size_t)y * s->width, *green = red + pixels, *blue = green + pixels;
        for (int x = 0; x < s->width; x++) {
            sums[x] += weight * (GREEN_CB * green[x] + BLUE_CB * blue[x]);
            sums[s->width + x] += weight * (RED_CR * red[x] + GREEN_CR * green[x]);
        }
    }
    memset(out, 0, 2 * chroma->width * sizeof(float));
    for (int c = 0; c < 2; c++)
        for (int x = 0; x < s->width; x++) {
            float g = sums[c * s->width + x], share = columns->share[x] * g;
            out[c * chroma->width + columns->before[x]] += g - share;
            out[c * chroma->width + after(columns, x)] += share;
        }
}

/* Add the gradients of a row's places (2, width) to those of nodes: `find_places` backwards. */
static void nodes_back(const Layer *l, const Shape *s, const Axis *rows, const Axis *columns, int y,
                       const float *gradients, float *nodes) {
    float size[2] = {0.5f * (l->canvas_width - 1), 0.5f * (l->canvas_height - 1)};
    for (int axis = 0; axis < 2; axis++) {
        float *a = nodes + ((size_t)axis * s->node_rows + rows->before[y]) * s->node_columns;
        float *b = nodes + ((size_t)axis * s->node_rows + after(rows, y)) * s->node_columns;
        for (int i = 0; i < s->node_columns; i++) {
            int j = MIN(i + 1, s->node_columns - 1);
            float all = 0, right = 0;
            for (int x = columns->start[i]; x < columns->start[i + 1]; x++) {
                float g = gradients[axis * l->width + x] * size[axis];
                all += g;
                right += columns->share[x] * g;
            }
            a[i] += (1 - rows->share[y]) * (all - right);
            a[j] += (1 - rows->share[y]) * right;
            b[i] += rows->share[y] * (all - right);
            b[j] += rows->share[y] * right;
        }
    }
}

/* Find which rows of a canvas a band's places lie in: between those of its nodes. Between nodes that
   are no numbers or far away, rounding may put a place anywhere: such a band takes all rows. */
static void find_reach(const Layer *l, const Shape *s, const Axis *rows, const float *nodes, Band *band) {
    const float *y = nodes + ((size_t)s->node_rows + rows->before[band->from]) * s->node_columns;
    const float *end = nodes + ((size_t)s->node_rows + after(rows, band->to - 1) + 1) * s->node_columns;
    float low = INFINITY, high = -INFINITY;
    int is_odd = 0;
    for (; y < end; y++) {
        low = MIN(low, *y), high = MAX(high, *y);
        is_odd |= !(fabsf(*y) < FAR);
    }
    float top = (low + 1) * 0.5f * (l->canvas_height - 1) - MARGIN;
    float bottom = (high + 1) * 0.5f * (l->canvas_height - 1) + MARGIN + 1;
    int last = l->canvas_height - 1;
    band->first = is_odd ? 0 : (int)CLAMP(top, 0, last);
    band->rows = (is_odd ? last : (int)CLAMP(bottom, 0, last)) + 1 - band->first;
}

/* A layer's part of `render_back`. */
static int layer_back(const Shape *s, const Layer *l, const Axes *axes, const float *nodes, const float *canvases,
                      const float *pictures, float *heads, float *node_gradients) {
    size_t batch_stride = (size_t)CHANNELS * s->head_height * s->head_width;
    int is_luma = l->channels == 1, bands = MIN((s->threads + s->frames - 1) / s->frames, l->height);
    const Axis *rows = is_luma ? &axes->luma_rows : &axes->chroma_rows;
    const Axis *columns = is_luma ? &axes->luma_columns : &axes->chroma_columns;
    size_t node_count = 2 * (size_t)s->node_rows * s->node_columns, pixels = (size_t)s->height * s->width;
    size_t canvas = l->channels * canvas_size(l), own = row_floats(s) + 6 * (size_t)s->width;
    size_t needed = 0;
    int tasks = s->frames * bands, is_ready = 0;
    Band *all = malloc(tasks * sizeof(Band));
    float *memory = NULL, *lines = malloc(s->threads * (own + l->canvas_width) * sizeof(float));
    if (!all || !lines) goto end;
    for (int i = 0; i < tasks; i++) {
        int b = i / bands, k = i % bands;
        all[i] = (Band){.frame = b, .from = (int)((int64_t)l->height * k / bands),
                        .to = (int)((int64_t)l->height * (k + 1) / bands)};
        find_reach(l, s, rows, nodes + b * node_count, &all[i]);
        needed += (size_t)l->channels * all[i].rows * l->canvas_width + node_count;
    }
    memory = malloc(needed * sizeof(float));
    if (!memory) goto end;
    is_ready = 1;
    float *next = memory;
    for (int i = 0; i < tasks; i++) {
        all[i].canvas = next;
        all[i].nodes = next += (size_t)l->channels * all[i].rows * l->canvas_width;
        next += node_count;
    }
#pragma omp parallel num_threads(s->threads)
    {
        float *mine = lines + (own + l->canvas_width) * omp_get_thread_num();
        Row row = row_in(mine, s);
        float *sums = mine + row_floats(s), *gradients = sums + 2 * s->width, *places = gradients + 2 * s->width;
        float *line = places + 2 * s->width;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < tasks; i++) {
            Band *band = &all[i];
            const float *own_nodes = nodes + band->frame * node_count, *own_canvas = canvases + band->frame * canvas;
            const float *own_pictures = pictures + 3 * band->frame * pixels;
            memset(band->canvas, 0, (l->channels * (size_t)band->rows * l->canvas_width + node_count) * sizeof(float));
            for (int y = band->from; y < band->to; y++) {
                find_places(l, s, rows, columns, own_nodes, y, &row);
                if (is_luma) {
                    luma_gradient(s, own_pictures, y, gradients);
                    sample_back(l, 1, own_canvas, &row, gradients, band->canvas, band->first, band->rows,
                                places, places + l->width);
                } else {
                    chroma_gradient(s, l, &axes->up_rows, &axes->up_columns, own_pictures, y, sums, gradients);
                    sample_back(l, 2, own_canvas, &row, gradients, band->canvas, band->first, band->rows,
                                places, places + l->width);
                }
                nodes_back(l, s, rows, columns, y, places, band->nodes);
            }
        }
#pragma omp for collapse(3)
        for (int b = 0; b < s->frames; b++)
            for (int c = 0; c < l->channels; c++)
                for (int y = 0; y < l->canvas_height; y++) {
                    memset(line, 0, l->canvas_width * sizeof(float));
                    for (int k = 0; k < bands; k++) {
                        Band *band = &all[b * bands + k];
                        if (y < band->first || y >= band->first + band->rows) continue;
                        const float *part = band->canvas + ((size_t)c * band->rows + y - band->first) * l->canvas_width;
                        for (int x = 0; x < l->canvas_width; x++) line[x] += part[x];
                    }
                    const float *values = canvases + b * canvas + c * canvas_size(l) + (size_t)y * l->canvas_width;
                    float *head = heads + b * batch_stride;
                    if (is_luma)
                        unshuffle(l, LUMA_FACTOR, values, line, head, c, y, s->head_width);
                    else
                        unshuffle(l, CHROMA_FACTOR, values, line, head, c, y, s->head_width);
                }
    }
    for (int i = 0; i < tasks; i++)
        for (size_t j = 0; j < node_count; j++) node_gradients[all[i].frame * node_count + j] += all[i].nodes[j];
end:
    free(all);
    free(lines);
    free(memory);
    return is_ready;
}

/* Map the gradients of frames (B, 3, height, width), with what `render` took and kept, to those of
   the heads and the nodes. Return 0, or 1 for want of memory. */
int render_back(const Shape *s, const float *nodes, const float *luma_canvas, const float *chroma_canvas,
                const float *pictures, float *heads, float *node_gradients) {
    Layer luma = luma_of(s), chroma = chroma_of(s);
    Axes axes;
    memset(node_gradients, 0, 2 * (size_t)s->frames * s->node_rows * s->node_columns * sizeof(float));
    int is_ready = make_axes(&axes, s, &luma, &chroma) &&
                   layer_back(s, &luma, &axes, nodes, luma_canvas, pictures, heads, node_gradients) &&
                   layer_back(s, &chroma, &axes, nodes, chroma_canvas, pictures,
                              heads + LUMA_CHANNELS, node_gradients);
    free_axes(&axes);
    return !is_ready;
}
