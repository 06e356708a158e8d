#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "bus.h"
#include "chips.h"
#include "clock.h"

#define MAGIC UINT64_C(0x0a4d564b5654460a) /* "\nFTVKVM\n" */
#define VERSION 1
enum { MSR_DEADLINE = 0x6e0, MSR_CLOCK = 0x4b564d01, CLOCK_ENABLED = 1, CLOCK_BYTES = 32 };
enum { LAPIC_TASK_PRIORITY = 0x80, LAPIC_PRIORITY = 0xa0, LAPIC_IN_SERVICE = 0x100, LAPIC_REGISTER_BYTES = 16 };
#define KHZ_APART_PER_MILLION 250 /* as KVM itself tolerates without scaling */

typedef struct {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[KVM_MSRS_MAX];
} msr_table;

/* --- the processor --- */

typedef struct {
    unsigned long get;
    unsigned long set;
    size_t offset; /* in kvm_processor */
    size_t bytes;
    const char *name;
    bool is_of_systems;
} part;

#define PART(GET, SET, member, name) \
    {GET, SET, offsetof(kvm_processor, member), sizeof((kvm_processor *)0)->member, name, false}

/* In the order in which they are set: what the control registers say decides what else is allowed; events last, as some
 * of the others clear them. */
static const part parts[] = {
    PART(KVM_GET_SREGS, KVM_SET_SREGS, system, "control and segment registers"),
    PART(KVM_GET_XCRS, KVM_SET_XCRS, extended_control, "extended control registers"),
    PART(KVM_GET_XSAVE, KVM_SET_XSAVE, extended, "floating-point and vector registers"),
    PART(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debug, "debug registers"),
    {KVM_GET_LAPIC, KVM_SET_LAPIC, offsetof(kvm_processor, interrupts), sizeof(struct kvm_lapic_state),
     "interrupt controller", true},
    PART(KVM_GET_MP_STATE, KVM_SET_MP_STATE, activity, "activity"),
    PART(KVM_GET_REGS, KVM_SET_REGS, registers, "general registers"),
    PART(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events, "pending events"),
};
enum { PART_COUNT = sizeof parts / sizeof parts[0] };

static bool has_part(const ftvm_kvm *machine, size_t number)
{
    return !parts[number].is_of_systems || kvm_is_system(machine);
}

/* Whether a part is not known already. A program's processor always runs: see may_be_so. */
static bool is_to_be_asked(const ftvm_kvm *machine, const kvm_cpu *cpu, size_t number)
{
    unsigned long get = parts[number].get;
    bool is_synced = get == KVM_GET_REGS || get == KVM_GET_SREGS || get == KVM_GET_VCPU_EVENTS;
    bool is_known = (cpu->has_synced && is_synced) || (get == KVM_GET_MP_STATE && !kvm_is_system(machine));
    return has_part(machine, number) && !is_known;
}

static uint32_t fill(const ftvm_kvm *machine, const uint64_t *values, msr_table *table)
{
    table->head = (struct kvm_msrs){.nmsrs = machine->msrs.count};
    for (uint32_t i = 0; i < machine->msrs.count; i++)
        table->entries[i] = (struct kvm_msr_entry){.index = machine->msrs.index[i], .data = values[i]};
    return machine->msrs.count;
}

static int read_msrs(const ftvm_kvm *machine, unsigned number, uint64_t *values)
{
    msr_table table;
    uint32_t count = fill(machine, values, &table);
    int got = ioctl(machine->cpus[number].fd, KVM_GET_MSRS, &table);
    if (got != (int)count)
        return got < 0 ? -errno : -EIO;
    for (uint32_t i = 0; i < count; i++)
        values[i] = table.entries[i].data;
    return 0;
}

/* The highest vector that a controller has in service, 0 if it has none. */
static unsigned vector_in_service(const struct kvm_lapic_state *interrupts)
{
    for (unsigned vector = 255; vector > 0; vector--) {
        unsigned at = LAPIC_IN_SERVICE + vector / 32 * LAPIC_REGISTER_BYTES + vector % 32 / 8;
        if ((uint8_t)interrupts->regs[at] >> vector % 8 & 1)
            return vector;
    }
    return 0;
}

/* Has a controller's priority be what its task's priority and its interrupts in service say (Intel SDM volume 3,
 * "Processor-Priority Register"): KVM works it out when it needs it, and may tell what it was before the last end of
 * an interrupt. */
