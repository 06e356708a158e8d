/* riscv: a deterministic RISC-V computer, RV64IMAC_Zicsr_Zifencei_Zicntr with M and U mode, interpreted.
 *
 * The memory map is a subset of QEMU's `virt` board:
 *
 *   0x00100000  test finisher            0x10000000  ns16550 uart, interrupt 10
 *   0x02000000  clint                    0x10001000  virtio-mmio slots of 0x1000: net 1, block 2, entropy 3
 *   0x0c000000  plic                     0x80000000  RAM
 *
 * Determinism. The machine's future is a function of RAM, its saved state and the inputs given between two calls of
 * ftvm_riscv_run; how a run is cut into calls never shows. A position is (retired, idle): `retired` counts the
 * instructions begun since birth (one that traps counts as well, so that every run ends), `idle` the ticks spent
 * waiting. mtime = (retired + idle) / FTVM_RISCV_TICKS_PER_MTIME.
 *
 * Memory. The caller owns all of it: RAM, one flag byte per page of RAM, and the machine itself, which keeps pointers
 * to the other two. Nothing here allocates, blocks, or calls back.
 *
 *   flags[page] != 0 if the page was written since the caller last cleared its flag (bitmap.h takes and clears them).
 *   Between two runs the caller may clear flags to 0, and set them to 1 if it calls ftvm_riscv_flush afterwards: other
 *   values are the machine's own, by which it sees writes to decoded code.
 *
 * Threads. One call at a time per machine, but for ftvm_riscv_stop; different machines are independent.
 *
 * Sources: RISC-V Unprivileged ISA 20191213, Privileged Architecture 1.12, PLIC 1.0.0, Virtio 1.2, the 16550D data
 * sheet. */
#ifndef FTVM_RISCV_H
#define FTVM_RISCV_H

#include <stddef.h>
#include <stdint.h>

#define FTVM_RISCV_RAM_BASE UINT64_C(0x80000000)
#define FTVM_RISCV_PAGE_BYTES 4096
#define FTVM_RISCV_TICKS_PER_MTIME 10 /* mtime counts at 10 MHz, as on `virt`: a tick is nominally 10 ns */
#define FTVM_RISCV_FRAME_BYTES_MAX 1522 /* an Ethernet frame with a VLAN tag, without its checksum */

enum { /* devices that a machine may have beside uart, clint, plic and finisher; a set */
    FTVM_RISCV_NET = 1,
    FTVM_RISCV_BLOCK = 2,
    FTVM_RISCV_ENTROPY = 4,
};

enum { /* why a run ended */
    FTVM_RISCV_LIMIT = 0,    /* all instructions asked for are retired */
    FTVM_RISCV_IDLE = 1,     /* waiting for an interrupt: give it an input or idle ticks */
    FTVM_RISCV_OUTPUT = 2,   /* FTVM_RISCV_STOP_AT_OUTPUT: an output was just made; or the queue needs draining */
    FTVM_RISCV_FINISHED = 3, /* the program ended the machine: see ftvm_riscv_ended_by */
    FTVM_RISCV_STOPPED = 4,  /* ftvm_riscv_stop was called */
    FTVM_RISCV_STUCK = 5,    /* the trap handler itself cannot be fetched: the hart would trap for ever */
    FTVM_RISCV_HIT = 6,      /* FTVM_RISCV_STOP_AT_HITS: see debug.h */
};

enum { /* options of a run; a set */
    FTVM_RISCV_STOP_AT_OUTPUT = 1, /* stop right behind the instruction that made an output */
    FTVM_RISCV_NO_CACHE = 2,       /* decode each instruction every time: the reference for the cache */
    FTVM_RISCV_STOP_AT_HITS = 4,   /* stop at breakpoints and behind watched writes: debug.h */
    FTVM_RISCV_NOTE_HITS = 8,      /* note them and run on */
};

enum { /* channels of outputs */
    FTVM_RISCV_CHANNEL_CONSOLE = 0,
    FTVM_RISCV_CHANNEL_NET = 1,
};

enum { /* who ended the machine */
    FTVM_RISCV_NOT_ENDED = 0,
    FTVM_RISCV_BY_FINISHER = 1,
    FTVM_RISCV_BY_TOHOST = 2,
};

typedef struct ftvm_riscv ftvm_riscv;

/* What a machine is made of. */
typedef struct {
    uint8_t *ram;        /* ram_bytes, page aligned, zero or restored content */
    uint64_t ram_bytes;  /* a multiple of FTVM_RISCV_PAGE_BYTES, 1 page to 64 GiB */
    uint8_t *flags;      /* one byte per page of RAM */
    uint8_t *disk;       /* disk_bytes, page aligned; read only with FTVM_RISCV_BLOCK */
    uint64_t disk_bytes; /* a multiple of FTVM_RISCV_PAGE_BYTES */
    uint8_t *disk_flags; /* one byte per page of the disk */
    uint8_t *disk_flush; /* one byte, set to 1 when the disk is flushed; or NULL */
    uint32_t devices;    /* set of FTVM_RISCV_NET, ... */
    uint8_t mac[6];      /* the network device's address */
} ftvm_riscv_config;

