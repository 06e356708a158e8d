#include "output.h"

#include <string.h>

#include "wire.h"

bool device_output_is_tight(const device_output *output)
{
    return DEVICE_OUTPUT_BYTES - output->length < DEVICE_OUTPUT_BURST;
}

void device_output_add(device_output *output, uint32_t channel, const uint8_t *payload, size_t bytes)
{
    wire_writer writer = {output->bytes + output->length, DEVICE_OUTPUT_HEADER, 0};
    size_t padded = (bytes + 7) & ~(size_t)7;
    wire_write_u32(&writer, channel);
    wire_write_u32(&writer, (uint32_t)bytes);
    memcpy(output->bytes + output->length + DEVICE_OUTPUT_HEADER, payload, bytes);
    memset(output->bytes + output->length + DEVICE_OUTPUT_HEADER + bytes, 0, padded - bytes);
    output->length += DEVICE_OUTPUT_HEADER + padded;
    output->count++;
}

void device_output_clear(device_output *output)
{
    output->length = 0;
    output->count = 0;
}
