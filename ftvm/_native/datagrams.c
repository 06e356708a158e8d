#define _GNU_SOURCE /* sendmmsg, recvmmsg */
#include "datagrams.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#define ERRORS_MAX 8 /* of earlier sends, told one a call */

/* Sends up to FTVM_DATAGRAMS_MAX datagrams; returns how many were sent before one that could not be. */
static uint32_t send_some(int socket, const uint8_t *address, uint32_t address_bytes, const uint8_t *content,
                          const uint32_t *lengths, uint32_t count)
{
    struct iovec parts[FTVM_DATAGRAMS_MAX];
    struct mmsghdr messages[FTVM_DATAGRAMS_MAX];
    struct sockaddr_storage to;
    uint64_t at = 0;
    memset(messages, 0, sizeof messages);
    memcpy(&to, address, address_bytes);
    for (uint32_t place = 0; place < count; place++) {
        parts[place] = (struct iovec){(void *)(uintptr_t)(content + at), lengths[place]};
        messages[place].msg_hdr = (struct msghdr){
            .msg_name = &to, .msg_namelen = address_bytes, .msg_iov = &parts[place], .msg_iovlen = 1};
        at += lengths[place];
    }
    int sent;
    do
        sent = sendmmsg(socket, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? 0 : (uint32_t)sent;
}

uint32_t ftvm_datagrams_send(int socket, const uint8_t *address, uint32_t address_bytes, const uint8_t *content,
                             const uint32_t *lengths, uint32_t count, uint64_t *bytes)
{
    uint32_t place = 0, sent = 0;
    *bytes = 0;
    if (address_bytes > sizeof(struct sockaddr_storage))
        return 0;
    while (place < count) {
        uint32_t wanted = count - place < FTVM_DATAGRAMS_MAX ? count - place : FTVM_DATAGRAMS_MAX;
        uint32_t some = send_some(socket, address, address_bytes, content, lengths + place, wanted);
        uint32_t done = some == 0 ? 1 : some; /* the first could not be sent: it is dropped */
        sent += some;
        for (uint32_t end = place + done; place < end; place++) {
            content += lengths[place];
            *bytes += some == 0 ? 0 : lengths[place];
        }
    }
    return sent;
}

static bool is_from(const struct mmsghdr *message, const uint8_t *sender)
{
    struct sockaddr_in expected, from;
    if (sender == NULL)
        return true;
    if (message->msg_hdr.msg_namelen != sizeof from)
        return false;
    memcpy(&expected, sender, sizeof expected);
    memcpy(&from, message->msg_hdr.msg_name, sizeof from);
    return from.sin_family == AF_INET && from.sin_port == expected.sin_port &&
           from.sin_addr.s_addr == expected.sin_addr.s_addr;
}

uint32_t ftvm_datagrams_receive(int socket, const uint8_t *sender, uint8_t *room, uint32_t *lengths, uint32_t limit)
{
    struct sockaddr_in from[FTVM_DATAGRAMS_MAX];
    struct iovec parts[FTVM_DATAGRAMS_MAX];
    struct mmsghdr messages[FTVM_DATAGRAMS_MAX];
    uint32_t wanted = limit < FTVM_DATAGRAMS_MAX ? limit : FTVM_DATAGRAMS_MAX;
    memset(messages, 0, sizeof messages);
    for (uint32_t place = 0; place < wanted; place++) {
        parts[place] = (struct iovec){room + (size_t)place * FTVM_DATAGRAM_BYTES_MAX, FTVM_DATAGRAM_BYTES_MAX};
        messages[place].msg_hdr = (struct msghdr){
            .msg_name = &from[place], .msg_namelen = sizeof from[place], .msg_iov = &parts[place], .msg_iovlen = 1};
    }
    int came = -1;
    for (int tries = 0; came < 0 && tries < ERRORS_MAX; tries++) {
        came = recvmmsg(socket, messages, wanted, MSG_DONTWAIT, NULL);
        if (came < 0 && (errno == EAGAIN || errno == EBADF))
            return 0;
    }
    if (came < 0)
        return 0;
    for (int place = 0; place < came; place++)
        lengths[place] = is_from(&messages[place], sender) ? messages[place].msg_len : FTVM_DATAGRAM_REFUSED;
    return (uint32_t)came;
}
