#include "kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "kvm/bus.h"
#include "kvm/clock.h"
#include "kvm/dirtylog.h"
#include "kvm/state.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"

_Static_assert(DEVICE_OUTPUT_BYTES == FTVM_KVM_OUTPUT_BYTES, "kvm.h says how much there can be");
_Static_assert((int)DEVICE_CHANNEL_NET == (int)FTVM_KVM_CHANNEL_NET, "kvm.h says which channels there are");

enum { MSR_CLOCK = 0x4b564d01, CLOCK_ENABLED = 1 };
enum { LINE_LOOK_NS = 200000000 }; /* how long a program computes before an unfinished console line is told */

/* --- making one --- */

size_t ftvm_kvm_bytes(void)
{
    return sizeof(ftvm_kvm);
}

static bool is_page_multiple(uint64_t bytes)
{
    return bytes != 0 && (bytes & ((1u << DEVICE_PAGE_SHIFT) - 1)) == 0;
}

static bool is_config_valid(const ftvm_kvm_config *config)
{
    bool has_block = (config->devices & FTVM_KVM_BLOCK) != 0;
    bool is_disk_valid = config->disk != NULL && config->disk_flags != NULL && is_page_multiple(config->disk_bytes);
    return config->ram != NULL && is_page_multiple(config->ram_bytes) && config->ram_bytes <= FTVM_KVM_RAM_BYTES_MAX &&
           config->devices <= (FTVM_KVM_NET | FTVM_KVM_BLOCK | FTVM_KVM_ENTROPY) && (!has_block || is_disk_valid) &&
           config->processors <= FTVM_KVM_PROCESSORS_MAX;
}

static int start_threads(ftvm_kvm *machine)
{
    pthread_condattr_t attributes;
    int error = kvm_vcpu_prepare_signal();
    if (error != 0)
        return error;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&machine->lock, NULL);
    pthread_cond_init(&machine->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    machine->has_lock = true;
    for (unsigned i = 0; i < machine->cpu_count && error == 0; i++) {
        kvm_cpu *cpu = &machine->cpus[i];
        error = pthread_create(&cpu->thread, NULL, kvm_vcpu_main, cpu);
        cpu->has_thread = error == 0;
    }
    return -error;
}

int ftvm_kvm_open(void *memory, const ftvm_kvm_config *config, enum ftvm_kvm_step *step)
{
    ftvm_kvm *machine = memory;
    *step = FTVM_KVM_CONFIG;
    if (memory == NULL || ((uintptr_t)memory & 63) != 0 || !is_config_valid(config))
        return -EINVAL;
    machine->config = *config;
    machine->system = machine->vm = -1;
    kvm_bus_start(machine);
    int error = kvm_vm_open(machine, step);
    if (error == 0) {
        *step = FTVM_KVM_THREAD;
        error = start_threads(machine);
    }
    machine->config.device = NULL; /* the caller's text need not live on */
    if (error != 0)
        ftvm_kvm_close(machine);
    return error;
}

void ftvm_kvm_close(ftvm_kvm *machine)
{
    if (machine->has_lock) {
        pthread_mutex_lock(&machine->lock);
        machine->is_closing = true;
        machine->is_wanted = false;
        kvm_vcpu_kick(machine);
        pthread_mutex_unlock(&machine->lock);
        for (unsigned i = 0; i < machine->cpu_count; i++) {
            if (machine->cpus[i].has_thread)
                pthread_join(machine->cpus[i].thread, NULL);
            machine->cpus[i].has_thread = false;
        }
        pthread_cond_destroy(&machine->changed);
        pthread_mutex_destroy(&machine->lock);
    }
    machine->has_lock = false;
    kvm_vm_close(machine);
}

const char *ftvm_kvm_cpu(const ftvm_kvm *machine)
{
    return machine->cpu;
}

/* --- the start of a program, or of a system --- */

