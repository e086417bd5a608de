// The range decoder with its Laplace models, and the levels of latents that follow from contexts.
// docs/reference/bitstream.md defines the arithmetic; all of it is on integers.

#include "wasm.h"

enum {
    LEVELS = 64,
    PRECISION = 24,
    SIDE_BOUND = 63,
    MAX_BOUND = 4095,
    BUCKETS = 256,
    MAX_SUM = 0xFFFF,
    INVALID = 1,
    TOO_MANY_SYMBOLS = 2,
    OUT_OF_RANGE = 3,
};

static const uint64_t MAX_SYMBOLS = 1u << 26;
static const int32_t MAX_INTEGER = 1 << 24;

// exp(-1 / (2 * scale)) of each level, in units of 2**-32.
static const uint32_t DECAYS[LEVELS] = {
    483, 6163, 52418, 317125, 1440801, 5145013, 15004422, 36905875,
    78665070, 148652826, 253857248, 398132550, 581260615, 799036310, 1044178424, 1307656790,
    1580030169, 1852521207, 2117713904, 2369882518, 2605029347u, 2820730047u, 3015876649u, 3190386796u,
    3344923893u, 3480652712u, 3599040369u, 3701703250u, 3790295335u, 3866431115u, 3931635878u, 3987316692u,
    4034748382u, 4075069962u, 4109287957u, 4138284039u, 4162825044u, 4183574096u, 4201101925u, 4215897841u,
    4228380000u, 4238904802u, 4247775344u, 4255248918u, 4261543595u, 4266843974u, 4271306145u, 4275061981u,
    4278222805u, 4280882540u, 4283120382u, 4285003080u, 4286586875u, 4287919135u, 4289039749u, 4289982295u,
    4290775039u, 4291441769u, 4292002499u, 4292474072u, 4292870656u, 4293204170u, 4293484642u, 4293720503u,
};

// A model of the symbols 0 to 2 * bound.
typedef struct {
    // Lowest symbol of each bucket of places.
    uint16_t first[BUCKETS];
    // Sum of the frequencies of the symbols before each symbol, and of all.
    uint32_t below[];
} Model;

// The models of one bound, each made when it is first used.
typedef struct {
    uint8_t *memory;
    int32_t bound;
    uint32_t stride;
    uint8_t is_made[LEVELS];
} Models;

static uint8_t side_memory[LEVELS * (sizeof(Model) + 4 * (2 * SIDE_BOUND + 2))]
    __attribute__((aligned(16)));
static Models side;
static Models tensor;

static struct {
    const uint32_t *words;
    uint32_t count;
    uint32_t next;
    uint64_t lower;
    uint64_t range;
    uint64_t point;
    uint64_t symbols;
} coder;

static void start_models(Models *models, uint8_t *memory, int32_t bound) {
    models->memory = memory;
    models->bound = bound;
    models->stride = sizeof(Model) + 4 * (2 * bound + 2);
    memset(models->is_made, 0, LEVELS);
}

static const Model *model_of(Models *models, int level) {
    Model *model = (Model *)(models->memory + level * models->stride);
    if (models->is_made[level]) return model;
    models->is_made[level] = 1;
    const int32_t bound = models->bound;
    const uint64_t q = DECAYS[level];
    const uint64_t square = q * q >> 32;
    uint32_t *below = model->below;
    // The frequency of +-k stands at below[bound + k] until they are added up.
    uint64_t beyond = q;
    uint32_t outside = 0;
    for (int32_t k = 1; k <= bound; k++) {
        const uint64_t further = beyond * square >> 32;
        const uint32_t mass =
            (uint32_t)(beyond >> 9) - (k < bound ? (uint32_t)(further >> 9) : 0);
        below[bound + k] = MAX(mass, 1u);
        outside += below[bound + k];
        beyond = further;
    }
    below[bound] = (1u << PRECISION) - 2 * outside;
    for (int32_t k = 1; k <= bound; k++) below[bound - k] = below[bound + k];
    uint32_t sum = 0;
    const int32_t count = 2 * bound + 1;
    for (int32_t symbol = 0; symbol <= count; symbol++) {
        const uint32_t frequency = symbol < count ? below[symbol] : 0;
        below[symbol] = sum;
        sum += frequency;
    }
    int32_t symbol = 0;
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        while (below[symbol + 1] <= bucket << (PRECISION - 8)) symbol++;
        model->first[bucket] = (uint16_t)symbol;
    }
    return model;
}

static uint64_t next_word(void) {
    return coder.next < coder.count ? coder.words[coder.next++] : 0;
}

