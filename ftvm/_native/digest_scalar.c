/* The reference: plain C, two lanes at a time because neighbours are swapped. */
#include "digest_form.h"

#define FTVM_DIGEST_VARIANT ftvm_digest_accumulate_scalar
#define VECTOR_LANES 2

typedef struct {
    uint64_t lane[2];
} lanes_part;

static inline lanes_part part_load(const void *from)
{
    lanes_part part;
    memcpy(&part, from, sizeof part);
    return part;
}

static inline void part_store(void *to, lanes_part part)
{
    memcpy(to, &part, sizeof part);
}

static inline lanes_part part_add(lanes_part a, lanes_part b)
{
    return (lanes_part){{a.lane[0] + b.lane[0], a.lane[1] + b.lane[1]}};
}

static inline lanes_part part_xor(lanes_part a, lanes_part b)
{
    return (lanes_part){{a.lane[0] ^ b.lane[0], a.lane[1] ^ b.lane[1]}};
}

static inline lanes_part part_halves(lanes_part a)
{
    return (lanes_part){{(a.lane[0] & 0xFFFFFFFFU) * (a.lane[0] >> 32), (a.lane[1] & 0xFFFFFFFFU) * (a.lane[1] >> 32)}};
}

static inline lanes_part part_swap(lanes_part a)
{
    return (lanes_part){{a.lane[1], a.lane[0]}};
}

static inline uint64_t lane_scramble(uint64_t lane, uint64_t key)
{
    return (lane ^ lane >> 47 ^ key) * FTVM_PRIME32_1;
}

static inline lanes_part part_scramble(lanes_part a, lanes_part key)
{
    return (lanes_part){{lane_scramble(a.lane[0], key.lane[0]), lane_scramble(a.lane[1], key.lane[1])}};
}

#include "digest_body.h"
