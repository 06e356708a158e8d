#include "memory.h"

#include "mapping.h"
#include "page.h"

int ftvm_memory_indices_valid(const uint32_t *indices, size_t count, uint32_t least, uint32_t page_count)
{
    uint64_t next = least;
    for (size_t i = 0; i < count; i++) {
        if (indices[i] < next || indices[i] >= page_count)
            return 0;
        next = (uint64_t)indices[i] + 1;
    }
    return 1;
}

static void page_clear(uint8_t *page)
{
    if (!ftvm_page_is_zero(page))
        memset(page, 0, FTVM_PAGE_BYTES);
}

void ftvm_memory_clear(const struct ftvm_memory *memory)
{
    for (uint32_t r = 0; r < memory->region_count; r++)
        ftvm_memory_clear_region(memory, r);
}

void ftvm_memory_clear_region(const struct ftvm_memory *memory, uint32_t number)
{
    const struct ftvm_region *region = &memory->regions[number];
    if (ftvm_mapping_clear(region->base, (size_t)region->page_count * FTVM_PAGE_BYTES))
        return;
    for (uint32_t i = 0; i < region->page_count; i++)
        page_clear(region->base + (size_t)i * FTVM_PAGE_BYTES);
}

void ftvm_memory_clear_pages(const struct ftvm_memory *memory, const uint32_t *indices, size_t count)
{
    uint32_t cursor = 0;
    for (size_t i = 0; i < count; i++)
        page_clear(ftvm_memory_page(memory, indices[i], &cursor));
}
