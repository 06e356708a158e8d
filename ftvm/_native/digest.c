#include "digest.h"

#include "cpu.h"
#include "digest_form.h"
#include "digest_zeros.h"

#define MERGE_OFFSET 11

static const uint64_t PRIME32_2 = 0x85EBCA77U;
static const uint64_t PRIME32_3 = 0xC2B2AE3DU;
static const uint64_t PRIME64_1 = UINT64_C(0x9E3779B185EBCA87);
static const uint64_t PRIME64_2 = UINT64_C(0xC2B2AE3D27D4EB4F);
static const uint64_t PRIME64_3 = UINT64_C(0x165667B19E3779F9);
static const uint64_t PRIME64_4 = UINT64_C(0x85EBCA77C2B2AE63);
static const uint64_t PRIME64_5 = UINT64_C(0x27D4EB2F165667C5);
static const uint64_t AVALANCHE_PRIME = UINT64_C(0x165667919E3779F9);

/* The default secret of the specification. */
static const uint8_t DEFAULT_SECRET[FTVM_SECRET_BYTES] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static void secret_derive(uint8_t secret[FTVM_SECRET_BYTES], uint64_t seed)
{
    for (size_t i = 0; i < FTVM_SECRET_BYTES; i += 16) {
        ftvm_store64(secret + i, ftvm_load64(DEFAULT_SECRET + i) + seed);
        ftvm_store64(secret + i + 8, ftvm_load64(DEFAULT_SECRET + i + 8) - seed);
    }
}

extern ftvm_digest_accumulate ftvm_digest_accumulate_scalar;
#if defined(__x86_64__)
extern ftvm_digest_accumulate ftvm_digest_accumulate_sse2;
extern ftvm_digest_accumulate ftvm_digest_accumulate_avx2;
extern ftvm_digest_accumulate ftvm_digest_accumulate_avx512;
#endif

/* By the CPU level that each needs, which rises. */
static ftvm_digest_accumulate *const VARIANTS[] = {
    ftvm_digest_accumulate_scalar,
#if defined(__x86_64__)
    ftvm_digest_accumulate_sse2,
    ftvm_digest_accumulate_avx2,
    ftvm_digest_accumulate_avx512,
#endif
};

static uint64_t multiply_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t lanes_merge(const uint64_t lanes[FTVM_LANES], const uint8_t *secret, uint64_t start)
{
    uint64_t hash = start;
    for (size_t i = 0; i < FTVM_LANES; i += 2)
        hash += multiply_fold(lanes[i] ^ ftvm_load64(secret + 8 * i), lanes[i + 1] ^ ftvm_load64(secret + 8 * i + 8));
    hash ^= hash >> 37;
    hash *= AVALANCHE_PRIME;
    return hash ^ hash >> 32;
}

static void page_lanes(size_t level, uint64_t lanes[FTVM_LANES], uint8_t secret[FTVM_SECRET_BYTES], const uint8_t *page,
                       uint64_t seed)
{
    const uint64_t start[FTVM_LANES] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3,
                                        PRIME64_4, PRIME32_2, PRIME64_5, FTVM_PRIME32_1};
    memcpy(lanes, start, sizeof start);
    secret_derive(secret, seed);
    VARIANTS[level](lanes, page, secret);
}

uint64_t ftvm_digest_page64(const uint8_t *page, uint64_t seed)
{
    uint64_t lanes[FTVM_LANES];
    uint8_t secret[FTVM_SECRET_BYTES];
    page_lanes(ftvm_cpu_level(), lanes, secret, page, seed);
    return lanes_merge(lanes, secret + MERGE_OFFSET, FTVM_PAGE_BYTES * PRIME64_1);
}

static struct ftvm_digest page_digest(size_t level, const uint8_t *page, uint64_t seed)
{
    uint64_t lanes[FTVM_LANES];
    uint8_t secret[FTVM_SECRET_BYTES];
    page_lanes(level, lanes, secret, page, seed);
    const uint8_t *high_secret = secret + FTVM_SECRET_BYTES - FTVM_STRIPE_BYTES - MERGE_OFFSET;
    return (struct ftvm_digest){
        .low = lanes_merge(lanes, secret + MERGE_OFFSET, FTVM_PAGE_BYTES * PRIME64_1),
        .high = lanes_merge(lanes, high_secret, ~(FTVM_PAGE_BYTES * PRIME64_2)),
    };
}

