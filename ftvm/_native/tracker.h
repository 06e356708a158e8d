/* tracker: which pages were written since the last look, for memory that others write.
 *
 * Two ways. **Write faults** (Linux 6.7 and later): a userfaultfd in WP_ASYNC mode write-protects pages; the kernel
 * notes the first write to each and lets it through, and PAGEMAP_SCAN reads and renews the protection of a range in
 * one call. Writes by system calls and by other threads are seen, as are pages dropped by MADV_DONTNEED; a mapping
 * that replaced a tracked one is noticed as an error, not as silence. Not seen: a hole punched into shared memory
 * (MADV_REMOVE, fallocate): the kernel keeps the protection of what it dropped; who does that must report the pages
 * itself. **Comparison** with a copy works everywhere, costs a copy of the memory, and sees changes rather than writes.
 *
 * Functions that call the kernel return 0 or a negative errno. Nothing here allocates. Facts: userfaultfd(2),
 * ioctl_userfaultfd(2), PAGEMAP_SCAN in the kernel's Documentation/admin-guide/mm/pagemap.rst.
 *
 * Hot chunks
 * ----------
 * The price of a write fault is about 1 us, and it cannot be lowered; not asking for it can. Memory is looked at in
 * chunks of 512 pages, one state byte each. A chunk more than a quarter of which was written in two looks running is
 * left unprotected: it counts as written whole, and the capture's comparison with the shadow sorts out what changed.
 * Every sixteenth look it is protected for one turn, to learn whether fewer than 100 of its pages are written now;
 * then it is protected again.
 */
#ifndef FTVM_TRACKER_H
#define FTVM_TRACKER_H

#include "memory.h"

#define FTVM_TRACKER_CHUNK_PAGES 512

/* Which step failed, so that a message can say what is missing. */
enum ftvm_tracker_step {
    FTVM_TRACKER_CREATE = 1,   /* userfaultfd(2) */
    FTVM_TRACKER_FEATURES = 2, /* WP_ASYNC and write protection of shared memory */
    FTVM_TRACKER_PAGEMAP = 3,  /* opening /proc/self/pagemap */
    FTVM_TRACKER_REGISTER = 4, /* the memory itself */
    FTVM_TRACKER_SCAN = 5,     /* PAGEMAP_SCAN */
};

struct ftvm_tracker {
    int userfault; /* file descriptors; -1 when not open */
    int pagemap;
};

/* Starts tracking all of `memory`, which must be page-aligned. Until its first collection every page counts as written.
 *
 * step  out: what failed
 * Returns 0 or a negative errno; after a failure nothing is open. */
int ftvm_tracker_open(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step);

/* Starts tracking memory of another process. `tracker` holds a userfaultfd that was made in that process and has not been
 * used yet, and its /proc/PID/pagemap; the addresses in `memory` are that process's own and are never read here. Else as
 * ftvm_tracker_open; takes both descriptors over: after a failure they are closed. */
int ftvm_tracker_adopt(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step);

/* Stops tracking. Idempotent. */
void ftvm_tracker_close(struct ftvm_tracker *tracker);

/* Reads and clears which pages of one range were written. Who writes to the range must stand still for the answer to
 * be exact; if it does not, a write is reported by this call or by the next.
 *
 * pagemap     /proc/PID/pagemap of the process that the addresses are of, in which the range is registered
 * start       address of the range, page-aligned
 * page_count  its length
 * chunks      one state byte per chunk (rounded up), 0 at first, or NULL to protect every page always
 * words       out: bitmap of (page_count + 63) / 64 words
 * Returns 0 or a negative errno: then what was written since the last call is lost. EPERM: part of the range is not
 * tracked (any more). */
int ftvm_tracker_scan(int pagemap, uint64_t start, uint32_t page_count, uint8_t *chunks, uint64_t *words);

/* Compares `page_count` pages with a copy and makes the copy equal. words: out, a bitmap. Returns how many differed. */
size_t ftvm_tracker_compare(const uint8_t *pages, uint8_t *copy, uint32_t page_count, uint64_t *words);

#endif
