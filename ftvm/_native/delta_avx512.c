/* AVX-512 with VBMI2: a line is one register; its changed bytes are compressed and expanded by one instruction. */
#include "delta_form.h"

#include <immintrin.h>

#define FTVM_DELTA_VARIANT ftvm_delta_avx512
#define FTVM_DELTA_VARIANT_NAME "avx512"

static inline int group_differs(const uint8_t *a, const uint8_t *b)
{
    __m512i any = _mm512_setzero_si512();
    for (size_t at = 0; at < 256; at += 64)
        any = _mm512_or_si512(any, _mm512_xor_si512(_mm512_loadu_si512(a + at), _mm512_loadu_si512(b + at)));
    return _mm512_test_epi64_mask(any, any) != 0;
}

static inline uint64_t line_difference(const uint8_t *a, const uint8_t *b)
{
    return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}

static inline void line_copy(uint8_t *to, const uint8_t *from)
{
    _mm512_storeu_si512(to, _mm512_loadu_si512(from));
}

#include "delta_bmi2.h"

/* Compressed to a register, then stored plainly: compressing to memory is microcoded on some CPUs. */
static inline uint8_t *line_put_parts(uint8_t *out, const uint8_t *line, uint64_t difference)
{
    uint64_t words = ftvm_words_of(difference);
    unsigned mask = (unsigned)_pext_u64(words, FTVM_LOW_BITS);
    *out = (uint8_t)mask;
    ftvm_store64(out + 1, _pext_u64(difference, words * 0xFF));
    out += 1 + __builtin_popcount(mask);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(difference, _mm512_loadu_si512(line)));
    return out + __builtin_popcountll(difference);
}

/* A masked store of the expanded bytes: loading the line, expanding into it and storing it whole is slower. */
static inline const uint8_t *line_take_parts(const uint8_t *in, const uint8_t *end, const uint8_t *readable,
                                             uint8_t *line)
{
    if (readable - in < PARTS_BYTES_MAX + FTVM_LINE_BYTES)
        return ftvm_parts_take(in, end, line);
    uint64_t difference;
    in = parts_header_take(in, end, &difference);
    if (in == NULL)
        return NULL;
    _mm512_mask_storeu_epi8(line, difference, _mm512_maskz_expand_epi8(difference, _mm512_loadu_si512(in)));
    return in + __builtin_popcountll(difference);
}

#include "delta_body.h"