struct ftvm_digest ftvm_digest_page(const uint8_t *page, uint64_t seed)
{
    return page_digest(ftvm_cpu_level(), page, seed);
}

int ftvm_digest_page_by(size_t variant, const uint8_t *page, uint64_t seed, struct ftvm_digest *digest)
{
    if (variant > (size_t)ftvm_cpu_level())
        return -1;
    *digest = page_digest(variant, page, seed);
    return 0;
}

struct ftvm_digest ftvm_digest_zero_page(uint32_t index)
{
    static const uint8_t zero_page[FTVM_PAGE_BYTES];
    return ftvm_digest_page(zero_page, index);
}

void ftvm_digest_memory(const struct ftvm_memory *memory, struct ftvm_digest_table *table, struct ftvm_digest *sum)
{
    *sum = (struct ftvm_digest){0, 0};
    uint32_t cursor = 0;
    for (uint32_t index = 0; index < memory->page_count; index++) {
        struct ftvm_digest fresh = ftvm_digest_page(ftvm_memory_page(memory, index, &cursor), index);
        *sum = ftvm_digest_add(*sum, fresh);
        ftvm_digest_put(table, index, fresh);
    }
}

void ftvm_digest_refresh(const struct ftvm_memory *memory, const uint32_t *indices, size_t count,
                         struct ftvm_digest_table *table, struct ftvm_digest *sum)
{
    uint32_t cursor = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t index = indices[i];
        struct ftvm_digest fresh = ftvm_digest_page(ftvm_memory_page(memory, index, &cursor), index);
        *sum = ftvm_digest_add(ftvm_digest_subtract(*sum, ftvm_digest_get(table, index)), fresh);
        ftvm_digest_put(table, index, fresh);
    }
}

void ftvm_digest_forget(const uint32_t *indices, size_t count, struct ftvm_digest_table *table, struct ftvm_digest *sum)
{
    const struct ftvm_digest unknown = {UINT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < count; i++) {
        *sum = ftvm_digest_add(ftvm_digest_subtract(*sum, ftvm_digest_get(table, indices[i])), unknown);
        ftvm_digest_put(table, indices[i], unknown);
    }
}

void ftvm_digest_take(uint32_t first, uint32_t count, const uint8_t *hashes, struct ftvm_digest_table *table,
                      struct ftvm_digest *sum)
{
    for (uint32_t i = 0; i < count; i++) {
        struct ftvm_digest hash;
        memcpy(&hash, hashes + (size_t)i * sizeof hash, sizeof hash);
        if ((hash.low & hash.high) == UINT64_MAX)
            continue;
        *sum = ftvm_digest_add(ftvm_digest_subtract(*sum, ftvm_digest_get(table, first + i)), hash);
        ftvm_digest_put(table, first + i, hash);
    }
}

void ftvm_digest_zero_pages(uint32_t first, uint32_t count, struct ftvm_digest_table *table, struct ftvm_digest *sum)
{
    for (uint32_t index = first; index - first < count; index++) {
        if (!table->parts[index / FTVM_DIGEST_PART_PAGES]) { /* zeros already */
            index |= FTVM_DIGEST_PART_PAGES - 1;
            continue;
        }
        struct ftvm_digest known = ftvm_digest_get(table, index);
        *sum = ftvm_digest_add(ftvm_digest_subtract(*sum, known), ftvm_digest_zero_page(index));
        table->cells[index] = (struct ftvm_digest){0, 0};
    }
}

struct ftvm_digest ftvm_digest_zeros(uint32_t page_count)
{
    uint32_t known = page_count >> FTVM_DIGEST_ZEROS_SHIFT;
    known = known < FTVM_DIGEST_ZEROS_KNOWN ? known : FTVM_DIGEST_ZEROS_KNOWN - 1;
    struct ftvm_digest sum = ftvm_digest_zeros_known[known];
    for (uint32_t index = known << FTVM_DIGEST_ZEROS_SHIFT; index < page_count; index++)
        sum = ftvm_digest_add(sum, ftvm_digest_zero_page(index));
    return sum;
}
