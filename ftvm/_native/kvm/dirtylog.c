#include "dirtylog.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vm.h"

enum { WORD_PAGES = 64, LOOKS_UNTIL_PROBE = 16 };

void kvm_dirtylog_open(ftvm_kvm *machine)
{
    struct kvm_enable_cap enable = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
    machine->log.is_there = ioctl(machine->vm, KVM_CHECK_EXTENSION, enable.cap) > 0 &&
                            ioctl(machine->vm, KVM_ENABLE_CAP, &enable) == 0;
}

void kvm_dirtylog_wrote(device_board *board, uint64_t offset, size_t bytes)
{
    ftvm_kvm *machine = (ftvm_kvm *)(void *)((char *)board - offsetof(ftvm_kvm, board));
    for (uint64_t page = offset >> DEVICE_PAGE_SHIFT; page <= (offset + bytes - 1) >> DEVICE_PAGE_SHIFT; page++)
        machine->log.by_devices[page / WORD_PAGES] |= UINT64_C(1) << page % WORD_PAGES;
}

static uint32_t page_count(const ftvm_kvm *machine)
{
    return (uint32_t)(machine->config.ram_bytes >> DEVICE_PAGE_SHIFT);
}

static size_t word_count(const ftvm_kvm *machine)
{
    return (page_count(machine) + WORD_PAGES - 1) / WORD_PAGES;
}

static void tell_all(const ftvm_kvm *machine, uint64_t *words)
{
    uint32_t behind = page_count(machine) % WORD_PAGES;
    memset(words, 0xff, word_count(machine) * sizeof *words);
    if (behind != 0)
        words[word_count(machine) - 1] = (UINT64_C(1) << behind) - 1;
}

/* Which pages of a word to protect again, of those in KVM's log. */
static uint64_t choose(kvm_dirtylog *log, size_t word, uint64_t found)
{
    bool is_probed = (word + log->looks) % LOOKS_UNTIL_PROBE == 0; /* not all in one look */
    log->hot[word] = is_probed ? 0 : log->hot[word] | (found & log->before[word]);
    log->before[word] = found;
    return found & ~log->hot[word];
}

static int protect(const ftvm_kvm *machine, size_t first, size_t behind, uint64_t *words)
{
    uint32_t from = (uint32_t)first * WORD_PAGES, to = (uint32_t)behind * WORD_PAGES;
    struct kvm_clear_dirty_log request = {.first_page = from, .dirty_bitmap = words + first};
    request.num_pages = (to < page_count(machine) ? to : page_count(machine)) - from;
    return ioctl(machine->vm, KVM_CLEAR_DIRTY_LOG, &request) == 0 ? 0 : -errno;
}

/* Protects again what is to be, of the log in `words`. */
static int renew(ftvm_kvm *machine, const uint64_t *words)
{
    kvm_dirtylog *log = &machine->log;
    size_t first = word_count(machine), behind = 0;
    log->looks++;
    for (size_t word = 0; word < word_count(machine); word++) {
        log->chosen[word] = choose(log, word, words[word]);
        if (log->chosen[word] != 0) {
            first = first < word ? first : word;
            behind = word + 1;
        }
    }
    return behind != 0 ? protect(machine, first, behind, log->chosen) : 0;
}

int kvm_dirtylog_collect(ftvm_kvm *machine, uint64_t *words)
{
    kvm_dirtylog *log = &machine->log;
    struct kvm_dirty_log request = {.dirty_bitmap = words};
    if (!log->is_there)
        return -ENOTSUP;
    if (!log->is_on) {
        int error = kvm_vm_give_memory(machine, true);
        log->is_on = error == 0;
        memset(log->by_devices, 0, sizeof log->by_devices);
        tell_all(machine, words);
        return error;
    }
    if (ioctl(machine->vm, KVM_GET_DIRTY_LOG, &request) != 0)
        return -errno;
    int error = renew(machine, words);
    for (size_t word = 0; word < word_count(machine) && error == 0; word++) {
        words[word] |= log->by_devices[word];
        log->by_devices[word] = 0;
    }
    return error;
}
