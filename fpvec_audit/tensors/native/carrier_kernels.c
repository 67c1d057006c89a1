/* Carriers: keyed patterns of signs that stamping adds and reading finds again. Compiled once with the AES and population
 * count of AVX-512 registers and once with those that AVX2 machines have; chosen at run time by dispatch.c.
 *
 * Everything here has a counterpart in Python that gives the same bits (tensors/carrier.py, tensors/carrier_reading.py).
 * Element k of a tensor has bit k mod 128 of AES-128 under the carrier's key of {nonce of the tensor, k div 128 as a
 * big-endian number of 32 bits}: 0 is a plus, 1 a minus. A chunk of elements is 32 such blocks.
 */
#include <math.h>

#include "formats.h"

#define CHUNK FPVEC_CHUNK
#define CHUNK_BLOCKS (CHUNK / 128)
#define CHUNK_BYTES (CHUNK / 8)
#define ROUNDS 10

/* ---- AES-128 in counter mode ---------------------------------------------------------------------------------- */

#if LANES == 16
typedef __m512i cipher_blocks;
#define PER_REGISTER 4
#define REPEATED(x) _mm512_broadcast_i32x4(x)
#define XOR(x, y) _mm512_xor_si512(x, y)
#define ROUND(x, key) _mm512_aesenc_epi128(x, key)
#define LAST_ROUND(x, key) _mm512_aesenclast_epi128(x, key)
#else
typedef __m128i cipher_blocks;
#define PER_REGISTER 1
#define REPEATED(x) (x)
#define XOR(x, y) _mm_xor_si128(x, y)
#define ROUND(x, key) _mm_aesenc_si128(x, key)
#define LAST_ROUND(x, key) _mm_aesenclast_si128(x, key)
#endif
#define AT_ONCE 8 /* registers: enough to hide how long a round takes */

typedef struct {
    __m128i keys[ROUNDS + 1];
} key_schedule;

INLINE __m128i next_key(__m128i key, __m128i assist) {
    assist = _mm_shuffle_epi32(assist, 0xff);
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, assist);
}

static void expand(const uint8_t *key, key_schedule *schedule) {
    __m128i *keys = schedule->keys;
    keys[0] = _mm_loadu_si128((const __m128i *)key);
#define NEXT(n, constant) keys[n] = next_key(keys[n - 1], _mm_aeskeygenassist_si128(keys[n - 1], constant))
    NEXT(1, 0x01);
    NEXT(2, 0x02);
    NEXT(3, 0x04);
    NEXT(4, 0x08);
    NEXT(5, 0x10);
    NEXT(6, 0x20);
    NEXT(7, 0x40);
    NEXT(8, 0x80);
    NEXT(9, 0x1b);
    NEXT(10, 0x36);
#undef NEXT
}

INLINE __m128i counter_block(__m128i nonce, uint32_t number) {
    return _mm_insert_epi32(nonce, (int)__builtin_bswap32(number), 3);
}

INLINE cipher_blocks counters(__m128i nonce, uint32_t number) {
#if LANES == 16
    __m512i all = _mm512_castsi128_si512(counter_block(nonce, number));
    all = _mm512_inserti32x4(all, counter_block(nonce, number + 1), 1);
    all = _mm512_inserti32x4(all, counter_block(nonce, number + 2), 2);
    return _mm512_inserti32x4(all, counter_block(nonce, number + 3), 3);
#else
    return counter_block(nonce, number);
#endif
}

/* AT_ONCE registers of key stream, from a counter on. */
INLINE void key_stream(const key_schedule *schedule, __m128i nonce, uint32_t number, cipher_blocks *stream) {
    cipher_blocks key = REPEATED(schedule->keys[0]);
    for (int r = 0; r < AT_ONCE; r++) stream[r] = XOR(counters(nonce, number + PER_REGISTER * (uint32_t)r), key);
    for (int round = 1; round < ROUNDS; round++) {
        key = REPEATED(schedule->keys[round]);
        for (int r = 0; r < AT_ONCE; r++) stream[r] = ROUND(stream[r], key);
    }
    key = REPEATED(schedule->keys[ROUNDS]);
    for (int r = 0; r < AT_ONCE; r++) stream[r] = LAST_ROUND(stream[r], key);
}

