/* SSE2: every x86-64 has it. Also the choice where pext is microcoded (AMD before Zen 3): it needs none. */
#include "delta_form.h"

#include <emmintrin.h>

#define FTVM_DELTA_VARIANT ftvm_delta_sse2
#define FTVM_DELTA_VARIANT_NAME "sse2"

static inline __m128i quarter_load(const uint8_t *from)
{
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

static inline uint64_t quarter_equal(const uint8_t *a, const uint8_t *b)
{
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(quarter_load(a), quarter_load(b)));
}

static inline int group_differs(const uint8_t *a, const uint8_t *b)
{
    __m128i any = _mm_setzero_si128();
    for (size_t at = 0; at < 256; at += 16)
        any = _mm_or_si128(any, _mm_xor_si128(quarter_load(a + at), quarter_load(b + at)));
    return _mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xFFFF;
}

static inline uint64_t line_difference(const uint8_t *a, const uint8_t *b)
{
    uint64_t low = quarter_equal(a, b) | quarter_equal(a + 16, b + 16) << 16;
    uint64_t high = quarter_equal(a + 32, b + 32) | quarter_equal(a + 48, b + 48) << 16;
    return ~(low | high << 32);
}

static inline void line_copy(uint8_t *to, const uint8_t *from)
{
    for (size_t at = 0; at < FTVM_LINE_BYTES; at += 16)
        _mm_storeu_si128((__m128i *)(void *)(to + at), quarter_load(from + at));
}

static inline uint8_t *line_put_parts(uint8_t *out, const uint8_t *line, uint64_t difference)
{
    return ftvm_parts_put(out, line, difference);
}

static inline const uint8_t *line_take_parts(const uint8_t *in, const uint8_t *end, const uint8_t *readable,
                                             uint8_t *line)
{
    (void)readable;
    return ftvm_parts_take(in, end, line);
}

#include "delta_body.h"
