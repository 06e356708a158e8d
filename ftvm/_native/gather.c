#include "gather.h"

#include <string.h>

void ftvm_gather_pages(const struct ftvm_memory *memory, const uint32_t *indices, size_t count, uint8_t *restrict staging)
{
    uint32_t cursor = 0;
    for (size_t i = 0; i < count; i++)
        memcpy(staging + i * FTVM_PAGE_BYTES, ftvm_memory_page(memory, indices[i], &cursor), FTVM_PAGE_BYTES);
}
