/* What tensors/kernels.py calls. Formats, structures and functions are mirrored there with ctypes. */
#ifndef FPVEC_KERNELS_H
#define FPVEC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { FPVEC_F32 = 0, FPVEC_BF16 = 1, FPVEC_F16 = 2 };

typedef struct {
    const void *data; /* block of a vector's tensor */
    uint64_t count;   /* its elements; it has no say in the rest of the target's block */
    int32_t format;
    float scale;
} fpvec_part;

typedef struct {
    uint64_t base_nonfinite, other_nonfinite, tau_nonfinite; /* NaN or Inf */
    uint64_t inexact;                                        /* elements that base + tau does not give back */
    double square;                                           /* sum of squares of tau */
} fpvec_difference;

typedef struct {
    uint32_t state[8];
    const uint8_t *data;
    uint64_t blocks; /* of 64 bytes */
} fpvec_message;

#define FPVEC_JOIN2(name, suffix) name##_##suffix
#define FPVEC_JOIN(name, suffix) FPVEC_JOIN2(name, suffix)
#define KERNEL(name) FPVEC_JOIN(name, SUFFIX)

#define FPVEC_DECLARE(suffix)                                                                                          \
    void fpvec_add_##suffix(const void *, int, void *, size_t, const fpvec_part *, size_t, double *);                  \
    void fpvec_subtract_##suffix(const void *, int, const void *, int, void *, int, size_t, fpvec_difference *);       \
    void fpvec_sha256_##suffix(fpvec_message *, size_t);

FPVEC_DECLARE(avx2)
FPVEC_DECLARE(avx512)

#endif
