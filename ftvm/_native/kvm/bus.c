#include "bus.h"

#include <string.h>
#include <sys/random.h>

#include "clock.h"
#include "dirtylog.h"

enum { PORT_UART = 0x3f8, PORT_WAIT = 0x600, PORT_END = 0x604, PORT_SLEEP = 0x608, PORT_RESET = 0x60a };
enum { SLEEP_NOW = 0x20 };
enum { SLOT_SHIFT = 12, SLOT_COUNT = 8, LINE_FIRST_SLOT = 1, LINE_UART = 4 };
enum { ENTROPY_BYTES_MAX = 256 };

typedef struct {
    uint32_t option; /* the FTVM_KVM_ device bit that it depends on */
    size_t offset;   /* of its state in kvm_core */
} slot;

static const slot slots[] = {
    {FTVM_KVM_NET, offsetof(kvm_core, net)},
    {FTVM_KVM_BLOCK, offsetof(kvm_core, block)},
    {FTVM_KVM_ENTROPY, offsetof(kvm_core, entropy)},
};
enum { DEVICE_COUNT = sizeof slots / sizeof slots[0] };

/* Unfinished lines are not measured by a clock here, as that runs on through pauses: see ftvm_kvm_await. */
static uint64_t now(const device_board *board)
{
    (void)board;
    return 0;
}

void kvm_bus_start(ftvm_kvm *machine)
{
    const ftvm_kvm_config *config = &machine->config;
    device_board *board = &machine->board;
    board->ram = config->ram;
    board->ram_base = 0;
    board->ram_bytes = config->ram_bytes;
    board->disk = config->disk;
    board->disk_flags = config->disk_flags;
    board->disk_flush = config->disk_flush;
    board->disk_bytes = (config->devices & FTVM_KVM_BLOCK) != 0 ? config->disk_bytes : 0;
    memcpy(board->mac, config->mac, sizeof board->mac);
    board->now = now;
    board->wrote = kvm_dirtylog_wrote;
    machine->core.net.type = &device_virtio_net;
    machine->core.block.type = &device_virtio_block;
    machine->core.entropy.type = &device_virtio_entropy;
}

/* The device in a slot, NULL if none is plugged in. */
static void *find_device(ftvm_kvm *machine, uint64_t number)
{
    bool is_there = number < DEVICE_COUNT && (machine->config.devices & slots[number].option) != 0;
    return is_there ? (char *)&machine->core + slots[number].offset : NULL;
}

void kvm_bus_memory(ftvm_kvm *machine, uint64_t address, bool is_write, unsigned size, uint8_t *data)
{
    uint64_t number = (address - KVM_MMIO_BASE) >> SLOT_SHIFT;
    uint64_t offset = address & ((1u << SLOT_SHIFT) - 1);
    void *device = find_device(machine, number);
    const device_ops *ops = device != NULL ? &device_virtio_ops : &device_virtio_empty_ops;
    uint64_t value = 0;
    bool is_answered = false;
    bool is_aligned = (size == 1 || size == 2 || size == 4 || size == 8) && (offset & (size - 1)) == 0;
    bool is_slot = address >= KVM_MMIO_BASE && number < SLOT_COUNT && is_aligned;
    if (is_write && is_slot) {
        memcpy(&value, data, size);
        ops->write(&machine->board, device, offset, size, value);
    } else if (is_slot) {
        is_answered = ops->read(&machine->board, device, offset, size, &value);
    }
    if (!is_write)
        memset(data, 0xff, size);
    if (is_answered)
        memcpy(data, &value, size);
}

static void wait(ftvm_kvm *machine, uint32_t microseconds)
{
    machine->core.is_waiting = true;
    machine->core.wait_until = microseconds != 0 ? kvm_clock_now(machine) + UINT64_C(1000) * microseconds : KVM_NEVER;
    kvm_bus_flush(machine);
}

static void end(ftvm_kvm *machine, uint32_t code)
{
    kvm_bus_flush(machine);
    machine->core.exit_code = code;
    machine->core.has_ended = true;
}

/* No device can be put back into reset beside the others: the machine ends. */
static void reset(ftvm_kvm *machine)
{
    kvm_bus_flush(machine);
    machine->failed_by = FTVM_KVM_BY_RESET;
    machine->failure_detail = 0;
}

