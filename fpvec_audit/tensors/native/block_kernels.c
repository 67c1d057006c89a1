/* The loops over a block of numbers that decide how fast vectors and stamps are: compiled once for AVX2 and once for
 * AVX-512 (see hatch_build.py), chosen at run time by dispatch.c.
 *
 * Everything here has a counterpart in Python that gives the same bits (tensors/kernels.py); tests compare the two.
 * Arithmetic is in float32, each operation rounded by itself (-ffp-contract=off), the result rounded once, to nearest
 * even. Sums are accumulated in float64.
 */
#include "formats.h"

/* ---- stamping ------------------------------------------------------------------------------------------------- */

typedef struct {
    partial_sums applied, wanted, product;
} stamp_sums;

INLINE void stamp_step(const void *target, int format, void *out, floats change, stamp_sums *sums) {
    floats before = widen(target, format);
    floats after = narrow(before + change, format, out);
    partial_sums applied = both_halves(after - before), wanted = both_halves(change);
    add_products(&sums->applied, applied, applied);
    add_products(&sums->wanted, wanted, wanted);
    add_products(&sums->product, applied, wanted);
}

INLINE floats scaled(floats change, const fpvec_part *part, int format, size_t from) {
    return change + widen((const char *)part->data + from * size_of(format), format) * part->scale;
}

/* The elements from ``from`` on, one at a time in a padded chunk: what no loop over whole chunks takes. */
static void stamp_rest(const char *target, int format, char *out, size_t from, size_t count, const fpvec_part *parts,
                       size_t part_count, stamp_sums *sums) {
    size_t size = size_of(format);
    for (; from < count; from += WIDE) {
        size_t length = count - from < WIDE ? count - from : WIDE;
        char before[4 * WIDE] = {0}, after[4 * WIDE];
        floats change;
        memcpy(before, target + from * size, length * size);
        for (int i = 0; i < WIDE; i++) change[i] = -0.0f;
        for (size_t p = 0; p < part_count; p++) {
            size_t width = size_of(parts[p].format), left = parts[p].count > from ? parts[p].count - from : 0;
            size_t here = left < length ? left : length;
            char tau[4 * WIDE] = {0};
            memcpy(tau, (const char *)parts[p].data + from * width, here * width);
            floats values = widen(tau, parts[p].format);
            for (size_t i = 0; i < here; i++) change[i] += values[i] * parts[p].scale;
        }
        stamp_step(before, format, after, change, sums);
        memcpy(out + from * size, after, length * size);
    }
}

/* The formats are constants here, so that each pair becomes a loop of its own. */
INLINE size_t stamp_one(const char *target, int format, char *out, size_t count, const fpvec_part *part, int tau,
                        stamp_sums *sums) {
    size_t whole = (part->count < count ? part->count : count) / WIDE * WIDE;
    stamp_sums local = *sums;
    for (size_t from = 0; from < whole; from += WIDE) {
        floats change = widen((const char *)part->data + from * size_of(tau), tau) * part->scale;
        stamp_step(target + from * size_of(format), format, out + from * size_of(format), change, &local);
    }
    *sums = local;
    return whole;
}

/* Several vectors of one format, as a copy with a code word has them. */
INLINE size_t stamp_many(const char *target, int format, char *out, size_t count, const fpvec_part *parts,
                         size_t part_count, int tau, stamp_sums *sums) {
    size_t whole = count;
    for (size_t p = 0; p < part_count; p++) whole = parts[p].count < whole ? parts[p].count : whole;
    whole = whole / WIDE * WIDE;
    stamp_sums local = *sums;
    for (size_t from = 0; from < whole; from += WIDE) {
        floats change = widen((const char *)parts->data + from * size_of(tau), tau) * parts->scale;
        for (size_t p = 1; p < part_count; p++) change = scaled(change, &parts[p], tau, from);
        stamp_step(target + from * size_of(format), format, out + from * size_of(format), change, &local);
    }
    *sums = local;
    return whole;
}

INLINE int all_of_format(const fpvec_part *parts, size_t part_count, int format) {
    for (size_t p = 0; p < part_count; p++)
        if (parts[p].format != format) return 0;
    return part_count > 0;
}

