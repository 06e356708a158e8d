/* digest: XXH3 of one page, and the digest of a whole memory built from it.
 *
 * The page hashes are XXH3-64 and XXH3-128 of exactly 4096 bytes with a 64-bit seed, equal to every other
 * implementation of XXH3 (specification: "XXH3", doc/xxhash_spec.md of Cyan4973/xxHash).
 *
 * The digest of a memory is
 *
 *     sum over all page indices i of XXH3-128(page i, seed = i)   modulo 2^128
 *
 * A sum can be kept up to date: for each page that changes, subtract its old hash and add its new one. The seed binds
 * a page to its place, so that two pages that swap places change the sum. It finds mistakes, not attackers: XXH3 is no
 * cryptographic hash.
 *
 * Nothing here allocates; all functions are safe on different memory from several threads.
 */
#ifndef FTVM_DIGEST_H
#define FTVM_DIGEST_H

#include "memory.h"

/* A 128-bit number: high * 2^64 + low. */
struct ftvm_digest {
    uint64_t low;
    uint64_t high;
};

/* Returns XXH3-64 of the 4096 bytes at `page`. */
uint64_t ftvm_digest_page64(const uint8_t *page, uint64_t seed);

/* Returns XXH3-128 of the 4096 bytes at `page`. */
struct ftvm_digest ftvm_digest_page(const uint8_t *page, uint64_t seed);

/* The same by variant `variant`: 0 is the scalar reference, the last that this machine can run is the one in use.
 *
 * Returns 0, or -1 if this machine has no such variant; `digest` is untouched then. For tests and benchmarks. */
int ftvm_digest_page_by(size_t variant, const uint8_t *page, uint64_t seed, struct ftvm_digest *digest);

/* Fills `table` with the hash of each page of `memory` (page_count entries) and returns their sum in `sum`. */
void ftvm_digest_memory(const struct ftvm_memory *memory, struct ftvm_digest *table, struct ftvm_digest *sum);

/* Hashes the pages of `indices` again, and brings table and sum up to date with them.
 *
 * indices  `count` page indices of `memory`, each at most once; which they are is the caller's to check
 * table    one hash a page, as it was before those pages were written */
void ftvm_digest_refresh(const struct ftvm_memory *memory, const uint32_t *indices, size_t count,
                         struct ftvm_digest *table, struct ftvm_digest *sum);

/* The same for a memory of `page_count` zero pages, which need not exist. */
void ftvm_digest_zero_memory(uint32_t page_count, struct ftvm_digest *table, struct ftvm_digest *sum);

/* a + b and a - b modulo 2^128. */
static inline struct ftvm_digest ftvm_digest_add(struct ftvm_digest a, struct ftvm_digest b)
{
    struct ftvm_digest sum = {a.low + b.low, a.high + b.high};
    sum.high += sum.low < a.low;
    return sum;
}

static inline struct ftvm_digest ftvm_digest_subtract(struct ftvm_digest a, struct ftvm_digest b)
{
    struct ftvm_digest rest = {a.low - b.low, a.high - b.high};
    rest.high -= a.low < b.low;
    return rest;
}

static inline int ftvm_digest_equal(struct ftvm_digest a, struct ftvm_digest b)
{
    return a.low == b.low && a.high == b.high;
}

#endif
