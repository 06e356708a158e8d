/* AVX2 and BMI2: compares 32 bytes at once, and moves the changed bytes of a word with pext and pdep. */
#include "delta_form.h"

#include <immintrin.h>

#define FTVM_DELTA_VARIANT ftvm_delta_avx2
#define FTVM_DELTA_VARIANT_NAME "avx2"

static inline __m256i half_load(const uint8_t *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

static inline uint64_t half_equal(const uint8_t *a, const uint8_t *b)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(half_load(a), half_load(b)));
}

static inline int group_differs(const uint8_t *a, const uint8_t *b)
{
    __m256i any = _mm256_setzero_si256();
    for (size_t at = 0; at < 256; at += 32)
        any = _mm256_or_si256(any, _mm256_xor_si256(half_load(a + at), half_load(b + at)));
    return !_mm256_testz_si256(any, any);
}

static inline uint64_t line_difference(const uint8_t *a, const uint8_t *b)
{
    return ~(half_equal(a, b) | half_equal(a + 32, b + 32) << 32);
}

static inline void line_copy(uint8_t *to, const uint8_t *from)
{
    _mm256_storeu_si256((__m256i *)(void *)to, half_load(from));
    _mm256_storeu_si256((__m256i *)(void *)(to + 32), half_load(from + 32));
}

#include "delta_bmi2.h"

/* Below this many words, a loop over them is faster than doing all eight. */
#define FEW_WORDS 3

static inline uint8_t *word_put(uint8_t *out, const uint8_t *word, uint64_t bytes)
{
    ftvm_store64(out, _pext_u64(ftvm_load64(word), byte_mask_expand(bytes)));
    return out + __builtin_popcountll(bytes);
}

static inline uint8_t *line_put_parts(uint8_t *out, const uint8_t *line, uint64_t difference)
{
    uint64_t words = ftvm_words_of(difference);
    unsigned mask = (unsigned)_pext_u64(words, FTVM_LOW_BITS);
    int word_count = __builtin_popcount(mask);
    *out = (uint8_t)mask;
    ftvm_store64(out + 1, _pext_u64(difference, words * 0xFF));
    out += 1 + word_count;
    if (word_count < FEW_WORDS) {
        for (; mask != 0; mask &= mask - 1) {
            unsigned word = (unsigned)__builtin_ctz(mask) * 8;
            out = word_put(out, line + word, difference >> word & 0xFF);
        }
        return out;
    }
    for (unsigned word = 0; word < FTVM_LINE_BYTES; word += 8)
        out = word_put(out, line + word, difference >> word & 0xFF);
    return out;
}

static inline const uint8_t *word_take(const uint8_t *in, uint8_t *word, uint64_t bytes)
{
    uint64_t fresh = byte_mask_expand(bytes);
    ftvm_store64(word, (ftvm_load64(word) & ~fresh) | _pdep_u64(ftvm_load64(in), fresh));
    return in + __builtin_popcountll(bytes);
}

static inline const uint8_t *line_take_parts(const uint8_t *in, const uint8_t *end, const uint8_t *readable,
                                             uint8_t *line)
{
    if (readable - in < PARTS_BYTES_MAX + 8)
        return ftvm_parts_take(in, end, line);
    unsigned mask = *in;
    uint64_t difference;
    in = parts_header_take(in, end, &difference);
    if (in == NULL)
        return NULL;
    if (__builtin_popcount(mask) < FEW_WORDS) {
        for (; mask != 0; mask &= mask - 1) {
            unsigned word = (unsigned)__builtin_ctz(mask) * 8;
            in = word_take(in, line + word, difference >> word & 0xFF);
        }
        return in;
    }
    for (unsigned word = 0; word < FTVM_LINE_BYTES; word += 8)
        in = word_take(in, line + word, difference >> word & 0xFF);
    return in;
}

#include "delta_body.h"