void KERNEL(fpvec_add)(const void *target, int format, void *out, size_t count, const fpvec_part *parts,
                       size_t part_count, double *sums) {
    stamp_sums found;
    size_t from = 0;
    memset(&found, 0, sizeof found);
    if (part_count == 1) {
#define PAIR(t, v)                                                                                                     \
    if (format == t && parts->format == v) from = stamp_one(target, t, out, count, parts, v, &found)
        PAIR(FPVEC_BF16, FPVEC_BF16);
        else PAIR(FPVEC_F32, FPVEC_F32);
        else PAIR(FPVEC_F16, FPVEC_F16);
        else PAIR(FPVEC_BF16, FPVEC_F32);
        else PAIR(FPVEC_F16, FPVEC_F32);
        else PAIR(FPVEC_F32, FPVEC_BF16);
        else PAIR(FPVEC_F16, FPVEC_BF16);
#undef PAIR
    } else {
#define MANY(t, v)                                                                                                     \
    if (format == t && all_of_format(parts, part_count, v))                                                            \
    from = stamp_many(target, t, out, count, parts, part_count, v, &found)
        MANY(FPVEC_BF16, FPVEC_BF16);
        else MANY(FPVEC_F32, FPVEC_F32);
        else MANY(FPVEC_F16, FPVEC_F16);
        else MANY(FPVEC_BF16, FPVEC_F32);
        else MANY(FPVEC_F16, FPVEC_F32);
#undef MANY
    }
    stamp_rest(target, format, out, from, count, parts, part_count, &found);
    sums[0] = total(&found.applied);
    sums[1] = total(&found.wanted);
    sums[2] = total(&found.product);
}

/* ---- extraction ----------------------------------------------------------------------------------------------- */

typedef struct {
    truths base_nonfinite, other_nonfinite, tau_nonfinite, inexact; /* counted downwards: a true lane is -1 */
    partial_sums square;
} difference_sums;

INLINE truths nonfinite(floats values) { return ((bits32)values & 0x7f800000u) == 0x7f800000u; }

INLINE void difference_step(const void *base, int base_format, const void *other, int other_format, void *tau,
                            int tau_format, difference_sums *sums) {
    floats one = widen(base, base_format), two = widen(other, other_format);
    bits32 equal = (bits32)((bits32)one == (bits32)two); /* all bits set where the two are the same number */
    floats difference = (floats)(((bits32)(two - one) & ~equal) | (equal & 0x80000000u));
    difference = narrow(difference, tau_format, tau);
    char scratch[4 * WIDE];
    floats rebuilt = narrow(one + difference, other_format, scratch);
    sums->base_nonfinite += nonfinite(one);
    sums->other_nonfinite += nonfinite(two);
    sums->tau_nonfinite += nonfinite(difference);
    sums->inexact += (truths)((bits32)rebuilt != (bits32)two);
    partial_sums wide = both_halves(difference);
    add_products(&sums->square, wide, wide);
}

INLINE size_t differences(const char *base, int base_format, const char *other, int other_format, char *tau,
                          int tau_format, size_t count, difference_sums *sums) {
    size_t whole = count / WIDE * WIDE;
    difference_sums local = *sums;
    for (size_t from = 0; from < whole; from += WIDE)
        difference_step(base + from * size_of(base_format), base_format, other + from * size_of(other_format),
                        other_format, tau + from * size_of(tau_format), tau_format, &local);
    *sums = local;
    return whole;
}

static void differences_rest(const char *base, int base_format, const char *other, int other_format, char *tau,
                             int tau_format, size_t from, size_t count, difference_sums *sums) {
    for (; from < count; from += WIDE) {
        size_t length = count - from < WIDE ? count - from : WIDE;
        char one[4 * WIDE] = {0}, two[4 * WIDE] = {0}, result[4 * WIDE];
        memcpy(one, base + from * size_of(base_format), length * size_of(base_format));
        memcpy(two, other + from * size_of(other_format), length * size_of(other_format));
        difference_step(one, base_format, two, other_format, result, tau_format, sums);
        memcpy(tau + from * size_of(tau_format), result, length * size_of(tau_format));
    }
}

static uint64_t counted(truths lanes) {
    uint64_t sum = 0;
    for (int i = 0; i < WIDE; i++) sum += (uint64_t)(-(int64_t)lanes[i]);
    return sum;
}