static void sign_bits(const key_schedule *schedule, __m128i nonce, uint32_t number, uint8_t *bits) {
    for (size_t done = 0; done < CHUNK_BYTES; done += AT_ONCE * sizeof(cipher_blocks)) {
        cipher_blocks stream[AT_ONCE];
        key_stream(schedule, nonce, number + (uint32_t)(done / 16), stream);
        memcpy(bits + done, stream, sizeof stream);
    }
}

INLINE __m128i nonce_of(const uint8_t *nonce) {
    uint8_t padded[16] = {0};
    memcpy(padded, nonce, 12);
    return _mm_loadu_si128((const __m128i *)padded);
}

/* ---- stamping ------------------------------------------------------------------------------------------------- */

/* Which lanes are minus: the sign bit of each float32. */
INLINE bits32 minus_signs(const uint8_t *bits, size_t from) {
#if LANES == 16
    uint16_t chosen;
    memcpy(&chosen, bits + from / 8, 2);
    return (bits32)_mm512_maskz_set1_epi32(chosen, (int)0x80000000u);
#else
    const __m256i place = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i chosen = _mm256_and_si256(_mm256_set1_epi32(bits[from / 8]), place);
    return (bits32)_mm256_and_si256(_mm256_cmpeq_epi32(chosen, place), _mm256_set1_epi32((int)0x80000000u));
#endif
}

/* The finalizer of MurmurHash3: every bit of the result depends on every bit of the number. */
INLINE bits32 mixed(bits32 x) {
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ (x >> 16);
}

INLINE bits32 lane_numbers(void) {
#if LANES == 16
    return (bits32)_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    return (bits32)_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
#endif
}

/* Even chance in 32 bits for each element; see carrier.py. A chunk never crosses 2^32. */
INLINE bits32 chances(uint64_t element, const uint32_t *rounding) {
    bits32 low = lane_numbers() + (uint32_t)element;
    bits32 first = mixed(low ^ (rounding[0] + (uint32_t)(element >> 32) * 0x9e3779b9u));
    return mixed(first + rounding[1]);
}

/* Round to one of the two neighbours, the nearer one the likelier, and write. */
INLINE floats narrow_by_chance(floats values, int format, bits32 chance, void *target) {
    if (format == FPVEC_F32) return narrow(values, format, target);
    if (format == FPVEC_BF16) {
        bits32 wide = (bits32)values;
        bits32 up = (bits32)((chance >> 16) < (wide & 0xffffu)) & 0x10000u;
        return narrow((floats)((wide & 0xffff0000u) + up), format, target);
    }
    const floats unit = (floats){0} + 0x1p-24f;
    bits32 size = (bits32)values & 0x7fffffffu;
#if LANES == 16
    __m256i low = _mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    bits32 next = (bits32)_mm512_cvtepu16_epi32(low) + 1;
    floats below = (floats)_mm512_cvtph_ps(low);
    floats above = (floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)next));
    floats chosen = (floats)_mm512_cvtepi32_ps((__m512i)(chance >> 8)) * unit;
#else
    __m128i low = _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __m128i more = _mm_add_epi16(low, _mm_set1_epi16(1));
    floats below = (floats)_mm256_cvtph_ps(low), above = (floats)_mm256_cvtph_ps(more);
    floats chosen = (floats)_mm256_cvtepi32_ps((__m256i)(chance >> 8)) * unit;
#endif
    bits32 sign = (bits32)below & 0x80000000u;
    floats inner = (floats)((bits32)below & 0x7fffffffu), outer = (floats)((bits32)above & 0x7fffffffu);
    bits32 out = (bits32)(chosen < ((floats)size - inner) / (outer - inner));
    bits32 result = (((bits32)outer & out) | ((bits32)inner & ~out)) | sign;
    return narrow((floats)result, format, target);
}

