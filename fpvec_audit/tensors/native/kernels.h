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

enum {
    FPVEC_CHUNK = 4096, /* elements that share one spread; a multiple of 128 times eight registers of blocks */
    FPVEC_MOST_CARRIERS = 8
};

typedef struct {
    uint8_t key[16];
    double strength; /* share of the vectors' spread */
} fpvec_carrier;

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

#define FPVEC_DECLARE_CARRIERS(suffix)                                                                                 \
    void fpvec_carry_##suffix(const fpvec_part *, size_t, void *, int, uint64_t, size_t, const fpvec_carrier *, size_t, \
                              const uint8_t *, const uint32_t *, double *);                                            \
    uint64_t fpvec_levels_##suffix(const void *, int, const void *, int, size_t, double, uint8_t *, uint8_t *,         \
                                   uint8_t *, uint64_t *);                                                             \
    void fpvec_read_carriers_##suffix(const uint8_t *, size_t, const uint8_t *, uint64_t, size_t, const uint8_t *,     \
                                      const uint8_t *, const uint8_t *, int64_t *);

FPVEC_DECLARE_CARRIERS(aes)
FPVEC_DECLARE_CARRIERS(vaes)

#endif
