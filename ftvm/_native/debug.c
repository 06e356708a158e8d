#include "debug.h"

#include <string.h>

#include "riscv/bus.h"
#include "riscv/give.h"

/* --- breakpoints, watches, counts --- */

size_t ftvm_debug_breaks_bytes(uint64_t ram_bytes)
{
    return (size_t)(ram_bytes / 16);
}

size_t ftvm_debug_counts_count(uint64_t ram_bytes)
{
    return (size_t)(ram_bytes / 2);
}

void ftvm_debug_take_breaks(ftvm_riscv *machine, uint8_t *breaks)
{
    machine->hooks.breaks = breaks;
    ftvm_riscv_flush(machine);
}

int ftvm_debug_break(ftvm_riscv *machine, uint64_t address, int is_wanted)
{
    uint8_t *breaks = machine->hooks.breaks;
    uint64_t offset = address - FTVM_RISCV_RAM_BASE;
    if (breaks == NULL || (offset & 1) != 0 || offset >= machine->config.ram_bytes)
        return 0;
    uint8_t bit = (uint8_t)(1u << (offset / 2 % 8));
    breaks[offset / 16] = (uint8_t)(is_wanted ? breaks[offset / 16] | bit : breaks[offset / 16] & ~bit);
    riscv_code_forget(&machine->code, offset, 2);
    return 1;
}

static int watch(ftvm_riscv *machine, uint64_t offset, uint64_t bytes)
{
    riscv_hooks *hooks = &machine->hooks;
    if (hooks->watch_count == FTVM_DEBUG_WATCHES_MAX)
        return 0;
    hooks->watches[hooks->watch_count].offset = offset;
    hooks->watches[hooks->watch_count].bytes = bytes;
    hooks->watch_count++;
    riscv_code_watch_range(&machine->code, offset, bytes, RISCV_WATCH_DEBUG, machine->config.flags);
    return 1;
}

static int unwatch(ftvm_riscv *machine, uint64_t offset, uint64_t bytes)
{
    riscv_hooks *hooks = &machine->hooks;
    for (unsigned i = 0; i < hooks->watch_count; i++) {
        if (hooks->watches[i].offset == offset && hooks->watches[i].bytes == bytes) {
            hooks->watches[i] = hooks->watches[--hooks->watch_count];
            return 1; /* its pages stay watched, which costs a little and shows nowhere */
        }
    }
    return 0;
}

int ftvm_debug_watch(ftvm_riscv *machine, uint64_t address, uint64_t bytes, int is_wanted)
{
    uint64_t offset = address - FTVM_RISCV_RAM_BASE;
    uint64_t ram_bytes = machine->config.ram_bytes;
    if (bytes == 0 || bytes > ram_bytes || offset > ram_bytes - bytes)
        return 0;
    return is_wanted ? watch(machine, offset, bytes) : unwatch(machine, offset, bytes);
}

void ftvm_debug_count(ftvm_riscv *machine, uint64_t *counts, ftvm_debug_jump *jumps, size_t jumps_max)
{
    riscv_hooks *hooks = &machine->hooks;
    hooks->counts = counts;
    hooks->jumps = counts != NULL ? jumps : NULL;
    hooks->jumps_max = hooks->jumps != NULL ? jumps_max : 0;
    hooks->jump_count = 0;
    hooks->jumps_lost = 0;
    ftvm_riscv_flush(machine); /* decoded code belongs to one interpreter: it names its handlers */
}

void ftvm_debug_mark(ftvm_riscv *machine, uint8_t *marks)
{
    machine->hooks.marks = marks;
    ftvm_riscv_flush(machine);
}

void ftvm_debug_take_marks(ftvm_riscv *machine, uint64_t offset, uint8_t *bits)
{
    uint8_t *marks = machine->hooks.marks + offset / FTVM_DEBUG_MARK_BYTES;
    for (unsigned i = 0; i < FTVM_DEBUG_PAGE_MARKS_BYTES; i++) {
        unsigned byte = 0;
        for (unsigned bit = 0; bit < 8; bit++)
            byte |= (unsigned)marks[8 * i + bit] << bit;
        bits[i] = (uint8_t)byte;
    }
    memset(marks, 0, 8 * FTVM_DEBUG_PAGE_MARKS_BYTES);
}

size_t ftvm_debug_jumps(ftvm_riscv *machine, size_t *lost)
{
    size_t count = machine->hooks.jump_count;
    *lost = machine->hooks.jumps_lost;
    machine->hooks.jump_count = 0;
    machine->hooks.jumps_lost = 0;
    return count;
}

void ftvm_debug_take_hit(ftvm_riscv *machine, ftvm_debug_hit *hit)
{
    *hit = machine->hooks.hit;
    machine->hooks.hit = (ftvm_debug_hit){0};
}

void ftvm_debug_pass(ftvm_riscv *machine)
{
    machine->hooks.is_passing = true;
    machine->hooks.passed = machine->core.hart.retired;
}

/* --- replay --- */

static bool is_here(const ftvm_riscv *machine, const ftvm_debug_input *input)
{
    const riscv_hart *hart = &machine->core.hart;
    return input->retired == hart->retired && input->idled == hart->idled;
}

static bool give(ftvm_riscv *machine, const ftvm_debug_input *input)
{
    if (input->channel == FTVM_DEBUG_CLOCK)
        return riscv_give_time(machine, input->ticks);
    return riscv_give(machine, input->channel, input->payload, input->bytes);
}

static int replay(ftvm_riscv *machine, const ftvm_debug_input *inputs, size_t count, size_t *next, uint64_t retired,
                  uint32_t options)
{
    const riscv_hart *hart = &machine->core.hart;
    bool drops = (options & FTVM_DEBUG_DROP_OUTPUTS) != 0;
    for (;;) {
        const ftvm_debug_input *input = *next < count && inputs[*next].retired <= retired ? &inputs[*next] : NULL;
        if (input == NULL && hart->retired >= retired)
            return FTVM_RISCV_LIMIT;
        if (input != NULL && is_here(machine, input)) {
            machine->hooks.options = options;
            if (!give(machine, input))
                return FTVM_DEBUG_DIVERGED;
            machine->hooks.inputs = ++*next;
            if (machine->hooks.has_stopped)
                return FTVM_RISCV_HIT;
            continue;
        }
        if (input != NULL && input->retired <= hart->retired)
            return FTVM_DEBUG_DIVERGED; /* the machine came by, or waited for another time than the log says */
        int why = ftvm_riscv_run(machine, (input != NULL ? input->retired : retired) - hart->retired, options);
        if (drops)
            ftvm_riscv_outputs_clear(machine);
        if (why == FTVM_RISCV_IDLE)
            return FTVM_DEBUG_DIVERGED; /* what woke it is not in the log */
        bool is_going_on = why == FTVM_RISCV_LIMIT ||
                           (why == FTVM_RISCV_OUTPUT && drops && (options & FTVM_RISCV_STOP_AT_OUTPUT) == 0);
        if (!is_going_on)
            return why;
    }
}

int ftvm_debug_replay(ftvm_riscv *machine, const ftvm_debug_input *inputs, size_t count, size_t *next, uint64_t retired,
                      uint32_t options)
{
    machine->hooks.inputs = *next;
    machine->hooks.has_stopped = false;
    int why = replay(machine, inputs, count, next, retired, options);
    machine->hooks.inputs = 0;
    machine->hooks.options = 0;
    return why;
}