enum { DATA_WRITABLE = 3, CODE_READABLE = 11, USER = 3, SELECTOR_CODE = 0x33, SELECTOR_DATA = 0x2b };
enum { KERNEL = 0, KERNEL_CODE = 0x10, KERNEL_DATA = 0x18, KERNEL_SEGMENTS_LIMIT = 0x1f, KERNEL_RFLAGS = 2 };
enum { MSR_MEMORY_TYPES = 0x2ff, WRITE_BACK = 0x806 }; /* on, and by default write-back */
enum { CR0 = 0x80050033, CR4 = 0x620, EFER = 0x500, RFLAGS = 0x3002 };
/* CR0: paging, write protect, numeric errors, protected mode; CR4: PAE, SSE; EFER: long mode; RFLAGS: a program
 * at level 3 may use ports. */

static struct kvm_segment segment(uint16_t selector, uint8_t level, bool is_code)
{
    return (struct kvm_segment){
        .limit = UINT32_MAX,
        .selector = selector,
        .type = is_code ? CODE_READABLE : DATA_WRITABLE,
        .present = 1,
        .dpl = level,
        .db = !is_code,
        .s = 1,
        .l = is_code,
        .g = 1,
    };
}

/* Sets the first processor to 64-bit mode with paging on; its segments are in `system`. */
static int start(ftvm_kvm *machine, struct kvm_sregs *system, const struct kvm_regs *registers,
                 uint64_t page_table)
{
    int processor = machine->cpus[0].fd;
    machine->cpus[0].has_synced = false;
    system->ds = system->es = system->fs = system->gs = system->ss;
    system->cr0 = CR0;
    system->cr3 = page_table;
    system->cr4 = CR4;
    system->efer = EFER;
    if (ioctl(processor, KVM_SET_SREGS, system) != 0 || ioctl(processor, KVM_SET_REGS, registers) != 0)
        return -errno;
    return 0;
}

int ftvm_kvm_boot(ftvm_kvm *machine, uint64_t pc, uint64_t stack, uint64_t page_table)
{
    struct kvm_sregs system;
    struct kvm_regs registers = {.rip = pc, .rsp = stack, .rflags = RFLAGS};
    if (kvm_is_system(machine))
        return -EINVAL;
    if (ioctl(machine->cpus[0].fd, KVM_GET_SREGS, &system) != 0)
        return -errno;
    system.cs = segment(SELECTOR_CODE, USER, true);
    system.ss = segment(SELECTOR_DATA, USER, false);
    return start(machine, &system, &registers, page_table);
}

/* Without firmware nobody else turns on that RAM may be cached. */
static int cache_memory(const ftvm_kvm *machine)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = {.head = {.nmsrs = 1}, .entry = {.index = MSR_MEMORY_TYPES, .data = WRITE_BACK}};
    return ioctl(machine->cpus[0].fd, KVM_SET_MSRS, &msr) < 0 ? -errno : 0;
}

int ftvm_kvm_boot_system(ftvm_kvm *machine, uint64_t pc, uint64_t page_table, uint64_t segments,
                         uint64_t boot_parameters)
{
    struct kvm_sregs system;
    struct kvm_regs registers = {.rip = pc, .rsi = boot_parameters, .rflags = KERNEL_RFLAGS};
    if (!kvm_is_system(machine))
        return -EINVAL;
    if (ioctl(machine->cpus[0].fd, KVM_GET_SREGS, &system) != 0)
        return -errno;
    system.cs = segment(KERNEL_CODE, KERNEL, true);
    system.ss = segment(KERNEL_DATA, KERNEL, false);
    system.gdt = (struct kvm_dtable){.base = segments, .limit = KERNEL_SEGMENTS_LIMIT};
    int error = start(machine, &system, &registers, page_table);
    return error != 0 ? error : cache_memory(machine);
}

/* --- running --- */