static void settle_priority(struct kvm_lapic_state *interrupts)
{
    unsigned task = (uint8_t)interrupts->regs[LAPIC_TASK_PRIORITY], served = vector_in_service(interrupts) & 0xf0;
    interrupts->regs[LAPIC_PRIORITY] = (char)((task & 0xf0) >= served ? task : served);
}

int kvm_processor_read(const ftvm_kvm *machine, unsigned number, kvm_processor *processor)
{
    const kvm_cpu *cpu = &machine->cpus[number];
    memset(processor, 0, sizeof *processor);
    for (size_t i = 0; i < PART_COUNT; i++) {
        if (is_to_be_asked(machine, cpu, i) && ioctl(cpu->fd, parts[i].get, (char *)processor + parts[i].offset) < 0)
            return -errno;
    }
    if (cpu->has_synced) {
        const kvm_synced *synced = kvm_synced_of(cpu);
        processor->registers = synced->registers;
        processor->system = synced->system;
        processor->events = synced->events;
    }
    settle_priority(&processor->interrupts);
    return read_msrs(machine, number, processor->msrs);
}

const char *kvm_processor_write(const ftvm_kvm *machine, unsigned number, const kvm_processor *processor)
{
    for (size_t i = 0; i < PART_COUNT; i++) {
        if (has_part(machine, i) &&
            ioctl(machine->cpus[number].fd, parts[i].set, (const char *)processor + parts[i].offset) < 0)
            return parts[i].name;
    }
    return NULL;
}

const char *kvm_processor_write_msrs(const ftvm_kvm *machine, unsigned number, const kvm_processor *processor)
{
    msr_table table;
    int count = (int)fill(machine, processor->msrs, &table);
    return ioctl(machine->cpus[number].fd, KVM_SET_MSRS, &table) == count ? NULL : "model-specific registers";
}

/* --- bytes --- */

static void write_bytes(wire_writer *writer, const void *bytes, size_t count)
{
    if (writer->length <= writer->capacity && count <= writer->capacity - writer->length)
        memcpy(writer->bytes + writer->length, bytes, count);
    writer->length += count;
}

static void read_bytes(wire_reader *reader, void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)bytes)[i] = wire_read_u8(reader);
}

static uint64_t disk_bytes(const ftvm_kvm *machine)
{
    return machine->board.disk_bytes;
}

/* All that a takeover needs beside memory. */
typedef struct {
    kvm_core core;
    kvm_processor processors[KVM_CPUS_MAX];
    kvm_chips chips;
    kvm_times times;
} whole;

/* Reads what KVM keeps. */
static int read_kept(const ftvm_kvm *machine, whole *state)
{
    int error = 0;
    for (unsigned i = 0; i < machine->cpu_count && error == 0; i++)
        error = kvm_processor_read(machine, i, &state->processors[i]);
    return error == 0 && kvm_is_system(machine) ? kvm_chips_read(machine, &state->chips) : error;
}

static uint64_t *deadline_of(const ftvm_kvm *machine, kvm_processor *processor)
{
    for (uint32_t i = 0; i < machine->msrs.count; i++) {
        if (machine->msrs.index[i] == MSR_DEADLINE)
            return &processor->msrs[i];
    }
    return NULL;
}

/* Has the deadlines in `state` be those of the machine's first save, or load, since its pause: of one that it was given
 * KVM may tell, on some hosts, that it is some microseconds away. */
static void hold_deadlines(ftvm_kvm *machine, whole *state, bool is_first)
{
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        uint64_t *deadline = deadline_of(machine, &state->processors[i]);
        if (deadline != NULL && is_first)
            machine->deadlines[i] = *deadline;
        else if (deadline != NULL)
            *deadline = machine->deadlines[i];
    }
}

/* What a machine is made of beside memory: a byte of devices, and above it the number of a system's processors. */
static uint32_t kind(const ftvm_kvm *machine)
{
    return machine->config.devices | machine->config.processors << 8;
}

static void write_processor(const ftvm_kvm *machine, const kvm_processor *processor, wire_writer *writer)
{
    for (size_t i = 0; i < PART_COUNT; i++) {
        if (has_part(machine, i))
            write_bytes(writer, (const char *)processor + parts[i].offset, parts[i].bytes);
    }
    for (uint32_t i = 0; i < machine->msrs.count; i++)
        wire_write_u64(writer, processor->msrs[i]);
}

static void read_processor(const ftvm_kvm *machine, kvm_processor *processor, wire_reader *reader)
{
    for (size_t i = 0; i < PART_COUNT; i++) {
        if (has_part(machine, i))
            read_bytes(reader, (char *)processor + parts[i].offset, parts[i].bytes);
    }
    for (uint32_t i = 0; i < machine->msrs.count; i++)
        processor->msrs[i] = wire_read_u64(reader);
}

