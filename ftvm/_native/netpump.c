#define _GNU_SOURCE
#include "netpump.h"

#include "netcard.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ETHERNET_HEADER_BYTES 14u
#define VLAN_TAG_BYTES 4u
#define VLAN_AT 12u /* in an Ethernet frame: behind the two addresses */

/* The lock is given back after so many frames: whoever pauses the guest waits for it. */
#define FRAMES_PER_TURN 64
/* A frame for which the card has no room is offered so often, a millisecond apart, and then dropped. */
#define OFFERS_MAX 20
/* More than the card's socket holds, and a bound for a card that sends on and on. */
#define FRAMES_PER_MARK 65536

struct ftvm_netpump {
    pthread_mutex_t lock;
    atomic_int wanted; /* how many wait for the lock: the thread lets them go first */
    int card, outside;
    uint32_t header_bytes;
    union {
        struct sockaddr any;
        struct sockaddr_in internet;
        struct sockaddr_storage room;
    } peer;
    socklen_t peer_bytes; /* 0: the outside is no datagram socket, or connected */
    int is_peer_alone;
    int event, waker;
    int is_closing;
    int is_armed; /* the next frame without a mark is told */
    int failure;
    enum ftvm_netpump_inputs way;
    uint32_t offered_bytes; /* of the frame in `input` that the card had no room for, or 0 */
    uint32_t offers;
    struct ftvm_netpump_counters counters;
    pthread_t thread;
    uint8_t input[FTVM_FRAME_BYTES_MAX];
    struct ftvm_framering ring;
};

static void enter(struct ftvm_netpump *pump)
{
    atomic_fetch_add(&pump->wanted, 1);
    pthread_mutex_lock(&pump->lock);
    atomic_fetch_sub(&pump->wanted, 1);
}

static void leave(struct ftvm_netpump *pump)
{
    pthread_mutex_unlock(&pump->lock);
}

static void signal_event(int event)
{
    uint64_t one = 1;
    if (write(event, &one, sizeof one) < 0)
        return; /* it is readable already */
}

static void wake(struct ftvm_netpump *pump)
{
    signal_event(pump->waker);
}

/* Tells that frames wait for a mark, once. */
static void tell(struct ftvm_netpump *pump)
{
    if (pump->is_armed && pump->ring.open.frames > 0) {
        pump->is_armed = 0;
        signal_event(pump->event);
    }
}

static void arm(struct ftvm_netpump *pump)
{
    pump->is_armed = 1;
    tell(pump);
}

static uint32_t frame_bytes_min(const struct ftvm_netpump *pump)
{
    return pump->header_bytes + ETHERNET_HEADER_BYTES;
}

static int is_gone(int wrong)
{
    return wrong == EBADFD || wrong == ENODEV || wrong == ENXIO || wrong == EBADF;
}

/* --- from the card ------------------------------------------------------------------------------------------------- */