void KERNEL(fpvec_subtract)(const void *base, int base_format, const void *other, int other_format, void *tau,
                            int tau_format, size_t count, fpvec_difference *result) {
    difference_sums found;
    size_t from = 0;
    memset(&found, 0, sizeof found);
#define TRIPLE(b, o, t)                                                                                                \
    if (base_format == b && other_format == o && tau_format == t)                                                     \
    from = differences(base, b, other, o, tau, t, count, &found)
    TRIPLE(FPVEC_BF16, FPVEC_BF16, FPVEC_BF16);
    else TRIPLE(FPVEC_F32, FPVEC_F32, FPVEC_F32);
    else TRIPLE(FPVEC_F16, FPVEC_F16, FPVEC_F16);
    else TRIPLE(FPVEC_BF16, FPVEC_BF16, FPVEC_F32);
    else TRIPLE(FPVEC_F16, FPVEC_F16, FPVEC_F32);
#undef TRIPLE
    differences_rest(base, base_format, other, other_format, tau, tau_format, from, count, &found);
    result->base_nonfinite = counted(found.base_nonfinite);
    result->other_nonfinite = counted(found.other_nonfinite);
    result->tau_nonfinite = counted(found.tau_nonfinite);
    result->inexact = counted(found.inexact);
    result->square = total(&found.square);
}

/* ---- SHA-256 of many messages at once (FIPS 180-4) ------------------------------------------------------------ */

typedef uint32_t words __attribute__((vector_size(4 * LANES))); /* one word of every message */

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#define ROTATE(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#if LANES == 16
#define TERNARY(x, y, z, table) ((words)_mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), table))
#define XOR3(x, y, z) TERNARY(x, y, z, 0x96)
#define CHOOSE(x, y, z) TERNARY(x, y, z, 0xca)
#define MAJORITY(x, y, z) TERNARY(x, y, z, 0xe8)
#else
#define XOR3(x, y, z) ((x) ^ (y) ^ (z))
#define CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#endif

#define ROUND(t, a, b, c, d, e, f, g, h)                                                                               \
    do {                                                                                                               \
        words first = h + XOR3(ROTATE(e, 6), ROTATE(e, 11), ROTATE(e, 25)) + CHOOSE(e, f, g) + K[t] + w[(t) & 15];     \
        d += first;                                                                                                    \
        h = first + XOR3(ROTATE(a, 2), ROTATE(a, 13), ROTATE(a, 22)) + MAJORITY(a, b, c);                              \
    } while (0)
#define SCHEDULED(t, ...)                                                                                              \
    do {                                                                                                               \
        words x = w[((t) + 1) & 15], y = w[((t) + 14) & 15];                                                           \
        w[(t) & 15] += XOR3(ROTATE(x, 7), ROTATE(x, 18), x >> 3) + w[((t) + 9) & 15]                                   \
                       + XOR3(ROTATE(y, 17), ROTATE(y, 19), y >> 10);                                                  \
        ROUND(t, __VA_ARGS__);                                                                                         \
    } while (0)
#define EIGHT(X, t)                                                                                                    \
    X(t, a, b, c, d, e, f, g, h);                                                                                      \
    X(t + 1, h, a, b, c, d, e, f, g);                                                                                  \
    X(t + 2, g, h, a, b, c, d, e, f);                                                                                  \
    X(t + 3, f, g, h, a, b, c, d, e);                                                                                  \
    X(t + 4, e, f, g, h, a, b, c, d);                                                                                  \
    X(t + 5, d, e, f, g, h, a, b, c);                                                                                  \
    X(t + 6, c, d, e, f, g, h, a, b);                                                                                  \
    X(t + 7, b, c, d, e, f, g, h, a)

