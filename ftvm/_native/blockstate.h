/* blockstate: what the parts of the noun blockstore share: its state, and what they do for one another. */
#ifndef FTVM_BLOCKSTATE_H
#define FTVM_BLOCKSTATE_H

#include "blockstore.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

/* So much is moved, or written for the guest, at once: a reader, and a guest that is to stop, wait for no more. */
#define BLOCKSTATE_PIECE_BLOCKS 32

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
    uint64_t wanted;      /* what somebody waits for */
    int is_covered;
    uint64_t unsynced_bytes; /* written since the last sync began that was done */
    uint64_t owed_since_ns;  /* no flush that is owed was asked for earlier; only while one is owed */
    int was_flushed, was_flushed_in_haste; /* since it was last told */
    uint32_t fresh_blocks; /* flagged since the last mark */
    int is_marked;         /* marks come */
    int event, asks;
    pthread_t thread;
};

static inline void blockstate_signal(int event)
{
    uint64_t one = 1;
    if (write(event, &one, sizeof one) < 0)
        return; /* it is readable already */
}

static inline void blockstate_notify(struct ftvm_blockstore *store)
{
    pthread_cond_broadcast(&store->changed);
    blockstate_signal(store->event);
}

static inline struct timespec blockstate_deadline(uint32_t timeout_ms)
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

static inline uint64_t blockstate_now_ns(void)
{
    struct timespec now = blockstate_deadline(0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Tells whether the device is as far behind as it may get while flushes are covered, or as one `part` of that, 2 being the
 * half. Called with `lock` held, as the next. */
static inline int blockstate_is_behind(const struct ftvm_blockstore *store, uint32_t part)
{
    if (store->asked == store->done)
        return 0;
    uint64_t age_ns = blockstate_now_ns() - store->owed_since_ns;
    return store->unsynced_bytes >= store->parts.behind_bytes / part ||
           age_ns >= store->parts.behind_ms * UINT64_C(1000000) / part;
}

/* Tells whether a flush is to be done now. One that is covered may wait for others, until half of the bound is reached. */
static inline int blockstate_is_due(const struct ftvm_blockstore *store)
{
    if (store->asked == store->done)
        return 0;
    return !store->is_covered || store->is_closing || store->done < store->wanted || blockstate_is_behind(store, 2);
}

/* While the guest is being stopped whoever serves it must not wait for a device: nothing is moved. */
static inline int blockstate_must_wait(struct ftvm_blockstore *store)
{
    return atomic_load(&store->is_hurried) && !atomic_load(&store->is_resting) && !atomic_load(&store->is_closing);
}

#endif
