/* datagrams: many datagrams by one call, over a socket that is somebody else's.
 *
 * Nothing blocks. A datagram that cannot be sent is dropped, as on a wire, and the next one tried. */
#ifndef FTVM_DATAGRAMS_H
#define FTVM_DATAGRAMS_H

#include <stdint.h>

#define FTVM_DATAGRAM_BYTES_MAX 65536u /* more than any datagram holds, so that none is ever cut short */
#define FTVM_DATAGRAMS_MAX 64u         /* received by one call */
#define FTVM_DATAGRAM_REFUSED UINT32_MAX

/* Sends datagrams that lie one behind the other.
 *
 * address        where to, a struct sockaddr of `address_bytes`
 * lengths        of each datagram, `count` of them; `content` holds them all
 * bytes          is set to how many bytes were sent
 * Returns how many datagrams were sent. */
uint32_t ftvm_datagrams_send(int socket, const uint8_t *address, uint32_t address_bytes, const uint8_t *content,
                             const uint32_t *lengths, uint32_t count, uint64_t *bytes);

/* Receives datagrams that have come, `limit` and FTVM_DATAGRAMS_MAX of them at most.
 *
 * sender   the one struct sockaddr_in whose datagrams are taken; NULL: anybody's
 * room     FTVM_DATAGRAM_BYTES_MAX for each: the datagram of a place begins there
 * lengths  is set to the length of each, or to FTVM_DATAGRAM_REFUSED where another sent it
 * Returns how many came, those that were refused included. An error that the socket tells of an earlier send counts as
 * nothing. */
uint32_t ftvm_datagrams_receive(int socket, const uint8_t *sender, uint8_t *room, uint32_t *lengths, uint32_t limit);

#endif
