#include "riscv.h"

#include <string.h>

#include "riscv/bus.h"
#include "riscv/csr.h"
#include "riscv/execute.h"
#include "riscv/state.h"

#define RAM_BYTES_MAX (UINT64_C(64) << 30)

#define LINE_TICKS 1000000 /* how long an unfinished console line may stay pending, in retired instructions */
#define RISCV_BLOCK_TURN 16384 /* retired instructions: about 40 us */

_Static_assert(DEVICE_FRAME_BYTES_MAX == FTVM_RISCV_FRAME_BYTES_MAX, "riscv.h says what the devices take");
_Static_assert((int)DEVICE_CHANNEL_NET == (int)FTVM_RISCV_CHANNEL_NET, "riscv.h says which channels there are");

enum { A0 = 10, A1 = 11, PC_NUMBER = 32 };

/* --- making one --- */

static bool is_page_multiple(uint64_t bytes)
{
    return bytes != 0 && (bytes & PAGE_MASK) == 0;
}

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* The machine lies in one piece: the struct, then a pointer and a byte per page of RAM. */
size_t ftvm_riscv_bytes(uint64_t ram_bytes)
{
    if (!is_page_multiple(ram_bytes) || ram_bytes > RAM_BYTES_MAX)
        return 0;
    uint64_t page_count = ram_bytes >> PAGE_SHIFT;
    return (size_t)(round_up(sizeof(ftvm_riscv), 64) + page_count * sizeof(riscv_code_page *) + page_count);
}

static bool is_config_valid(const ftvm_riscv_config *config)
{
    bool has_block = (config->devices & FTVM_RISCV_BLOCK) != 0;
    bool is_disk_valid = config->disk != NULL && config->disk_flags != NULL && is_page_multiple(config->disk_bytes);
    return config->ram != NULL && config->flags != NULL && ftvm_riscv_bytes(config->ram_bytes) != 0 &&
           config->devices <= (FTVM_RISCV_NET | FTVM_RISCV_BLOCK | FTVM_RISCV_ENTROPY) && (!has_block || is_disk_valid);
}

static uint64_t now(const device_board *board)
{
    return ((const ftvm_riscv *)(const void *)((const char *)board - offsetof(ftvm_riscv, board)))->core.hart.retired;
}

static void show_board(device_board *board, const ftvm_riscv_config *config)
{
    bool has_block = (config->devices & FTVM_RISCV_BLOCK) != 0;
    board->ram = config->ram;
    board->ram_base = FTVM_RISCV_RAM_BASE;
    board->ram_bytes = config->ram_bytes;
    board->disk = config->disk;
    board->disk_bytes = has_block ? config->disk_bytes : 0;
    board->disk_flags = config->disk_flags;
    board->disk_flush = config->disk_flush;
    memcpy(board->mac, config->mac, sizeof board->mac);
    board->line_ticks = LINE_TICKS;
    board->now = now;
    board->wrote = riscv_bus_wrote;
}

ftvm_riscv *ftvm_riscv_init(void *memory, const ftvm_riscv_config *config)
{
    ftvm_riscv *machine = memory;
    if (memory == NULL || ((uintptr_t)memory & 63) != 0 || !is_config_valid(config))
        return NULL;
    char *behind = (char *)memory + round_up(sizeof *machine, 64);
    machine->config = *config;
    show_board(&machine->board, config);
    machine->code.pages = (riscv_code_page **)(void *)behind;
    machine->code.watched = (uint8_t *)behind + (config->ram_bytes >> PAGE_SHIFT) * sizeof(riscv_code_page *);
    machine->core.hart.pc = FTVM_RISCV_RAM_BASE;
    machine->core.hart.privilege = RISCV_MACHINE;
    machine->core.clint.mtimecmp = UINT64_MAX; /* no timer interrupt before the program asks for one */
    machine->core.net.type = &device_virtio_net;
    machine->core.block.type = &device_virtio_block;
    machine->core.entropy.type = &device_virtio_entropy;
    return machine;
}

