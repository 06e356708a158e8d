#include <string.h>

#include "arithmetic.h"
#include "bus.h"
#include "execute.h"

/* Each operation has two handlers, for compressed and full length, so that the distance to the next operation is a
 * constant: read from the operation, it would lie on the critical path of every instruction. */

/* A jump or branch within its page becomes a distance in operations. */
static void make_near(riscv_operation *operation, unsigned half)
{
    uint8_t near_op;
    switch (operation->op) {
    case RISCV_OP_JAL: near_op = RISCV_OP_JAL_NEAR; break;
    case RISCV_OP_BEQ: near_op = RISCV_OP_BEQ_NEAR; break;
    case RISCV_OP_BNE: near_op = RISCV_OP_BNE_NEAR; break;
    case RISCV_OP_BLT: near_op = RISCV_OP_BLT_NEAR; break;
    case RISCV_OP_BGE: near_op = RISCV_OP_BGE_NEAR; break;
    case RISCV_OP_BLTU: near_op = RISCV_OP_BLTU_NEAR; break;
    case RISCV_OP_BGEU: near_op = RISCV_OP_BGEU_NEAR; break;
    default: return;
    }
    int32_t distance = operation->imm / 2;
    if ((int32_t)half + distance < 0 || (int32_t)half + distance >= RISCV_PAGE_HALVES)
        return;
    operation->op = near_op;
    operation->imm = distance;
}

/* Decodes the operation at `half` of a page of RAM, and returns its length in half-words. */
static unsigned decode_at(ftvm_riscv *machine, const riscv_code_page *page, unsigned half, riscv_operation *operation)
{
    uint64_t offset = page->address - FTVM_RISCV_RAM_BASE + 2 * (uint64_t)half;
    uint32_t raw = 0;
    memcpy(&raw, machine->config.ram + offset, 2);
    if ((raw & 3) == 3 && half == RISCV_PAGE_HALVES - 1) {
        operation->op = RISCV_OP_STRADDLE;
        return 2;
    }
    if ((raw & 3) == 3)
        memcpy(&raw, machine->config.ram + offset, 4);
    unsigned size = riscv_decode(raw, operation);
    make_near(operation, half);
    return size / 2;
}

#define PASTE3(a, b, c) a##b##c
#define LABEL3(name, halves) PASTE3(name, _, halves)
#define OP(name) LABEL3(name, HALVES) : COUNT
#define PC (page->address + (uint64_t)((const char *)now - (const char *)page->operations) / (sizeof *now / 2))
#define NEXT_PC (PC + 2 * HALVES)
#define SYNC hart->retired = until - left
#ifdef FTVM_RISCV_ONE_DISPATCH /* for bench/machine.py: what a switch in a loop compiles to */
#define CONTINUE goto dispatch;
#else
#define CONTINUE                                                                                                      \
    {                                                                                                                 \
        if (__builtin_expect(--left == 0, 0))                                                                         \
            goto limit;                                                                                               \
        goto *now->handler;                                                                                           \
    }
#endif
#define NEXT                                                                                                          \
    {                                                                                                                 \
        now += HALVES;                                                                                                \
        CONTINUE;                                                                                                     \
    }
#define GO(target)                                                                                                    \
    {                                                                                                                 \
        pc = (target);                                                                                                \
        goto retire_and_find;                                                                                         \
    }
#define LEAVE(target)                                                                                                 \
    {                                                                                                                 \
        hart->pc = (target);                                                                                          \
        goto retire_and_return;                                                                                       \
    }
#define TRAP(cause, value)                                                                                            \
    {                                                                                                                 \
        trap_cause = (cause);                                                                                         \
        trap_value = (value);                                                                                         \
        hart->pc = PC;                                                                                                \
        goto trap;                                                                                                    \
    }

#ifdef FTVM_RISCV_COUNTED
#define INTERPRETER riscv_execute_counted
#define COUNT counts[now - page->operations]++;
#define MARK(offset)                                                                                                  \
    if (marks != NULL)                                                                                                \
    marks[(offset) / FTVM_DEBUG_MARK_BYTES] = 1
#define TRACE(target, kind)                                                                                           \
    if (machine->hooks.jumps_max != 0)                                                                                \
    riscv_hooks_jump(&machine->hooks, until - left + 1, (target), (kind))
#else
#ifdef FTVM_RISCV_MARKED
#define INTERPRETER riscv_execute_marked
#define MARK(offset) marks[(offset) / FTVM_DEBUG_MARK_BYTES] = 1
#else
#define INTERPRETER riscv_execute_cached
#define MARK(offset)
#endif
#define COUNT
#define TRACE(target, kind)
#endif

