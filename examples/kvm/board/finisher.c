#include "../../guests/board/finisher.h"

#include "../../guests/board/board.h"
#include "port.h"

_Noreturn void finisher_end(int code)
{
    for (;;)
        port_write32(BOARD_FINISHER, (uint32_t)code);
}
