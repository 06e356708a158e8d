#define _GNU_SOURCE
#include "tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* Newer than the headers that it must build with: the ABI of Linux 6.7, from its documentation. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#define SCAN_PROTECT (UINT64_C(1) << 0)       /* PM_SCAN_WP_MATCHING */
#define SCAN_ONLY_TRACKED (UINT64_C(1) << 1)  /* PM_SCAN_CHECK_WPASYNC */
#define PAGE_WAS_WRITTEN (UINT64_C(1) << 1)   /* PAGE_IS_WRITTEN */

struct scan_span {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};

struct scan_request {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end; /* out: how far it came */
    uint64_t spans;
    uint64_t span_count;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

#define SCAN_REQUEST _IOWR('f', 16, struct scan_request)
#define SPANS_PER_CALL 512

/* --- hot chunks --------------------------------------------------------------------------------------------------- */

/* A chunk's state: cold, and busy in so many looks running; or hot, for so many looks; or hot and protected for one
 * turn. */
#define CHUNK_COLD 0
#define CHUNK_HOT 2
#define CHUNK_PROBE_AT (CHUNK_HOT + 16)
#define CHUNK_PROBED (CHUNK_PROBE_AT + 1)

#define BUSY_ABOVE(pages) ((pages) / 4)
#define CALM_BELOW(pages) ((pages) * 100 / FTVM_TRACKER_CHUNK_PAGES)

static int chunk_is_skipped(uint8_t state)
{
    return state >= CHUNK_HOT && state < CHUNK_PROBE_AT;
}

static uint8_t chunk_next(uint8_t state, uint32_t chunk, uint32_t written, uint32_t pages)
{
    if (chunk_is_skipped(state) || state == CHUNK_PROBE_AT)
        return (uint8_t)(state + 1);
    if (state == CHUNK_PROBED)
        return written < CALM_BELOW(pages) ? CHUNK_COLD : CHUNK_HOT;
    if (written <= BUSY_ABOVE(pages))
        return CHUNK_COLD;
    /* Chunks that became hot together must not all be probed in one look. */
    return state + 1 < CHUNK_HOT ? (uint8_t)(state + 1) : (uint8_t)(CHUNK_HOT + chunk % (CHUNK_PROBE_AT - CHUNK_HOT));
}

static void bits_set(uint64_t *words, uint32_t from, uint32_t to)
{
    for (; from < to && from % 64 != 0; from++)
        words[from / 64] |= UINT64_C(1) << (from % 64);
    for (; from + 64 <= to; from += 64)
        words[from / 64] = ~UINT64_C(0);
    for (; from < to; from++)
        words[from / 64] |= UINT64_C(1) << (from % 64);
}

static uint32_t bits_count(const uint64_t *words, uint32_t from, uint32_t to)
{
    uint32_t count = 0;
    for (uint32_t word = from / 64; word * 64 < to; word++)
        count += (uint32_t)__builtin_popcountll(words[word]);
    return count;
}

/* --- scanning ----------------------------------------------------------------------------------------------------- */

/* Reads which of the pages [from, to) were written, and protects them again. */
static int range_scan(int pagemap, uint64_t start, uint32_t from, uint32_t to, uint64_t *words)
{
    struct scan_span spans[SPANS_PER_CALL];
    uint64_t at = start + (uint64_t)from * FTVM_PAGE_BYTES;
    uint64_t end = start + (uint64_t)to * FTVM_PAGE_BYTES;
    while (at < end) {
        struct scan_request request = {
            .size = sizeof request,
            .flags = SCAN_PROTECT | SCAN_ONLY_TRACKED,
            .start = at,
            .end = end,
            .spans = (uint64_t)(uintptr_t)spans,
            .span_count = SPANS_PER_CALL,
            .category_mask = PAGE_WAS_WRITTEN,
            .return_mask = PAGE_WAS_WRITTEN,
        };
        int found = ioctl(pagemap, SCAN_REQUEST, &request);
        if (found < 0 && errno == EINTR)
            continue;
        if (found < 0)
            return -errno;
        for (int i = 0; i < found; i++)
            bits_set(words, (uint32_t)((spans[i].start - start) / FTVM_PAGE_BYTES),
                     (uint32_t)((spans[i].end - start) / FTVM_PAGE_BYTES));
        if (request.walk_end <= at)
            return -EIO; /* no progress: never loop on a kernel that does not do what it says */
        at = request.walk_end;
    }
    return 0;
}

static uint32_t chunk_end(uint32_t chunk, uint32_t page_count)
{
    uint64_t end = ((uint64_t)chunk + 1) * FTVM_TRACKER_CHUNK_PAGES;
    return end < page_count ? (uint32_t)end : page_count;
}

/* After a scan of chunks [first, last): what each does next. A chunk that is about to be probed was scanned only to be
 * protected, and counts as written whole. */
static void chunks_advance(uint8_t *chunks, uint32_t first, uint32_t last, uint32_t page_count, uint64_t *words)
{
    for (uint32_t chunk = first; chunk < last; chunk++) {
        uint32_t from = chunk * FTVM_TRACKER_CHUNK_PAGES;
        uint32_t to = chunk_end(chunk, page_count);
        if (chunk_is_skipped(chunks[chunk]) || chunks[chunk] == CHUNK_PROBE_AT)
            bits_set(words, from, to);
        chunks[chunk] = chunk_next(chunks[chunk], chunk, bits_count(words, from, to), to - from);
    }
}

int ftvm_tracker_scan(int pagemap, uint64_t start, uint32_t page_count, uint8_t *chunks, uint64_t *words)
{
    memset(words, 0, ((size_t)page_count + 63) / 64 * sizeof *words);
    if (chunks == NULL)
        return range_scan(pagemap, start, 0, page_count, words);
    uint32_t chunk_count = (page_count + FTVM_TRACKER_CHUNK_PAGES - 1) / FTVM_TRACKER_CHUNK_PAGES;
    for (uint32_t first = 0; first < chunk_count;) {
        int is_skipped = chunk_is_skipped(chunks[first]);
        uint32_t last = first + 1;
        while (last < chunk_count && chunk_is_skipped(chunks[last]) == is_skipped)
            last++;
        if (!is_skipped) {
            int error =
                range_scan(pagemap, start, first * FTVM_TRACKER_CHUNK_PAGES, chunk_end(last - 1, page_count), words);
            if (error != 0)
                return error;
        }
        chunks_advance(chunks, first, last, page_count, words);
        first = last;
    }
    return 0;
}

/* --- starting and stopping ---------------------------------------------------------------------------------------- */

static int features_ask(int userfault)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    return ioctl(userfault, UFFDIO_API, &api) == 0 ? 0 : -errno;
}

