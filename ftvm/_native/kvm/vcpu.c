#include "vcpu.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "bus.h"
#include "chips.h"
#include "clock.h"

enum { ACCESSES_UNFINISHED_MAX = 64 };
#define NANOS_PER_SECOND UINT64_C(1000000000)

static int kick_signal(void)
{
    return SIGRTMIN + 6;
}

static void be_interrupted(int number)
{
    (void)number; /* that it came is all: KVM_RUN returns */
}

/* A handler of somebody else's serves as well: any makes KVM_RUN return. */
int kvm_vcpu_prepare_signal(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    if (sigaction(kick_signal(), NULL, &action) != 0)
        return -errno;
    if (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN)
        return 0;
    action = (struct sigaction){.sa_handler = be_interrupted};
    return sigaction(kick_signal(), &action, NULL) == 0 ? 0 : -errno;
}

static void take_only_kicks(void)
{
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, kick_signal());
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* immediate_exit ends the next KVM_RUN where the signal came just before it. */
static void leave_guest(kvm_cpu *cpu)
{
    if (!cpu->is_in_guest)
        return;
    __atomic_store_n(&cpu->run->immediate_exit, 1, __ATOMIC_RELEASE);
    pthread_kill(cpu->thread, kick_signal());
}

void kvm_vcpu_kick(ftvm_kvm *machine)
{
    for (unsigned i = 0; i < machine->cpu_count; i++)
        leave_guest(&machine->cpus[i]);
    pthread_cond_broadcast(&machine->changed);
}

void kvm_vcpu_nudge(ftvm_kvm *machine)
{
    leave_guest(&machine->cpus[0]);
    pthread_cond_broadcast(&machine->changed);
}

bool kvm_vcpu_has_ended(const ftvm_kvm *machine)
{
    return machine->core.has_ended || machine->failed_by != FTVM_KVM_NOT_ENDED;
}

static void fail(ftvm_kvm *machine, int failed_by, uint64_t detail)
{
    kvm_bus_flush(machine);
    machine->failed_by = failed_by;
    machine->failure_detail = detail;
}

/* --- exits --- */

static void serve_port(kvm_cpu *cpu)
{
    struct kvm_run *run = cpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    cpu->has_access = true;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
        kvm_bus_port(cpu->machine, run->io.port, run->io.direction == KVM_EXIT_IO_OUT, run->io.size, data);
}

static void serve_memory(kvm_cpu *cpu)
{
    struct kvm_run *run = cpu->run;
    cpu->has_access = true;
    kvm_bus_memory(cpu->machine, run->mmio.phys_addr, run->mmio.is_write != 0, run->mmio.len, run->mmio.data);
}

static void serve_exit(kvm_cpu *cpu)
{
    ftvm_kvm *machine = cpu->machine;
    const struct kvm_run *run = cpu->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO: serve_port(cpu); break;
    case KVM_EXIT_MMIO: serve_memory(cpu); break;
    case KVM_EXIT_INTR: break;
    case KVM_EXIT_HLT: fail(machine, FTVM_KVM_BY_HALT, 0); break;
    case KVM_EXIT_SHUTDOWN: fail(machine, FTVM_KVM_BY_SHUTDOWN, 0); break;
    case KVM_EXIT_INTERNAL_ERROR: fail(machine, FTVM_KVM_BY_INTERNAL, run->internal.suberror); break;
    case KVM_EXIT_FAIL_ENTRY:
        fail(machine, FTVM_KVM_BY_ENTRY, run->fail_entry.hardware_entry_failure_reason);
        break;
    default: fail(machine, FTVM_KVM_BY_EXIT, run->exit_reason); break;
    }
}

/* EAGAIN: a processor that slept since its reset was woken. */
static void take_result(kvm_cpu *cpu, int result, int error)
{
    ftvm_kvm *machine = cpu->machine;
    if (kvm_vcpu_has_ended(machine))
        return; /* another processor ended it meanwhile */
    if (result == 0)
        serve_exit(cpu);
    else if (error != EINTR && error != EAGAIN)
        fail(machine, FTVM_KVM_BY_ERRNO, (uint64_t)error);
    kvm_chips_update(machine);
    if (kvm_vcpu_has_ended(machine)) {
        machine->ended_on = (unsigned)(cpu - machine->cpus);
        kvm_vcpu_kick(machine);
    }
}

/* KVM finishes an access (the value read, the instruction pointer) when it is entered the next time: enter it, and have
 * it leave at once. An access of several parts goes on with the next one. When it leaves it tells the registers: one
 * call instead of three, so it is worth one also where no access is to be finished. */
