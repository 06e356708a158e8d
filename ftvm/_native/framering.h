/* framering: frames that wait, in one ring of bytes, in order; each belongs to a mark, or to none yet.
 *
 * A mark is a number that only grows: it stands for all frames that came since the mark before. Frames leave from the
 * front, a mark at a time. Nothing is lost silently: a ring without room says so before anything is put in.
 *
 * The caller owns all memory, and lets one thread at a time in. No function blocks, allocates or calls the system.
 */
#ifndef FTVM_FRAMERING_H
#define FTVM_FRAMERING_H

#include <stddef.h>
#include <stdint.h>

/* What a frame may take: the header of virtio-net, an Ethernet header with a VLAN tag, and 64 KiB. */
#define FTVM_FRAME_BYTES_MAX 65600u
#define FTVM_FRAME_MARKS_MAX 256u

/* A ring of bytes must have room for two of the largest frames. */
#define FTVM_FRAMERING_BYTES_MIN (4u * FTVM_FRAME_BYTES_MAX)

struct ftvm_framemark {
    uint64_t number;
    uint64_t first; /* where its first frame is */
    uint64_t bytes; /* of its frames, without what the ring adds */
    uint32_t frames;
};

struct ftvm_framering {
    uint8_t *memory;
    uint64_t capacity;       /* bytes, a multiple of 8 */
    uint64_t head, tail;     /* offsets that only grow: of the oldest frame, and behind the newest */
    uint64_t held_bytes;     /* of all frames, without what the ring adds */
    uint64_t last_mark;      /* the highest number given so far */
    uint32_t held_frames;
    uint32_t mark_count;
    uint32_t mark_first;     /* the oldest mark's place in `marks` */
    struct ftvm_framemark open; /* the frames without a mark; its number means nothing */
    struct ftvm_framemark marks[FTVM_FRAME_MARKS_MAX];
};

/* Makes an empty ring of `memory`, of `bytes`, at least FTVM_FRAMERING_BYTES_MIN; aligned to 8. */
void ftvm_framering_open(struct ftvm_framering *ring, uint8_t *memory, uint64_t bytes);

/* Returns FTVM_FRAME_BYTES_MAX bytes to put a frame into, or NULL when the ring is full. Ask again for each frame. */
uint8_t *ftvm_framering_reserve(struct ftvm_framering *ring);

/* Takes the frame of `bytes` that was put where ftvm_framering_reserve said. */
void ftvm_framering_commit(struct ftvm_framering *ring, uint32_t bytes);

/* Gives all frames without a mark the next one. Returns it, or NULL when there is no such frame, or there are
 * FTVM_FRAME_MARKS_MAX marks already: then the frames wait for a later mark. */
const struct ftvm_framemark *ftvm_framering_mark(struct ftvm_framering *ring);

/* Returns the oldest mark, or NULL. */
const struct ftvm_framemark *ftvm_framering_oldest(const struct ftvm_framering *ring);

/* Takes the oldest frame of the oldest mark out, and the mark with its last frame. Returns the frame, valid until the
 * next call, and its length in *bytes; NULL when there is no mark. */
const uint8_t *ftvm_framering_pop(struct ftvm_framering *ring, uint32_t *bytes);

/* Copies whole frames of the mark `number`, from its first on, as long as they fit: each its length in 4 bytes,
 * little-endian, and then itself. Returns how many bytes were written to `out`, at most `room`, and in *frames of how
 * many frames. 0 when there is no such mark. Takes nothing out. */
uint64_t ftvm_framering_pack(const struct ftvm_framering *ring, uint64_t number, uint8_t *out, uint64_t room,
                             uint32_t *frames);

/* Forgets all frames and marks. Returns how many frames those were. */
uint32_t ftvm_framering_clear(struct ftvm_framering *ring);

#endif
