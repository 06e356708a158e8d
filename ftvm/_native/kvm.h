/* kvm: our own machine that runs on the processor, by Linux's KVM.
 *
 *   RAM              from 0, at most 3 GiB         0xd0000000 + n * 0x1000   virtio-mmio: net 0, block 1, entropy 2
 *   port 0x3f8       ns16550 uart                  port 0x604                a write of 4 bytes ends the machine
 *   port 0x600       a write of 4 bytes waits for an interrupt line, for so many microseconds at most (0: for ever);
 *                    a read of 4 bytes tells the lines that are high: bit 1 + n for slot n, bit 4 for the uart
 *
 * A program's machine: one processor runs one program in 64-bit mode at privilege level 3, as set up by ftvm_kvm_boot.
 * There is no interrupt controller: a program waits by port 0x600. So the machine also runs where /dev/kvm executes only
 * user code natively.
 *
 * A system's machine: up to FTVM_KVM_PROCESSORS_MAX processors with local APICs and an I/O APIC, which KVM plays, boot an
 * operating system's kernel, as set up by ftvm_kvm_boot_system. The lines of port 0x600 are interrupts 16 + their bit:
 * level-triggered, that of the uart by its edge. Port 0x608: a byte with bit 5 set ends the machine; port 0x60a: any
 * byte asks for a reset, which ends it as a failure.
 *
 * Threads. A thread of each processor, made by ftvm_kvm_open, runs it and serves the devices; it never calls back. All other functions may be called from any thread; they hold the machine's lock for microseconds, except
 * for the two that wait: ftvm_kvm_pause and ftvm_kvm_await. Outputs are taken by one thread, the attendant, which loops
 * over ftvm_kvm_await and ftvm_kvm_take.
 *
 * Memory. The caller owns all of it: RAM, the disk, and the machine itself. Nothing here allocates after the start. RAM
 * is written by the processor, by the devices, and by KVM itself: ftvm_kvm_collect, or a userfaultfd (tracker.h), tells
 * of all but the last, and that writes a page for each processor, which ftvm_kvm_clock_page names.
 *
 * Time. The guest's clocks (time stamp counter, kvmclock) run on while it is paused. Loaded on another host they go on
 * by the wall clocks of both: never back, and at most FTVM_KVM_GAP_NS_MAX ahead of where they were.
 *
 * Source: the kernel's Documentation/virt/kvm/api.rst. */
#ifndef FTVM_KVM_H
#define FTVM_KVM_H

#include <stddef.h>
#include <stdint.h>

#define FTVM_KVM_RAM_BYTES_MAX (UINT64_C(3) << 30)
#define FTVM_KVM_GAP_NS_MAX UINT64_C(60000000000)
#define FTVM_KVM_OUTPUT_BYTES (1 << 20)   /* the most that ftvm_kvm_take gives */
#define FTVM_KVM_STATE_BYTES_MAX (64 << 10)
#define FTVM_KVM_PROCESSORS_MAX 4
#define FTVM_KVM_CPU_BYTES 64
#define FTVM_KVM_WRONG_BYTES 160

enum { /* devices that a machine may have beside the uart; a set */
    FTVM_KVM_NET = 1,
    FTVM_KVM_BLOCK = 2,
    FTVM_KVM_ENTROPY = 4,
};

enum { /* channels of outputs, in the format of devices/output.h */
    FTVM_KVM_CHANNEL_CONSOLE = 0,
    FTVM_KVM_CHANNEL_NET = 1,
};

enum ftvm_kvm_step { /* what ftvm_kvm_open could not do */
    FTVM_KVM_CONFIG = 1,     /* the config is out of range */
    FTVM_KVM_DEVICE = 2,     /* open /dev/kvm */
    FTVM_KVM_VERSION = 3,    /* it has another version, or is not KVM */
    FTVM_KVM_CAPABILITY = 4, /* it lacks something that saving and loading a processor needs */
    FTVM_KVM_CREATE = 5,     /* make a virtual machine, or its processor */
    FTVM_KVM_MEMORY = 6,     /* give it RAM */
    FTVM_KVM_THREAD = 7,     /* start a thread */
};