static void finish_access(kvm_cpu *cpu)
{
    bool is_asked = cpu->machine->syncs;
    cpu->run->kvm_valid_regs = is_asked ? KVM_SYNCED : 0;
    for (unsigned i = 0; (cpu->has_access || is_asked) && !kvm_vcpu_has_ended(cpu->machine); i++) {
        if (i == ACCESSES_UNFINISHED_MAX) {
            fail(cpu->machine, FTVM_KVM_BY_INTERNAL, UINT64_MAX);
            return;
        }
        cpu->has_access = false;
        cpu->has_synced = is_asked;
        is_asked = false;
        cpu->run->immediate_exit = 1;
        int result = ioctl(cpu->fd, KVM_RUN, 0);
        take_result(cpu, result, errno);
    }
    cpu->run->kvm_valid_regs = 0;
    cpu->has_synced &= !kvm_vcpu_has_ended(cpu->machine);
    cpu->has_access = false;
}

/* Tells the attendant what was said since there were `before` outputs; stops behind them if that is wanted. */
static void publish(ftvm_kvm *machine, size_t before)
{
    if (machine->board.output.count == before)
        return;
    if (machine->stops_at_output) {
        machine->is_wanted = false;
        kvm_vcpu_kick(machine);
    }
    pthread_cond_broadcast(&machine->changed);
}

/* The lock is free while the processor is in the guest, so another one may say something then, and publish it. */
static void enter(kvm_cpu *cpu)
{
    ftvm_kvm *machine = cpu->machine;
    cpu->has_access = false;
    __atomic_store_n(&cpu->run->immediate_exit, 0, __ATOMIC_RELEASE);
    cpu->is_in_guest = true;
    pthread_mutex_unlock(&machine->lock);
    int result = ioctl(cpu->fd, KVM_RUN, 0);
    int error = errno;
    pthread_mutex_lock(&machine->lock);
    size_t before = machine->board.output.count;
    cpu->is_in_guest = false;
    machine->exits++;
    take_result(cpu, result, error);
    publish(machine, before);
}

/* --- the loop --- */

/* Waits at most until the program's time is over. */
static void sleep_until(ftvm_kvm *machine, uint64_t nanos)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t sum = (uint64_t)at.tv_nsec + nanos % NANOS_PER_SECOND;
    at.tv_sec += (time_t)(nanos / NANOS_PER_SECOND + sum / NANOS_PER_SECOND);
    at.tv_nsec = (long)(sum % NANOS_PER_SECOND);
    pthread_cond_timedwait(&machine->changed, &machine->lock, &at);
}

/* Whether the program goes on now; else waits a while. */
static bool is_awake(ftvm_kvm *machine)
{
    kvm_core *core = &machine->core;
    if (!core->is_waiting)
        return true;
    uint64_t now = core->wait_until != KVM_NEVER ? kvm_clock_now(machine) : 0;
    if (kvm_bus_lines(machine) != 0 || now >= core->wait_until) {
        core->is_waiting = false;
        return true;
    }
    if (core->wait_until == KVM_NEVER)
        pthread_cond_wait(&machine->changed, &machine->lock);
    else
        sleep_until(machine, core->wait_until - now);
    return false;
}

/* Gives the devices what waits for them. Returns whether that made an output, as a line that was owed does. */
static bool feed(ftvm_kvm *machine)
{
    size_t before = machine->board.output.count;
    kvm_bus_feed(machine);
    if (machine->owes_line)
        kvm_bus_flush(machine);
    machine->owes_line = false;
    kvm_chips_update(machine);
    publish(machine, before);
    return machine->board.output.count != before;
}

static void turn(kvm_cpu *cpu)
{
    ftvm_kvm *machine = cpu->machine;
    if (device_output_is_tight(&machine->board.output))
        pthread_cond_wait(&machine->changed, &machine->lock);
    else if (!feed(machine) && is_awake(machine))
        enter(cpu);
}

static bool may_run(const ftvm_kvm *machine)
{
    return machine->is_wanted && !machine->is_closing && !kvm_vcpu_has_ended(machine);
}

static void stand_still(kvm_cpu *cpu)
{
    ftvm_kvm *machine = cpu->machine;
    if (cpu->is_running)
        finish_access(cpu);
    cpu->is_running = false;
    pthread_cond_broadcast(&machine->changed);
    while (!may_run(machine) && !machine->is_closing)
        pthread_cond_wait(&machine->changed, &machine->lock);
}

void *kvm_vcpu_main(void *argument)
{
    kvm_cpu *cpu = argument;
    ftvm_kvm *machine = cpu->machine;
    take_only_kicks();
    pthread_mutex_lock(&machine->lock);
    while (!machine->is_closing) {
        if (!may_run(machine)) {
            stand_still(cpu);
            continue;
        }
        cpu->is_running = true;
        machine->has_times = false;
        turn(cpu);
    }
    cpu->is_running = false;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
    return NULL;
}