/* Puts the tag back that the kernel took out of a frame. Returns how long it is now. */
static uint32_t insert_vlan(uint8_t *bytes, uint32_t count, uint16_t type, uint16_t tag)
{
    struct virtio_net_hdr header;
    memcpy(&header, bytes, sizeof header);
    if (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        header.csum_start = (uint16_t)(header.csum_start + VLAN_TAG_BYTES);
    if (header.hdr_len != 0)
        header.hdr_len = (uint16_t)(header.hdr_len + VLAN_TAG_BYTES);
    memcpy(bytes, &header, sizeof header);
    uint8_t *at = bytes + FTVM_NETCARD_HEADER_BYTES + VLAN_AT;
    memmove(at + VLAN_TAG_BYTES, at, count - FTVM_NETCARD_HEADER_BYTES - VLAN_AT);
    const uint8_t put[VLAN_TAG_BYTES] = {(uint8_t)(type >> 8), (uint8_t)type, (uint8_t)(tag >> 8), (uint8_t)tag};
    memcpy(at, put, sizeof put);
    return count + VLAN_TAG_BYTES;
}

static const struct tpacket_auxdata *find_auxdata(struct msghdr *message)
{
    struct cmsghdr *at = CMSG_FIRSTHDR(message);
    for (; at != NULL; at = CMSG_NXTHDR(message, at))
        if (at->cmsg_level == SOL_PACKET && at->cmsg_type == PACKET_AUXDATA)
            return (const struct tpacket_auxdata *)(const void *)CMSG_DATA(at);
    return NULL;
}

/* Receives a frame into `out`, FTVM_FRAME_BYTES_MAX. Returns its length, 0 if it was refused, -1 if no frame has come. */
static int64_t receive(struct ftvm_netpump *pump, uint8_t *out)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    } control;
    struct iovec part = {out, FTVM_FRAME_BYTES_MAX - VLAN_TAG_BYTES};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t came = recvmsg(pump->card, &message, MSG_DONTWAIT);
    if (came < 0)
        return errno == EAGAIN ? -1 : 0; /* an error that is told once, as of a device that was down: ask again */
    if (came < (ssize_t)frame_bytes_min(pump) || (message.msg_flags & MSG_TRUNC)) {
        pump->counters.runts_refused++;
        return came == 0 ? -1 : 0; /* a stream that ended; no frame is empty */
    }
    const struct tpacket_auxdata *told = find_auxdata(&message);
    if (told == NULL || !(told->tp_status & TP_STATUS_VLAN_VALID))
        return came;
    uint16_t type = (told->tp_status & TP_STATUS_VLAN_TPID_VALID) ? told->tp_vlan_tpid : 0x8100;
    return insert_vlan(out, (uint32_t)came, type, told->tp_vlan_tci);
}

/* Takes in up to `limit` frames that the card has sent. */
static void take_outputs(struct ftvm_netpump *pump, uint32_t limit)
{
    for (uint32_t i = 0; i < limit; i++) {
        uint8_t *room = ftvm_framering_reserve(&pump->ring);
        if (room == NULL)
            return;
        int64_t came = receive(pump, room);
        if (came < 0)
            return;
        if (came > 0)
            ftvm_framering_commit(&pump->ring, (uint32_t)came);
    }
}

/* Sends one frame to the outside. Returns 1 if it left. */
static int send_out(struct ftvm_netpump *pump, const uint8_t *frame, uint32_t bytes)
{
    ssize_t sent = -1;
    if (pump->failure == 0)
        sent = pump->peer_bytes == 0 ? write(pump->outside, frame, bytes)
                                     : sendto(pump->outside, frame, bytes, 0, &pump->peer.any, pump->peer_bytes);
    if (sent == (ssize_t)bytes) {
        pump->counters.frames_sent++;
        pump->counters.bytes_sent += bytes - pump->header_bytes;
        return 1;
    }
    pump->counters.sends_dropped++; /* down, full, or refused: a frame that did not arrive */
    return 0;
}

/* --- from outside --------------------------------------------------------------------------------------------------- */

/* Offers the frame in `input` to the card. Returns 0 if it has no room now. */
static int offer(struct ftvm_netpump *pump, uint32_t bytes)
{
    if (send(pump->card, pump->input, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)bytes) {
        pump->counters.frames_received++;
        pump->counters.bytes_received += bytes - pump->header_bytes;
    } else if ((errno == EAGAIN || errno == ENOBUFS) && ++pump->offers < OFFERS_MAX) {
        pump->offered_bytes = bytes;
        return 0;
    } else {
        pump->counters.receives_dropped++;
    }
    pump->offered_bytes = pump->offers = 0;
    return 1;
}

/* Reads what comes next from outside into `input`. Returns its length, or -1; sets *is_strange where another than the
 * other end sent it. */
static ssize_t read_outside(struct ftvm_netpump *pump, int *is_strange)
{
    *is_strange = 0;
    if (pump->peer_bytes == 0)
        return read(pump->outside, pump->input, sizeof pump->input);
    struct sockaddr_in from = {0};
    socklen_t size = sizeof from;
    ssize_t came = recvfrom(pump->outside, pump->input, sizeof pump->input, MSG_TRUNC, (struct sockaddr *)&from, &size);
    if (came >= 0 && pump->is_peer_alone)
        *is_strange = from.sin_addr.s_addr != pump->peer.internet.sin_addr.s_addr ||
                      from.sin_port != pump->peer.internet.sin_port;
    return came;
}

