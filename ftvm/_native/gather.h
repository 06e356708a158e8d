/* gather: copies scattered pages to one place, reading each byte once.
 *
 * It is what a capture does first when the guest must not stand still for the encoding, or does not stand still at
 * all: all that is derived later comes from the copy, so that a guest that writes meanwhile cannot make two readers
 * see two pages. A page that is written during the copy may come out torn; it is dirty again, and a later capture
 * takes it.
 */
#ifndef FTVM_GATHER_H
#define FTVM_GATHER_H

#include "memory.h"

/* Copies page indices[i] of `memory` to staging + i * 4096, for all i below `count`.
 *
 * indices  valid by ftvm_memory_indices_valid
 * staging  count * 4096 bytes, apart from the memory */
void ftvm_gather_pages(const struct ftvm_memory *memory, const uint32_t *indices, size_t count,
                       uint8_t *restrict staging);

#endif