/* One vector's part of a chunk; the format is a constant here, so that each becomes a loop of its own. */
INLINE void add_part(const fpvec_part *part, int format, size_t from, size_t length, float *change) {
    size_t left = part->count > from ? part->count - from : 0, here = left < length ? left : length;
    size_t whole = here / WIDE * WIDE, width = size_of(format);
    const char *data = (const char *)part->data + from * width;
    for (size_t i = 0; i < whole; i += WIDE) {
        floats sum;
        memcpy(&sum, change + i, sizeof sum);
        sum += widen(data + i * width, format) * part->scale;
        memcpy(change + i, &sum, sizeof sum);
    }
    if (whole < here) {
        char tail[4 * WIDE] = {0};
        floats sum;
        memcpy(tail, data + whole * width, (here - whole) * width);
        memcpy(&sum, change + whole, sizeof sum);
        sum += widen(tail, format) * part->scale;
        memcpy(change + whole, &sum, sizeof sum);
    }
}

/* Σ scale · τ over a chunk in float32, zeros behind its end; returns the sum of squares. */
static double chunk_change(const fpvec_part *parts, size_t part_count, size_t from, size_t length, float *change) {
    const floats nothing = (floats)((bits32){0} + 0x80000000u);
    partial_sums square;
    memset(&square, 0, sizeof square);
    for (size_t i = 0; i < length; i += WIDE) memcpy(change + i, &nothing, sizeof nothing);
    for (size_t p = 0; p < part_count; p++) {
        if (parts[p].format == FPVEC_BF16) add_part(&parts[p], FPVEC_BF16, from, length, change);
        else if (parts[p].format == FPVEC_F16) add_part(&parts[p], FPVEC_F16, from, length, change);
        else add_part(&parts[p], FPVEC_F32, from, length, change);
    }
    for (size_t i = 0; i < length; i += WIDE) {
        floats sum;
        memcpy(&sum, change + i, sizeof sum);
        partial_sums wide = both_halves(sum);
        add_products(&square, wide, wide);
    }
    return total(&square);
}

/* Eight bits of a number: rounded so that it does not depend on the order in which squares were added. */
static float rounded_amplitude(double value) {
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, 4);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
    memcpy(&single, &bits, 4);
    return single;
}

typedef struct {
    key_schedule schedule;
    float amplitude;
    uint8_t bits[CHUNK_BYTES];
} chunk_carrier;

INLINE void carry_step(char *values, int format, floats addend, bits32 chance, partial_sums *square) {
    floats before = widen(values, format), after = narrow_by_chance(before + addend, format, chance, values);
    partial_sums moved = both_halves(after - before);
    add_products(square, moved, moved);
}

INLINE floats addend_at(const chunk_carrier *carriers, size_t carrier_count, size_t i) {
    floats sum = {0};
    for (size_t c = 0; c < carrier_count; c++)
        sum += (floats)((bits32)((floats){0} + carriers[c].amplitude) ^ minus_signs(carriers[c].bits, i));
    return sum;
}

INLINE void carry_chunk(char *values, int format, size_t length, const chunk_carrier *carriers, size_t carrier_count,
                        uint64_t element, const uint32_t *rounding, partial_sums *square) {
    size_t size = size_of(format), whole = length / WIDE * WIDE;
    partial_sums local = *square;
    for (size_t i = 0; i < whole; i += WIDE)
        carry_step(values + i * size, format, addend_at(carriers, carrier_count, i), chances(element + i, rounding),
                   &local);
    if (whole < length) {
        char padded[4 * WIDE] = {0};
        floats addend = addend_at(carriers, carrier_count, whole);
        for (size_t l = length - whole; l < WIDE; l++) addend[l] = 0;
        memcpy(padded, values + whole * size, (length - whole) * size);
        carry_step(padded, format, addend, chances(element + whole, rounding), &local);
        memcpy(values + whole * size, padded, (length - whole) * size);
    }
    *square = local;
}