static void take_inputs(struct ftvm_netpump *pump)
{
    if (pump->offered_bytes > 0 && (pump->way != FTVM_NETPUMP_FLOW || !offer(pump, pump->offered_bytes)))
        return;
    for (int i = 0; i < FRAMES_PER_TURN && pump->way != FTVM_NETPUMP_WAIT && pump->failure == 0; i++) {
        int is_strange;
        ssize_t came = read_outside(pump, &is_strange);
        if (came < 0 && is_gone(errno))
            pump->failure = errno;
        if (came < 0 || (came == 0 && pump->peer_bytes == 0))
            return;
        if (is_strange)
            pump->counters.strangers_refused++;
        else if (came < (ssize_t)frame_bytes_min(pump) || came > (ssize_t)sizeof pump->input)
            pump->counters.runts_refused++;
        else if (pump->way == FTVM_NETPUMP_DISCARD)
            pump->counters.receives_discarded++;
        else if (!offer(pump, (uint32_t)came))
            return;
    }
}

/* --- the thread ------------------------------------------------------------------------------------------------------ */

/* Waits until there is something to do. */
static void await(struct ftvm_netpump *pump, struct pollfd waits[3])
{
    int is_reading = pump->way != FTVM_NETPUMP_WAIT && pump->failure == 0;
    int is_offering = pump->offered_bytes > 0 && pump->way == FTVM_NETPUMP_FLOW;
    waits[0] = (struct pollfd){pump->waker, POLLIN, 0};
    waits[1] = (struct pollfd){ftvm_framering_reserve(&pump->ring) != NULL ? pump->card : -1, POLLIN, 0};
    waits[2] = (struct pollfd){is_reading && !is_offering ? pump->outside : -1, POLLIN, 0};
    leave(pump);
    poll(waits, 3, is_offering ? 1 : -1);
    while (atomic_load(&pump->wanted) > 0)
        sched_yield();
    pthread_mutex_lock(&pump->lock);
    uint64_t count;
    if (waits[0].revents != 0 && read(pump->waker, &count, sizeof count) < 0)
        return; /* another wake took it */
}

/* Notes that the outside is gone where nothing can be read from it any more, but poll reports it for ever. */
static void look_at_outside(struct ftvm_netpump *pump, short found)
{
    if (pump->failure == 0 && pump->peer_bytes == 0 && (found & (POLLERR | POLLHUP | POLLNVAL)) && !(found & POLLIN))
        pump->failure = ENODEV;
}

static void *run(void *argument)
{
    struct ftvm_netpump *pump = argument;
    struct pollfd waits[3];
    pthread_mutex_lock(&pump->lock);
    while (!pump->is_closing) {
        await(pump, waits);
        take_outputs(pump, FRAMES_PER_TURN);
        tell(pump);
        take_inputs(pump);
        look_at_outside(pump, waits[2].revents);
    }
    pthread_mutex_unlock(&pump->lock);
    return NULL;
}

struct ftvm_netpump *ftvm_netpump_open(int card, int outside, uint8_t *ring, uint64_t ring_bytes, uint32_t header_bytes,
                                       const struct ftvm_netpump_peer *peer)
{
    if (peer != NULL && peer->address_bytes > sizeof(struct sockaddr_storage))
        return NULL;
    struct ftvm_netpump *pump = calloc(1, sizeof *pump);
    if (pump == NULL)
        return NULL;
    pump->card = card;
    pump->outside = outside;
    pump->header_bytes = header_bytes;
    if (peer != NULL) {
        memcpy(&pump->peer, peer->address, peer->address_bytes);
        pump->peer_bytes = peer->address_bytes;
        pump->is_peer_alone = peer->is_alone;
    }
    pump->is_armed = 1;
    ftvm_framering_open(&pump->ring, ring, ring_bytes);
    pthread_mutex_init(&pump->lock, NULL);
    pump->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pump->waker = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (pump->event >= 0 && pump->waker >= 0 && pthread_create(&pump->thread, NULL, run, pump) == 0)
        return pump;
    if (pump->event >= 0)
        close(pump->event);
    if (pump->waker >= 0)
        close(pump->waker);
    pthread_mutex_destroy(&pump->lock);
    free(pump);
    return NULL;
}