static void watch_tohost(ftvm_riscv *machine)
{
    uint64_t tohost = machine->core.tohost;
    if (device_is_ram(&machine->board, tohost, 8))
        riscv_code_watch(&machine->code, (tohost - FTVM_RISCV_RAM_BASE) >> PAGE_SHIFT, RISCV_WATCH_TOHOST,
                         machine->config.flags);
}

static void watch_for_debugger(ftvm_riscv *machine)
{
    const riscv_hooks *hooks = &machine->hooks;
    for (unsigned i = 0; i < hooks->watch_count; i++)
        riscv_code_watch_range(&machine->code, hooks->watches[i].offset, hooks->watches[i].bytes, RISCV_WATCH_DEBUG,
                               machine->config.flags);
}

void ftvm_riscv_boot(ftvm_riscv *machine, uint64_t pc, uint64_t device_tree, uint64_t tohost)
{
    machine->core.hart.pc = pc;
    machine->core.hart.x[A0] = 0;
    machine->core.hart.x[A1] = device_tree;
    machine->core.tohost = tohost;
    watch_tohost(machine);
}

/* --- running --- */

/* Loads and stores go straight to RAM where memory protection allows all of it; else each one asks (bus.c). */
static void open_windows(ftvm_riscv *machine)
{
    const riscv_hart *hart = &machine->core.hart;
    unsigned privilege = riscv_hart_data_privilege(hart);
    uint64_t bytes = machine->config.ram_bytes;
    bool is_open = riscv_hart_may(hart, privilege, RISCV_READ, FTVM_RISCV_RAM_BASE, bytes) &&
                   riscv_hart_may(hart, privilege, RISCV_WRITE, FTVM_RISCV_RAM_BASE, bytes);
    machine->window = is_open ? bytes - 7 : 0;
    machine->is_code_open = riscv_hart_may(hart, hart->privilege, RISCV_EXECUTE, FTVM_RISCV_RAM_BASE, bytes);
}

/* The retired count at which the machine itself has something to do: a timer interrupt, an unfinished line. */
static uint64_t next_event(const ftvm_riscv *machine, uint64_t end)
{
    const riscv_hart *hart = &machine->core.hart;
    uint64_t timer = riscv_clint_ticks_left(&machine->core.clint, hart->retired + hart->idled);
    uint64_t event = end;
    if ((hart->mie & RISCV_MTI) != 0 && timer != 0 && timer < event - hart->retired)
        event = hart->retired + timer;
    if (machine->core.uart.line_count != 0 && machine->core.uart.line_deadline < event)
        event = machine->core.uart.line_deadline;
    return event;
}

/* Serves what a disk has left, where a turn begins; see virtio_block.h. Here, before the instruction that leaves this
 * position, as only that happens once at a position: a run may end and begin there often. Returns whether interrupt
 * lines may have changed. */
static bool take_turn(ftvm_riscv *machine)
{
    return machine->core.hart.retired % RISCV_BLOCK_TURN == 0 &&
           device_virtio_block_serve(&machine->board, &machine->core.block);
}

/* The retired count up to which nothing has to be looked at: the next event, and at most the next turn, so that
 * is_stop_wanted is seen in time. */
static uint64_t next_look(const ftvm_riscv *machine, uint64_t end)
{
    uint64_t retired = machine->core.hart.retired;
    uint64_t turn = RISCV_BLOCK_TURN - retired % RISCV_BLOCK_TURN;
    return next_event(machine, turn < end - retired ? retired + turn : end);
}

/* Brings everything up to this very position, so that the state here is the same however the run came here. */
static void settle(ftvm_riscv *machine)
{
    const riscv_hart *hart = &machine->core.hart;
    if (machine->core.uart.line_count != 0 && machine->core.uart.line_deadline <= hart->retired)
        device_uart_flush(&machine->board, &machine->core.uart);
    riscv_bus_settle_lines(machine);
}

/* Wakes the hart and takes an interrupt, if there is one. Returns whether the hart goes on; it does while a disk has
 * something left to serve, for which instructions have to pass. */
