#include "checksum.h"

/* Carries out of the low 16 bits come back in at the bottom. */
static uint32_t fold(uint32_t sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

uint32_t checksum_add(uint32_t sum, struct span span)
{
    size_t i = 0;
    for (; i + 1 < span.bytes; i += 2)
        sum += be16_get(span.at + i);
    if (i < span.bytes)
        sum += (uint32_t)span.at[i] << 8;
    return fold(sum);
}

uint16_t checksum_finish(uint32_t sum) { return (uint16_t)~fold(sum); }
