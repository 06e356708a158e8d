#include "logtable.h"

#include "devices/wire.h"

enum { CHANNEL_AT = 1, LENGTH_AT = 26 }; /* in a row of a table */

static uint32_t u32_at(const uint8_t *at)
{
    wire_reader reader = {at, 4, 0};
    return wire_read_u32(&reader);
}

size_t ftvm_logtable_check(const uint8_t *rows, size_t count, size_t channels, size_t bytes, size_t *left)
{
    size_t place = 0;
    for (; place < count; place++) {
        const uint8_t *row = rows + place * FTVM_LOGTABLE_ROW;
        uint32_t length = u32_at(row + LENGTH_AT);
        if (row[0] < FTVM_LOGTABLE_INPUT || row[0] > FTVM_LOGTABLE_OUTPUT || row[CHANNEL_AT] >= channels || length > bytes)
            break;
        bytes -= length;
    }
    *left = bytes;
    return place;
}
