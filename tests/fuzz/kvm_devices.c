/* Any accesses of a guest to ports and devices, any frames and keys, any bytes loaded as devices: nothing outside of the
 * machine is touched, and what save writes, load takes, to the same bytes again. Needs no KVM: nothing here enters it. */
#include "kvm/bus.h"

#include <stdlib.h>
#include <string.h>

#define RAM_BYTES (16u << 12)
#define DISK_BYTES (4u << 12)
#define CORE_BYTES_MAX 4096

enum { PORT_OUT, PORT_IN, STORE, LOAD, FRAME, KEYS, WRITE_RAM, ACTIONS };

static ftvm_kvm *machine; /* 2.6 MiB: made once, put back into reset for each input */

static void reset(void)
{
    if (machine == NULL) {
        machine = calloc(1, sizeof *machine);
        machine->config.ram = malloc(RAM_BYTES);
        machine->config.disk = malloc(DISK_BYTES);
    }
    memset(machine->config.ram, 0, RAM_BYTES);
    memset(machine->config.disk, 0, DISK_BYTES);
    machine->config.ram_bytes = RAM_BYTES;
    machine->config.disk_bytes = DISK_BYTES;
    machine->config.devices = FTVM_KVM_NET | FTVM_KVM_BLOCK | FTVM_KVM_ENTROPY;
    machine->vm = -1;
    memset(&machine->core, 0, sizeof machine->core);
    machine->frame_first = machine->frame_count = 0;
    machine->key_count = 0;
    device_output_clear(&machine->board.output);
    kvm_bus_start(machine);
}

static size_t save(uint8_t *bytes)
{
    wire_writer writer = {bytes, CORE_BYTES_MAX, 0};
    kvm_bus_save(&machine->core, &writer);
    if (writer.length > CORE_BYTES_MAX)
        abort();
    return writer.length;
}

/* Loads what is there to be loaded; returns how many bytes of the input that took. */
static size_t load(const uint8_t *data, size_t size)
{
    kvm_core core = machine->core;
    wire_reader reader = {data, size, 0};
    if (kvm_bus_load(&core, &reader) == NULL && reader.length <= size)
        machine->core = core;
    return reader.length < size ? reader.length : size;
}

static void check_roundtrip(void)
{
    uint8_t first[CORE_BYTES_MAX], second[CORE_BYTES_MAX];
    size_t length = save(first);
    kvm_core core = machine->core;
    wire_reader reader = {first, length, 0};
    if (kvm_bus_load(&core, &reader) != NULL || reader.length != length)
        abort();
    machine->core = core;
    if (save(second) != length || memcmp(first, second, length) != 0)
        abort();
}

static uint64_t take(const uint8_t **data, size_t *size, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && *size > 0; i++, ++*data, --*size)
        value |= (uint64_t)**data << (8 * i);
    return value;
}

static void act(const uint8_t **data, size_t *size)
{
    unsigned what = (unsigned)take(data, size, 1), width = 1u << (what >> 6);
    uint8_t bytes[8];
    uint16_t place = (uint16_t)take(data, size, 2);
    uint64_t value = take(data, size, width);
    memcpy(bytes, &value, sizeof bytes);
    switch (what % ACTIONS) {
    case PORT_OUT:
    case PORT_IN: {
        uint16_t port = (uint16_t)(place % 3 == 0 ? 0x3f8 + place % 8 : place % 3 == 1 ? 0x600 + place % 8 : place);
        kvm_bus_port(machine, port, what % ACTIONS == PORT_OUT, width < 8 ? width : 4, bytes);
        break;
    }
    case STORE:
    case LOAD: kvm_bus_memory(machine, KVM_MMIO_BASE + place, what % ACTIONS == STORE, width, bytes); break;
    case FRAME: {
        kvm_frame *frame = &machine->frames[(machine->frame_first + machine->frame_count) % KVM_FRAMES_WAITING_MAX];
        frame->bytes = (uint16_t)(place % (DEVICE_FRAME_BYTES_MAX + 1));
        memset(frame->frame, (int)value, frame->bytes);
        machine->frame_count += machine->frame_count < KVM_FRAMES_WAITING_MAX;
        break;
    }
    case KEYS: machine->keys[machine->key_count++] = (uint8_t)value; break;
    default: memcpy(machine->config.ram + place % (RAM_BYTES - 8), bytes, width); break;
    }
    kvm_bus_feed(machine);
    (void)kvm_bus_lines(machine);
    if (device_output_is_tight(&machine->board.output))
        device_output_clear(&machine->board.output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    reset();
    if (size > 0 && (data[0] & 1) != 0) {
        size_t taken = load(data + 1, size - 1);
        data += 1 + taken;
        size -= 1 + taken;
    }
    while (size > 0)
        act(&data, &size);
    check_roundtrip();
    return 0;
}
