#include "output.h"

#include <string.h>

#include "wire.h"

bool riscv_output_is_tight(const riscv_output *output)
{
    return RISCV_OUTPUT_BYTES - output->length < RISCV_OUTPUT_BURST;
}

void riscv_output_add(riscv_output *output, uint32_t channel, const uint8_t *payload, size_t bytes)
{
    riscv_writer writer = {output->bytes + output->length, RISCV_OUTPUT_HEADER, 0};
    size_t padded = (bytes + 7) & ~(size_t)7;
    riscv_write_u32(&writer, channel);
    riscv_write_u32(&writer, (uint32_t)bytes);
    memcpy(output->bytes + output->length + RISCV_OUTPUT_HEADER, payload, bytes);
    memset(output->bytes + output->length + RISCV_OUTPUT_HEADER + bytes, 0, padded - bytes);
    output->length += RISCV_OUTPUT_HEADER + padded;
    output->count++;
}
