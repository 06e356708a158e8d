/* hooks: where the interpreters and the bus let a debugger look in; ../debug.h is the outside.
 *
 * With nothing set, what is left in the interpreters' way is one test in the slow half of a store, one at a trap, and
 * one per instruction of the plain interpreter. A breakpoint is a separate operation in the decoded code; counting
 * has its own interpreter (execute_counted.c), and so has marking what is written (execute_marked.c). */
#ifndef FTVM_RISCV_HOOKS_H
#define FTVM_RISCV_HOOKS_H

#include "../debug.h"

#include <stdbool.h>

typedef struct {
    uint8_t *breaks;  /* a bit per half-word of RAM, or NULL */
    uint64_t *counts; /* per half-word of RAM, or NULL */
    uint8_t *marks;   /* per FTVM_DEBUG_MARK_BYTES of RAM, 1 if written; or NULL */
    ftvm_debug_jump *jumps;
    size_t jumps_max;
    size_t jump_count;
    size_t jumps_lost;
    struct {
        uint64_t offset;
        uint64_t bytes;
    } watches[FTVM_DEBUG_WATCHES_MAX];
    unsigned watch_count;
    ftvm_debug_hit hit;
    uint64_t inputs;  /* how many a replay has given */
    bool is_passing;
    uint64_t passed;  /* if so: the retired count at which a breakpoint is no hit */
    uint32_t options; /* of the present run; 0 between runs */
    bool has_stopped; /* at a hit, in the present run */
    bool is_midway;   /* stopped at a breakpoint: what a position does before its instruction is done */
} riscv_hooks;

static inline bool riscv_hooks_has_break(const riscv_hooks *hooks, uint64_t offset)
{
    uint64_t half = offset / 2;
    return hooks->breaks != NULL && (hooks->breaks[half / 8] >> (half % 8) & 1) != 0;
}

/* Notes that the hart stands before a breakpoint. Returns whether to stop there. */
bool riscv_hooks_reach(riscv_hooks *hooks, uint64_t retired, uint64_t address);

/* Notes a write to RAM if it is watched. Returns whether to stop behind it. */
bool riscv_hooks_wrote(riscv_hooks *hooks, uint64_t retired, uint64_t offset, uint64_t bytes);

/* Marks what was written; marks must not be NULL. */
void riscv_hooks_mark(riscv_hooks *hooks, uint64_t offset, uint64_t bytes);

/* Notes a jump, if there is room. `retired` is the position of the instruction at `target`. */
static inline void riscv_hooks_jump(riscv_hooks *hooks, uint64_t retired, uint64_t target, uint32_t kind)
{
    if (hooks->jump_count < hooks->jumps_max)
        hooks->jumps[hooks->jump_count++] = (ftvm_debug_jump){retired, target, kind, 0};
    else
        hooks->jumps_lost++;
}

/* Which kind of jump a JAL or JALR is; rs1 is 0 for JAL. */
static inline uint32_t riscv_hooks_kind(unsigned rd, unsigned rs1)
{
    enum { RA = 1, T0 = 5 };
    if (rd == RA || rd == T0)
        return FTVM_DEBUG_CALL;
    return rs1 == RA || rs1 == T0 ? FTVM_DEBUG_RETURN : FTVM_DEBUG_JUMP;
}

#endif
