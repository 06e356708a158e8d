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

#define FTVM_DIGEST_PART_PAGES 4096

/* A hash for each page of a memory, of which most may be zero, as a large disk's are. A page that was never anything but
 * zero needs no cell: one that is all zeros stands for the hash of a page of zeros. So a table that was just cleared is
 * that of a memory of zero pages, and takes memory only for what was written. */
struct ftvm_digest_table {
    struct ftvm_digest *cells; /* page_count of them; read and written by the functions below alone */
    uint8_t *parts;            /* one byte for each FTVM_DIGEST_PART_PAGES pages, rounded up: 1 once a cell of them is set */
    uint32_t page_count;
};

/* Returns the hash of a page of zeros. */
struct ftvm_digest ftvm_digest_zero_page(uint32_t index);

static inline struct ftvm_digest ftvm_digest_get(const struct ftvm_digest_table *table, uint32_t index)
{
    struct ftvm_digest cell = table->cells[index];
    return (cell.low | cell.high) != 0 ? cell : ftvm_digest_zero_page(index);
}

static inline void ftvm_digest_put(struct ftvm_digest_table *table, uint32_t index, struct ftvm_digest digest)
{
    table->cells[index] = digest;
    table->parts[index / FTVM_DIGEST_PART_PAGES] = 1;
}

/* Forgets the hashes of `count` pages, which lie in the table: until one is set again, only ftvm_digest_is_known may be
 * asked about it. Brings the sum up to date, so that the table may be refreshed later. */
void ftvm_digest_forget(const uint32_t *indices, size_t count, struct ftvm_digest_table *table, struct ftvm_digest *sum);

/* Takes hashes for those of `count` pages from `first` on, which lie in the table, and brings table and sum up to date; the
 * hash that is never known is left out. */
void ftvm_digest_take(uint32_t first, uint32_t count, const uint8_t *hashes, struct ftvm_digest_table *table,
                      struct ftvm_digest *sum);

/* Returns whether the hash of a page was not forgotten. Of 2^128 hashes one is never known. */
static inline int ftvm_digest_is_known(const struct ftvm_digest_table *table, uint32_t index)
{
    return (table->cells[index].low & table->cells[index].high) != UINT64_MAX;
}

/* Fills `table` with the hash of each page of `memory`, which has as many, and returns their sum in `sum`. */
void ftvm_digest_memory(const struct ftvm_memory *memory, struct ftvm_digest_table *table, struct ftvm_digest *sum);

/* Hashes the pages of `indices` again, and brings table and sum up to date with them.
 *
 * indices  `count` page indices of `memory`, each at most once; which they are is the caller's to check
 * table    as it was before those pages were written */
void ftvm_digest_refresh(const struct ftvm_memory *memory, const uint32_t *indices, size_t count,
                         struct ftvm_digest_table *table, struct ftvm_digest *sum);

/* Returns the sum of the hashes of `page_count` zero pages, at most FTVM_DIGEST_ZEROS_MAX; of any number in the time for
 * a million pages at most: the rest is known (digest_zeros.h). */
#define FTVM_DIGEST_ZEROS_MAX (UINT32_C(1) << 29)
struct ftvm_digest ftvm_digest_zeros(uint32_t page_count);

/* Notes that `count` pages from `first` on are zero, without looking at them: brings table and sum up to date. */
void ftvm_digest_zero_pages(uint32_t first, uint32_t count, struct ftvm_digest_table *table, struct ftvm_digest *sum);

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
