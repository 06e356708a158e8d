#define _GNU_SOURCE
#include "blockstore.h"

#include "bitmap.h"
#include "blockfile.h"
#include "blockmap.h"
#include "mapping.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* So much is moved, or written for the guest, at once: a reader, and a guest that is to stop, wait for no more. */
#define MOVE_BLOCKS 32
#define PIECE_BYTES (MOVE_BLOCKS * FTVM_BLOCK_BYTES)
/* A request to zero is carried out in such pieces, so that the bound holds within it. */
#define ZERO_BYTES (4u << 20)

/* Two locks. `data`: which of the two places a block is in, held while bytes move, so perhaps for as long as a device
 * takes. `lock`: everything else, held for an instant. Where both are taken, `data` is first. */
struct ftvm_blockstore {
    struct ftvm_blockstore_parts parts;
    pthread_mutex_t data;
    int image;
    atomic_int is_released; /* set with both locks held, cleared with `lock` */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int may_have_held;
    int is_busy; /* its thread is at the image */
    atomic_int is_hurried; /* the guest is to stop, or has */
    atomic_int is_resting; /* it has */
    atomic_int is_closing;
    int is_over; /* its thread has ended */
    int failure;
    uint64_t asked, done; /* flushes, by ticket */
    uint64_t left;        /* what was asked when the image was let go */
    int was_flushed, was_flushed_in_haste; /* since it was last told */
    uint32_t fresh_blocks; /* flagged since the last mark */
    int is_marked;         /* marks come */
    int event, asks;
    pthread_t thread;
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void signal_event(int event)
{
    uint64_t one = 1;
    if (write(event, &one, sizeof one) < 0)
        return; /* it is readable already */
}

static void notify(struct ftvm_blockstore *store)
{
    pthread_cond_broadcast(&store->changed);
    signal_event(store->event);
}

static int fail(struct ftvm_blockstore *store, int wrong)
{
    pthread_mutex_lock(&store->lock);
    if (store->failure == 0)
        store->failure = wrong;
    notify(store);
    pthread_mutex_unlock(&store->lock);
    return wrong;
}

static struct timespec deadline(uint32_t timeout_ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += timeout_ms / 1000;
    at.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

/* --- the image; called with `data` held, but for the sync ----------------------------------------------------------- */

static int image_write(const struct ftvm_blockstore *store, uint64_t offset, uint64_t length, const uint8_t *content)
{
    return ftvm_blockfile_write(store->image, store->parts.write_witness, offset, length, content);
}

static int image_zero(const struct ftvm_blockstore *store, uint64_t offset, uint64_t length)
{
    return ftvm_blockfile_zero(store->image, store->parts.write_witness, offset, length);
}

/* --- from memory to the image ----------------------------------------------------------------------------------------- */

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
        while (*block < end && held[*block] && *block - first < MOVE_BLOCKS)
            (*block)++;
        count = (int)(*block - first);
        if (count > 0) {
            uint64_t offset = first * FTVM_BLOCK_BYTES;
            int wrong = ftvm_mapping_lost(store->parts.mapping) > 0 ? -EIO : 0; /* part of a block may be no content */
            if (wrong == 0)
                wrong = image_write(store, offset, (uint64_t)count * FTVM_BLOCK_BYTES, store->parts.pages + offset);
            if (wrong == 0)
                wrong = drop_moved(store, first, (size_t)count);
            count = wrong == 0 ? count : wrong;
        }
    }
    pthread_mutex_unlock(&store->data);
    return count;
}

/* While the guest is being stopped whoever serves it must not wait for a device: nothing is moved. */
static int must_wait(struct ftvm_blockstore *store)
{
    return atomic_load(&store->is_hurried) && !atomic_load(&store->is_resting) && !atomic_load(&store->is_closing);
}

static int move_all(struct ftvm_blockstore *store)
{
    uint64_t block = 0;
    int moved;
    do
        moved = must_wait(store) ? -EAGAIN : move_run(store, &block);
    while (moved > 0);
    return moved;
}