void ftvm_netpump_close(struct ftvm_netpump *pump)
{
    enter(pump);
    pump->is_closing = 1;
    leave(pump);
    wake(pump);
    pthread_join(pump->thread, NULL);
    close(pump->event);
    close(pump->waker);
    pthread_mutex_destroy(&pump->lock);
    free(pump);
}

int ftvm_netpump_event(const struct ftvm_netpump *pump)
{
    return pump->event;
}

void ftvm_netpump_inputs(struct ftvm_netpump *pump, enum ftvm_netpump_inputs way)
{
    enter(pump);
    pump->way = way;
    if (way == FTVM_NETPUMP_DISCARD && pump->offered_bytes > 0) {
        pump->offered_bytes = pump->offers = 0;
        pump->counters.receives_discarded++;
    }
    if (way == FTVM_NETPUMP_FLOW)
        arm(pump);
    leave(pump);
    wake(pump);
}

uint64_t ftvm_netpump_mark(struct ftvm_netpump *pump, uint8_t *out, uint64_t room, uint64_t *packed_bytes,
                           uint32_t *packed_frames, uint32_t *frames)
{
    uint64_t number = 0;
    *packed_bytes = *packed_frames = *frames = 0;
    enter(pump);
    take_outputs(pump, FRAMES_PER_MARK);
    const struct ftvm_framemark *mark = ftvm_framering_mark(&pump->ring);
    if (mark != NULL) {
        number = mark->number;
        *frames = mark->frames;
        *packed_bytes = ftvm_framering_pack(&pump->ring, number, out, room, packed_frames);
    }
    leave(pump);
    return number;
}

int64_t ftvm_netpump_release(struct ftvm_netpump *pump, uint64_t mark)
{
    int64_t left = -1;
    uint32_t bytes;
    const struct ftvm_framemark *oldest;
    enter(pump);
    while ((oldest = ftvm_framering_oldest(&pump->ring)) != NULL && oldest->number <= mark) {
        int may_leave = oldest->number == mark;
        const uint8_t *frame = ftvm_framering_pop(&pump->ring, &bytes);
        if (may_leave)
            left = (left < 0 ? 0 : left) + send_out(pump, frame, bytes);
        else
            pump->counters.frames_forgotten++;
    }
    arm(pump);
    leave(pump);
    wake(pump);
    return left;
}

int ftvm_netpump_send(struct ftvm_netpump *pump, const uint8_t *frame, uint32_t bytes)
{
    enter(pump);
    int has_left = 0;
    if (bytes < frame_bytes_min(pump) || bytes > FTVM_FRAME_BYTES_MAX)
        pump->counters.runts_refused++;
    else
        has_left = send_out(pump, frame, bytes);
    leave(pump);
    return has_left;
}

void ftvm_netpump_drop(struct ftvm_netpump *pump)
{
    enter(pump);
    pump->counters.frames_forgotten += ftvm_framering_clear(&pump->ring);
    take_outputs(pump, FRAMES_PER_MARK);
    pump->counters.frames_forgotten += ftvm_framering_clear(&pump->ring);
    pump->is_armed = 1;
    leave(pump);
    wake(pump);
}

int ftvm_netpump_failure(struct ftvm_netpump *pump)
{
    enter(pump);
    int failure = pump->failure;
    leave(pump);
    return failure;
}

/* Adds what the kernel has dropped since it was asked last; a socket of another family has no such count. */
static void count_card(struct ftvm_netpump *pump)
{
    struct tpacket_stats seen;
    socklen_t size = sizeof seen;
    if (getsockopt(pump->card, SOL_PACKET, PACKET_STATISTICS, &seen, &size) == 0)
        pump->counters.card_dropped += seen.tp_drops;
}

void ftvm_netpump_count(struct ftvm_netpump *pump, struct ftvm_netpump_counters *out)
{
    enter(pump);
    count_card(pump);
    *out = pump->counters;
    out->held_frames = pump->ring.held_frames;
    out->held_bytes = pump->ring.held_bytes;
    leave(pump);
}