enum { /* why a machine can run no more */
    FTVM_KVM_NOT_ENDED = 0,
    FTVM_KVM_BY_PROGRAM = 1,   /* detail: its exit code */
    FTVM_KVM_BY_SHUTDOWN = 2,  /* a triple fault */
    FTVM_KVM_BY_HALT = 3,      /* HLT: no interrupt can wake it */
    FTVM_KVM_BY_INTERNAL = 4,  /* KVM could not go on; detail: the suberror */
    FTVM_KVM_BY_ENTRY = 5,     /* the processor refused to enter; detail: the hardware's reason */
    FTVM_KVM_BY_EXIT = 6,      /* an exit that this machine does not know; detail: its number */
    FTVM_KVM_BY_ERRNO = 7,     /* KVM_RUN failed; detail: errno */
    FTVM_KVM_BY_RESET = 8,     /* a system asked for a reset */
};

enum { /* what ftvm_kvm_await found; a set */
    FTVM_KVM_HAS_OUTPUTS = 1,
    FTVM_KVM_HAS_ENDED = 2,
    FTVM_KVM_IS_CLOSING = 4,
};

typedef struct ftvm_kvm ftvm_kvm;

/* What a machine is made of. The buffers must stay where they are until ftvm_kvm_close. */
typedef struct {
    const char *device;  /* normally "/dev/kvm" */
    uint8_t *ram;        /* ram_bytes, page aligned, zero or restored content */
    uint64_t ram_bytes;  /* a multiple of 4096, 1 page to FTVM_KVM_RAM_BYTES_MAX */
    uint8_t *disk;       /* disk_bytes; read only with FTVM_KVM_BLOCK */
    uint64_t disk_bytes; /* a multiple of 4096 */
    uint8_t *disk_flags; /* one byte per page of the disk, set to 1 when it is written */
    uint8_t *disk_flush; /* one byte, set to 1 when the disk is flushed; or NULL */
    uint32_t devices;    /* set of FTVM_KVM_NET, ... */
    uint32_t processors; /* of a system, 1 to FTVM_KVM_PROCESSORS_MAX; 0: a program's machine */
    uint8_t mac[6];      /* the network device's address */
} ftvm_kvm_config;

/* How many bytes a machine takes, beside RAM and disk. */
size_t ftvm_kvm_bytes(void);

/* Makes a machine, paused, in reset.
 *
 * memory  ftvm_kvm_bytes() bytes, all zero, aligned to 64
 * step    out: what failed
 * Returns 0 or a negative errno; after a failure nothing is open. */
int ftvm_kvm_open(void *memory, const ftvm_kvm_config *config, enum ftvm_kvm_step *step);

/* Stops the machine and its thread and closes all that is open; the attendant must be gone. Idempotent. */
void ftvm_kvm_close(ftvm_kvm *machine);

/* What the processor is and can do, as a text for people that ends in a hash of all its features: two machines with the
 * same text can take over each other's guests. At most FTVM_KVM_CPU_BYTES with its end. */
const char *ftvm_kvm_cpu(const ftvm_kvm *machine);

/* Sets the processor to start a program at privilege level 3; only while paused. `page_table` is the address of a
 * 4-level page table in RAM. Returns 0 or a negative errno. */
int ftvm_kvm_boot(ftvm_kvm *machine, uint64_t pc, uint64_t stack, uint64_t page_table);

/* Sets the first processor to start a kernel in 64-bit mode at privilege level 0, with interrupts off and `boot_parameters`
 * in RSI; only while paused. `page_table` is as above; the table of segments at `segments` has code for selector 0x10 and
 * data for 0x18. Returns 0 or a negative errno. */
int ftvm_kvm_boot_system(ftvm_kvm *machine, uint64_t pc, uint64_t page_table, uint64_t segments,
                         uint64_t boot_parameters);

