#include "blockmap.h"

#include <string.h>

#include "bitmap.h"

uint64_t blockmap_next_held(const struct ftvm_blockstore_parts *parts, uint64_t block)
{
    uint64_t end = parts->size_bytes / FTVM_BLOCK_BYTES;
    while (block < end && !parts->held[block])
        block = parts->held_parts[block / FTVM_BITMAP_PART_PAGES] ? block + 1
                                                                  : (block | (FTVM_BITMAP_PART_PAGES - 1)) + 1;
    return block < end ? block : end;
}

uint64_t blockmap_run_end(const struct ftvm_blockstore_parts *parts, uint64_t offset, uint64_t end, int *is_held)
{
    uint64_t block = offset / FTVM_BLOCK_BYTES, last = (end - 1) / FTVM_BLOCK_BYTES;
    *is_held = parts->held[block] != 0;
    while (block < last && (parts->held[block + 1] != 0) == *is_held)
        block++;
    uint64_t behind = (block + 1) * FTVM_BLOCK_BYTES;
    return end < behind ? end : behind;
}

uint32_t blockmap_flag(const struct ftvm_blockstore_parts *parts, uint64_t offset, uint64_t end)
{
    uint32_t fresh = 0;
    for (uint64_t block = offset / FTVM_BLOCK_BYTES; block * FTVM_BLOCK_BYTES < end; block++) {
        fresh += parts->written[block] == 0;
        parts->written[block] = 1;
        parts->written_parts[block / FTVM_BITMAP_PART_PAGES] = 1;
    }
    return fresh;
}

void blockmap_keep(const struct ftvm_blockstore_parts *parts, uint64_t offset, uint64_t length,
                   const uint8_t *content)
{
    if (content != NULL)
        memcpy(parts->pages + offset, content, length);
    else
        memset(parts->pages + offset, 0, length);
    uint64_t first = offset / FTVM_BLOCK_BYTES, last = (offset + length - 1) / FTVM_BLOCK_BYTES;
    memset(parts->held + first, 1, last - first + 1);
    for (uint64_t part = first / FTVM_BITMAP_PART_PAGES; part <= last / FTVM_BITMAP_PART_PAGES; part++)
        parts->held_parts[part] = 1;
}
