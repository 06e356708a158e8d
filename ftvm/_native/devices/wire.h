/* wire: fixed-width little-endian fields, written to and read from bounded buffers.
 *
 * Both ends go on counting when the buffer ends, and touch nothing beyond it: the caller looks at the end once, not at
 * each field. A reader that ran over yields zeros. */
#ifndef FTVM_DEVICES_WIRE_H
#define FTVM_DEVICES_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *bytes;
    size_t capacity;
    size_t length; /* more than capacity: it did not fit */
} wire_writer;

typedef struct {
    const uint8_t *bytes;
    size_t capacity;
    size_t length; /* more than capacity: it was too short */
} wire_reader;

static inline void wire_write_uint(wire_writer *writer, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++, writer->length++) {
        if (writer->length < writer->capacity)
            writer->bytes[writer->length] = (uint8_t)(value >> (8 * i));
    }
}

static inline uint64_t wire_read_uint(wire_reader *reader, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++, reader->length++) {
        if (reader->length < reader->capacity)
            value |= (uint64_t)reader->bytes[reader->length] << (8 * i);
    }
    return value;
}

static inline void wire_write_u8(wire_writer *writer, uint8_t value)
{
    wire_write_uint(writer, 1, value);
}

static inline void wire_write_u32(wire_writer *writer, uint32_t value)
{
    wire_write_uint(writer, 4, value);
}

static inline void wire_write_u64(wire_writer *writer, uint64_t value)
{
    wire_write_uint(writer, 8, value);
}

static inline uint8_t wire_read_u8(wire_reader *reader)
{
    return (uint8_t)wire_read_uint(reader, 1);
}

static inline uint32_t wire_read_u32(wire_reader *reader)
{
    return (uint32_t)wire_read_uint(reader, 4);
}

static inline uint64_t wire_read_u64(wire_reader *reader)
{
    return wire_read_uint(reader, 8);
}

/* A flag must be 0 or 1; anything else sets *is_bad. */
static inline bool wire_read_flag(wire_reader *reader, bool *is_bad)
{
    uint8_t value = wire_read_u8(reader);
    *is_bad |= value > 1;
    return value == 1;
}

#endif
