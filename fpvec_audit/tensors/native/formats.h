/* Registers of numbers in the formats of a checkpoint, and sums over them in float64: what every loop over a block starts
 * from. LANES is the number of float32 in a register: 16 for AVX-512, 8 for AVX2. */
#ifndef FPVEC_FORMATS_H
#define FPVEC_FORMATS_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define WIDE LANES /* elements at a time: one register of float32 */

typedef float floats __attribute__((vector_size(4 * WIDE)));
typedef uint32_t bits32 __attribute__((vector_size(4 * WIDE)));
typedef int32_t truths __attribute__((vector_size(4 * WIDE)));
typedef double doubles __attribute__((vector_size(8 * WIDE / 2)));

/* ---- number formats ------------------------------------------------------------------------------------------- */

INLINE size_t size_of(int format) { return format == FPVEC_F32 ? 4 : 2; }

INLINE floats widen(const void *source, int format) {
    floats wide;
    if (format == FPVEC_F32) {
        memcpy(&wide, source, sizeof wide);
        return wide;
    }
#if LANES == 16
    __m256i narrow = _mm256_loadu_si256(source);
    if (format == FPVEC_BF16) return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
    return (floats)_mm512_cvtph_ps(narrow);
#else
    __m128i narrow = _mm_loadu_si128(source);
    if (format == FPVEC_BF16) return (floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16);
    return (floats)_mm256_cvtph_ps(narrow);
#endif
}

/* Bits of bfloat16 in the upper half, zeros below: nearest, ties to even. NaN and overflow show as such or as Inf. */
INLINE bits32 round_to_bf16(bits32 wide) { return (wide + 0x7fff + ((wide >> 16) & 1)) & 0xffff0000u; }

/* Round to the format, write, and return what was written as float32. */
INLINE floats narrow(floats values, int format, void *target) {
    if (format == FPVEC_F32) {
        memcpy(target, &values, sizeof values);
        return values;
    }
#if LANES == 16
    __m256i narrow = _mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (format == FPVEC_BF16) {
        bits32 wide = round_to_bf16((bits32)values);
        _mm256_storeu_si256(target, _mm512_cvtepi32_epi16((__m512i)(wide >> 16)));
        return (floats)wide;
    }
    _mm256_storeu_si256(target, narrow);
    return (floats)_mm512_cvtph_ps(narrow);
#else
    __m128i narrow = _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (format == FPVEC_BF16) {
        bits32 wide = round_to_bf16((bits32)values), high = wide >> 16;
        __m256i packed = _mm256_packus_epi32((__m256i)high, (__m256i)high); /* in each half, twice */
        packed = _mm256_permute4x64_epi64(packed, 0x08);
        _mm_storeu_si128(target, _mm256_castsi256_si128(packed));
        return (floats)wide;
    }
    _mm_storeu_si128(target, narrow);
    return (floats)_mm256_cvtph_ps(narrow);
#endif
}

/* ---- sums of products in float64 ------------------------------------------------------------------------------ */

typedef struct {
    doubles low, high;
} partial_sums;

INLINE partial_sums both_halves(floats values) {
#if LANES == 16
    __m512 all = (__m512)values;
    partial_sums wide = {(doubles)_mm512_cvtps_pd(_mm512_castps512_ps256(all)),
                         (doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps(all, 1))};
#else
    __m256 all = (__m256)values;
    partial_sums wide = {(doubles)_mm256_cvtps_pd(_mm256_castps256_ps128(all)),
                         (doubles)_mm256_cvtps_pd(_mm256_extractf128_ps(all, 1))};
#endif
    return wide;
}

/* Products of two float32 are exact in float64, so a fused operation gives what two would. */
INLINE doubles plus_product(doubles sum, doubles one, doubles other) {
#if LANES == 16
    return (doubles)_mm512_fmadd_pd((__m512d)one, (__m512d)other, (__m512d)sum);
#else
    return (doubles)_mm256_fmadd_pd((__m256d)one, (__m256d)other, (__m256d)sum);
#endif
}

INLINE void add_products(partial_sums *sums, partial_sums one, partial_sums other) {
    sums->low = plus_product(sums->low, one.low, other.low);
    sums->high = plus_product(sums->high, one.high, other.high);
}

INLINE double total(const partial_sums *sums) {
    double sum = 0;
    for (int i = 0; i < WIDE / 2; i++) sum += sums->low[i] + sums->high[i];
    return sum;
}

#endif
