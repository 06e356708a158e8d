#include "follow.h"

#include <stdbool.h>
#include <string.h>

#include "devices/wire.h"
#include "riscv/give.h"
#include "riscv/machine.h"
#include "turnpack.h"

enum { OUTPUTS_KEPT_FREE = 512 };

_Static_assert(OUTPUTS_KEPT_FREE < FTVM_FOLLOW_OUTPUTS_MAX / 2, "one instruction sends at most a queue full of frames");

typedef struct {
    uint32_t kind, channel;
    uint64_t retired, idled, amount;
    size_t bytes;
    const uint8_t *payload;
} record;

/* Returns whether there is a whole record at a place, whose payload begins `at` so many bytes. */
static bool read_record(record *next, const ftvm_follow_log *log, size_t place, size_t at)
{
    if (place == log->count)
        return false;
    wire_reader reader = {log->rows + place * FTVM_LOGTABLE_ROW, FTVM_LOGTABLE_ROW, 0};
    next->kind = wire_read_u8(&reader);
    next->channel = log->channels[wire_read_u8(&reader)];
    next->retired = wire_read_u64(&reader);
    next->idled = wire_read_u64(&reader);
    next->amount = wire_read_u64(&reader);
    next->bytes = wire_read_u32(&reader);
    next->payload = log->payloads + at;
    return next->bytes <= log->payload_bytes - at;
}

static bool has_room(const ftvm_riscv *machine, const ftvm_follow_course *course)
{
    return course->outputs <= FTVM_FOLLOW_OUTPUTS_MAX - OUTPUTS_KEPT_FREE && !device_output_is_tight(&machine->board.output);
}

/* Counts the outputs of the last run. */
static void count_outputs(const ftvm_riscv *machine, ftvm_follow_course *course)
{
    course->made += machine->board.output.count - course->outputs;
    course->outputs = machine->board.output.count;
}

/* Takes the outputs: their payloads move together where they lie, over the heads that were between them. */
static void take_outputs(device_output *output, ftvm_follow_course *course)
{
    course->said = output->bytes;
    course->spoken = course->rows;
    course->said_bytes = course->voice_count = 0;
    size_t at = 0;
    for (size_t place = 0; place < course->outputs; place++) {
        wire_reader head = {output->bytes + at, DEVICE_OUTPUT_HEADER, 0};
        uint32_t channel = wire_read_u32(&head), length = wire_read_u32(&head);
        turnpack_spoken(course->rows, place, channel, length, course->voices, &course->voice_count);
        memmove(output->bytes + course->said_bytes, output->bytes + at + DEVICE_OUTPUT_HEADER, length);
        course->said_bytes += length;
        at += DEVICE_OUTPUT_HEADER + ((length + 7) & ~(size_t)7);
    }
    device_output_clear(output);
}

/* Runs up to a position. Returns whether the machine stands there. */
static bool go_to(ftvm_riscv *machine, const record *next, ftvm_follow_course *course)
{
    const riscv_hart *hart = &machine->core.hart;
    while (hart->retired < next->retired) {
        uint64_t began = hart->retired, left = next->retired - began;
        if (course->instructions == 0 || !has_room(machine, course))
            return false;
        left = left < course->instructions ? left : course->instructions;
        uint64_t made = course->made;
        int why = ftvm_riscv_run(machine, left, FTVM_RISCV_STOP_AT_OUTPUT);
        count_outputs(machine, course);
        course->instructions -= hart->retired - began;
        if (hart->retired != began)
            course->first_here = made + 1;
        if (why != FTVM_RISCV_LIMIT && why != FTVM_RISCV_OUTPUT && why != FTVM_RISCV_STOPPED)
            break;
    }
    return hart->retired == next->retired && hart->idled == next->idled;
}

/* Returns whether the record is as it should be, and is done. */
static bool take(ftvm_riscv *machine, const record *next, ftvm_follow_course *course)
{
    switch (next->kind) {
    case FTVM_LOGTABLE_INPUT:
        return riscv_give(machine, next->channel, next->payload, next->bytes);
    case FTVM_LOGTABLE_CLOCK:
        if (!riscv_give_time(machine, next->amount))
            return false;
        course->first_here = next->amount != 0 ? course->made + 1 : course->first_here; /* it is another position */
        return true;
    case FTVM_LOGTABLE_OUTPUT:
        return course->first_here <= next->amount && next->amount <= course->made;
    default:
        return false;
    }
}

size_t ftvm_follow(ftvm_riscv *machine, const ftvm_follow_log *log, ftvm_follow_course *course)
{
    size_t taken = 0, at = 0;
    record next;
    course->outputs = 0;
    while (read_record(&next, log, taken, at) && go_to(machine, &next, course) && take(machine, &next, course)) {
        at += next.bytes;
        taken++;
    }
    take_outputs(&machine->board.output, course);
    return taken;
}