static bool wake(ftvm_riscv *machine)
{
    riscv_hart *hart = &machine->core.hart;
    uint64_t pending = riscv_csr_mip(machine);
    bool is_behind = device_virtio_block_is_behind(&machine->board, &machine->core.block);
    if (hart->is_waiting && (pending & hart->mie) == 0 && !is_behind)
        return false;
    hart->is_waiting = false;
    if (riscv_hart_interrupt(hart, pending) && machine->hooks.jumps_max != 0)
        riscv_hooks_jump(&machine->hooks, hart->retired, hart->pc, FTVM_DEBUG_INTERRUPT);
    return true;
}

/* The handler's first instruction just failed to be fetched, and will each time: interrupts are off in a handler, and
 * who could open memory to it is the handler itself. */
static bool is_stuck(ftvm_riscv *machine)
{
    const riscv_hart *hart = &machine->core.hart;
    uint32_t raw;
    uint64_t bad;
    return hart->mcause == RISCV_FETCH_ACCESS && hart->mepc == hart->pc && hart->pc == (hart->mtvec & ~UINT64_C(3)) &&
           hart->privilege == RISCV_MACHINE && (hart->mstatus & RISCV_MSTATUS_MIE) == 0 &&
           riscv_bus_fetch(machine, &raw, &bad) != 0;
}

static void execute(ftvm_riscv *machine, uint64_t until, uint32_t options)
{
    machine->must_leave = false;
    machine->hooks.is_midway = false;
    open_windows(machine);
    if (!machine->is_code_open || (options & FTVM_RISCV_NO_CACHE) != 0)
        riscv_execute_plain(machine, until);
    else if (machine->hooks.counts != NULL)
        riscv_execute_counted(machine, until);
    else if (machine->hooks.marks != NULL)
        riscv_execute_marked(machine, until);
    else
        riscv_execute_cached(machine, until);
}

/* Goes on from a breakpoint. What a position does before its instruction (lines, an interrupt, a disk's turn) was done
 * when the hart came there: done twice it would show. */
static void leave_breakpoint(ftvm_riscv *machine, uint64_t end, uint32_t options)
{
    if (machine->hooks.is_midway && machine->core.hart.retired != end)
        execute(machine, machine->core.hart.retired + 1, options);
}

static int run(ftvm_riscv *machine, uint64_t instructions, uint32_t options)
{
    riscv_hart *hart = &machine->core.hart;
    uint64_t end = instructions > UINT64_MAX - hart->retired ? UINT64_MAX : hart->retired + instructions;
    size_t outputs_before = machine->board.output.count;
    leave_breakpoint(machine, end, options);
    for (;;) {
        if (machine->hooks.has_stopped)
            return FTVM_RISCV_HIT;
        if (machine->hooks.is_midway)
            return FTVM_RISCV_LIMIT;
        settle(machine);
        if (machine->core.ended_by != FTVM_RISCV_NOT_ENDED)
            return FTVM_RISCV_FINISHED;
        bool has_spoken = machine->board.output.count != outputs_before && (options & FTVM_RISCV_STOP_AT_OUTPUT) != 0;
        if (has_spoken || device_output_is_tight(&machine->board.output))
            return FTVM_RISCV_OUTPUT;
        if (hart->retired == end)
            return FTVM_RISCV_LIMIT;
        if (atomic_exchange_explicit(&machine->is_stop_wanted, false, memory_order_relaxed))
            return FTVM_RISCV_STOPPED;
        if (is_stuck(machine))
            return FTVM_RISCV_STUCK;
        if (!wake(machine))
            return FTVM_RISCV_IDLE;
        uint64_t until = take_turn(machine) ? hart->retired + 1 : next_look(machine, end);
        if (until > hart->retired)
            execute(machine, until, options);
    }
}

int ftvm_riscv_run(ftvm_riscv *machine, uint64_t instructions, uint32_t options)
{
    machine->hooks.options = options;
    machine->hooks.has_stopped = false;
    int why = run(machine, instructions, options);
    machine->hooks.options = 0;
    return why;
}

