/* debug: looks at the built-in machine's run from outside: breakpoints, write watches, counts, a trace of jumps, marks of
 * what was written, and the replay of its inputs.
 *
 * Nothing here shows in the machine's future: with everything on, the same inputs at the same positions lead to the same
 * state, memory and outputs. None of it is part of the saved state.
 *
 * Memory and threads as in riscv.h: the caller owns all memory, which must live until it is taken back; one call at a
 * time per machine.
 *
 * Hits. A hit is a breakpoint that the hart reaches, or a write that touches a watched range, by a store or by a
 * device. What becomes of one is up to the options of a run (riscv.h): FTVM_RISCV_STOP_AT_HITS ends it with
 * FTVM_RISCV_HIT, before the instruction with the breakpoint or behind the one that wrote; FTVM_RISCV_NOTE_HITS runs on;
 * without either nothing is noted. Only the latest hit is kept: who looks for the last one before a position lets the
 * machine run up to there and asks once. EBREAK stays the program's own. */
#ifndef FTVM_DEBUG_H
#define FTVM_DEBUG_H

#include "riscv.h"

#define FTVM_DEBUG_WATCHES_MAX 16
#define FTVM_DEBUG_MARK_BYTES 8
#define FTVM_DEBUG_PAGE_MARKS_BYTES (4096 / FTVM_DEBUG_MARK_BYTES / 8)

enum { /* kinds of hits */
    FTVM_DEBUG_NO_HIT = 0,
    FTVM_DEBUG_BREAK = 1,
    FTVM_DEBUG_WATCH = 2,
};

/* The latest hit. Its moment, right before it: so many instructions begun, and so many inputs taken in the replay. */
typedef struct {
    uint64_t retired;
    uint64_t inputs;  /* counted by ftvm_debug_replay; 0 under ftvm_riscv_run */
    uint64_t address; /* of the breakpoint, or the first of the watched range */
    uint64_t count;   /* of all hits since they were last cleared */
    uint32_t kind;
} ftvm_debug_hit;

enum { /* kinds of jumps */
    FTVM_DEBUG_JUMP = 0,
    FTVM_DEBUG_CALL = 1,   /* leaves a return address in ra or t0 */
    FTVM_DEBUG_RETURN = 2, /* goes to the address in ra or t0 */
    FTVM_DEBUG_TRAP = 3,
    FTVM_DEBUG_INTERRUPT = 4,
    FTVM_DEBUG_MRET = 5,
};

/* One jump; a branch is not one. */
typedef struct {
    uint64_t retired; /* the position of the instruction at `target` */
    uint64_t target;
    uint32_t kind;
    uint32_t zero;
} ftvm_debug_jump;

/* One input of a log, in the order of the machine's life; several may have one position. */
typedef struct {
    uint64_t retired; /* where it was taken */
    uint64_t idled;
    uint64_t ticks;         /* of FTVM_DEBUG_CLOCK */
    const uint8_t *payload; /* of all others */
    uint32_t bytes;
    uint32_t channel; /* FTVM_RISCV_CHANNEL_CONSOLE or _NET, FTVM_DEBUG_ENTROPY, FTVM_DEBUG_CLOCK */
} ftvm_debug_input;

enum { /* channels of inputs, beside those of outputs */
    FTVM_DEBUG_ENTROPY = 2,
    FTVM_DEBUG_CLOCK = 3,
};

#define FTVM_DEBUG_DIVERGED (-1) /* of ftvm_debug_replay: beside the reasons why a run ends */

/* How many bytes a set of breakpoints takes, and how many counters there are: one of each per half-word of RAM. */
size_t ftvm_debug_breaks_bytes(uint64_t ram_bytes);
size_t ftvm_debug_counts_count(uint64_t ram_bytes);

/* Gives the machine its set of breakpoints, of ftvm_debug_breaks_bytes, or takes it back with NULL. Forgets decoded
 * code. */
void ftvm_debug_take_breaks(ftvm_riscv *machine, uint8_t *breaks);

/* Sets or clears the breakpoint at an address. Costs nothing but that: a debugger does it at each stop.
 * Returns 1; 0 if the address is odd or not in RAM, or there is no set. */
int ftvm_debug_break(ftvm_riscv *machine, uint64_t address, int is_wanted);

/* Watches [address, address + bytes), or no longer. Returns 1; 0 if that is not all in RAM, or empty, or there are
 * FTVM_DEBUG_WATCHES_MAX already, or there is no such watch to end. */
int ftvm_debug_watch(ftvm_riscv *machine, uint64_t address, uint64_t bytes, int is_wanted);

/* Lets the machine go on from the breakpoint at which it stands: there it is no hit. */
void ftvm_debug_pass(ftvm_riscv *machine);

/* Counts how often each instruction is begun, in `counts` (see above), and puts jumps into `jumps` while there is room;
 * `jumps` may be NULL. `counts` NULL: no more of both. What cannot be fetched counts nowhere; else the sum of the
 * counters rises as the retired count does. Forgets decoded code. */
void ftvm_debug_count(ftvm_riscv *machine, uint64_t *counts, ftvm_debug_jump *jumps, size_t jumps_max);

/* Marks what is written from now on, by stores and by devices, in `marks`: a byte per FTVM_DEBUG_MARK_BYTES of RAM, 1 if
 * any byte of them was written, also with what stood there. NULL: no more. Forgets decoded code. */
void ftvm_debug_mark(ftvm_riscv *machine, uint8_t *marks);

/* Tells the marks of the page at `offset` as FTVM_DEBUG_PAGE_MARKS_BYTES bytes, a bit for each, the first the lowest of
 * the first byte, and clears them. `offset` must be a page's in RAM, and the machine have marks. */
void ftvm_debug_take_marks(ftvm_riscv *machine, uint64_t offset, uint8_t *bits);

/* Returns how many jumps there are, and begins at the first place again. *lost is set to how many had no room: an
 * instruction makes two at most. */
size_t ftvm_debug_jumps(ftvm_riscv *machine, size_t *lost);

/* Tells the latest hit, and clears it. */
void ftvm_debug_take_hit(ftvm_riscv *machine, ftvm_debug_hit *hit);

/* Runs until `retired` instructions are begun, giving it inputs[*next] to inputs[count - 1] on the way, each at its
 * position; what lies at `retired` itself is given as well, if it is before `count`. *next counts on.
 *
 * options  of ftvm_riscv_run. With FTVM_DEBUG_DROP_OUTPUTS the outputs are cleared; without it, a run that ends with
 *          FTVM_RISCV_OUTPUT wants them drained, and is to be continued
 *
 * Returns as ftvm_riscv_run; FTVM_RISCV_LIMIT means that it is there, or was beyond. FTVM_DEBUG_DIVERGED: the next input
 * cannot be taken where the log says, or the machine waits for one that is not in the log before `retired`. */
#define FTVM_DEBUG_DROP_OUTPUTS (1u << 31)
int ftvm_debug_replay(ftvm_riscv *machine, const ftvm_debug_input *inputs, size_t count, size_t *next, uint64_t retired,
                      uint32_t options);

#endif
