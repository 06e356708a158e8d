/* capture: pages to deltas, in one pass that also keeps the shadow and the memory digest up to date.
 *
 * The shadow is what the backup will hold once all that was captured has been applied there; a page is encoded as its
 * difference from the shadow's. One call fills one batch: that is the unit of sending, and the price of a call from
 * Python is paid once for thousands of pages.
 *
 * Nothing here allocates. One shadow belongs to one thread at a time.
 */
#ifndef FTVM_CAPTURE_H
#define FTVM_CAPTURE_H

#include "digest.h"
#include "memory.h"

struct ftvm_shadow {
    uint8_t *pages;              /* page_count * 4096 bytes */
    struct ftvm_digest_table digests; /* of page_count pages, too */
    uint8_t *raw_runs;                /* one a page: how often it came out RAW running, see ftvm_capture_fused; or
                                         255: its bytes are not here, only its digest, see ftvm_capture_match */
    uint32_t page_count;
    struct ftvm_digest sum; /* of all digests: the memory digest of the shadow */
};

/* Where a batch is written. The caller sets the pointers and capacities, and the counts to 0. */
struct ftvm_batch {
    uint32_t *indices;       /* entry_capacity entries */
    uint16_t *lengths;       /* entry_capacity entries */
    uint8_t *payload;        /* payload_capacity bytes, at least FTVM_DELTA_ROOM_BYTES */
    size_t entry_capacity;
    size_t payload_capacity;
    size_t entry_count;      /* out */
    size_t payload_bytes;    /* out */
};

/* Brings the shadow closer to `memory`, which must stand still: copies pages from `from` on, at most `limit` of them, that
 * differ from their shadow by their hashes. The others are not touched at all: a page that is zero on both sides stays
 * unbacked.
 *
 * digests  those of the memory; where it is out of date the page may be
 *          copied or not, and a later call with the right one mends that
 * Of the pages copied, digests and sum of the shadow are those of what was copied. Both have the same page count.
 * Returns the page to go on from: the page count when all were looked at. */
uint32_t ftvm_capture_adopt(const struct ftvm_memory *memory, const struct ftvm_digest_table *digests,
                            struct ftvm_shadow *shadow, uint32_t from, uint32_t limit);

/* Compares pages with hashes of what the backup still has of them. The shadow must be one of zeros there; the guest may
 * run: a page is the same if what was read of it, once, hashes alike, and one that was written meanwhile must be captured
 * again later, as ever.
 *
 * known    hashes of pages of `memory` that are not read: each is of what the page held at a moment since which a write to
 *          it is captured again later; or NULL
 * offered  16 bytes a page, for `count` pages from `first` on, which must lie in the memory
 * flags    out: a byte a page, 1 if the backup can keep what it has, else 0: the shadow's page is zero then
 * The shadow knows a page that is kept by its digest alone, and takes no memory for it before it is written: then it is
 * sent whole. A page that is zero on both sides is kept, too. */
void ftvm_capture_match(const struct ftvm_memory *memory, const struct ftvm_digest_table *known,
                        struct ftvm_shadow *shadow, uint32_t first, uint32_t count, const uint8_t *offered,
                        uint8_t *flags);

/* Encodes pages straight from guest memory, which must stand still, until all are done or the batch is full.
 *
 * indices  `count` of them, valid by ftvm_memory_indices_valid for the shadow's page count
 * batch    counts as they are on entry are kept: entries are added
 * Pages that equal their shadow make no entry. Of the pages done, shadow, digests and sum are up to date afterwards.
 * A page that came out RAW twice running is sent RAW without looking for less, which costs a copy instead of a search;
 * every eighth time the search is made again.
 * Returns how many of the indices are done: `count`, or fewer when the batch is full; at least 1 with an
 * empty batch. */
size_t ftvm_capture_fused(const struct ftvm_memory *memory, struct ftvm_shadow *shadow, const uint32_t *indices,
                          size_t count, struct ftvm_batch *batch);

/* The same from a copy that ftvm_gather_pages made: page indices[i] is at staging + i * 4096. */
size_t ftvm_capture_staged(const uint8_t *staging, struct ftvm_shadow *shadow, const uint32_t *indices, size_t count,
                           struct ftvm_batch *batch);

/* Looks for pages that differ from their shadow, from page `from` on, at most `count` of them. Changes nothing; the
 * guest may run, and then what is found is a suspicion.
 *
 * indices  out: room for `count` entries
 * Returns how many differ. */
size_t ftvm_capture_differing(const struct ftvm_memory *memory, const struct ftvm_shadow *shadow, uint32_t from,
                              uint32_t count, uint32_t *indices);

#endif
