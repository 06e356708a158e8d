#include "device.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the guest's memory is read and written as the host's");

bool device_dma_read(const device_board *board, uint64_t address, void *into, size_t bytes)
{
    if (!device_is_ram(board, address, bytes))
        return false;
    memcpy(into, board->ram + (address - board->ram_base), bytes);
    return true;
}

bool device_dma_write(device_board *board, uint64_t address, const void *from, size_t bytes)
{
    if (!device_is_ram(board, address, bytes))
        return false;
    if (bytes == 0)
        return true;
    memcpy(board->ram + (address - board->ram_base), from, bytes);
    if (board->wrote != NULL)
        board->wrote(board, address - board->ram_base, bytes);
    return true;
}
