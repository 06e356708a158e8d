#define _GNU_SOURCE
#include "blockstate.h"

#include "blockfile.h"
#include "blockmap.h"
#include "mapping.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* The life of a blockstore, and its thread, which moves what is held to the image and does the flushes. */

/* --- its thread --------------------------------------------------------------------------------------------------------- */

/* Lets go of the memory of blocks that the image has by now, unless somebody else is to write there meanwhile. */
static int drop_moved(struct ftvm_blockstore *store, uint64_t first, size_t count)
{
    int wrong = -EAGAIN;
    pthread_mutex_lock(&store->lock);
    if (atomic_load(&store->is_released))
        wrong = ftvm_mapping_drop(store->parts.mapping, first, count);
    if (wrong == 0)
        memset(store->parts.held + first, 0, count);
    pthread_mutex_unlock(&store->lock);
    return wrong;
}

/* Moves the next run of held blocks from *block on. Returns how many, 0 at the end, or a negative errno; -EAGAIN when the
 * store is held again. */
static int move_run(struct ftvm_blockstore *store, uint64_t *block)
{
    uint64_t end = store->parts.size_bytes / FTVM_BLOCK_BYTES;
    pthread_mutex_lock(&store->data);
    int count = 0;
    if (!atomic_load(&store->is_released)) {
        count = -EAGAIN;
    } else {
        const uint8_t *held = store->parts.held;
        *block = blockmap_next_held(&store->parts, *block);
        uint64_t first = *block;
        while (*block < end && held[*block] && *block - first < BLOCKSTATE_PIECE_BLOCKS)
            (*block)++;
        count = (int)(*block - first);
        if (count > 0) {
            uint64_t offset = first * FTVM_BLOCK_BYTES;
            int wrong = ftvm_mapping_lost(store->parts.mapping) > 0 ? -EIO : 0; /* part of a block may be no content */
            if (wrong == 0)
                wrong = ftvm_blockfile_write(store->image, store->parts.write_witness, offset,
                                             (uint64_t)count * FTVM_BLOCK_BYTES, store->parts.pages + offset);
            if (wrong == 0)
                wrong = drop_moved(store, first, (size_t)count);
            count = wrong == 0 ? count : wrong;
        }
    }
    pthread_mutex_unlock(&store->data);
    return count;
}

static int move_all(struct ftvm_blockstore *store)
{
    uint64_t block = 0;
    int moved;
    do
        moved = blockstate_must_wait(store) ? -EAGAIN : move_run(store, &block);
    while (moved > 0);
    return moved;
}

/* Moves what is held, and does the flushes that were asked for before, if they are due. Called with `lock` held, which it
 * lets go. */
static void catch_up(struct ftvm_blockstore *store)
{
    uint64_t asked = store->asked, bytes = store->unsynced_bytes, began_ns = blockstate_now_ns();
    int may_have_held = store->may_have_held, is_flush = blockstate_is_due(store);
    store->may_have_held = 0;
    store->is_busy = 1;
    pthread_mutex_unlock(&store->lock);
    int wrong = may_have_held ? move_all(store) : 0;
    if (wrong == 0 && is_flush)
        wrong = ftvm_blockfile_sync(store->image, store->parts.sync_witness);
    pthread_mutex_lock(&store->lock);
    store->is_busy = 0;
    if (wrong == -EAGAIN)
        store->may_have_held = 1;
    else if (wrong != 0 && store->failure == 0)
        store->failure = wrong;
    else if (wrong == 0 && is_flush) {
        store->done = asked;
        store->unsynced_bytes -= bytes;
        store->owed_since_ns = began_ns;
    }
    blockstate_notify(store);
}

static int has_work(struct ftvm_blockstore *store)
{
    if (!atomic_load(&store->is_released) || store->failure != 0)
        return 0;
    return store->may_have_held ? !blockstate_must_wait(store) : blockstate_is_due(store);
}

/* Waits for something to do: what is owed and not due yet comes due by itself. */
static void wait_for_work(struct ftvm_blockstore *store)
{
    int can_sync = atomic_load(&store->is_released) && store->failure == 0 && !store->may_have_held;
    if (can_sync && store->asked > store->done) {
        uint64_t due_ns = store->owed_since_ns + store->parts.behind_ms * UINT64_C(500000);
        struct timespec at = {(time_t)(due_ns / 1000000000), (long)(due_ns % 1000000000)};
        pthread_cond_timedwait(&store->changed, &store->lock, &at);
    } else {
        pthread_cond_wait(&store->changed, &store->lock);
    }
}

