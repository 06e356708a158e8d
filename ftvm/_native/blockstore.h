/* blockstore: a guest's disk: an image file, and over it the blocks that may not be in it yet.
 *
 * While the store is **held**, what the guest writes stays in memory, in `pages`, and its blocks are noted as held; the
 * image is not touched. Once **released**, writes go to the image, and a thread of the store moves what was held to it,
 * so that memory holds what is written between the two and nothing else. Reads see the newest of both, always.
 *
 * A **flush** is done when the image's device has all writes that were answered before it. While the guest is being
 * stopped (**hurried**), whoever serves it answers at once, and the flush is **owed**: ftvm_blockstore_settle tells
 * when nothing is. What it writes meanwhile is held, too, and moved to the image once it rests: a device that is behind
 * must not hold up the stop. A failed sync is final: nothing is written any more, and every later write and flush fails
 * with it.
 *
 * While it is **covered** a flush is answered at once, too, and owed: somebody else makes durable what was flushed before
 * anything follows from it. The store's thread flushes many together, some time behind: once `behind_bytes`
 * are written that are not synced, or a flush is owed for `behind_ms`, a flush waits for the device until it has caught
 * up; at half of that the thread begins. Covered no longer, each flush waits until the device has it and all before it.
 *
 * Each block that the guest writes is flagged in `written`, for whoever replicates the disk; it says with
 * ftvm_blockstore_mark that it has taken the flags, its guest standing still. Between two marks no more than
 * `high_water_blocks` are flagged: then writing waits for the next, unless the guest is being stopped (which a mark is
 * behind), or no mark comes for `patience_ms` (nobody replicates: until the next mark there is no bound). A store
 * **asks** for a mark when half of that is flagged, so that one may come before anybody waits.
 *
 * One thread serves a guest (read, write, zero, flush); the others may be called from any thread. No function calls
 * back. Functions return 0 or a negative errno unless they say otherwise. Offsets and lengths given here lie within
 * the size: the caller has checked.
 */
#ifndef FTVM_BLOCKSTORE_H
#define FTVM_BLOCKSTORE_H

#include <stddef.h>
#include <stdint.h>

#define FTVM_BLOCK_BYTES 4096

struct ftvm_blockstore;

/* All memory is the caller's and outlives the store. */
struct ftvm_blockstore_parts {
    uint64_t size_bytes; /* whole blocks */
    int mapping;         /* guarded (mapping.h), of that size */
    uint8_t *pages;      /* its memory */
    uint8_t *written;    /* one byte a block, set to 1 when it is written; others clear them */
    uint8_t *held;       /* one byte a block: not 0 where only `pages` has the newest content. All may write to it
                            while the store is held; the store itself clears what it moves to the image */
    uint8_t *written_parts, *held_parts; /* one byte for each FTVM_BITMAP_PART_PAGES blocks, rounded up: set to 1 with a
                            flag of theirs, so that nobody need look at all flags of a large disk */
    uint32_t high_water_blocks;
    uint32_t patience_ms;
    uint64_t behind_bytes; /* see "covered" */
    uint32_t behind_ms;
    int write_witness, sync_witness; /* for tests: those of blockfile.h, of writes and zeros, and of syncs; -1: none */
};

/* Makes a store, held. Returns NULL without memory or threads. */
struct ftvm_blockstore *ftvm_blockstore_open(const struct ftvm_blockstore_parts *parts);

/* Ends the store's thread, once, when all that was released is on the device, or cannot get there. What is held is lost.
 * Other threads may be in calls of the store: they return, and what they wait for no longer comes. Returns the failure,
 * or 0. */
int ftvm_blockstore_close(struct ftvm_blockstore *store);

/* Gives a store's memory back, and closes it before, if nobody has. No thread may be in a call of it any more. */
void ftvm_blockstore_free(struct ftvm_blockstore *store);

/* From now on no write to the image is begun, and no block ceases to be held. Waits for no device: what was begun may
 * still be under way. */
void ftvm_blockstore_let_go(struct ftvm_blockstore *store);

