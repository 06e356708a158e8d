#include <string.h>

#include "arithmetic.h"
#include "bus.h"
#include "execute.h"

#define OP(name) case RISCV_OP_##name:
#define PC pc
#define NEXT_PC (pc + size)
#define SYNC hart->retired = retired
#define TRACE(target, kind)                                                                                           \
    if (hooks->jumps_max != 0)                                                                                        \
    riscv_hooks_jump(hooks, retired + 1, (target), (kind))
#define MARK(offset)                                                                                                  \
    if (hooks->marks != NULL)                                                                                         \
    hooks->marks[(offset) / FTVM_DEBUG_MARK_BYTES] = 1
#define NEXT                                                                                                          \
    {                                                                                                                 \
        pc += size;                                                                                                   \
        retired++;                                                                                                    \
        continue;                                                                                                     \
    }
#define GO(target)                                                                                                    \
    {                                                                                                                 \
        pc = (target);                                                                                                \
        retired++;                                                                                                    \
        continue;                                                                                                     \
    }
#define LEAVE(target)                                                                                                 \
    {                                                                                                                 \
        hart->pc = (target);                                                                                          \
        hart->retired = retired + 1;                                                                                  \
        return;                                                                                                       \
    }
#define TRAP(cause, value)                                                                                            \
    {                                                                                                                 \
        uint64_t trap_value = (value);                                                                                \
        hart->pc = pc;                                                                                                \
        hart->retired = retired + 1;                                                                                  \
        riscv_hart_trap(hart, (cause), trap_value);                                                                   \
        TRACE(hart->pc, FTVM_DEBUG_TRAP);                                                                             \
        return;                                                                                                       \
    }

void riscv_execute_plain(ftvm_riscv *machine, uint64_t until)
{
    riscv_hart *hart = &machine->core.hart;
    riscv_hooks *hooks = &machine->hooks;
    uint64_t *x = hart->x;
    uint8_t *ram = machine->config.ram;
    uint8_t *flags = machine->config.flags;
    uint64_t window = machine->window;
    uint64_t pc = hart->pc;
    uint64_t retired = hart->retired;
    while (retired != until) {
        riscv_operation decoded;
        const riscv_operation *now = &decoded;
        uint32_t raw = 0;
        uint64_t bad = 0;
        hart->pc = pc;
        uint64_t fetch_cause = riscv_bus_fetch(machine, &raw, &bad);
        if (fetch_cause != 0)
            TRAP(fetch_cause, bad);
        if (riscv_hooks_has_break(hooks, pc - FTVM_RISCV_RAM_BASE) && riscv_hooks_reach(hooks, retired, pc))
            break;
        if (hooks->counts != NULL)
            hooks->counts[(pc - FTVM_RISCV_RAM_BASE) / 2]++;
        unsigned size = riscv_decode(raw, &decoded);
        switch (decoded.op) {
#include "operations.inc"
        default:
            __builtin_unreachable(); /* the cache's own operations are never decoded */
        }
    }
    hart->pc = pc;
    hart->retired = retired;
}
