/* Random programs under random hooks, led by a random log: they must reach what they reach without hooks. */
#include "debug.h"

#include <stdlib.h>
#include <string.h>

#include "riscv/machine.h"

enum { RAM_BYTES = 64 * 1024, PAGES = RAM_BYTES / 4096, INSTRUCTIONS = 4000, INPUTS_MAX = 8, STATE_MAX = 4096 };

typedef struct {
    _Alignas(4096) uint8_t ram[RAM_BYTES];
    uint8_t flags[PAGES];
    void *memory;
    ftvm_riscv *machine;
} computer;

static void make(computer *made, const uint8_t *code, size_t bytes)
{
    ftvm_riscv_config config = {.ram = made->ram, .ram_bytes = RAM_BYTES, .flags = made->flags,
                                .devices = FTVM_RISCV_NET, .mac = {2}};
    size_t size = (ftvm_riscv_bytes(RAM_BYTES) + 63) & ~(size_t)63;
    memset(made->ram, 0, sizeof made->ram);
    memset(made->flags, 0, sizeof made->flags);
    for (size_t at = 0; bytes != 0 && at + bytes <= RAM_BYTES; at += bytes)
        memcpy(made->ram + at, code, bytes);
    made->memory = aligned_alloc(64, size);
    memset(made->memory, 0, size);
    made->machine = ftvm_riscv_init(made->memory, &config);
    ftvm_riscv_boot(made->machine, FTVM_RISCV_RAM_BASE, 0, 0);
}

/* Runs until nothing happens any more, passing what it stops at. */
static int lead(ftvm_riscv *machine, const ftvm_debug_input *inputs, size_t count, uint32_t options)
{
    size_t next = 0;
    int why = FTVM_RISCV_LIMIT;
    for (unsigned turns = 0; turns < 4 * INSTRUCTIONS; turns++) {
        why = ftvm_debug_replay(machine, inputs, count, &next, INSTRUCTIONS, options | FTVM_DEBUG_DROP_OUTPUTS);
        if (why != FTVM_RISCV_HIT)
            break;
        ftvm_debug_pass(machine);
    }
    return why;
}

static size_t read_inputs(ftvm_debug_input *inputs, const uint8_t *data, size_t bytes)
{
    size_t count = 0;
    while (count < INPUTS_MAX && bytes - count * 4 >= 8) {
        const uint8_t *row = data + count * 4;
        inputs[count] = (ftvm_debug_input){.retired = (count == 0 ? 0 : inputs[count - 1].retired) + row[0],
                                           .ticks = row[1], .payload = row, .bytes = row[2] % 8, .channel = row[3] % 5};
        count++;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static computer free_one, hooked;
    static uint8_t breaks[RAM_BYTES / 16], states[2][STATE_MAX];
    static uint64_t counts[RAM_BYTES / 2];
    static ftvm_debug_jump jumps[64];
    if (bytes < 64)
        return 0;
    uint8_t how = data[0];
    ftvm_debug_input inputs[INPUTS_MAX];
    size_t count = (how & 1) != 0 ? read_inputs(inputs, data + 32, 32) : 0;
    make(&free_one, data + 64, bytes - 64);
    make(&hooked, data + 64, bytes - 64);
    memset(breaks, 0, sizeof breaks);
    memset(counts, 0, sizeof counts);
    ftvm_debug_take_breaks(hooked.machine, breaks);
    for (unsigned i = 1; i < 16; i++)
        ftvm_debug_break(hooked.machine, FTVM_RISCV_RAM_BASE + 2 * (uint64_t)data[i], 1);
    for (unsigned i = 16; i < 24; i++)
        ftvm_debug_watch(hooked.machine, FTVM_RISCV_RAM_BASE + 64 * (uint64_t)data[i], 1 + data[i + 8] % 64u, 1);
    if ((how & 2) != 0)
        ftvm_debug_count(hooked.machine, counts, (how & 4) != 0 ? jumps : NULL, 64);
    uint32_t options = ((how & 8) != 0 ? FTVM_RISCV_STOP_AT_HITS : FTVM_RISCV_NOTE_HITS) |
                       ((how & 16) != 0 ? (uint32_t)FTVM_RISCV_NO_CACHE : 0);
    int why_free = lead(free_one.machine, inputs, count, 0);
    int why_hooked = lead(hooked.machine, inputs, count, options);
    size_t sizes[2] = {ftvm_riscv_save(free_one.machine, states[0], STATE_MAX),
                       ftvm_riscv_save(hooked.machine, states[1], STATE_MAX)};
    if (why_free != why_hooked || sizes[0] != sizes[1] || memcmp(states[0], states[1], sizes[0]) != 0 ||
        memcmp(free_one.ram, hooked.ram, RAM_BYTES) != 0)
        abort();
    free(free_one.memory);
    free(hooked.memory);
    return 0;
}
