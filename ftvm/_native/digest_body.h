/* digest_body: the loop of XXH3 over one page, written once, over a vector of lanes that a CPU may have wider ones for.
 *
 * Internal. A digest_<variant>.c defines the type `lanes_part` (VECTOR_LANES lanes of 64 bits each), the primitives
 *
 *   lanes_part part_load(const void *from)      void part_store(void *to, lanes_part part)
 *   lanes_part part_add(a, b)                   lanes_part part_xor(a, b)
 *   lanes_part part_halves(a)                   each lane: its low 32 bits times its high 32 bits
 *   lanes_part part_swap(a)                     lanes 0 and 1 swapped, 2 and 3, ...
 *   lanes_part part_scramble(lane, key)         each lane: (lane ^ lane >> 47 ^ key) * PRIME32_1
 *
 * and FTVM_DIGEST_VARIANT, then includes this file.
 */
#include "digest_form.h"

#define PARTS (FTVM_LANES / VECTOR_LANES)
#define PART_BYTES (8 * VECTOR_LANES)

static inline void stripe_accumulate(lanes_part lanes[PARTS], const uint8_t *stripe, const uint8_t *secret)
{
    for (size_t i = 0; i < PARTS; i++) {
        lanes_part data = part_load(stripe + i * PART_BYTES);
        lanes_part keyed = part_xor(data, part_load(secret + i * PART_BYTES));
        lanes[i] = part_add(lanes[i], part_add(part_halves(keyed), part_swap(data)));
    }
}

static inline void stripes_accumulate(lanes_part lanes[PARTS], const uint8_t *stripes, const uint8_t *secret,
                                      size_t count)
{
    for (size_t i = 0; i < count; i++)
        stripe_accumulate(lanes, stripes + i * FTVM_STRIPE_BYTES, secret + i * 8);
}

/* 4096 bytes are three whole blocks, then 15 stripes, then the last stripe, which the specification treats apart. */
void FTVM_DIGEST_VARIANT(uint64_t *restrict lanes, const uint8_t *restrict page, const uint8_t *restrict secret)
{
    const size_t block_stripes = FTVM_BLOCK_BYTES / FTVM_STRIPE_BYTES;
    const size_t last_block = FTVM_PAGE_BYTES - FTVM_BLOCK_BYTES;
    const size_t last_stripe = FTVM_PAGE_BYTES - FTVM_STRIPE_BYTES;
    const uint8_t *last_secret = secret + FTVM_SECRET_BYTES - FTVM_STRIPE_BYTES;
    lanes_part parts[PARTS];
    for (size_t i = 0; i < PARTS; i++)
        parts[i] = part_load(lanes + i * VECTOR_LANES);
    for (size_t block = 0; block < last_block; block += FTVM_BLOCK_BYTES) {
        stripes_accumulate(parts, page + block, secret, block_stripes);
        for (size_t i = 0; i < PARTS; i++)
            parts[i] = part_scramble(parts[i], part_load(last_secret + i * PART_BYTES));
    }
    stripes_accumulate(parts, page + last_block, secret, block_stripes - 1);
    stripe_accumulate(parts, page + last_stripe, last_secret - FTVM_LAST_STRIPE_OFFSET);
    for (size_t i = 0; i < PARTS; i++)
        part_store(lanes + i * VECTOR_LANES, parts[i]);
}
