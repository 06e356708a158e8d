/* AVX-512: all eight lanes in one register. */
#include "digest_form.h"

#include <immintrin.h>

#define FTVM_DIGEST_VARIANT ftvm_digest_accumulate_avx512
#define VECTOR_LANES 8

typedef __m512i lanes_part;

static inline lanes_part part_load(const void *from)
{
    return _mm512_loadu_si512((const __m512i *)from);
}

static inline void part_store(void *to, lanes_part part)
{
    _mm512_storeu_si512((__m512i *)to, part);
}

static inline lanes_part part_add(lanes_part a, lanes_part b)
{
    return _mm512_add_epi64(a, b);
}

static inline lanes_part part_xor(lanes_part a, lanes_part b)
{
    return _mm512_xor_si512(a, b);
}

static inline lanes_part part_halves(lanes_part a)
{
    return _mm512_mul_epu32(a, _mm512_srli_epi64(a, 32));
}

static inline lanes_part part_swap(lanes_part a)
{
    return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM)_MM_SHUFFLE(1, 0, 3, 2));
}

/* There is no 64-bit multiply: the prime has 32 bits, so two 32-bit products and a shift are the whole of it. */
static inline lanes_part part_scramble(lanes_part a, lanes_part key)
{
    const lanes_part prime = _mm512_set1_epi32((int)FTVM_PRIME32_1);
    lanes_part mixed = part_xor(part_xor(a, _mm512_srli_epi64(a, 47)), key);
    lanes_part low = _mm512_mul_epu32(mixed, prime);
    lanes_part high = _mm512_mul_epu32(_mm512_srli_epi64(mixed, 32), prime);
    return part_add(low, _mm512_slli_epi64(high, 32));
}

#include "digest_body.h"