/* Moves what is held, and does the flushes that were asked for before. Called with `lock` held, which it lets go. */
static void catch_up(struct ftvm_blockstore *store)
{
    uint64_t asked = store->asked;
    int may_have_held = store->may_have_held, is_flush = asked > store->done;
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
    else if (wrong == 0)
        store->done = asked;
    notify(store);
}

static int has_work(struct ftvm_blockstore *store)
{
    if (!atomic_load(&store->is_released) || store->failure != 0)
        return 0;
    return store->may_have_held ? !must_wait(store) : store->asked > store->done;
}

static void *run(void *argument)
{
    struct ftvm_blockstore *store = argument;
    pthread_mutex_lock(&store->lock);
    while (has_work(store) || !store->is_closing) {
        if (has_work(store))
            catch_up(store);
        else
            pthread_cond_wait(&store->changed, &store->lock);
    }
    store->is_over = 1;
    notify(store);
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
    notify(store);
    pthread_mutex_unlock(&store->lock);
    pthread_join(store->thread, NULL);
    return ftvm_blockstore_failure(store);
}

void ftvm_blockstore_free(struct ftvm_blockstore *store)
{
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
    notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_hold(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->data); /* what the guest's thread was about to write is written */
    pthread_mutex_lock(&store->lock);
    atomic_store(&store->is_released, 0);
    notify(store);
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
    notify(store);
    pthread_mutex_unlock(&store->lock);
    pthread_mutex_unlock(&store->data);
}

void ftvm_blockstore_hurry(struct ftvm_blockstore *store, int is_hurried)
{
    pthread_mutex_lock(&store->lock);
    store->is_hurried = is_hurried;
    store->is_resting = 0;
    notify(store);
    pthread_mutex_unlock(&store->lock);
}

void ftvm_blockstore_rest(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    store->is_resting = 1;
    notify(store);
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
    notify(store);
    pthread_mutex_unlock(&store->lock);
}

int ftvm_blockstore_settle(struct ftvm_blockstore *store, uint32_t timeout_ms)
{
    struct timespec at = deadline(timeout_ms);
    int wrong = 0;
    pthread_mutex_lock(&store->lock);
    while (wrong == 0 && store->done < store->asked && store->failure == 0)
        wrong = store->is_over ? -ETIMEDOUT : -pthread_cond_timedwait(&store->changed, &store->lock, &at);
    if (store->failure != 0)
        wrong = store->failure;
    else if (store->done == store->asked)
        wrong = 0;
    pthread_mutex_unlock(&store->lock);
    return wrong;
}

void ftvm_blockstore_forgive(struct ftvm_blockstore *store)
{
    pthread_mutex_lock(&store->lock);
    if (store->done < store->left)
        store->done = store->left;
    notify(store);
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

/* --- for the guest ------------------------------------------------------------------------------------------------------ */

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
    struct timespec at = deadline(store->parts.patience_ms);
    while (store->fresh_blocks >= store->parts.high_water_blocks && store->is_marked && !store->is_hurried &&
           !store->is_closing && store->failure == 0)
        if (pthread_cond_timedwait(&store->changed, &store->lock, &at) == ETIMEDOUT)
            store->is_marked = 0;
    uint32_t half = store->parts.high_water_blocks / 2, before = store->fresh_blocks;
    store->fresh_blocks += blockmap_flag(&store->parts, offset, end);
    if (store->is_marked && before < half && store->fresh_blocks >= half)
        signal_event(store->asks);
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
        int is_late = !is_held && must_wait(store);
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
    uint64_t ticket = ++store->asked;
    if (store->is_hurried && !is_fua)
        store->was_flushed_in_haste = 1;
    else
        store->was_flushed = 1;
    notify(store);
    pthread_mutex_unlock(&store->lock);
    return ticket;
}

int ftvm_blockstore_flushed(struct ftvm_blockstore *store, uint64_t ticket)
{
    pthread_mutex_lock(&store->lock);
    int answer = store->failure != 0 ? store->failure : store->done >= ticket || store->is_hurried;
    pthread_mutex_unlock(&store->lock);
    return answer;
}
