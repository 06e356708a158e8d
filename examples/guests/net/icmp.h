/* icmp: answers echo requests ("ping"), nothing else.
 *
 * Source: RFC 792, echo and echo reply; RFC 1122 section 3.2.2.6 (the data goes back unchanged).
 */
#ifndef ICMP_H
#define ICMP_H

#include "bytes.h"

/* Answers `message` into `reply`, which has room for as many bytes as the message. Returns the reply's bytes, 0 if
 * it gives no reply: the message is not an echo request, or its checksum is wrong. */
size_t icmp_answer(struct span message, uint8_t *reply);

#endif