// Decode one integer; return 0, or INVALID.
static inline int decode_one(const Model *model, int32_t bound, int32_t *to) {
    const uint64_t unit = coder.range >> PRECISION;
    const uint64_t place = (coder.point - coder.lower) / unit;
    if (place >= 1u << PRECISION) return INVALID;
    const uint32_t bucket = (uint32_t)(place >> (PRECISION - 8));
    uint32_t symbol = model->first[bucket];
    uint32_t last = bucket + 1 < BUCKETS ? model->first[bucket + 1] : 2 * (uint32_t)bound;
    while (symbol < last) {
        const uint32_t middle = (symbol + last + 1) / 2;
        if (model->below[middle] <= place) symbol = middle;
        else last = middle - 1;
    }
    *to = (int32_t)symbol - bound;
    const uint32_t below = model->below[symbol];
    coder.lower += unit * below;
    coder.range = unit * (model->below[symbol + 1] - below);
    if (coder.range >> 32 == 0) {
        coder.lower <<= 32;
        coder.range <<= 32;
        coder.point = coder.point << 32 | next_word();
    }
    return 0;
}

static int count_symbols(const Models *models) {
    coder.symbols += 2 * (uint64_t)models->bound + 1;
    return coder.symbols > MAX_SYMBOLS ? TOO_MANY_SYMBOLS : 0;
}

// Begin with a code of a number of words.
void EXPORT(code_begin)(const uint32_t *words, uint32_t count) {
    coder.words = words;
    coder.count = count;
    coder.next = 0;
    coder.lower = 0;
    coder.range = UINT64_MAX;
    coder.symbols = 0;
    coder.point = next_word() << 32;
    coder.point |= next_word();
    start_models(&side, side_memory, SIDE_BOUND);
}

// Return the bytes that the models of a bound need.
uint32_t EXPORT(model_bytes)(int32_t bound) {
    return LEVELS * ((uint32_t)sizeof(Model) + 4 * (2 * (uint32_t)bound + 2));
}

// Decode offsets or weights, which share a level; return 0 or a fault.
SMALL int EXPORT(decode_side)(int32_t *to, uint32_t count, int level) {
    const int fault = count_symbols(&side);
    if (fault) return fault;
    const Model *model = model_of(&side, level);
    for (uint32_t index = 0; index < count; index++) {
        if (decode_one(model, SIDE_BOUND, to + index)) return INVALID;
    }
    return 0;
}

// Decode integers at their levels, the lowest level first; return 0 or a fault.
// `counted` tells the levels that have been counted for this tensor already.
static int decode_at(
    int32_t *to, const uint8_t *at, uint32_t count, uint32_t *order, uint8_t *counted
) {
    uint32_t stops[LEVELS] = {0};
    for (uint32_t index = 0; index < count; index++) stops[at[index]]++;
    uint32_t sum = 0;
    for (int level = 0; level < LEVELS; level++) {
        const uint32_t these = stops[level];
        if (these && !counted[level]) {
            counted[level] = 1;
            const int fault = count_symbols(&tensor);
            if (fault) return fault;
        }
        stops[level] = sum;
        sum += these;
    }
    for (uint32_t index = 0; index < count; index++) order[stops[at[index]]++] = index;
    for (uint32_t place = 0; place < count;) {
        const int level = at[order[place]];
        const Model *model = model_of(&tensor, level);
        for (; place < stops[level]; place++) {
            if (decode_one(model, tensor.bound, to + order[place])) return INVALID;
        }
    }
    return 0;
}

static int clamped(int level) {
    return MAX(MIN(level, LEVELS - 1), 0);
}

// Decode a tensor of rows and columns. `row_offsets` and `column_offsets` may be null.
// `models` has `model_bytes(bound)` bytes, and `scratch` five bytes for each integer.
SMALL int EXPORT(decode_plain)(
    int32_t *to, uint32_t rows, uint32_t columns, int level, const int32_t *row_offsets,
    const int32_t *column_offsets, int32_t bound, uint8_t *models, uint32_t *scratch
) {
    start_models(&tensor, models, bound);
    uint8_t counted[LEVELS] = {0};
    uint8_t *at = (uint8_t *)(scratch + rows * columns);
    for (uint32_t row = 0; row < rows; row++) {
        const int base = level + (row_offsets ? row_offsets[row] : 0);
        for (uint32_t column = 0; column < columns; column++) {
            at[row * columns + column] =
                (uint8_t)clamped(base + (column_offsets ? column_offsets[column] : 0));
        }
    }
    return decode_at(to, at, rows * columns, scratch, counted);
}

// Return a sum's logarithm to base 2 in eighths, linear between the powers of 2.
static inline int logarithm(uint32_t sum) {
    const uint32_t v = MIN(sum, (uint32_t)MAX_SUM) + 1;
    const int k = 31 - __builtin_clz(v);
    return 8 * (k - 1) + (int)(8 * v >> k);
}

static inline uint32_t four(const uint16_t *at, uint32_t stride) {
    return (uint32_t)at[-(int32_t)stride] + at[stride] + at[-1] + at[1];
}

// Return the bytes of scratch that a latent needs.
SMALL uint64_t EXPORT(latent_bytes)(uint32_t times, uint32_t channels, uint32_t height, uint32_t width) {
    const uint64_t padded = (uint64_t)(height + 2) * (width + 2);
    const uint64_t most = (uint64_t)MIN(times, channels) * height * width;
    return 2 * padded * ((uint64_t)(times + 2) * channels + (uint64_t)times * (channels + 1)) +
           9 * most + 16;
}