void KERNEL(fpvec_carry)(const fpvec_part *parts, size_t part_count, void *values, int format, uint64_t start,
                         size_t count, const fpvec_carrier *carriers, size_t carrier_count, const uint8_t *nonce,
                         const uint32_t *rounding, double *square) {
    float change[CHUNK + WIDE];
    chunk_carrier own[FPVEC_MOST_CARRIERS];
    __m128i tensor = nonce_of(nonce);
    partial_sums found;
    memset(&found, 0, sizeof found);
    for (size_t c = 0; c < carrier_count; c++) expand(carriers[c].key, &own[c].schedule);
    for (size_t from = 0; from < count; from += CHUNK) {
        size_t length = count - from < CHUNK ? count - from : CHUNK;
        double sum = chunk_change(parts, part_count, from, length, change);
        if (!(sum > 0)) continue;
        double spread = sqrt(sum / (double)length);
        for (size_t c = 0; c < carrier_count; c++) {
            own[c].amplitude = rounded_amplitude(carriers[c].strength * spread);
            sign_bits(&own[c].schedule, tensor, (uint32_t)((start + from) / 128), own[c].bits);
        }
        char *here = (char *)values + from * size_of(format);
        uint64_t element = start + from;
        if (format == FPVEC_BF16) carry_chunk(here, FPVEC_BF16, length, own, carrier_count, element, rounding, &found);
        else if (format == FPVEC_F16) carry_chunk(here, FPVEC_F16, length, own, carrier_count, element, rounding, &found);
        else carry_chunk(here, FPVEC_F32, length, own, carrier_count, element, rounding, &found);
    }
    *square = total(&found);
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

INLINE uint32_t lanes_of(truths chosen) {
#if LANES == 16
    return _mm512_movepi32_mask((__m512i)chosen);
#else
    return (uint32_t)_mm256_movemask_ps((__m256)chosen);
#endif
}

static void set_bits(uint8_t *plane, size_t from, uint32_t lanes) { memcpy(plane + from / 8, &lanes, WIDE / 8); }

/* suspect − reference over a chunk, zeros behind its end; the sum of sizes, and how many numbers are not finite. */
static double chunk_difference(const char *before, int before_format, const char *after, int after_format, size_t length,
                               float *delta, uint64_t *broken) {
    doubles low = {0}, high = {0};
    truths bad = {0};
    for (size_t i = 0; i < length; i += WIDE) {
        const char *one = before + i * size_of(before_format), *two = after + i * size_of(after_format);
        char padded[2][4 * WIDE] = {{0}};
        if (length - i < WIDE) {
            one = memcpy(padded[0], one, (length - i) * size_of(before_format));
            two = memcpy(padded[1], two, (length - i) * size_of(after_format));
        }
        floats a = widen(one, before_format), b = widen(two, after_format), difference = b - a;
        bad |= (((bits32)a & 0x7f800000u) == 0x7f800000u) | (((bits32)b & 0x7f800000u) == 0x7f800000u)
               | (((bits32)difference & 0x7f800000u) == 0x7f800000u);
        memcpy(delta + i, &difference, sizeof difference);
        partial_sums size = both_halves((floats)((bits32)difference & 0x7fffffffu));
        low += size.low;
        high += size.high;
    }
    *broken += lanes_of(bad) != 0;
    partial_sums sizes = {low, high};
    return total(&sizes);
}

/* Which of seven levels each element of a difference has: a plane of signs and two of sizes 1 and 2. Returns how many
 * chunks hold a number that is not finite; squares gets Σ h². */
uint64_t KERNEL(fpvec_levels)(const void *before, int before_format, const void *after, int after_format, size_t count,
                              double step, uint8_t *signs, uint8_t *ones, uint8_t *twos, uint64_t *squares) {
    float delta[CHUNK + WIDE];
    uint64_t broken = 0, sum = 0;
    for (size_t from = 0; from < count; from += CHUNK) {
        size_t length = count - from < CHUNK ? count - from : CHUNK;
        double sizes = chunk_difference((const char *)before + from * size_of(before_format), before_format,
                                        (const char *)after + from * size_of(after_format), after_format, length, delta,
                                        &broken);
        float unit = rounded_amplitude(step * sizes / (double)length);
        uint8_t *planes[3] = {signs + from / 8, ones + from / 8, twos + from / 8};
        for (int p = 0; p < 3; p++) memset(planes[p], 0, CHUNK_BYTES);
        if (!(unit > 0)) continue;
        const floats first = (floats){0} + 0.5f * unit, second = (floats){0} + 1.5f * unit,
                     third = (floats){0} + 2.5f * unit;
        for (size_t i = 0; i < length; i += WIDE) {
            floats value;
            memcpy(&value, delta + i, sizeof value);
            floats size = (floats)((bits32)value & 0x7fffffffu);
            uint32_t one = lanes_of(size >= first), two = lanes_of(size >= second), three = lanes_of(size >= third);
            uint32_t minus = lanes_of((truths)value < 0);
            set_bits(planes[0], i, minus & one);
            set_bits(planes[1], i, (one & ~two) | three);
            set_bits(planes[2], i, two);
            sum += (uint64_t)(__builtin_popcount(one) + 3 * __builtin_popcount(two) + 5 * __builtin_popcount(three));
        }
    }
    *squares += sum;
    return broken;
}

/* For each carrier Σ h · s over whole chunks. */
void KERNEL(fpvec_read_carriers)(const uint8_t *keys, size_t carriers, const uint8_t *nonce, uint64_t start, size_t chunks,
                                 const uint8_t *signs, const uint8_t *ones, const uint8_t *twos, int64_t *products) {
    __m128i tensor = nonce_of(nonce);
    int64_t all = 0;
    for (size_t byte = 0; byte < chunks * CHUNK_BYTES; byte += 8) {
        uint64_t one, two;
        memcpy(&one, ones + byte, 8);
        memcpy(&two, twos + byte, 8);
        all += __builtin_popcountll(one) + 2 * __builtin_popcountll(two);
    }
    for (size_t c = 0; c < carriers; c++) {
        key_schedule schedule;
        uint32_t number = (uint32_t)(start / 128);
        size_t bytes = chunks * CHUNK_BYTES;
        expand(keys + 16 * c, &schedule);
#if LANES == 16
        __m512i in_ones = _mm512_setzero_si512(), in_twos = _mm512_setzero_si512();
#else
        uint64_t in_ones = 0, in_twos = 0;
#endif
        for (size_t done = 0; done < bytes; done += AT_ONCE * sizeof(cipher_blocks)) {
            cipher_blocks stream[AT_ONCE];
            key_stream(&schedule, tensor, number + (uint32_t)(done / 16), stream);
#if LANES == 16
            for (int r = 0; r < AT_ONCE; r++) {
                size_t place = done + (size_t)r * 64;
                __m512i sign = _mm512_loadu_si512(signs + place);
                __m512i one = _mm512_ternarylogic_epi64(sign, stream[r], _mm512_loadu_si512(ones + place), 0x28);
                __m512i two = _mm512_ternarylogic_epi64(sign, stream[r], _mm512_loadu_si512(twos + place), 0x28);
                in_ones = _mm512_add_epi64(in_ones, _mm512_popcnt_epi64(one));
                in_twos = _mm512_add_epi64(in_twos, _mm512_popcnt_epi64(two));
            }
#else
            uint64_t words[AT_ONCE * 2], sign, one, two;
            memcpy(words, stream, sizeof words);
            for (int w = 0; w < AT_ONCE * 2; w++) {
                memcpy(&sign, signs + done + 8 * w, 8);
                memcpy(&one, ones + done + 8 * w, 8);
                memcpy(&two, twos + done + 8 * w, 8);
                in_ones += (uint64_t)__builtin_popcountll((sign ^ words[w]) & one);
                in_twos += (uint64_t)__builtin_popcountll((sign ^ words[w]) & two);
            }
#endif
        }
#if LANES == 16
        products[c] += all - 2 * (_mm512_reduce_add_epi64(in_ones) + 2 * _mm512_reduce_add_epi64(in_twos));
#else
        products[c] += all - 2 * (int64_t)(in_ones + 2 * in_twos);
#endif
    }
}