static int regions_register(int userfault, const struct ftvm_memory *memory)
{
    for (uint32_t r = 0; r < memory->region_count; r++) {
        struct uffdio_register range = {
            .range = {.start = (uint64_t)(uintptr_t)memory->regions[r].base,
                      .len = (uint64_t)memory->regions[r].page_count * FTVM_PAGE_BYTES},
            .mode = UFFDIO_REGISTER_MODE_WP,
        };
        if (ioctl(userfault, UFFDIO_REGISTER, &range) != 0)
            return -errno;
    }
    return 0;
}

/* Asks for an empty range, which changes nothing: a kernel without PAGEMAP_SCAN says ENOTTY. */
static int scan_try(int pagemap)
{
    struct scan_request request = {.size = sizeof request, .return_mask = PAGE_WAS_WRITTEN};
    return ioctl(pagemap, SCAN_REQUEST, &request) >= 0 ? 0 : -errno;
}

/* Starts with both descriptors open. */
static int tracker_begin(const struct ftvm_tracker *tracker, const struct ftvm_memory *memory,
                         enum ftvm_tracker_step *step)
{
    *step = FTVM_TRACKER_FEATURES;
    int error = features_ask(tracker->userfault);
    if (error != 0)
        return error;
    *step = FTVM_TRACKER_SCAN;
    error = scan_try(tracker->pagemap);
    if (error != 0)
        return error;
    *step = FTVM_TRACKER_REGISTER;
    return regions_register(tracker->userfault, memory);
}

static int tracker_start(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step)
{
    *step = FTVM_TRACKER_CREATE;
    /* The kernel resolves all faults by itself, those of system calls too; so the right to handle kernel faults is not
     * needed, and unprivileged processes may. */
    tracker->userfault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (tracker->userfault < 0)
        return -errno;
    *step = FTVM_TRACKER_PAGEMAP;
    tracker->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (tracker->pagemap < 0)
        return -errno;
    return tracker_begin(tracker, memory, step);
}

int ftvm_tracker_adopt(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step)
{
    int error = tracker_begin(tracker, memory, step);
    if (error != 0)
        ftvm_tracker_close(tracker);
    return error;
}

int ftvm_tracker_open(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step)
{
    tracker->userfault = -1;
    tracker->pagemap = -1;
    int error = tracker_start(tracker, memory, step);
    if (error != 0)
        ftvm_tracker_close(tracker);
    return error;
}

#else

int ftvm_tracker_scan(int pagemap, uint64_t start, uint32_t page_count, uint8_t *chunks, uint64_t *words)
{
    (void)pagemap, (void)start, (void)page_count, (void)chunks, (void)words;
    return -ENOSYS;
}

int ftvm_tracker_open(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step)
{
    (void)memory;
    tracker->userfault = -1;
    tracker->pagemap = -1;
    *step = FTVM_TRACKER_CREATE;
    return -ENOSYS;
}

int ftvm_tracker_adopt(struct ftvm_tracker *tracker, const struct ftvm_memory *memory, enum ftvm_tracker_step *step)
{
    (void)memory;
    ftvm_tracker_close(tracker);
    *step = FTVM_TRACKER_FEATURES;
    return -ENOSYS;
}

#endif

void ftvm_tracker_close(struct ftvm_tracker *tracker)
{
    if (tracker->userfault >= 0)
        close(tracker->userfault);
    if (tracker->pagemap >= 0)
        close(tracker->pagemap);
    tracker->userfault = -1;
    tracker->pagemap = -1;
}

size_t ftvm_tracker_compare(const uint8_t *pages, uint8_t *copy, uint32_t page_count, uint64_t *words)
{
    size_t found = 0;
    memset(words, 0, ((size_t)page_count + 63) / 64 * sizeof *words);
    for (uint32_t i = 0; i < page_count; i++) {
        size_t at = (size_t)i * FTVM_PAGE_BYTES;
        if (memcmp(pages + at, copy + at, FTVM_PAGE_BYTES) == 0)
            continue;
        memcpy(copy + at, pages + at, FTVM_PAGE_BYTES);
        words[i / 64] |= UINT64_C(1) << (i % 64);
        found++;
    }
    return found;
}
