/* memory: a guest's memory as C sees it: regions of whole pages under one numbering.
 *
 * Page index i counts over all regions in their order: region r holds the indices first_page .. first_page +
 * page_count - 1. The caller owns the regions' buffers and the array that describes them; both outlive every call.
 * Nothing here allocates. Page indices given to these functions must be below `page_count` unless a function says that
 * it checks.
 */
#ifndef FTVM_MEMORY_H
#define FTVM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#define FTVM_PAGE_BYTES 4096

struct ftvm_region {
    uint8_t *base;       /* page_count * 4096 bytes; any alignment works, page alignment is fast */
    uint32_t first_page; /* sum of the page counts before it */
    uint32_t page_count; /* at least 1 */
};

struct ftvm_memory {
    const struct ftvm_region *regions;
    uint32_t region_count; /* at least 1 */
    uint32_t page_count;   /* of all regions together */
};

/* Returns the first byte of page `index`.
 *
 * cursor  where the search starts; holds 0 before the first call. Rising indices make the search free; any order is
 * right. */
static inline uint8_t *ftvm_memory_page(const struct ftvm_memory *memory, uint32_t index, uint32_t *cursor)
{
    uint32_t at = *cursor;
    if (index < memory->regions[at].first_page)
        at = 0;
    while (index - memory->regions[at].first_page >= memory->regions[at].page_count)
        at++;
    *cursor = at;
    return memory->regions[at].base + (size_t)(index - memory->regions[at].first_page) * FTVM_PAGE_BYTES;
}

/* Tells whether the indices rise strictly, the first from at least `least`, the last below `page_count`.
 *
 * indices  `count` entries, any values
 * Returns 1 if so (also for no entries), else 0. */
int ftvm_memory_indices_valid(const uint32_t *indices, size_t count, uint32_t least, uint32_t page_count);

/* Makes every page zero. Pages that are zero already are read, not written, so that memory which the kernel has not
 * backed yet stays unbacked. A region that is a mapping of a file (mapping.h) is neither read nor written: it shows zeros
 * from then on, and the file stays as it is. */
void ftvm_memory_clear(const struct ftvm_memory *memory);

/* The same for the pages of one region, by its place in the array of regions, which must be below region_count. */
void ftvm_memory_clear_region(const struct ftvm_memory *memory, uint32_t number);

/* Makes `count` pages zero. Pages that are zero already are read, not written. */
void ftvm_memory_clear_pages(const struct ftvm_memory *memory, const uint32_t *indices, size_t count);

#endif