/* How many bytes a machine with so much RAM takes, beside RAM and flags: mostly the decoded-code cache, which is
 * touched only as code runs. 0 if ram_bytes is out of range. */
size_t ftvm_riscv_bytes(uint64_t ram_bytes);

/* Makes a machine in reset: pc at the start of RAM, nothing retired.
 *
 * memory  ftvm_riscv_bytes(config->ram_bytes) bytes, all zero, aligned to 64
 * Returns the machine, which is `memory`; NULL if the config is out of range or `memory` is misaligned. */
ftvm_riscv *ftvm_riscv_init(void *memory, const ftvm_riscv_config *config);

/* Sets the hart to start a program: pc, a0 = hart id 0, a1 = address of the device tree; and where its HTIF word
 * `tohost` lies (0 for none: RAM does not begin at 0). */
void ftvm_riscv_boot(ftvm_riscv *machine, uint64_t pc, uint64_t device_tree, uint64_t tohost);

/* Runs until `instructions` more are retired or something else ends the run.
 *
 * Returns why it ended: FTVM_RISCV_LIMIT, _IDLE, _OUTPUT, _FINISHED, _STOPPED, _STUCK or _HIT. Never retires more than asked.
 * The caller drains the outputs after each run. */
int ftvm_riscv_run(ftvm_riscv *machine, uint64_t instructions, uint32_t options);

/* Ends the present run soon, or the next one at once, between two instructions. The one function that may be called
 * from another thread, at any time. A stop like any other: it does not show in the machine's future. */
void ftvm_riscv_stop(ftvm_riscv *machine);

/* Lets `ticks` pass while the hart waits; the caller asks for no more than ftvm_riscv_idle_max. */
void ftvm_riscv_idle(ftvm_riscv *machine, uint64_t ticks);

/* How many ticks may pass before the timer wants to interrupt: 0 if it does now, UINT64_MAX if it never will. */
uint64_t ftvm_riscv_idle_max(const ftvm_riscv *machine);

/* The position. */
uint64_t ftvm_riscv_retired(const ftvm_riscv *machine);
uint64_t ftvm_riscv_idled(const ftvm_riscv *machine);

/* Inputs, each between two runs, each a pure function of the machine's state at that position.
 *
 * receive_frame    1 if the network device took the frame, 0 if it has no buffer ready (try again later), -1 if it can
 *                  never take it: no such device, or the frame is longer than FTVM_RISCV_FRAME_BYTES_MAX
 * receive_console  how many of the bytes the uart took: it holds 16
 * receive_entropy  how many of the bytes the entropy device took; entropy_wanted tells how many it waits for */
int ftvm_riscv_receive_frame(ftvm_riscv *machine, const uint8_t *frame, size_t bytes);
size_t ftvm_riscv_receive_console(ftvm_riscv *machine, const uint8_t *bytes, size_t count);
size_t ftvm_riscv_receive_entropy(ftvm_riscv *machine, const uint8_t *bytes, size_t count);
size_t ftvm_riscv_entropy_wanted(const ftvm_riscv *machine);

/* The outputs made since they were last cleared, in order. Each is a little-endian u32 channel, a u32 length, and the
 * payload, padded to a multiple of 8 bytes. A console output is a line, or what was pending of it when the hart began
 * to wait, 128 bytes were reached, or a million instructions had passed; never a matter of slicing.
 *
 * outputs        where they lie, valid until the next run; *bytes is set to their length, *count to their number
 * outputs_clear  forgets them */
const uint8_t *ftvm_riscv_outputs(const ftvm_riscv *machine, size_t *bytes, size_t *count);
void ftvm_riscv_outputs_clear(ftvm_riscv *machine);

/* How the program ended: by whom, FTVM_RISCV_BY_... or FTVM_RISCV_NOT_ENDED, and with which code; 0 is success. */
int ftvm_riscv_ended_by(const ftvm_riscv *machine);
uint64_t ftvm_riscv_exit_code(const ftvm_riscv *machine);

/* Writes all state but RAM and disk: versioned, little-endian, of fixed length.
 *
 * Returns its length in bytes; writes nothing if that is more than `capacity`. Returns 0 if outputs were not cleared, or
 * the machine stopped at a breakpoint: go on by an instruction, or load a state. */
size_t ftvm_riscv_save(const ftvm_riscv *machine, uint8_t *restrict state, size_t capacity);

/* Becomes the machine that `state` describes; RAM and disk must be what they were then, and the decoded code is
 * forgotten.
 *
 * Safe on any bytes. Returns NULL, or what is wrong with them; the machine is then as before. */
const char *ftvm_riscv_load(ftvm_riscv *machine, const uint8_t *restrict state, size_t bytes);

/* Forgets all decoded code. For who wrote to RAM, or set flags, from outside, between runs. */
void ftvm_riscv_flush(ftvm_riscv *machine);

/* For debuggers and oracles: x0 to x31 are 0 to 31, pc is 32; a csr by its number. peek_csr returns 0 and leaves
 * *value if there is no such csr. */
uint64_t ftvm_riscv_peek_register(const ftvm_riscv *machine, unsigned number);
int ftvm_riscv_peek_csr(const ftvm_riscv *machine, unsigned number, uint64_t *value);

#endif
