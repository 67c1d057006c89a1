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
