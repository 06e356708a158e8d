#define _GNU_SOURCE
#include "blockstate.h"

#include "blockfile.h"
#include "blockmap.h"
#include "mapping.h"

#include <errno.h>
#include <string.h>

/* What serves the guest. The rest is in blocklife.c. */

#define PIECE_BYTES (BLOCKSTATE_PIECE_BLOCKS * FTVM_BLOCK_BYTES)
/* A request to zero is carried out in such pieces, so that the bound holds within it. */
#define ZERO_BYTES (4u << 20)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int fail(struct ftvm_blockstore *store, int wrong)
{
    ftvm_blockstore_fail(store, wrong);
    return wrong;
}

/* The image is written with `data` held. */
static int image_write(const struct ftvm_blockstore *store, uint64_t offset, uint64_t length, const uint8_t *content)
{
    return ftvm_blockfile_write(store->image, store->parts.write_witness, offset, length, content);
}

static int image_zero(const struct ftvm_blockstore *store, uint64_t offset, uint64_t length)
{
    return ftvm_blockfile_zero(store->image, store->parts.write_witness, offset, length);
}

int ftvm_blockstore_read(struct ftvm_blockstore *store, uint64_t offset, uint32_t length, uint8_t *out)
{
    uint64_t end = offset + length;
    int wrong = 0;
    pthread_mutex_lock(&store->data);
    if (!atomic_load(&store->is_released)) { /* the image may be replaced meanwhile; the memory shows what it held */
        memcpy(out, store->parts.pages + offset, length);
        wrong = ftvm_mapping_lost(store->parts.mapping) > 0 ? -EIO : 0;
        offset = end;
    }
    while (wrong == 0 && offset < end) {
        int is_held;
        uint64_t part = blockmap_run_end(&store->parts, offset, end, &is_held) - offset;
        if (is_held)
            memcpy(out, store->parts.pages + offset, part);
        else
            wrong = ftvm_blockfile_read(store->image, offset, part, out);
        offset += part;
        out += part;
    }
    pthread_mutex_unlock(&store->data);
    return wrong;
}

/* Waits for room below the high-water mark, then flags, and asks for a mark once half of that is taken. Returns the
 * failure, if the store has failed. */
static int make_room(struct ftvm_blockstore *store, uint64_t offset, uint64_t end)
{
    pthread_mutex_lock(&store->lock);
    struct timespec at = blockstate_deadline(store->parts.patience_ms);
    while (store->fresh_blocks >= store->parts.high_water_blocks && store->is_marked && !store->is_hurried &&
           !store->is_closing && store->failure == 0)
        if (pthread_cond_timedwait(&store->changed, &store->lock, &at) == ETIMEDOUT)
            store->is_marked = 0;
    uint32_t half = store->parts.high_water_blocks / 2, before = store->fresh_blocks;
    store->fresh_blocks += blockmap_flag(&store->parts, offset, end);
    store->unsynced_bytes += end - offset;
    if (store->is_marked && before < half && store->fresh_blocks >= half)
        blockstate_signal(store->asks);
    int failure = store->failure;
    pthread_mutex_unlock(&store->lock);
    return failure;
}

/* Writes to memory, as blockmap_keep does, blocks that the image has: those that are written whole are not read from it. */
static void keep_back(struct ftvm_blockstore *store, uint64_t offset, uint64_t length, const uint8_t *content)
{
    uint64_t first = (offset + FTVM_BLOCK_BYTES - 1) / FTVM_BLOCK_BYTES, end = (offset + length) / FTVM_BLOCK_BYTES;
    if (first < end)
        ftvm_mapping_own(store->parts.mapping, first, end - first); /* if it cannot, they are read */
    blockmap_keep(&store->parts, offset, length, content);
    pthread_mutex_lock(&store->lock);
    store->may_have_held = 1;
    pthread_mutex_unlock(&store->lock);
}