static void write_head(const ftvm_kvm *machine, wire_writer *writer)
{
    wire_write_u64(writer, MAGIC);
    wire_write_u32(writer, VERSION);
    wire_write_u32(writer, kind(machine));
    wire_write_u64(writer, machine->config.ram_bytes);
    wire_write_u64(writer, disk_bytes(machine));
    write_bytes(writer, machine->cpu, sizeof machine->cpu);
    wire_write_u32(writer, machine->tsc_khz);
    wire_write_u32(writer, machine->msrs.count);
    for (uint32_t i = 0; i < machine->msrs.count; i++)
        wire_write_u32(writer, machine->msrs.index[i]);
}

int64_t kvm_state_save(ftvm_kvm *machine, uint8_t *state, size_t capacity)
{
    whole kept;
    wire_writer writer = {state, capacity, 0};
    int error = read_kept(machine, &kept);
    if (error == 0 && !machine->has_times)
        error = kvm_clock_read(machine, &machine->times);
    if (error != 0)
        return error;
    hold_deadlines(machine, &kept, !machine->has_times);
    machine->has_times = true;
    write_head(machine, &writer);
    kvm_bus_save(&machine->core, &writer);
    for (unsigned i = 0; i < machine->cpu_count; i++)
        write_processor(machine, &kept.processors[i], &writer);
    if (kvm_is_system(machine))
        write_bytes(&writer, &kept.chips, sizeof kept.chips);
    wire_write_u64(&writer, machine->times.clock_ns);
    wire_write_u64(&writer, machine->times.ticks);
    wire_write_u64(&writer, machine->times.wall_ns);
    return writer.length <= capacity ? (int64_t)writer.length : 0;
}

static const char *check_msrs(const ftvm_kvm *machine, wire_reader *reader)
{
    bool is_same = wire_read_u32(reader) == machine->msrs.count;
    for (uint32_t i = 0; is_same && i < machine->msrs.count; i++)
        is_same = wire_read_u32(reader) == machine->msrs.index[i];
    return is_same ? NULL : "the state has other model-specific registers than KVM knows on this host";
}

static const char *check_head(const ftvm_kvm *machine, wire_reader *reader)
{
    char cpu[FTVM_KVM_CPU_BYTES];
    if (wire_read_u64(reader) != MAGIC)
        return "these bytes are not the state of a KVM machine";
    if (wire_read_u32(reader) != VERSION)
        return "the state is of another version";
    if (wire_read_u32(reader) != kind(machine))
        return "the state is of a machine with other devices, or another number of processors";
    if (wire_read_u64(reader) != machine->config.ram_bytes || wire_read_u64(reader) != disk_bytes(machine))
        return "the state is of a machine with another size of memory or disk";
    read_bytes(reader, cpu, sizeof cpu);
    if (memcmp(cpu, machine->cpu, sizeof cpu) != 0)
        return "the state is of another processor than this host's, or of one with other features";
    uint64_t khz = wire_read_u32(reader), ours = machine->tsc_khz;
    uint64_t apart = khz > ours ? khz - ours : ours - khz;
    if (apart * 1000000 > ours * KHZ_APART_PER_MILLION)
        return "the state is of a host whose time stamp counter has another frequency";
    return check_msrs(machine, reader);
}

/* A program's processor always runs; a system's may also wait for an interrupt, or for its start. */
static bool may_be_so(const ftvm_kvm *machine, const kvm_processor *processor)
{
    uint32_t activity = processor->activity.mp_state;
    return activity == KVM_MP_STATE_RUNNABLE || (kvm_is_system(machine) && activity <= KVM_MP_STATE_SIPI_RECEIVED);
}

static const char *parse(const ftvm_kvm *machine, const uint8_t *state, size_t bytes, whole *read)
{
    wire_reader reader = {state, bytes, 0};
    const char *wrong = check_head(machine, &reader);
    if (wrong == NULL)
        wrong = kvm_bus_load(&read->core, &reader);
    if (wrong != NULL)
        return wrong;
    bool is_possible = true;
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        read_processor(machine, &read->processors[i], &reader);
        is_possible &= may_be_so(machine, &read->processors[i]);
    }
    if (kvm_is_system(machine))
        read_bytes(&reader, &read->chips, sizeof read->chips);
    read->times.clock_ns = wire_read_u64(&reader);
    read->times.ticks = wire_read_u64(&reader);
    read->times.wall_ns = wire_read_u64(&reader);
    if (reader.length != bytes)
        return reader.length > bytes ? "the state is cut short" : "the state is too long";
    return is_possible ? NULL : "a processor is not runnable";
}

