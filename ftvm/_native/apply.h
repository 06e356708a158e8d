/* apply: batches of deltas into memory, in two passes: verify, then commit.
 *
 * Verifying decodes each page into a scratch page on the stack, checks its form and takes its hash; memory is only
 * read. What it yields (the new hashes and their sum) says what the memory's digest would be, so that the caller can
 * refuse a checkpoint before the first byte of memory has changed. Committing decodes again, in place. Decoding twice
 * costs less than an undo log or a second copy of memory, and needs no room beyond one hash a page.
 *
 * Nothing here allocates. One memory belongs to one thread at a time.
 */
#ifndef FTVM_APPLY_H
#define FTVM_APPLY_H

#include "digest.h"
#include "memory.h"

/* A batch as it came; nothing in it is trusted, nothing needs to be aligned. Numbers are little-endian. */
struct ftvm_received {
    const uint8_t *indices; /* 4 bytes each */
    const uint8_t *lengths; /* 2 bytes each */
    const uint8_t *payload;
    size_t entry_count;
    size_t payload_bytes;
};

enum ftvm_apply_verdict {
    FTVM_APPLY_GOOD = 0,
    FTVM_APPLY_BAD_INDEX = 1,  /* outside the memory, or not above the one before it */
    FTVM_APPLY_BAD_LENGTH = 2, /* 0, or more than is left of the payload; or the payload is longer than all */
    FTVM_APPLY_BAD_DELTA = 3,  /* the bytes are no delta */
};

/* What verifying keeps from batch to batch of one call for all. */
struct ftvm_apply_progress {
    uint64_t next_index;    /* the least index that may come; 0 before the first batch */
    struct ftvm_digest sum; /* the memory digest; with each batch, what it would be after it */
    size_t bad_entry;       /* out: the entry that the verdict is about */
};

/* Checks one batch against `memory`, which stays as it is.
 *
 * digests   hash of each page of the memory as it is
 * progress  as above; undefined after a verdict other than good, but for bad_entry
 * fresh     out: room for entry_count hashes, those of the pages as they would be
 * Since indices rise over all batches, no page comes twice, and each is decoded against the memory as it is. */
enum ftvm_apply_verdict ftvm_apply_verify(const struct ftvm_memory *memory, const struct ftvm_digest_table *digests,
                                          const struct ftvm_received *batch, struct ftvm_apply_progress *progress,
                                          struct ftvm_digest *fresh);

/* Applies one batch that was found good against this very memory, and moves its hashes into `digests`.
 *
 * Returns how many entries were applied: all of them, unless the batch was changed since it was verified. */
size_t ftvm_apply_commit(const struct ftvm_memory *memory, struct ftvm_digest_table *digests,
                         const struct ftvm_received *batch, const struct ftvm_digest *fresh);

#endif
