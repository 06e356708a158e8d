/* bytes: a run of bytes with its length, and numbers in network order (most significant byte first).
 *
 * Nothing here checks a bound: who reads at an offset has compared it with `bytes` before.
 */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that somebody else owns, to be read. */
struct span {
    const uint8_t *at;
    size_t bytes;
};

/* What is left of `span` after its first `offset` bytes; offset <= span.bytes. */
static inline struct span span_after(struct span span, size_t offset)
{
    return (struct span){.at = span.at + offset, .bytes = span.bytes - offset};
}

static inline uint16_t be16_get(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static inline uint32_t be32_get(const uint8_t *at) { return (uint32_t)be16_get(at) << 16 | be16_get(at + 2); }

static inline uint64_t be64_get(const uint8_t *at) { return (uint64_t)be32_get(at) << 32 | be32_get(at + 4); }

static inline void be16_put(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void be32_put(uint8_t *at, uint32_t value)
{
    be16_put(at, (uint16_t)(value >> 16));
    be16_put(at + 2, (uint16_t)value);
}

static inline void be64_put(uint8_t *at, uint64_t value)
{
    be32_put(at, (uint32_t)(value >> 32));
    be32_put(at + 4, (uint32_t)value);
}

#endif
