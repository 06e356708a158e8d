#include "hooks.h"

static bool note(riscv_hooks *hooks, uint32_t kind, uint64_t retired, uint64_t address)
{
    if ((hooks->options & (FTVM_RISCV_STOP_AT_HITS | FTVM_RISCV_NOTE_HITS)) == 0)
        return false;
    uint64_t count = hooks->hit.count + 1;
    hooks->hit = (ftvm_debug_hit){retired, hooks->inputs, address, count, kind};
    hooks->has_stopped = (hooks->options & FTVM_RISCV_STOP_AT_HITS) != 0;
    return hooks->has_stopped;
}

bool riscv_hooks_reach(riscv_hooks *hooks, uint64_t retired, uint64_t address)
{
    if (hooks->is_passing && retired == hooks->passed)
        return false;
    hooks->is_midway = note(hooks, FTVM_DEBUG_BREAK, retired, address);
    return hooks->is_midway;
}

bool riscv_hooks_wrote(riscv_hooks *hooks, uint64_t retired, uint64_t offset, uint64_t bytes)
{
    bool stops = false;
    for (unsigned i = 0; i < hooks->watch_count; i++) {
        uint64_t first = hooks->watches[i].offset;
        if (offset < first + hooks->watches[i].bytes && first < offset + bytes)
            stops = note(hooks, FTVM_DEBUG_WATCH, retired, FTVM_RISCV_RAM_BASE + first) || stops;
    }
    return stops;
}

void riscv_hooks_mark(riscv_hooks *hooks, uint64_t offset, uint64_t bytes)
{
    for (uint64_t mark = offset / FTVM_DEBUG_MARK_BYTES; mark <= (offset + bytes - 1) / FTVM_DEBUG_MARK_BYTES; mark++)
        hooks->marks[mark] = 1;
}
