/* blockmap: which blocks of a disk are held in memory, and which the guest has written, a byte for each.
 *
 * Takes no lock: blockstore.c says who holds which. */
#ifndef FTVM_BLOCKMAP_H
#define FTVM_BLOCKMAP_H

#include "blockstore.h"

/* Returns the first block from `block` on that is held; where the disk ends if none is. */
uint64_t blockmap_next_held(const struct ftvm_blockstore_parts *parts, uint64_t block);

/* Returns the end of the run that starts at `offset`, all of it held or none, no further than `end`. */
uint64_t blockmap_run_end(const struct ftvm_blockstore_parts *parts, uint64_t offset, uint64_t end, int *is_held);

/* Flags the blocks of a range as written. Returns how many were not flagged. */
uint32_t blockmap_flag(const struct ftvm_blockstore_parts *parts, uint64_t offset, uint64_t end);

/* Writes to memory, zeros without `content`, and flags it as held. */
void blockmap_keep(const struct ftvm_blockstore_parts *parts, uint64_t offset, uint64_t length,
                   const uint8_t *content);

#endif
