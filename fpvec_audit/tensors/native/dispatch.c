/* Which of the compiled kernels this processor can run. Nothing here needs more than the baseline instruction set. */
#include <cpuid.h>

#include "kernels.h"

/* 0: none, 2: AVX2 with half-precision conversion, 3: AVX-512. */
int fpvec_level(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
        return 3;
    unsigned a, b, c, d;
    if (__builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29))) return 2;
    return 0;
}

/* The same for carriers. 0: none, 2: AES and AVX2, 3: both in registers of 512 bits, with their population count. */
int fpvec_carrier_level(void) {
    __builtin_cpu_init();
    unsigned a, b, c, d;
    if (fpvec_level() == 3 && __builtin_cpu_supports("avx512vpopcntdq") && __get_cpuid_count(7, 0, &a, &b, &c, &d)
        && (c & (1u << 9)))
        return 3;
    if (fpvec_level() && __builtin_cpu_supports("popcnt") && __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 25))) return 2;
    return 0;
}

/* Whether the processor has instructions for SHA-256, which OpenSSL uses. */
int fpvec_has_sha(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29)) ? 1 : 0;
}

void fpvec_add(const void *target, int target_format, void *out, size_t count, const fpvec_part *parts,
               size_t part_count, double *sums) {
    (fpvec_level() == 3 ? fpvec_add_avx512 : fpvec_add_avx2)(target, target_format, out, count, parts, part_count, sums);
}

void fpvec_subtract(const void *base, int base_format, const void *other, int other_format, void *tau, int tau_format,
                    size_t count, fpvec_difference *result) {
    (fpvec_level() == 3 ? fpvec_subtract_avx512 : fpvec_subtract_avx2)(base, base_format, other, other_format, tau,
                                                                       tau_format, count, result);
}

void fpvec_sha256(fpvec_message *messages, size_t count) {
    (fpvec_level() == 3 ? fpvec_sha256_avx512 : fpvec_sha256_avx2)(messages, count);
}

void fpvec_carry(const fpvec_part *parts, size_t part_count, void *values, int format, uint64_t start, size_t count,
                 const fpvec_carrier *carriers, size_t carrier_count, const uint8_t *nonce, const uint32_t *rounding,
                 double *square) {
    (fpvec_carrier_level() == 3 ? fpvec_carry_vaes : fpvec_carry_aes)(parts, part_count, values, format, start, count,
                                                                      carriers, carrier_count, nonce, rounding, square);
}

uint64_t fpvec_levels(const void *before, int before_format, const void *after, int after_format, size_t count,
                      double step, uint8_t *signs, uint8_t *ones, uint8_t *twos, uint64_t *squares) {
    return (fpvec_carrier_level() == 3 ? fpvec_levels_vaes : fpvec_levels_aes)(before, before_format, after, after_format,
                                                                              count, step, signs, ones, twos, squares);
}

void fpvec_read_carriers(const uint8_t *keys, size_t carriers, const uint8_t *nonce, uint64_t start, size_t chunks,
                         const uint8_t *signs, const uint8_t *ones, const uint8_t *twos, int64_t *products) {
    (fpvec_carrier_level() == 3 ? fpvec_read_carriers_vaes : fpvec_read_carriers_aes)(keys, carriers, nonce, start, chunks,
                                                                                     signs, ones, twos, products);
}