void INTERPRETER(ftvm_riscv *machine, uint64_t until)
{
    static const void *const handlers[2][RISCV_OP_COUNT] = {
#define X(name) &&name##_1,
        {RISCV_OPERATIONS(X)},
#undef X
#define X(name) &&name##_2,
        {RISCV_OPERATIONS(X)},
#undef X
    };
    riscv_hart *hart = &machine->core.hart;
    riscv_code *code = &machine->code;
    uint64_t *const x = hart->x;
    uint8_t *const ram = machine->config.ram;
    uint8_t *const flags = machine->config.flags;
    const uint64_t window = machine->window;
    uint64_t left = until - hart->retired;
    uint64_t pc = hart->pc;
    uint64_t trap_cause, trap_value;
    riscv_code_page *page;
    const riscv_operation *now;
#ifdef FTVM_RISCV_COUNTED
    uint64_t *counts;
#endif
#if defined FTVM_RISCV_COUNTED || defined FTVM_RISCV_MARKED
    uint8_t *const marks = machine->hooks.marks;
#endif

    code->undecoded = handlers[0][RISCV_OP_UNDECODED];
    code->page_end = handlers[0][RISCV_OP_PAGE_END];

find: {
    uint64_t offset = pc - FTVM_RISCV_RAM_BASE;
    if (offset >= machine->config.ram_bytes) {
        hart->pc = pc;
        trap_cause = RISCV_FETCH_ACCESS;
        trap_value = pc;
        goto trap;
    }
    page = code->pages[offset >> PAGE_SHIFT];
    if (__builtin_expect(page == NULL, 0)) {
        if (riscv_code_is_full(code)) { /* code in many pages is slow: after one more instruction let the caller look */
            until -= left - 1;
            left = 1;
        }
        page = riscv_code_add(code, offset >> PAGE_SHIFT, flags);
    }
    now = &page->operations[(offset & PAGE_MASK) / 2];
#ifdef FTVM_RISCV_COUNTED
    counts = machine->hooks.counts + (offset >> PAGE_SHIFT) * RISCV_PAGE_HALVES;
#endif
    goto *now->handler;
}

#ifdef FTVM_RISCV_ONE_DISPATCH
dispatch:
    if (--left == 0)
        goto limit;
    goto *now->handler;
#endif

retire_and_find:
    if (--left != 0)
        goto find;
    hart->pc = pc;
    hart->retired = until;
    return;

limit:
    hart->pc = PC;
    hart->retired = until;
    return;

retire_and_return:
    hart->retired = until - left + 1;
    return;

trap:
    hart->retired = until - left + 1;
    riscv_hart_trap(hart, trap_cause, trap_value);
#ifdef FTVM_RISCV_COUNTED
    if (machine->hooks.jumps_max != 0)
        riscv_hooks_jump(&machine->hooks, hart->retired, hart->pc, FTVM_DEBUG_TRAP);
#endif
    return;

UNDECODED_1:
UNDECODED_2: {
    unsigned half = (unsigned)(now - page->operations);
    riscv_operation *fresh = &page->operations[half];
    unsigned halves = decode_at(machine, page, half, fresh);
    uint64_t offset = page->address - FTVM_RISCV_RAM_BASE + 2 * (uint64_t)half;
    /* the other interpreter, to which STRADDLE goes, looks for a breakpoint itself */
    bool is_break = fresh->op != RISCV_OP_STRADDLE && riscv_hooks_has_break(&machine->hooks, offset);
    fresh->handler = handlers[halves - 1][is_break ? RISCV_OP_BREAK : fresh->op];
    goto *now->handler;
}

/* Two labels, though they do nearly the same: resumed by the length of the other, an instruction would go on in the
 * middle of the next one. */
BREAK_1:
    if (!riscv_hooks_reach(&machine->hooks, until - left, PC))
        goto *handlers[0][now->op];
    goto stop;
BREAK_2:
    if (!riscv_hooks_reach(&machine->hooks, until - left, PC))
        goto *handlers[1][now->op];
stop:
    hart->pc = PC;
    hart->retired = until - left;
    return;

/* Across two pages: by the other interpreter, which may trap; so the outer loop decides how to go on. */
STRADDLE_1:
STRADDLE_2:
    hart->pc = PC;
    hart->retired = until - left;
    riscv_execute_plain(machine, hart->retired + 1);
    return;

PAGE_END_1:
PAGE_END_2:
    pc = PC;
    goto find;

#define JAL_NEAR_BODY                                                                                                 \
    {                                                                                                                 \
        x[now->rd] = NEXT_PC;                                                                                         \
        TRACE(PC + 2 * (uint64_t)(int64_t)now->imm, riscv_hooks_kind(now->rd, 0));                                    \
        now += now->imm;                                                                                              \
        CONTINUE;                                                                                                     \
    }
#define BRANCH_NEAR(name, condition)                                                                                  \
    OP(name)                                                                                                          \
    {                                                                                                                 \
        if (condition) {                                                                                              \
            now += now->imm;                                                                                          \
            CONTINUE;                                                                                                 \
        }                                                                                                             \
        NEXT;                                                                                                         \
    }
#define BRANCHES_NEAR                                                                                                 \
    BRANCH_NEAR(BEQ_NEAR, x[now->rs1] == x[now->rs2])                                                                 \
    BRANCH_NEAR(BNE_NEAR, x[now->rs1] != x[now->rs2])                                                                 \
    BRANCH_NEAR(BLT_NEAR, (int64_t)x[now->rs1] < (int64_t)x[now->rs2])                                                \
    BRANCH_NEAR(BGE_NEAR, (int64_t)x[now->rs1] >= (int64_t)x[now->rs2])                                               \
    BRANCH_NEAR(BLTU_NEAR, x[now->rs1] < x[now->rs2])                                                                 \
    BRANCH_NEAR(BGEU_NEAR, x[now->rs1] >= x[now->rs2])

#define HALVES 1
    OP(JAL_NEAR) JAL_NEAR_BODY
    BRANCHES_NEAR
#include "operations.inc"
#undef HALVES

#define HALVES 2
    OP(JAL_NEAR) JAL_NEAR_BODY
    BRANCHES_NEAR
#include "operations.inc"
#undef HALVES
}