// Decode a latent (times, channels, height, width) with contexts; return 0 or a fault.
// `bases` are the levels of the channels, and `scratch` has `latent_bytes` bytes.
int EXPORT(decode_latent)(
    int32_t *to, uint32_t times, uint32_t channels, uint32_t height, uint32_t width,
    const int32_t *bases, const int32_t *w, int32_t bound, uint8_t *models, uint16_t *scratch
) {
    start_models(&tensor, models, bound);
    uint8_t counted[LEVELS] = {0};
    const uint32_t stride = width + 2;
    const uint32_t padded = (height + 2) * stride;
    const uint32_t most = MIN(times, channels) * height * width;
    // Zeros all around: two times before the first, and a place on each side.
    uint16_t *magnitudes = scratch;
    // Sums of the magnitudes of all channels before, at most MAX_SUM, which changes no logarithm.
    uint16_t *before = magnitudes + (times + 2) * channels * padded;
    uint16_t *end = before + times * (channels + 1) * padded;
    memset(scratch, 0, (uint32_t)((uint8_t *)end - (uint8_t *)scratch));
    int32_t *values = (int32_t *)(((uintptr_t)end + 3) & ~(uintptr_t)3);
    uint32_t *order = (uint32_t *)(values + most);
    uint8_t *at = (uint8_t *)(order + most);
    for (uint32_t sum = 0; sum < times + channels - 1; sum++) {
        const uint32_t start = sum >= channels ? sum - channels + 1 : 0;
        const uint32_t stop = MIN(sum, times - 1) + 1;
        for (uint32_t odd = 0; odd < 2; odd++) {
            uint32_t count = 0;
            for (uint32_t t = start; t < stop; t++) {
                const uint32_t c = sum - t;
                const uint16_t *now = magnitudes + ((t + 2) * channels + c) * padded;
                const uint16_t *last = now - channels * padded;
                const uint16_t *older = last - channels * padded;
                const uint16_t *others = before + (t * (channels + 1) + c) * padded;
                for (uint32_t y = 0; y < height; y++) {
                    for (uint32_t x = (y + odd) & 1; x < width; x += 2) {
                        const uint32_t place = (y + 1) * stride + x + 1;
                        const int a = logarithm(last[place]);
                        const int b = logarithm(older[place]);
                        const int e = logarithm(others[place]);
                        const int f = logarithm(four(others + place, stride));
                        const int g = logarithm(four(now + place, stride));
                        const int total =
                            odd ? w[4] * a + w[5] * b + w[6] * e + w[7] * f + w[8] * g + 32 * w[9]
                                : w[0] * a + w[1] * b + w[2] * e + w[3] * f;
                        at[count++] = (uint8_t)clamped(bases[c] + ((total + 64) >> 7));
                    }
                }
            }
            const int fault = decode_at(values, at, count, order, counted);
            if (fault) return fault;
            count = 0;
            for (uint32_t t = start; t < stop; t++) {
                const uint32_t c = sum - t;
                uint16_t *now = magnitudes + ((t + 2) * channels + c) * padded;
                int32_t *plane = to + (t * channels + c) * height * width;
                for (uint32_t y = 0; y < height; y++) {
                    for (uint32_t x = (y + odd) & 1; x < width; x += 2) {
                        const int32_t value = values[count++];
                        plane[y * width + x] = value;
                        now[(y + 1) * stride + x + 1] = (uint16_t)(value < 0 ? -value : value);
                    }
                }
            }
        }
        for (uint32_t t = start; t < stop; t++) {
            const uint32_t c = sum - t;
            const uint16_t *now = magnitudes + ((t + 2) * channels + c) * padded;
            const uint16_t *others = before + (t * (channels + 1) + c) * padded;
            uint16_t *next = before + (t * (channels + 1) + c + 1) * padded;
            for (uint32_t place = 0; place < padded; place++) {
                const uint32_t all = (uint32_t)others[place] + now[place];
                next[place] = (uint16_t)MIN(all, (uint32_t)MAX_SUM);
            }
        }
    }
    return 0;
}

// Turn differences along the first axis into integers; return 0 or a fault.
SMALL int EXPORT(undo_prediction)(int32_t *integers, uint32_t slices, uint32_t size) {
    for (uint32_t index = 0; index < slices * size; index++) {
        if (index >= size) integers[index] += integers[index - size];
        if (integers[index] > MAX_INTEGER || integers[index] < -MAX_INTEGER) return OUT_OF_RANGE;
    }
    return 0;
}

// Compute weights from integers (outer, channels, inner), with a step for each channel.
// With `is_delta`, they are added to the weights that are there.
void EXPORT(dequantize)(
    float *weights, const int32_t *integers, const float *steps, uint32_t outer, uint32_t channels,
    uint32_t inner, int is_delta
) {
    for (uint32_t row = 0; row < outer * channels; row++) {
        const float step = steps[row % channels];
        float *to = weights + row * inner;
        const int32_t *from = integers + row * inner;
        for (uint32_t index = 0; index < inner; index++) {
            const float weight = (float)from[index] * step;
            to[index] = is_delta ? to[index] + weight : weight;
        }
    }
}
