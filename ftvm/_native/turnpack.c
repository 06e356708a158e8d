#include "turnpack.h"

#include <string.h>

#include "devices/wire.h"

/* Returns the number of a channel among those of a table; it gets one where it comes first. */
static uint8_t number_of(uint8_t *channels, size_t *count, uint8_t channel)
{
    size_t number = 0;
    while (number < *count && channels[number] != channel)
        number++;
    if (number == *count)
        channels[(*count)++] = channel;
    return (uint8_t)number;
}

void turnpack_spoken(uint8_t *spoken, size_t place, uint32_t channel, uint32_t length, uint8_t *voices, size_t *voice_count)
{
    wire_writer row = {spoken + place * FTVM_TURN_SPOKEN_ROW, FTVM_TURN_SPOKEN_ROW, 0};
    wire_write_u8(&row, number_of(voices, voice_count, (uint8_t)channel));
    wire_write_u32(&row, length);
}

/* Packs a row; returns how long it is. */
static size_t pack_row(turnpack_tables *tables, const uint8_t *row_at, uint64_t output_next, ftvm_turn_packed *packed)
{
    const uint8_t *payload = row_at + TURN_ROW_HEADER;
    wire_reader reader = {row_at, TURN_ROW_HEADER, 0};
    uint32_t turn_kind = wire_read_u32(&reader), channel = wire_read_u32(&reader);
    uint64_t retired = wire_read_u64(&reader), idled = wire_read_u64(&reader), amount = wire_read_u64(&reader);
    uint32_t length = wire_read_u32(&reader), kept = 0;
    uint8_t kind = FTVM_LOGTABLE_CLOCK, named = FTVM_TURN_NO_CHANNEL;
    if (turn_kind == FTVM_TURN_INPUT) {
        kind = FTVM_LOGTABLE_INPUT;
        named = (uint8_t)channel;
        amount = 0;
        kept = length;
        memcpy(tables->inputs + packed->input_bytes, payload, length);
        packed->input_bytes += length;
    } else if (turn_kind == FTVM_TURN_OUTPUT) {
        kind = FTVM_LOGTABLE_OUTPUT;
        amount = output_next + packed->outputs;
        memcpy(tables->said + packed->said_bytes, payload, length);
        packed->said_bytes += length;
        turnpack_spoken(tables->spoken, packed->outputs++, channel, length, packed->voices, &packed->voice_count);
    }
    wire_writer row = {tables->table + packed->records++ * FTVM_LOGTABLE_ROW, FTVM_LOGTABLE_ROW, 0};
    wire_write_u8(&row, kind);
    wire_write_u8(&row, number_of(packed->channels, &packed->channel_count, named));
    wire_write_u64(&row, retired);
    wire_write_u64(&row, idled);
    wire_write_u64(&row, amount);
    wire_write_u32(&row, kept);
    return TURN_ROW_HEADER + ((length + 7) & ~(size_t)7);
}

void turnpack_rows(turnpack_tables *tables, const uint8_t *rows, size_t length, uint64_t output_next,
                   ftvm_turn_packed *packed)
{
    *packed = (ftvm_turn_packed){
        .table = tables->table,
        .inputs = tables->inputs,
        .said = tables->said,
        .spoken = tables->spoken,
    };
    for (size_t at = 0; at < length;)
        at += pack_row(tables, rows + at, output_next, packed);
}
