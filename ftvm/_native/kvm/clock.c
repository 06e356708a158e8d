#include "clock.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <time.h>

enum { MSR_TSC = 0x10 };
#define NANOS_PER_SECOND UINT64_C(1000000000)
#define SLACK_MS 1 /* how far a time stamp counter that was set may lie from what was asked */

typedef struct {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
} one_msr;

static int read_ticks(const ftvm_kvm *machine, uint64_t *ticks)
{
    one_msr msr = {.head = {.nmsrs = 1}, .entry = {.index = MSR_TSC}};
    int got = ioctl(machine->cpus[0].fd, KVM_GET_MSRS, &msr);
    *ticks = msr.entry.data;
    return got == 1 ? 0 : got < 0 ? -errno : -EINVAL;
}

static uint64_t wall_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * NANOS_PER_SECOND + (uint64_t)time.tv_nsec;
}

uint64_t kvm_clock_now(const ftvm_kvm *machine)
{
    struct kvm_clock_data clock = {0};
    return ioctl(machine->vm, KVM_GET_CLOCK, &clock) == 0 ? clock.clock : 0;
}

int kvm_clock_read(const ftvm_kvm *machine, kvm_times *times)
{
    struct kvm_clock_data clock = {0};
    if (ioctl(machine->vm, KVM_GET_CLOCK, &clock) != 0)
        return -errno;
    times->clock_ns = clock.clock;
    times->wall_ns = wall_now();
    return read_ticks(machine, &times->ticks);
}

static uint64_t to_ticks(const ftvm_kvm *machine, uint64_t nanos)
{
    return (uint64_t)((unsigned __int128)nanos * machine->tsc_khz / 1000000);
}

/* Whether the counter reads as it should. It runs on between the setting and the reading. */
static bool is_near(const ftvm_kvm *machine, uint64_t wanted)
{
    uint64_t ticks = 0;
    return read_ticks(machine, &ticks) == 0 && ticks >= wanted &&
           ticks - wanted <= (uint64_t)SLACK_MS * machine->tsc_khz;
}

/* By its offset from the host's counter: exact, and without KVM's guess that a write near another one means the same
 * value. */
static void set_by_offset(const ftvm_kvm *machine, uint64_t wanted)
{
    uint64_t offset = 0, ticks = 0;
    struct kvm_device_attr request = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)&offset};
    if (ioctl(machine->cpus[0].fd, KVM_GET_DEVICE_ATTR, &request) != 0 || read_ticks(machine, &ticks) != 0)
        return;
    offset += wanted - ticks;
    (void)ioctl(machine->cpus[0].fd, KVM_SET_DEVICE_ATTR, &request); /* whether it helped, the caller sees by reading */
}

static int set_ticks(const ftvm_kvm *machine, uint64_t wanted, uint64_t least)
{
    one_msr msr = {.head = {.nmsrs = 1}, .entry = {.index = MSR_TSC, .data = wanted}};
    uint64_t ticks = 0;
    if (is_near(machine, wanted))
        return 0; /* on the host where it was saved the counter has gone on by itself */
    if (ioctl(machine->cpus[0].fd, KVM_SET_MSRS, &msr) < 0)
        return -errno;
    if (!is_near(machine, wanted))
        set_by_offset(machine, wanted);
    int error = read_ticks(machine, &ticks);
    return error != 0 ? error : ticks >= least ? 0 : -ERANGE;
}

/* Has all processors' counters run as the first one's. KVM has each start so: where it does not tell offsets there is
 * one processor. */
static int align_others(const ftvm_kvm *machine)
{
    uint64_t offset = 0;
    struct kvm_device_attr request = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)&offset};
    if (machine->cpu_count > 1 && ioctl(machine->cpus[0].fd, KVM_GET_DEVICE_ATTR, &request) != 0)
        return -errno;
    for (unsigned i = 1; i < machine->cpu_count; i++) {
        if (ioctl(machine->cpus[i].fd, KVM_SET_DEVICE_ATTR, &request) != 0)
            return -errno;
    }
    return 0;
}

int kvm_clock_go_on(const ftvm_kvm *machine, const kvm_times *times)
{
    uint64_t wall = wall_now();
    uint64_t gap = wall > times->wall_ns ? wall - times->wall_ns : 0;
    gap = gap < FTVM_KVM_GAP_NS_MAX ? gap : FTVM_KVM_GAP_NS_MAX;
    struct kvm_clock_data clock = {.clock = times->clock_ns + gap};
    if (ioctl(machine->vm, KVM_SET_CLOCK, &clock) != 0)
        return -errno;
    int error = set_ticks(machine, times->ticks + to_ticks(machine, gap), times->ticks);
    return error != 0 ? error : align_others(machine);
}