/* Puts bytes, or zeros without `content`, where they belong; while the guest is being stopped, all to memory. */
static int put(struct ftvm_blockstore *store, uint64_t offset, uint64_t end, const uint8_t *content)
{
    int wrong = 0;
    pthread_mutex_lock(&store->data);
    while (wrong == 0 && offset < end) {
        int is_held = 1;
        uint64_t part_end =
            atomic_load(&store->is_released) ? blockmap_run_end(&store->parts, offset, end, &is_held) : end;
        uint64_t part = part_end - offset;
        int is_late = !is_held && blockstate_must_wait(store);
        if (!is_held && !is_late && content != NULL)
            part = min_u64(part, PIECE_BYTES);
        if (is_late)
            keep_back(store, offset, part, content);
        else if (is_held)
            blockmap_keep(&store->parts, offset, part, content);
        else if (content != NULL)
            wrong = image_write(store, offset, part, content);
        else
            wrong = image_zero(store, offset, part);
        offset += part;
        content = content != NULL ? content + part : NULL;
    }
    pthread_mutex_unlock(&store->data);
    return wrong == 0 ? 0 : fail(store, wrong);
}

/* Tells whether a range is zeros already, as a hole of the image: a guest that trims a whole disk then changes only what
 * it has. */
static int is_hole(struct ftvm_blockstore *store, uint64_t offset, uint64_t end)
{
    pthread_mutex_lock(&store->data);
    int is_held = 0, is_zero = atomic_load(&store->is_released);
    if (is_zero)
        is_zero = blockmap_run_end(&store->parts, offset, end, &is_held) == end && !is_held &&
                  ftvm_blockfile_is_hole(store->image, offset, end - offset);
    pthread_mutex_unlock(&store->data);
    return is_zero;
}

int ftvm_blockstore_write(struct ftvm_blockstore *store, uint64_t offset, uint32_t length, const uint8_t *content)
{
    if (length == 0)
        return 0;
    int wrong = make_room(store, offset, offset + length);
    return wrong != 0 ? wrong : put(store, offset, offset + length, content);
}

int ftvm_blockstore_zero(struct ftvm_blockstore *store, uint64_t offset, uint32_t length, int may_leave)
{
    uint64_t end = offset + length;
    if (may_leave) {
        offset = (offset + FTVM_BLOCK_BYTES - 1) / FTVM_BLOCK_BYTES * FTVM_BLOCK_BYTES;
        end = end / FTVM_BLOCK_BYTES * FTVM_BLOCK_BYTES;
    }
    int wrong = 0;
    while (wrong == 0 && offset < end) {
        uint64_t part_end = min_u64(end, (offset / ZERO_BYTES + 1) * ZERO_BYTES);
        if (is_hole(store, offset, part_end)) {
            offset = part_end;
            continue;
        }
        wrong = make_room(store, offset, part_end);
        if (wrong == 0)
            wrong = put(store, offset, part_end, NULL);
        offset = part_end;
    }
    return wrong;
}

int ftvm_blockstore_take_flushes(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    int flushes = (store->was_flushed ? FTVM_BLOCKSTORE_FLUSHED : 0) |
                  (store->was_flushed_in_haste ? FTVM_BLOCKSTORE_FLUSHED_IN_HASTE : 0);
    store->was_flushed = store->was_flushed_in_haste = 0;
    pthread_mutex_unlock(&store->lock);
    return flushes;
}

uint64_t ftvm_blockstore_flush(struct ftvm_blockstore *store, int is_fua)
{
    pthread_mutex_lock(&store->lock);
    int is_first = store->asked == store->done;
    if (is_first)
        store->owed_since_ns = blockstate_now_ns();
    uint64_t ticket = ++store->asked;
    if (store->is_hurried && !is_fua)
        store->was_flushed_in_haste = 1;
    else
        store->was_flushed = 1;
    if (is_first || blockstate_is_due(store)) /* else its thread will look at it by itself */
        blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
    return ticket;
}

int ftvm_blockstore_flushed(struct ftvm_blockstore *store, uint64_t ticket)
{
    pthread_mutex_lock(&store->lock);
    int is_ahead = store->is_hurried || (store->is_covered && !blockstate_is_behind(store, 1));
    int answer = store->failure != 0 ? store->failure : store->done >= ticket || is_ahead;
    pthread_mutex_unlock(&store->lock);
    return answer;
}