void ftvm_kvm_resume(ftvm_kvm *machine)
{
    pthread_mutex_lock(&machine->lock);
    if (!machine->is_wanted && !kvm_vcpu_has_ended(machine)) {
        if (machine->owes_times) /* a refusal was told when it was loaded, and nothing has changed since */
            (void)kvm_clock_go_on(machine, &machine->times);
        machine->owes_times = false;
        for (unsigned i = 0; i < machine->cpu_count && kvm_is_system(machine); i++) /* its watchdogs forgive the pause */
            (void)ioctl(machine->cpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
        machine->is_wanted = true;
        pthread_cond_broadcast(&machine->changed);
    }
    pthread_mutex_unlock(&machine->lock);
}

/* Whether all that the machine said is emitted, its end too. */
static bool is_drained(const ftvm_kvm *machine)
{
    bool owes_end = kvm_vcpu_has_ended(machine) && !machine->has_told_end;
    return machine->has_left || (machine->board.output.count == 0 && !machine->is_emitting && !owes_end);
}

static void pause_machine(ftvm_kvm *machine)
{
    machine->is_wanted = false;
    kvm_vcpu_kick(machine);
    while (!kvm_is_still(machine))
        pthread_cond_wait(&machine->changed, &machine->lock);
}

void ftvm_kvm_pause(ftvm_kvm *machine, int is_attendant)
{
    pthread_mutex_lock(&machine->lock);
    pause_machine(machine);
    while (!is_attendant && !is_drained(machine))
        pthread_cond_wait(&machine->changed, &machine->lock);
    pthread_mutex_unlock(&machine->lock);
}

int ftvm_kvm_is_paused(ftvm_kvm *machine)
{
    pthread_mutex_lock(&machine->lock);
    int is_paused = !machine->is_wanted && kvm_is_still(machine);
    pthread_mutex_unlock(&machine->lock);
    return is_paused;
}

void ftvm_kvm_stop_at_output(ftvm_kvm *machine, int is_wanted)
{
    pthread_mutex_lock(&machine->lock);
    machine->stops_at_output = is_wanted != 0;
    pthread_mutex_unlock(&machine->lock);
}

/* --- outputs and inputs --- */

/* Waits; has a program that computes, and left a line unfinished, tell it: nothing else would. */
static void wait_for_news(ftvm_kvm *machine)
{
    struct timespec at;
    uint64_t exits = machine->exits;
    if (!machine->is_wanted) {
        pthread_cond_wait(&machine->changed, &machine->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += LINE_LOOK_NS;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    bool is_late = pthread_cond_timedwait(&machine->changed, &machine->lock, &at) == ETIMEDOUT;
    if (is_late && machine->cpus[0].is_in_guest && machine->exits == exits && machine->core.uart.line_count != 0) {
        machine->owes_line = true;
        kvm_vcpu_nudge(machine);
    }
}

int ftvm_kvm_await(ftvm_kvm *machine)
{
    int found = 0;
    pthread_mutex_lock(&machine->lock);
    machine->is_emitting = false;
    pthread_cond_broadcast(&machine->changed);
    for (;;) {
        found |= machine->board.output.count != 0 ? FTVM_KVM_HAS_OUTPUTS : 0;
        found |= kvm_vcpu_has_ended(machine) && !machine->has_told_end ? FTVM_KVM_HAS_ENDED : 0;
        found |= machine->is_dismissed ? FTVM_KVM_IS_CLOSING : 0;
        if (found != 0)
            break;
        wait_for_news(machine);
    }
    machine->is_emitting = true;
    machine->has_told_end |= (found & FTVM_KVM_HAS_ENDED) != 0;
    pthread_mutex_unlock(&machine->lock);
    return found;
}

size_t ftvm_kvm_take(ftvm_kvm *machine, uint8_t *outputs)
{
    pthread_mutex_lock(&machine->lock);
    size_t bytes = machine->board.output.length;
    memcpy(outputs, machine->board.output.bytes, bytes);
    device_output_clear(&machine->board.output);
    pthread_cond_broadcast(&machine->changed); /* the machine may have waited for room */
    pthread_mutex_unlock(&machine->lock);
    return bytes;
}

void ftvm_kvm_leave(ftvm_kvm *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->has_left = true;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
}

void ftvm_kvm_dismiss(ftvm_kvm *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->is_dismissed = true;
    pause_machine(machine);
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
}

int ftvm_kvm_receive_frame(ftvm_kvm *machine, const uint8_t *frame, size_t bytes)
{
    int is_taken = 0;
    pthread_mutex_lock(&machine->lock);
    if ((machine->config.devices & FTVM_KVM_NET) != 0 && bytes <= DEVICE_FRAME_BYTES_MAX &&
        machine->frame_count < KVM_FRAMES_WAITING_MAX) {
        kvm_frame *place = &machine->frames[(machine->frame_first + machine->frame_count) % KVM_FRAMES_WAITING_MAX];
        place->bytes = (uint16_t)bytes;
        memcpy(place->frame, frame, bytes);
        machine->frame_count++;
        kvm_vcpu_nudge(machine);
        is_taken = 1;
    }
    pthread_mutex_unlock(&machine->lock);
    return is_taken;
}

int ftvm_kvm_receive_console(ftvm_kvm *machine, const uint8_t *bytes, size_t count)
{
    int is_taken = 0;
    pthread_mutex_lock(&machine->lock);
    if (count <= sizeof machine->keys - machine->key_count) {
        memcpy(machine->keys + machine->key_count, bytes, count);
        machine->key_count += count;
        kvm_vcpu_nudge(machine);
        is_taken = 1;
    }
    pthread_mutex_unlock(&machine->lock);
    return is_taken;
}

int ftvm_kvm_ended_by(ftvm_kvm *machine, uint64_t *detail, uint64_t *pc)
{
    struct kvm_regs registers = {0};
    pthread_mutex_lock(&machine->lock);
    int ended_by = machine->core.has_ended ? FTVM_KVM_BY_PROGRAM : machine->failed_by;
    *detail = machine->core.has_ended ? machine->core.exit_code : machine->failure_detail;
    if (ended_by != FTVM_KVM_NOT_ENDED)
        (void)ioctl(machine->cpus[machine->ended_on].fd, KVM_GET_REGS, &registers); /* 0 then: a place that nobody knows */
    *pc = registers.rip;
    pthread_mutex_unlock(&machine->lock);
    return ended_by;
}

/* --- state --- */

int64_t ftvm_kvm_clock_page(ftvm_kvm *machine, uint32_t processor)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = {.head = {.nmsrs = 1}, .entry = {.index = MSR_CLOCK}};
    if (processor >= machine->cpu_count)
        return -1;
    pthread_mutex_lock(&machine->lock);
    int got = ioctl(machine->cpus[processor].fd, KVM_GET_MSRS, &msr);
    pthread_mutex_unlock(&machine->lock);
    if (got < 0)
        return -2;
    bool is_there = got == 1 && (msr.entry.data & CLOCK_ENABLED) != 0 && msr.entry.data < machine->config.ram_bytes;
    return is_there ? (int64_t)(msr.entry.data >> DEVICE_PAGE_SHIFT) : -1;
}

int ftvm_kvm_has_log(const ftvm_kvm *machine)
{
    return machine->log.is_there;
}

int ftvm_kvm_collect(ftvm_kvm *machine, uint64_t *words)
{
    pthread_mutex_lock(&machine->lock);
    int error = kvm_dirtylog_collect(machine, words);
    pthread_mutex_unlock(&machine->lock);
    return error;
}

int64_t ftvm_kvm_save(ftvm_kvm *machine, uint8_t *restrict state, size_t capacity)
{
    pthread_mutex_lock(&machine->lock);
    int64_t length = kvm_state_save(machine, state, capacity);
    pthread_mutex_unlock(&machine->lock);
    return length;
}

int ftvm_kvm_load(ftvm_kvm *machine, const uint8_t *restrict state, size_t bytes, char *wrong)
{
    pthread_mutex_lock(&machine->lock);
    int result = kvm_state_load(machine, state, bytes, wrong);
    if (result == 0) {
        machine->failed_by = FTVM_KVM_NOT_ENDED;
        machine->has_told_end = machine->core.has_ended;
        device_output_clear(&machine->board.output);
    }
    pthread_mutex_unlock(&machine->lock);
    return result;
}

int ftvm_kvm_clocks(ftvm_kvm *machine, uint64_t *clock_ns, uint64_t *ticks)
{
    kvm_times times = {0};
    pthread_mutex_lock(&machine->lock);
    kvm_vcpu_kick(machine); /* KVM tells nothing of a processor that is in the guest, and that may stay there for long */
    int error = kvm_clock_read(machine, &times);
    pthread_mutex_unlock(&machine->lock);
    *clock_ns = times.clock_ns;
    *ticks = times.ticks;
    return error;
}
