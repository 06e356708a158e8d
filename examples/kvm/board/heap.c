#include "heap.h"

#include <stdint.h>

#include "../../guests/board/board.h"

#define PAGE_BYTES 4096u

extern uint8_t heap_start[];
static size_t used;

void *heap_take(size_t bytes)
{
    const size_t rounded = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (rounded < bytes || rounded > BOARD_MEMORY_BYTES_MIN - (uintptr_t)heap_start - used)
        return NULL;
    void *at = heap_start + used;
    used += rounded;
    return at;
}
