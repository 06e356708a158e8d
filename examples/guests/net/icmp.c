#include "icmp.h"

#include <string.h>

#include "checksum.h"

#define HEADER_BYTES 8u
#define AT_TYPE 0u
#define AT_CODE 1u
#define AT_CHECKSUM 2u
#define TYPE_ECHO_REPLY 0u
#define TYPE_ECHO_REQUEST 8u

size_t icmp_answer(struct span message, uint8_t *reply)
{
    if (message.bytes < HEADER_BYTES || message.at[AT_TYPE] != TYPE_ECHO_REQUEST || message.at[AT_CODE] != 0 ||
        checksum_finish(checksum_add(0, message)) != 0)
        return 0;
    memcpy(reply, message.at, message.bytes);
    reply[AT_TYPE] = TYPE_ECHO_REPLY;
    be16_put(reply + AT_CHECKSUM, 0);
    const struct span whole = {.at = reply, .bytes = message.bytes};
    be16_put(reply + AT_CHECKSUM, checksum_finish(checksum_add(0, whole)));
    return message.bytes;
}