/* Where KVM writes the time for a processor that says so, NULL if it does not. */
static uint8_t *clock_place(const ftvm_kvm *machine, const kvm_processor *processor)
{
    for (uint32_t i = 0; i < machine->msrs.count; i++) {
        uint64_t value = processor->msrs[i], at = value & ~(uint64_t)CLOCK_ENABLED;
        if (machine->msrs.index[i] == MSR_CLOCK && (value & CLOCK_ENABLED) != 0 &&
            device_is_ram(&machine->board, at, CLOCK_BYTES))
            return machine->config.ram + at;
    }
    return NULL;
}

/* Memory is loaded, and KVM may write the time there when it is told the place, not only when the guest runs: but what
 * is loaded is to be as it was saved. */
typedef uint8_t clock_images[KVM_CPUS_MAX][CLOCK_BYTES];

static void keep_clocks(const ftvm_kvm *machine, const whole *state, clock_images images, bool is_to_be_restored)
{
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        uint8_t *place = clock_place(machine, &state->processors[i]);
        if (place != NULL && is_to_be_restored)
            memcpy(place, images[i], CLOCK_BYTES);
        else if (place != NULL)
            memcpy(images[i], place, CLOCK_BYTES);
    }
}

/* Has KVM write no time to where the machine wanted it before. */
static void forget_clocks(const ftvm_kvm *machine)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = {.head = {.nmsrs = 1}, .entry = {.index = MSR_CLOCK}};
    for (unsigned i = 0; i < machine->cpu_count; i++)
        (void)ioctl(machine->cpus[i].fd, KVM_SET_MSRS, &msr); /* refused: it knows no such clock */
}

/* In the order that KVM wants: processors, the time, what happens at a time, and last who interrupts them. */
static const char *put_in_force(ftvm_kvm *machine, const whole *state)
{
    const char *wrong = NULL;
    clock_images images;
    keep_clocks(machine, state, images, false);
    forget_clocks(machine);
    for (unsigned i = 0; i < machine->cpu_count; i++)
        machine->cpus[i].has_synced = false;
    for (unsigned i = 0; i < machine->cpu_count && wrong == NULL; i++)
        wrong = kvm_processor_write(machine, i, &state->processors[i]);
    if (wrong != NULL)
        return wrong;
    int error = kvm_clock_go_on(machine, &state->times);
    if (error != 0)
        return error == -ERANGE ? "time stamp counter: it would go back" : "clocks";
    for (unsigned i = 0; i < machine->cpu_count && wrong == NULL; i++)
        wrong = kvm_processor_write_msrs(machine, i, &state->processors[i]);
    if (wrong == NULL && kvm_is_system(machine) && !kvm_chips_write(machine, &state->chips))
        wrong = "interrupt controllers";
    keep_clocks(machine, state, images, true);
    return wrong;
}

static int refuse(char *wrong, const char *why, const char *what)
{
    snprintf(wrong, FTVM_KVM_WRONG_BYTES, "%s%s", why, what);
    return -1;
}

int kvm_state_load(ftvm_kvm *machine, const uint8_t *state, size_t bytes, char *wrong)
{
    whole before = {.core = machine->core, .times = machine->times};
    whole loaded = {.core = machine->core};
    const char *reason = parse(machine, state, bytes, &loaded);
    if (reason != NULL)
        return refuse(wrong, reason, "");
    int error = read_kept(machine, &before);
    if (error == 0 && !machine->has_times)
        error = kvm_clock_read(machine, &before.times);
    if (error != 0)
        return refuse(wrong, "KVM does not tell what the processor is: ", strerror(-error));
    hold_deadlines(machine, &before, !machine->has_times);
    machine->has_times = machine->owes_times = true;
    reason = put_in_force(machine, &loaded);
    machine->times = reason == NULL ? loaded.times : before.times;
    if (reason == NULL) {
        hold_deadlines(machine, &loaded, true);
        machine->core = loaded.core;
        return 0;
    }
    const char *lost = put_in_force(machine, &before);
    refuse(wrong, "KVM does not take its ", reason);
    if (lost != NULL) { /* it took these before */
        machine->failed_by = FTVM_KVM_BY_INTERNAL;
        machine->failure_detail = UINT64_MAX;
    }
    return -1;
}
