/* AVX2: four lanes a register. */
#include "digest_form.h"

#include <immintrin.h>

#define FTVM_DIGEST_VARIANT ftvm_digest_accumulate_avx2
#define VECTOR_LANES 4

typedef __m256i lanes_part;

static inline lanes_part part_load(const void *from)
{
    return _mm256_loadu_si256((const __m256i *)from);
}

static inline void part_store(void *to, lanes_part part)
{
    _mm256_storeu_si256((__m256i *)to, part);
}

static inline lanes_part part_add(lanes_part a, lanes_part b)
{
    return _mm256_add_epi64(a, b);
}

static inline lanes_part part_xor(lanes_part a, lanes_part b)
{
    return _mm256_xor_si256(a, b);
}

static inline lanes_part part_halves(lanes_part a)
{
    return _mm256_mul_epu32(a, _mm256_srli_epi64(a, 32));
}

static inline lanes_part part_swap(lanes_part a)
{
    return _mm256_shuffle_epi32(a, _MM_SHUFFLE(1, 0, 3, 2));
}

/* There is no 64-bit multiply: the prime has 32 bits, so two 32-bit products and a shift are the whole of it. */
static inline lanes_part part_scramble(lanes_part a, lanes_part key)
{
    const lanes_part prime = _mm256_set1_epi32((int)FTVM_PRIME32_1);
    lanes_part mixed = part_xor(part_xor(a, _mm256_srli_epi64(a, 47)), key);
    lanes_part low = _mm256_mul_epu32(mixed, prime);
    lanes_part high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);
    return part_add(low, _mm256_slli_epi64(high, 32));
}

#include "digest_body.h"
