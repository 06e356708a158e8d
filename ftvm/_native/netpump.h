/* netpump: moves frames between a guest's card and the world, in a separate thread, and holds what the guest sends.
 *
 *     card (a datagram or packet socket)  ->  ring, held  ->  ftvm_netpump_release  ->  outside (a tap, or a socket)
 *     outside  ->  card, at once while the guest runs
 *
 * Frames have the header of virtio-net before them on both sides (netcard.h), or no header, and are moved as they are.
 *
 * What comes from the card is held in a ring (framering.h) until its mark is released; marks are given and released by
 * the caller, whose decision it is when frames may leave. Where the ring is full, the card is not read: what it still
 * sends waits in its socket, and is dropped and counted by the kernel beyond that.
 *
 * What comes from outside has three ways: thrown away (DISCARD, at first: the guest does not run here), left where it
 * is (WAIT: the guest stands still for a moment) or handed on (FLOW). Where the card has no room, the outside is not
 * read for some milliseconds; then the frame is dropped and counted.
 *
 * A single thread, which never calls back; functions may be called from any thread, and return when what they say is
 * so. Descriptors and memory are the caller's, and outlive the pump.
 */
#ifndef FTVM_NETPUMP_H
#define FTVM_NETPUMP_H

#include "framering.h"

enum ftvm_netpump_inputs { FTVM_NETPUMP_DISCARD = 0, FTVM_NETPUMP_WAIT = 1, FTVM_NETPUMP_FLOW = 2 };

/* All since the pump was opened. */
struct ftvm_netpump_counters {
    uint64_t frames_sent, bytes_sent;         /* left for the outside */
    uint64_t frames_received, bytes_received; /* handed to the card */
    uint64_t sends_dropped;                   /* refused by the outside: it is down, full or gone */
    uint64_t receives_dropped;                /* the card had no room */
    uint64_t receives_discarded;              /* came while the guest did not run here */
    uint64_t runts_refused;                   /* too short to be a frame, or longer than any is */
    uint64_t strangers_refused;               /* came from somewhere else than the cable's other end */
    uint64_t card_dropped;                    /* sent by the guest while too much was held */
    uint64_t frames_forgotten;                /* held, and never to leave: the guest went elsewhere */
    uint32_t held_frames;
    uint64_t held_bytes;
};

/* The other end of a cable that is a datagram socket: a struct sockaddr, where frames are sent. With `is_alone` set, of a
 * struct sockaddr_in, frames from there are taken and no other's. It is copied. */
struct ftvm_netpump_peer {
    const uint8_t *address;
    uint32_t address_bytes;
    int is_alone;
};

struct ftvm_netpump;

/* Starts a pump between two descriptors that do not block. `card` must be a socket. `ring` has FTVM_FRAMERING_BYTES_MIN
 * bytes at least. Before each frame are `header_bytes`: those of virtio-net, or 0. `peer` is of an `outside` that is a
 * datagram socket; NULL: it is a tap, or connected. Returns NULL without memory, descriptors or threads. */
struct ftvm_netpump *ftvm_netpump_open(int card, int outside, uint8_t *ring, uint64_t ring_bytes, uint32_t header_bytes,
                                       const struct ftvm_netpump_peer *peer);

/* Ends the thread; what is held is gone. */
void ftvm_netpump_close(struct ftvm_netpump *pump);

/* Returns a descriptor that becomes readable when frames wait for a mark; to be read (8 bytes) before the mark. It does
 * so once, and again when marks were released or dropped, or inputs flow again, while such frames wait: so a caller
 * that marks when it is told makes few marks of many frames. */
int ftvm_netpump_event(const struct ftvm_netpump *pump);

/* Says what is done with inputs from now on. */
void ftvm_netpump_inputs(struct ftvm_netpump *pump, enum ftvm_netpump_inputs way);

/* Takes in all that the card has sent by now, as far as there is room, and gives what has no mark yet the next one.
 * Packs its frames into `out` as far as they fit (ftvm_framering_pack). Returns the mark, 0 when there is no frame. */
uint64_t ftvm_netpump_mark(struct ftvm_netpump *pump, uint8_t *out, uint64_t room, uint64_t *packed_bytes,
                           uint32_t *packed_frames, uint32_t *frames);

/* Lets the frames of `mark` leave; those of marks before it that were not released are forgotten: nobody wants them any
 * more. When this returns they have left this process, or are counted as dropped. Returns how many have left, or -1 if no
 * frame of such a mark is held. */
int64_t ftvm_netpump_release(struct ftvm_netpump *pump, uint64_t mark);

/* Sends one frame, with its header, to the outside now. Returns 1 if it left, 0 if it was dropped and counted. */
int ftvm_netpump_send(struct ftvm_netpump *pump, const uint8_t *frame, uint32_t bytes);

/* Forgets all that is held, and all that the card has sent by now. */
void ftvm_netpump_drop(struct ftvm_netpump *pump);

/* Returns 0, or the errno with which the outside ended: from then on nothing comes or leaves. */
int ftvm_netpump_failure(struct ftvm_netpump *pump);

void ftvm_netpump_count(struct ftvm_netpump *pump, struct ftvm_netpump_counters *out);

#endif