static void *run(void *argument)
{
    struct ftvm_blockstore *store = argument;
    pthread_mutex_lock(&store->lock);
    while (has_work(store) || !store->is_closing) {
        if (has_work(store))
            catch_up(store);
        else
            wait_for_work(store);
    }
    store->is_over = 1;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

/* --- its life ---------------------------------------------------------------------------------------------------------- */

struct ftvm_blockstore *ftvm_blockstore_open(const struct ftvm_blockstore_parts *parts)
{
    struct ftvm_blockstore *store = calloc(1, sizeof *store);
    if (store == NULL)
        return NULL;
    store->parts = *parts;
    store->image = -1;
    store->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    store->asks = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&store->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&store->data, NULL);
    pthread_mutex_init(&store->lock, NULL);
    if (store->event < 0 || store->asks < 0 || pthread_create(&store->thread, NULL, run, store) != 0) {
        if (store->event >= 0)
            close(store->event);
        if (store->asks >= 0)
            close(store->asks);
        free(store);
        return NULL;
    }
    return store;
}

int ftvm_blockstore_close(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    store->is_closing = 1;
    if (atomic_load(&store->is_released))
        store->asked++; /* a last flush */
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
    pthread_join(store->thread, NULL);
    return ftvm_blockstore_failure(store);
}

void ftvm_blockstore_free(struct ftvm_blockstore *store)
{
    if (!store->is_over)
        ftvm_blockstore_close(store); /* its thread must not outlive its memory */
    close(store->event);
    close(store->asks);
    pthread_mutex_destroy(&store->data);
    pthread_mutex_destroy(&store->lock);
    pthread_cond_destroy(&store->changed);
    free(store);
}

void ftvm_blockstore_let_go(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    atomic_store(&store->is_released, 0);
    store->left = store->asked;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_hold(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->data); /* what the guest's thread was about to write is written */
    pthread_mutex_lock(&store->lock);
    atomic_store(&store->is_released, 0);
    blockstate_notify(store);
    pthread_mutex_unlock(&store->data);
    while (store->is_busy)
        pthread_cond_wait(&store->changed, &store->lock);
    pthread_mutex_unlock(&store->lock);
}

int ftvm_blockstore_show(struct ftvm_blockstore *store, int image)
{
    pthread_mutex_lock(&store->data);
    int wrong = ftvm_mapping_show_under(store->parts.mapping, image, store->parts.held);
    pthread_mutex_unlock(&store->data);
    return wrong;
}

void ftvm_blockstore_release(struct ftvm_blockstore *store, int image)
{
    pthread_mutex_lock(&store->data);
    store->image = image;
    pthread_mutex_lock(&store->lock);
    atomic_store(&store->is_released, 1);
    store->may_have_held = 1;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
    pthread_mutex_unlock(&store->data);
}

void ftvm_blockstore_hurry(struct ftvm_blockstore *store, int is_hurried)
{
    pthread_mutex_lock(&store->lock);
    store->is_hurried = is_hurried;
    store->is_resting = 0;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_rest(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    store->is_resting = 1;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_mark(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    store->fresh_blocks = 0;
    store->is_marked = 1;
    uint64_t count;
    if (read(store->asks, &count, sizeof count) < 0)
        count = 0; /* it did not ask */
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_cover(struct ftvm_blockstore *store, int is_covered)
{
    pthread_mutex_lock(&store->lock);
    store->is_covered = is_covered;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

uint64_t ftvm_blockstore_asked(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    uint64_t asked = store->asked;
    pthread_mutex_unlock(&store->lock);
    return asked;
}

int ftvm_blockstore_settle(struct ftvm_blockstore *store, uint64_t ticket, uint32_t timeout_ms)
{
    struct timespec at = blockstate_deadline(timeout_ms);
    int wrong = 0;
    pthread_mutex_lock(&store->lock);
    if (store->wanted < ticket) {
        store->wanted = ticket;
        blockstate_notify(store);
    }
    while (wrong == 0 && store->done < ticket && store->failure == 0)
        wrong = store->is_over ? -ETIMEDOUT : -pthread_cond_timedwait(&store->changed, &store->lock, &at);
    if (store->failure != 0)
        wrong = store->failure;
    else if (store->done >= ticket)
        wrong = 0;
    pthread_mutex_unlock(&store->lock);
    return wrong;
}

void ftvm_blockstore_forgive(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    if (store->done < store->left)
        store->done = store->left;
    if (store->done == store->asked)
        store->unsynced_bytes = 0;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_fail(struct ftvm_blockstore *store, int wrong)
{
    pthread_mutex_lock(&store->lock);
    if (store->failure == 0)
        store->failure = wrong;
    blockstate_notify(store);
    pthread_mutex_unlock(&store->lock);
}

int ftvm_blockstore_failure(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    int failure = store->failure;
    pthread_mutex_unlock(&store->lock);
    return failure;
}

int ftvm_blockstore_asks(const struct ftvm_blockstore *store)
{
    return store->asks;
}

uint64_t ftvm_blockstore_size(const struct ftvm_blockstore *store)
{
    return store->parts.size_bytes;
}

int ftvm_blockstore_event(const struct ftvm_blockstore *store)
{
    return store->event;
}