static void write_port(ftvm_kvm *machine, uint16_t port, unsigned size, uint64_t value)
{
    if (port >= PORT_UART && port < PORT_UART + 8)
        device_uart_ops.write(&machine->board, &machine->core.uart, port - PORT_UART, size, value);
    else if (port == PORT_WAIT && size == 4 && !kvm_is_system(machine))
        wait(machine, (uint32_t)value);
    else if (port == PORT_END && size == 4)
        end(machine, (uint32_t)value);
    else if (port == PORT_SLEEP && kvm_is_system(machine) && (value & SLEEP_NOW) != 0)
        end(machine, 0);
    else if (port == PORT_RESET && kvm_is_system(machine))
        reset(machine);
}

static bool read_port(ftvm_kvm *machine, uint16_t port, unsigned size, uint64_t *value)
{
    if (port >= PORT_UART && port < PORT_UART + 8)
        return device_uart_ops.read(&machine->board, &machine->core.uart, port - PORT_UART, size, value);
    *value = kvm_bus_lines(machine);
    return port == PORT_WAIT && size == 4;
}

void kvm_bus_port(ftvm_kvm *machine, uint16_t port, bool is_write, unsigned size, uint8_t *data)
{
    uint64_t value = 0;
    if (is_write) {
        memcpy(&value, data, size);
        write_port(machine, port, size, value);
        return;
    }
    if (!read_port(machine, port, size, &value))
        value = UINT64_MAX;
    memcpy(data, &value, size);
}

uint32_t kvm_bus_lines(const ftvm_kvm *machine)
{
    uint32_t lines = device_uart_ops.line(&machine->core.uart) ? 1u << LINE_UART : 0;
    for (unsigned number = 0; number < DEVICE_COUNT; number++) {
        const char *device = (const char *)&machine->core + slots[number].offset;
        if (device_virtio_ops.line(device))
            lines |= 1u << (LINE_FIRST_SLOT + number);
    }
    return lines;
}

void kvm_bus_flush(ftvm_kvm *machine)
{
    device_uart_flush(&machine->board, &machine->core.uart);
}

static void feed_frames(ftvm_kvm *machine)
{
    while (machine->frame_count != 0) {
        const kvm_frame *frame = &machine->frames[machine->frame_first];
        if (device_virtio_net_receive(&machine->board, &machine->core.net, frame->frame, frame->bytes) == 0)
            return;
        machine->frame_first = (machine->frame_first + 1) % KVM_FRAMES_WAITING_MAX;
        machine->frame_count--;
    }
}

static void feed_keys(ftvm_kvm *machine)
{
    if (machine->key_count == 0)
        return;
    size_t taken = device_uart_receive(&machine->core.uart, machine->keys, machine->key_count);
    machine->key_count -= taken;
    memmove(machine->keys, machine->keys + taken, machine->key_count);
}

static void feed_entropy(ftvm_kvm *machine)
{
    uint8_t bytes[ENTROPY_BYTES_MAX];
    if ((machine->config.devices & FTVM_KVM_ENTROPY) == 0)
        return;
    size_t wanted = device_virtio_entropy_wanted(&machine->board, &machine->core.entropy);
    ssize_t got = wanted != 0 ? getrandom(bytes, wanted < sizeof bytes ? wanted : sizeof bytes, GRND_NONBLOCK) : 0;
    if (got > 0)
        device_virtio_entropy_receive(&machine->board, &machine->core.entropy, bytes, (size_t)got);
}

void kvm_bus_feed(ftvm_kvm *machine)
{
    feed_frames(machine);
    feed_keys(machine);
    feed_entropy(machine);
    device_virtio_block_serve(&machine->board, &machine->core.block);
}

void kvm_bus_save(const kvm_core *core, wire_writer *writer)
{
    device_uart_ops.save(&core->uart, writer);
    for (unsigned number = 0; number < DEVICE_COUNT; number++)
        device_virtio_ops.save((const char *)core + slots[number].offset, writer);
    wire_write_u64(writer, core->exit_code);
    wire_write_u8(writer, core->has_ended);
    wire_write_u8(writer, core->is_waiting);
    wire_write_u64(writer, core->wait_until);
}

const char *kvm_bus_load(kvm_core *core, wire_reader *reader)
{
    bool is_bad = false;
    const char *wrong = device_uart_ops.load(&core->uart, reader);
    for (unsigned number = 0; number < DEVICE_COUNT && wrong == NULL; number++)
        wrong = device_virtio_ops.load((char *)core + slots[number].offset, reader);
    core->exit_code = wire_read_u64(reader);
    core->has_ended = wire_read_flag(reader, &is_bad);
    core->is_waiting = wire_read_flag(reader, &is_bad);
    core->wait_until = wire_read_u64(reader);
    return wrong == NULL && is_bad ? "a flag of the machine is neither 0 nor 1" : wrong;
}
