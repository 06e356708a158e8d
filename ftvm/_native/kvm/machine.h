/* The machine's insides, shared by the modules of this folder; kvm.h is the outside.
 *
 * `kvm_core` is what a takeover needs of our parts; what it needs of the processor KVM keeps, and kvm_processor
 * carries. Everything in struct ftvm_kvm behind `lock` is guarded by it, the processors' ioctls too: a processor's
 * thread lets go of it only inside KVM_RUN and while it waits. */
#ifndef FTVM_KVM_MACHINE_H
#define FTVM_KVM_MACHINE_H

#include "../kvm.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "../devices/device.h"
#include "../devices/uart.h"
#include "../devices/virtio.h"
#include "../devices/virtio_block.h"
#include "../devices/virtio_entropy.h"
#include "../devices/virtio_net.h"

/* Of newer headers than those that some build on; numbers of the kernel's interface never change. */
#ifndef KVM_CAP_IMMEDIATE_EXIT
#define KVM_CAP_IMMEDIATE_EXIT 136
#endif
#ifndef KVM_CAP_XSAVE2
#define KVM_CAP_XSAVE2 208
#endif
#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif
#ifndef KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
#define KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 168
#endif
#ifndef KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
#define KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE (1 << 0)
#endif
#ifndef KVM_CLEAR_DIRTY_LOG
#define KVM_CLEAR_DIRTY_LOG _IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)
struct kvm_clear_dirty_log {
    __u32 slot;
    __u32 num_pages;
    __u64 first_page;
    void *dirty_bitmap;
};
#endif
#ifndef KVM_SYNC_X86_REGS
#define KVM_SYNC_X86_REGS (1 << 0)
#define KVM_SYNC_X86_SREGS (1 << 1)
#define KVM_SYNC_X86_EVENTS (1 << 2)
#endif

#define KVM_MMIO_BASE UINT64_C(0xd0000000)
#define KVM_FRAMES_WAITING_MAX 1024
#define KVM_KEYS_WAITING_MAX 65536
#define KVM_MSRS_MAX 256
#define KVM_CPUS_MAX FTVM_KVM_PROCESSORS_MAX
#define KVM_NEVER UINT64_MAX
#define KVM_LOG_WORDS_MAX (FTVM_KVM_RAM_BYTES_MAX / 4096 / 64)

/* What a system finds; its ACPI tables name the same. A device's interrupt is line KVM_LINE_BASE + its bit in
 * kvm_bus_lines: beyond the 16 of the old controller, which nobody uses. */
#define KVM_LINE_BASE 16

/* The guest's clocks at one moment, and when that was. */
typedef struct {
    uint64_t clock_ns; /* kvmclock */
    uint64_t ticks;    /* time stamp counter */
    uint64_t wall_ns;  /* the host's CLOCK_REALTIME */
} kvm_times;

typedef struct {
    device_uart uart;
    device_virtio net;
    device_virtio block;
    device_virtio entropy;
    uint64_t exit_code;
    uint8_t has_ended;  /* by its program */
    uint8_t is_waiting; /* at port 0x600; never for a system */
    uint64_t wait_until; /* in its kvmclock; KVM_NEVER for ever */
} kvm_core;

typedef struct {
    uint32_t count;
    uint32_t index[KVM_MSRS_MAX];
} kvm_msr_list;

typedef struct {
    uint16_t bytes;
    uint8_t frame[DEVICE_FRAME_BYTES_MAX];
} kvm_frame;

/* Which pages were written (dirtylog.h); bitmaps. */
typedef struct {
    bool is_there;
    bool is_on;
    uint32_t looks;
    uint64_t before[KVM_LOG_WORDS_MAX]; /* in KVM's log at the last look */
    uint64_t hot[KVM_LOG_WORDS_MAX];    /* left unprotected */
    uint64_t chosen[KVM_LOG_WORDS_MAX]; /* to be protected again, in this look */
    uint64_t by_devices[KVM_LOG_WORDS_MAX];
} kvm_dirtylog;

/* What KVM puts in a processor's `run` when it leaves the guest, where it is asked to: struct kvm_sync_regs. */
typedef struct {
    struct kvm_regs registers;
    struct kvm_sregs system;
    struct kvm_vcpu_events events;
} kvm_synced;
enum { KVM_SYNCED = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS };

/* One processor, and the thread that runs it. What is behind `thread` is guarded by the machine's lock. */
typedef struct {
    ftvm_kvm *machine;
    int fd; /* -1 when not open */
    struct kvm_run *run;
    bool has_thread;
    pthread_t thread;
    bool is_running;  /* not parked */
    bool is_in_guest; /* inside KVM_RUN: a kick is needed to get the thread's attention */
    bool has_access;  /* an access to a port or device that KVM has not finished yet */
    bool has_synced;  /* `run` holds a kvm_synced that is still so */
} kvm_cpu;

struct ftvm_kvm {
    ftvm_kvm_config config;
    int system; /* descriptors; -1 when not open */
    int vm;
    unsigned cpu_count;
    kvm_cpu cpus[KVM_CPUS_MAX];
    size_t run_bytes;  /* of each processor's `run` */
    bool syncs;        /* a processor that comes to stand still is asked for its kvm_synced */
    kvm_msr_list msrs; /* those that are saved and loaded */
    uint32_t tsc_khz;
    char cpu[FTVM_KVM_CPU_BYTES];
    bool has_lock;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    kvm_core core;
    device_board board;
    bool is_wanted;    /* to run */
    bool is_closing;   /* the threads end */
    bool owes_line;    /* an unfinished console line is to be told now */
    uint64_t exits;    /* how often a processor left the guest */
    uint32_t lines;    /* of a system: those that the interrupt controller was told are high */
    bool stops_at_output;
    bool is_dismissed; /* the attendant is to end */
    bool has_left;     /* the attendant is gone: nobody emits */
    bool is_emitting;  /* the attendant has outputs that it took and that are not emitted yet */
    bool has_told_end; /* the attendant knows that the machine has ended */
    int failed_by;     /* FTVM_KVM_BY_..., unless the program ended: that is state */
    unsigned ended_on; /* the processor that ended it */
    uint64_t failure_detail;
    bool has_times;  /* `times` and `deadlines` hold since the machine was paused */
    bool owes_times; /* ... and `times` is to be put in force when it runs: it was loaded */
    kvm_times times;
    uint64_t deadlines[KVM_CPUS_MAX]; /* of each processor's timer */
    kvm_dirtylog log;
    unsigned frame_first; /* the inputs that wait */
    unsigned frame_count;
    size_t key_count;
    uint8_t keys[KVM_KEYS_WAITING_MAX];
    kvm_frame frames[KVM_FRAMES_WAITING_MAX];
};

/* Whether it runs a system: with interrupt controllers, at any privilege level. */
static inline bool kvm_is_system(const ftvm_kvm *machine)
{
    return machine->config.processors != 0;
}

static inline const kvm_synced *kvm_synced_of(const kvm_cpu *cpu)
{
    return (const kvm_synced *)(const void *)&cpu->run->s;
}

/* Whether no processor runs or is about to. */
static inline bool kvm_is_still(const ftvm_kvm *machine)
{
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        if (machine->cpus[i].is_running)
            return false;
    }
    return true;
}

#endif