/* From now on nothing is written to the image. Returns when nothing is, and no sync is under way. */
void ftvm_blockstore_hold(struct ftvm_blockstore *store);

/* Has the memory show `image`, of the same content, but for what is held (ftvm_mapping_show_under). */
int ftvm_blockstore_show(struct ftvm_blockstore *store, int image);

/* From now on `image`, a descriptor that stays open until the store is held or closed, may be written. */
void ftvm_blockstore_release(struct ftvm_blockstore *store, int image);

/* The guest is to stop (1): no flush, no bound and no write of the device is waited for. Or it goes on (0). */
void ftvm_blockstore_hurry(struct ftvm_blockstore *store, int is_hurried);

/* The guest that was to stop has: nothing is asked until it goes on, so the device may have what is held. */
void ftvm_blockstore_rest(struct ftvm_blockstore *store);

/* The flags of `written` were taken: the bound counts from here. */
void ftvm_blockstore_mark(struct ftvm_blockstore *store);

/* Which flushes were asked for since it was last told: a set of these. Of those in haste, that is, while the guest was
 * being stopped, the store cannot tell whose they are: whoever stops a guest may flush what it has of the disk. */
#define FTVM_BLOCKSTORE_FLUSHED 1
#define FTVM_BLOCKSTORE_FLUSHED_IN_HASTE 2
int ftvm_blockstore_take_flushes(struct ftvm_blockstore *store);

/* Flushes may be answered before the device has them (1), or, as at first, may not. What is owed then is done at once. */
void ftvm_blockstore_cover(struct ftvm_blockstore *store, int is_covered);

/* Returns the ticket of the last flush that was asked for. */
uint64_t ftvm_blockstore_asked(struct ftvm_blockstore *store);

/* Has the flushes up to a ticket done at once, and waits until they are, or the store has failed. Returns 0, the failure,
 * or -ETIMEDOUT, which is also what a closed store says that owes some of them. */
int ftvm_blockstore_settle(struct ftvm_blockstore *store, uint64_t ticket, uint32_t timeout_ms);

/* Forgets the flushes that were owed when the image was let go: what they were to make durable is made so by the caller.
 * Only while held; those of a guest that came back meanwhile stay owed. */
void ftvm_blockstore_forgive(struct ftvm_blockstore *store);

/* The image never becomes the guest's to write: fails as if `wrong`, a negative errno, had come of a write. */
void ftvm_blockstore_fail(struct ftvm_blockstore *store, int wrong);

/* Returns the failure, or 0. */
int ftvm_blockstore_failure(struct ftvm_blockstore *store);

/* Returns a descriptor that becomes readable when the store asks for a mark, once for each; whoever hears it reads it (8
 * bytes), and a mark takes it back. */
int ftvm_blockstore_asks(const struct ftvm_blockstore *store);

uint64_t ftvm_blockstore_size(const struct ftvm_blockstore *store);

/* --- for the one thread that serves the guest --- */

int ftvm_blockstore_read(struct ftvm_blockstore *store, uint64_t offset, uint32_t length, uint8_t *out);
int ftvm_blockstore_write(struct ftvm_blockstore *store, uint64_t offset, uint32_t length, const uint8_t *content);

/* Makes bytes zero, and the image sparse there; where it is so already, nothing is written or flagged. With `may_leave`
 * set, blocks that are not whole may stay as they are. */
int ftvm_blockstore_zero(struct ftvm_blockstore *store, uint64_t offset, uint32_t length, int may_leave);

/* Asks for a flush, or with `is_fua` for what a write with FUA asks for, which only a guest does. Returns its ticket. */
uint64_t ftvm_blockstore_flush(struct ftvm_blockstore *store, int is_fua);

/* Returns 1 if the flush may be answered with success: the device has it, or it is covered, or the guest is being
 * stopped; 0 while it may not yet; or the failure. */
int ftvm_blockstore_flushed(struct ftvm_blockstore *store, uint64_t ticket);

/* Returns a descriptor that is readable when ftvm_blockstore_flushed may say otherwise than before; to be read (8
 * bytes) before it is asked. */
int ftvm_blockstore_event(const struct ftvm_blockstore *store);

#endif
