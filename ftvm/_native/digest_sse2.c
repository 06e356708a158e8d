/* SSE2: two lanes a register. */
#include "digest_form.h"

#include <emmintrin.h>

#define FTVM_DIGEST_VARIANT ftvm_digest_accumulate_sse2
#define VECTOR_LANES 2

typedef __m128i lanes_part;

static inline lanes_part part_load(const void *from)
{
    return _mm_loadu_si128((const __m128i *)from);
}

static inline void part_store(void *to, lanes_part part)
{
    _mm_storeu_si128((__m128i *)to, part);
}

static inline lanes_part part_add(lanes_part a, lanes_part b)
{
    return _mm_add_epi64(a, b);
}

static inline lanes_part part_xor(lanes_part a, lanes_part b)
{
    return _mm_xor_si128(a, b);
}

static inline lanes_part part_halves(lanes_part a)
{
    return _mm_mul_epu32(a, _mm_srli_epi64(a, 32));
}

static inline lanes_part part_swap(lanes_part a)
{
    return _mm_shuffle_epi32(a, _MM_SHUFFLE(1, 0, 3, 2));
}

/* There is no 64-bit multiply: the prime has 32 bits, so two 32-bit products and a shift are the whole of it. */
static inline lanes_part part_scramble(lanes_part a, lanes_part key)
{
    const lanes_part prime = _mm_set1_epi32((int)FTVM_PRIME32_1);
    lanes_part mixed = part_xor(part_xor(a, _mm_srli_epi64(a, 47)), key);
    lanes_part low = _mm_mul_epu32(mixed, prime);
    lanes_part high = _mm_mul_epu32(_mm_srli_epi64(mixed, 32), prime);
    return part_add(low, _mm_slli_epi64(high, 32));
}

#include "digest_body.h"
