#define _GNU_SOURCE
#include "mapping.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES 4096
/* A file is put under a mapping in parts of so many pages, and no more parts than a process has room for. */
#define UNDER_PAGES 256
#define UNDER_PARTS_MAX 8192

/* What the handler reads. It takes no lock: `base` is set last and cleared first. */
struct guarded {
    _Atomic(uintptr_t) base;
    size_t bytes;
    _Atomic uint32_t lost;
    _Atomic int image;   /* the file that is shown, or -1 */
    _Atomic int has_own; /* ftvm_mapping_own was called since it is */
    int is_taken;
};

static struct guarded guards[FTVM_MAPPINGS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction others;
static atomic_flag is_passed_on = ATOMIC_FLAG_INIT;

/* Only once: the handler before ours may have ours behind it in turn. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (atomic_flag_test_and_set(&is_passed_on)) {
        signal(number, SIG_DFL);
    } else if ((others.sa_flags & SA_SIGINFO) && others.sa_sigaction != NULL) {
        others.sa_sigaction(number, info, context);
    } else if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN) {
        others.sa_handler(number);
    } else {
        signal(number, SIG_DFL); /* the access is made again, and ends the process as ever */
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (size_t i = 0; i < FTVM_MAPPINGS_MAX && info->si_code > 0; i++) {
        uintptr_t base = atomic_load(&guards[i].base);
        if (base == 0 || at < base || at - base >= guards[i].bytes)
            continue;
        void *page = (void *)(at & ~(uintptr_t)(PAGE_BYTES - 1));
        if (mmap(page, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        atomic_fetch_add(&guards[i].lost, 1);
        errno = saved;
        return;
    }
    errno = saved;
    pass_on(number, info, context);
}

/* Called with the lock held. A handler that came after ours, or was there before, is asked after us. */
static int handle(void)
{
    struct sigaction present, ours = {0};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &present) != 0)
        return -errno;
    if ((present.sa_flags & SA_SIGINFO) && present.sa_sigaction == on_bus_error)
        return 0;
    others = present;
    return sigaction(SIGBUS, &ours, NULL) == 0 ? 0 : -errno;
}

/* Has part of the memory show the same part of a file, or zeros with -1. */
static int map_bytes(const struct guarded *guard, int image, size_t offset, size_t bytes)
{
    int kind = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | (image < 0 ? MAP_ANONYMOUS : 0);
    uint8_t *at = (uint8_t *)atomic_load(&guard->base) + offset;
    return mmap(at, bytes, PROT_READ | PROT_WRITE, kind, image, image < 0 ? 0 : (off_t)offset) == MAP_FAILED ? -errno : 0;
}

int ftvm_mapping_show(int mapping, int image)
{
    struct guarded *guard = &guards[mapping];
    int wrong = map_bytes(guard, image, 0, guard->bytes);
    if (wrong != 0)
        return wrong;
    atomic_store(&guard->image, image);
    atomic_store(&guard->has_own, 0);
    atomic_store(&guard->lost, 0);
    return 0;
}

int ftvm_mapping_show_part(int mapping, int image, size_t first, size_t count)
{
    struct guarded *guard = &guards[mapping];
    size_t pages = guard->bytes / PAGE_BYTES;
    if (count == 0 || first >= pages || count > pages - first)
        return -EINVAL;
    int wrong = map_bytes(guard, image, first * PAGE_BYTES, count * PAGE_BYTES);
    if (wrong == 0)
        atomic_store(&guard->lost, 0);
    return wrong;
}

/* Has a part show another file under the flagged pages. A copy is made beside it and put in its place at once: a reader
 * never sees a page without its content. */
static int put_under(const struct guarded *guard, int image, const uint8_t *own, size_t first, size_t count)
{
    uint8_t *at = (uint8_t *)atomic_load(&guard->base) + first * PAGE_BYTES;
    size_t bytes = count * PAGE_BYTES;
    if (memchr(own + first, 1, count) == NULL)
        return map_bytes(guard, image, first * PAGE_BYTES, bytes);
    uint8_t *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, image, (off_t)(first * PAGE_BYTES));
    if (copy == MAP_FAILED)
        return -errno;
    for (size_t i = 0; i < count; i++)
        if (own[first + i])
            memcpy(copy + i * PAGE_BYTES, at + i * PAGE_BYTES, PAGE_BYTES);
    if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED)
        return 0;
    int wrong = -errno;
    munmap(copy, bytes);
    return wrong;
}

int ftvm_mapping_show_under(int mapping, int image, const uint8_t *own)
{
    struct guarded *guard = &guards[mapping];
    size_t pages = guard->bytes / PAGE_BYTES, part = pages / UNDER_PARTS_MAX;
    part = part < UNDER_PAGES ? UNDER_PAGES : part;
    int wrong = 0;
    for (size_t first = 0; first < pages && wrong == 0; first += part)
        wrong = put_under(guard, image, own, first, pages - first < part ? pages - first : part);
    if (wrong == 0) {
        atomic_store(&guard->image, image);
        atomic_store(&guard->has_own, 0);
    }
    return wrong;
}

int ftvm_mapping_own(int mapping, size_t first, size_t count)
{
    struct guarded *guard = &guards[mapping];
    atomic_store(&guard->has_own, 1);
    return map_bytes(guard, -1, first * PAGE_BYTES, count * PAGE_BYTES);
}

int ftvm_mapping_guard(uint8_t *base, size_t bytes)
{
    if (sysconf(_SC_PAGESIZE) != PAGE_BYTES)
        return -EINVAL;
    int taken = -ENFILE;
    pthread_mutex_lock(&lock);
    int wrong = handle();
    for (int i = 0; wrong == 0 && taken < 0 && i < FTVM_MAPPINGS_MAX; i++) {
        if (guards[i].is_taken)
            continue;
        guards[i].is_taken = 1;
        guards[i].bytes = bytes;
        atomic_store(&guards[i].base, (uintptr_t)base);
        taken = i;
    }
    pthread_mutex_unlock(&lock);
    if (wrong != 0 || taken < 0)
        return wrong != 0 ? wrong : taken;
    wrong = ftvm_mapping_show(taken, -1);
    if (wrong != 0)
        ftvm_mapping_unguard(taken);
    return wrong != 0 ? wrong : taken;
}

void ftvm_mapping_unguard(int mapping)
{
    pthread_mutex_lock(&lock);
    atomic_store(&guards[mapping].base, 0);
    guards[mapping].is_taken = 0;
    pthread_mutex_unlock(&lock);
}

int ftvm_mapping_drop(int mapping, size_t first, size_t count)
{
    const struct guarded *guard = &guards[mapping];
    if (atomic_load(&guard->has_own)) /* to let go of such a page shows zeros, not the file */
        return map_bytes(guard, atomic_load(&guard->image), first * PAGE_BYTES, count * PAGE_BYTES);
    uint8_t *base = (uint8_t *)atomic_load(&guard->base);
    return madvise(base + first * PAGE_BYTES, count * PAGE_BYTES, MADV_DONTNEED) == 0 ? 0 : -errno;
}

int ftvm_mapping_clear(const uint8_t *base, size_t bytes)
{
    for (int i = 0; i < FTVM_MAPPINGS_MAX; i++)
        if (atomic_load(&guards[i].base) == (uintptr_t)base && guards[i].bytes == bytes)
            return ftvm_mapping_show(i, -1) == 0;
    return 0;
}

uint32_t ftvm_mapping_lost(int mapping)
{
    return atomic_load(&guards[mapping].lost);
}