void ftvm_riscv_stop(ftvm_riscv *machine)
{
    atomic_store_explicit(&machine->is_stop_wanted, true, memory_order_relaxed);
}

void ftvm_riscv_idle(ftvm_riscv *machine, uint64_t ticks)
{
    machine->core.hart.idled += ticks;
}

uint64_t ftvm_riscv_idle_max(const ftvm_riscv *machine)
{
    const riscv_hart *hart = &machine->core.hart;
    if ((hart->mie & RISCV_MTI) == 0)
        return UINT64_MAX;
    return riscv_clint_ticks_left(&machine->core.clint, hart->retired + hart->idled);
}

uint64_t ftvm_riscv_retired(const ftvm_riscv *machine)
{
    return machine->core.hart.retired;
}

uint64_t ftvm_riscv_idled(const ftvm_riscv *machine)
{
    return machine->core.hart.idled;
}

int ftvm_riscv_ended_by(const ftvm_riscv *machine)
{
    return machine->core.ended_by;
}

uint64_t ftvm_riscv_exit_code(const ftvm_riscv *machine)
{
    return machine->core.exit_code;
}

/* --- inputs and outputs --- */

int ftvm_riscv_receive_frame(ftvm_riscv *machine, const uint8_t *frame, size_t bytes)
{
    if ((machine->config.devices & FTVM_RISCV_NET) == 0)
        return -1;
    return device_virtio_net_receive(&machine->board, &machine->core.net, frame, bytes);
}

size_t ftvm_riscv_receive_console(ftvm_riscv *machine, const uint8_t *bytes, size_t count)
{
    return device_uart_receive(&machine->core.uart, bytes, count);
}

size_t ftvm_riscv_receive_entropy(ftvm_riscv *machine, const uint8_t *bytes, size_t count)
{
    return device_virtio_entropy_receive(&machine->board, &machine->core.entropy, bytes, count);
}

size_t ftvm_riscv_entropy_wanted(const ftvm_riscv *machine)
{
    return device_virtio_entropy_wanted(&machine->board, &machine->core.entropy);
}

const uint8_t *ftvm_riscv_outputs(const ftvm_riscv *machine, size_t *bytes, size_t *count)
{
    *bytes = machine->board.output.length;
    *count = machine->board.output.count;
    return machine->board.output.bytes;
}

void ftvm_riscv_outputs_clear(ftvm_riscv *machine)
{
    device_output_clear(&machine->board.output);
}

/* --- state --- */

size_t ftvm_riscv_save(const ftvm_riscv *machine, uint8_t *restrict state, size_t capacity)
{
    if (machine->board.output.count != 0 || machine->hooks.is_midway)
        return 0;
    size_t bytes = riscv_state_save(machine, NULL, 0);
    return bytes <= capacity ? riscv_state_save(machine, state, capacity) : bytes;
}

const char *ftvm_riscv_load(ftvm_riscv *machine, const uint8_t *restrict state, size_t bytes)
{
    riscv_core loaded = machine->core;
    const char *wrong = riscv_state_load(machine, &loaded, state, bytes);
    if (wrong != NULL)
        return wrong;
    machine->core = loaded;
    machine->hooks.is_midway = false;
    machine->hooks.is_passing = false;
    ftvm_riscv_outputs_clear(machine);
    ftvm_riscv_flush(machine);
    return NULL;
}

void ftvm_riscv_flush(ftvm_riscv *machine)
{
    riscv_code_flush(&machine->code, machine->config.flags);
    watch_tohost(machine);
    watch_for_debugger(machine);
}

uint64_t ftvm_riscv_peek_register(const ftvm_riscv *machine, unsigned number)
{
    const riscv_hart *hart = &machine->core.hart;
    return number < PC_NUMBER ? hart->x[number] : hart->pc;
}

int ftvm_riscv_peek_csr(const ftvm_riscv *machine, unsigned number, uint64_t *value)
{
    return riscv_csr_read(machine, number, value);
}