/* Lets the machine run. Idempotent; does nothing if it can run no more. */
void ftvm_kvm_resume(ftvm_kvm *machine);

/* Returns when the processor stands between two instructions, no device acts, and the attendant has emitted all
 * outputs. The attendant itself does not wait for itself. Idempotent. */
void ftvm_kvm_pause(ftvm_kvm *machine, int is_attendant);

/* Whether the machine is paused: by ftvm_kvm_pause, or by itself behind an output. */
int ftvm_kvm_is_paused(ftvm_kvm *machine);

/* Whether to pause by itself right behind each instruction that makes an output. */
void ftvm_kvm_stop_at_output(ftvm_kvm *machine, int is_wanted);

/* Waits until there are outputs, the machine has ended (told once), or it is to be closed; returns which. What was
 * taken before counts as emitted from here on. A console output is a line, or what there is of it when the program
 * waits, ends, or computes for long without an access. */
int ftvm_kvm_await(ftvm_kvm *machine);

/* Takes all outputs that there are: copies them to `outputs`, room for FTVM_KVM_OUTPUT_BYTES, and returns their length
 * in bytes. */
size_t ftvm_kvm_take(ftvm_kvm *machine, uint8_t *outputs);

/* The attendant is gone for good: nobody waits for it any more. */
void ftvm_kvm_leave(ftvm_kvm *machine);

/* Tells the attendant to end: ftvm_kvm_await returns FTVM_KVM_IS_CLOSING from now on. Pauses the machine. */
void ftvm_kvm_dismiss(ftvm_kvm *machine);

/* Inputs, taken by the machine as soon as it has room. Returns 1 if it waits in line now, 0 if it was dropped: the line
 * is full, or it is longer than a frame can be, or there is no such device. */
int ftvm_kvm_receive_frame(ftvm_kvm *machine, const uint8_t *frame, size_t bytes);
int ftvm_kvm_receive_console(ftvm_kvm *machine, const uint8_t *bytes, size_t count);

/* Why the machine can run no more, FTVM_KVM_NOT_ENDED or FTVM_KVM_BY_...; *detail and *pc say more. */
int ftvm_kvm_ended_by(ftvm_kvm *machine, uint64_t *detail, uint64_t *pc);

/* The page of RAM that KVM itself writes for a processor (0 is the first), by a way that no tracker sees; -1 if it
 * writes none, -2 if KVM does not tell. Only while paused. */
int64_t ftvm_kvm_clock_page(ftvm_kvm *machine, uint32_t processor);

/* Whether KVM has a log of written pages that can be protected one by one (Linux 5.2). */
int ftvm_kvm_has_log(const ftvm_kvm *machine);

/* Gets and clears which pages of RAM were written, by processors and devices; only while paused. The first call has KVM
 * begin to note them, and tells of all; kvm/dirtylog.h says which others may be told though nobody wrote them.
 *
 * words: out, a bitmap of (pages + 63) / 64 words. Returns 0 or a negative errno: then what was written may be lost. */
int ftvm_kvm_collect(ftvm_kvm *machine, uint64_t *words);

/* Writes all state but RAM and disk: versioned, little-endian. Only while paused; says the same until it runs again.
 *
 * Returns its length; 0 if it does not fit into `capacity`; a negative errno if KVM does not give it. */
int64_t ftvm_kvm_save(ftvm_kvm *machine, uint8_t *restrict state, size_t capacity);

/* Becomes the machine that `state` describes, on memory as it is; only while paused.
 *
 * Safe on any bytes. wrong: room for FTVM_KVM_WRONG_BYTES. Returns 0; else -1, and `wrong` says what is wrong with them:
 * the machine is then as before. */
int ftvm_kvm_load(ftvm_kvm *machine, const uint8_t *restrict state, size_t bytes, char *wrong);

/* The guest's clocks as it would read them now: nanoseconds of its kvmclock, and ticks of its time stamp counter.
 * Returns 0 or a negative errno. */
int ftvm_kvm_clocks(ftvm_kvm *machine, uint64_t *clock_ns, uint64_t *ticks);

#endif