/* Word t of lane l of the next 64 bytes comes to w[t][l]. */
static inline void load(words *w, const uint8_t *const *data, size_t offset) {
#if LANES == 16
    __m512i r[16], s[16];
    for (int l = 0; l < 16; l++) r[l] = _mm512_loadu_si512(data[l] + offset);
    for (int l = 0; l < 16; l += 2) {
        s[l] = _mm512_unpacklo_epi32(r[l], r[l + 1]);
        s[l + 1] = _mm512_unpackhi_epi32(r[l], r[l + 1]);
    }
    for (int l = 0; l < 16; l += 4) {
        r[l] = _mm512_unpacklo_epi64(s[l], s[l + 2]);
        r[l + 1] = _mm512_unpackhi_epi64(s[l], s[l + 2]);
        r[l + 2] = _mm512_unpacklo_epi64(s[l + 1], s[l + 3]);
        r[l + 3] = _mm512_unpackhi_epi64(s[l + 1], s[l + 3]);
    }
    for (int l = 0; l < 4; l++) {
        s[l] = _mm512_shuffle_i32x4(r[l], r[l + 4], 0x88);
        s[l + 4] = _mm512_shuffle_i32x4(r[l], r[l + 4], 0xdd);
        s[l + 8] = _mm512_shuffle_i32x4(r[l + 8], r[l + 12], 0x88);
        s[l + 12] = _mm512_shuffle_i32x4(r[l + 8], r[l + 12], 0xdd);
    }
    const __m512i swap = _mm512_set4_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
    for (int l = 0; l < 4; l++) {
        w[l] = (words)_mm512_shuffle_epi8(_mm512_shuffle_i32x4(s[l], s[l + 8], 0x88), swap);
        w[l + 8] = (words)_mm512_shuffle_epi8(_mm512_shuffle_i32x4(s[l], s[l + 8], 0xdd), swap);
        w[l + 4] = (words)_mm512_shuffle_epi8(_mm512_shuffle_i32x4(s[l + 4], s[l + 12], 0x88), swap);
        w[l + 12] = (words)_mm512_shuffle_epi8(_mm512_shuffle_i32x4(s[l + 4], s[l + 12], 0xdd), swap);
    }
#else
    for (int half = 0; half < 2; half++) {
        __m256i r[8], s[8];
        for (int l = 0; l < 8; l++) r[l] = _mm256_loadu_si256((const __m256i *)(data[l] + offset + 32 * half));
        for (int l = 0; l < 8; l += 2) {
            s[l] = _mm256_unpacklo_epi32(r[l], r[l + 1]);
            s[l + 1] = _mm256_unpackhi_epi32(r[l], r[l + 1]);
        }
        for (int l = 0; l < 8; l += 4) {
            r[l] = _mm256_unpacklo_epi64(s[l], s[l + 2]);
            r[l + 1] = _mm256_unpackhi_epi64(s[l], s[l + 2]);
            r[l + 2] = _mm256_unpacklo_epi64(s[l + 1], s[l + 3]);
            r[l + 3] = _mm256_unpackhi_epi64(s[l + 1], s[l + 3]);
        }
        const __m256i swap = _mm256_setr_epi32(0x00010203, 0x04050607, 0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607,
                                               0x08090a0b, 0x0c0d0e0f);
        for (int l = 0; l < 4; l++) {
            w[8 * half + l] = (words)_mm256_shuffle_epi8(_mm256_permute2x128_si256(r[l], r[l + 4], 0x20), swap);
            w[8 * half + l + 4] = (words)_mm256_shuffle_epi8(_mm256_permute2x128_si256(r[l], r[l + 4], 0x31), swap);
        }
    }
#endif
}

static void compress(words *state, const uint8_t *const *data, size_t blocks) {
    for (size_t n = 0; n < blocks; n++) {
        words w[16];
        load(w, data, 64 * n);
        words a = state[0], b = state[1], c = state[2], d = state[3];
        words e = state[4], f = state[5], g = state[6], h = state[7];
        EIGHT(ROUND, 0);
        EIGHT(ROUND, 8);
        EIGHT(SCHEDULED, 16);
        EIGHT(SCHEDULED, 24);
        EIGHT(SCHEDULED, 32);
        EIGHT(SCHEDULED, 40);
        EIGHT(SCHEDULED, 48);
        EIGHT(SCHEDULED, 56);
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
        state[5] += f;
        state[6] += g;
        state[7] += h;
    }
}

/* Each lane works on one message until its blocks are used up, then takes the next; an idle lane repeats the bytes of a
 * busy one and its state is thrown away. */
void KERNEL(fpvec_sha256)(fpvec_message *messages, size_t count) {
    union {
        words vector[8];
        uint32_t word[8][LANES];
    } state;
    size_t owner[LANES], left[LANES], next = 0;
    const uint8_t *data[LANES];
    memset(&state, 0, sizeof state);
    for (int l = 0; l < LANES; l++) owner[l] = count, left[l] = 0;
    for (;;) {
        size_t shortest = 0;
        int busy = -1;
        for (int l = 0; l < LANES; l++) {
            if (!left[l]) {
                while (next < count && !messages[next].blocks) next++;
                if (next < count) {
                    owner[l] = next, left[l] = messages[next].blocks, data[l] = messages[next].data;
                    for (int i = 0; i < 8; i++) state.word[i][l] = messages[next].state[i];
                    next++;
                }
            }
            if (left[l] && (busy < 0 || left[l] < shortest)) shortest = left[l], busy = l;
        }
        if (busy < 0) return;
        for (int l = 0; l < LANES; l++)
            if (!left[l]) data[l] = data[busy];
        compress(state.vector, data, shortest);
        for (int l = 0; l < LANES; l++) {
            if (!left[l]) continue;
            data[l] += 64 * shortest;
            left[l] -= shortest;
            if (!left[l])
                for (int i = 0; i < 8; i++) messages[owner[l]].state[i] = state.word[i][l];
        }
    }
}
