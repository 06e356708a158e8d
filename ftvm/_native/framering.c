#include "framering.h"

#include <string.h>

/* Before each frame in the ring. `is_pad`: nothing but room up to the end of the memory, which a frame did not fit. */
struct record {
    uint32_t bytes;
    uint32_t is_pad;
};

#define RECORD_MAX (sizeof(struct record) + FTVM_FRAME_BYTES_MAX)

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + 7) & ~(uint64_t)7;
}

static uint8_t *place(const struct ftvm_framering *ring, uint64_t offset)
{
    return ring->memory + offset % ring->capacity;
}

static struct record record_at(const struct ftvm_framering *ring, uint64_t offset)
{
    struct record record;
    memcpy(&record, place(ring, offset), sizeof record);
    return record;
}

/* Returns where the first frame is, from `offset` on. */
static uint64_t past_pad(const struct ftvm_framering *ring, uint64_t offset)
{
    return record_at(ring, offset).is_pad ? offset + (ring->capacity - offset % ring->capacity) : offset;
}

static uint64_t past_frame(const struct ftvm_framering *ring, uint64_t offset)
{
    return offset + sizeof(struct record) + rounded(record_at(ring, offset).bytes);
}

void ftvm_framering_open(struct ftvm_framering *ring, uint8_t *memory, uint64_t bytes)
{
    memset(ring, 0, sizeof *ring);
    ring->memory = memory;
    ring->capacity = bytes & ~(uint64_t)7;
}

uint8_t *ftvm_framering_reserve(struct ftvm_framering *ring)
{
    uint64_t need = rounded(RECORD_MAX);
    uint64_t to_end = ring->capacity - ring->tail % ring->capacity;
    uint64_t left = ring->capacity - (ring->tail - ring->head);
    if (to_end < need) {
        if (left < to_end + need)
            return NULL;
        struct record pad = {0, 1};
        memcpy(place(ring, ring->tail), &pad, sizeof pad);
        ring->tail += to_end;
    } else if (left < need) {
        return NULL;
    }
    return place(ring, ring->tail) + sizeof(struct record);
}

void ftvm_framering_commit(struct ftvm_framering *ring, uint32_t bytes)
{
    struct record record = {bytes, 0};
    memcpy(place(ring, ring->tail), &record, sizeof record);
    if (ring->open.frames == 0)
        ring->open.first = ring->tail;
    ring->open.frames++;
    ring->open.bytes += bytes;
    ring->held_frames++;
    ring->held_bytes += bytes;
    ring->tail += sizeof record + rounded(bytes);
}

const struct ftvm_framemark *ftvm_framering_mark(struct ftvm_framering *ring)
{
    if (ring->open.frames == 0 || ring->mark_count == FTVM_FRAME_MARKS_MAX)
        return NULL;
    struct ftvm_framemark *mark = &ring->marks[(ring->mark_first + ring->mark_count) % FTVM_FRAME_MARKS_MAX];
    *mark = ring->open;
    mark->number = ++ring->last_mark;
    ring->mark_count++;
    ring->open = (struct ftvm_framemark){0};
    return mark;
}

const struct ftvm_framemark *ftvm_framering_oldest(const struct ftvm_framering *ring)
{
    return ring->mark_count > 0 ? &ring->marks[ring->mark_first] : NULL;
}

const uint8_t *ftvm_framering_pop(struct ftvm_framering *ring, uint32_t *bytes)
{
    if (ring->mark_count == 0)
        return NULL;
    struct ftvm_framemark *mark = &ring->marks[ring->mark_first];
    uint64_t at = past_pad(ring, ring->head);
    *bytes = record_at(ring, at).bytes;
    ring->head = past_frame(ring, at);
    ring->held_frames--;
    ring->held_bytes -= *bytes;
    mark->frames--;
    mark->bytes -= *bytes;
    mark->first = ring->head;
    if (mark->frames == 0) {
        ring->mark_first = (ring->mark_first + 1) % FTVM_FRAME_MARKS_MAX;
        ring->mark_count--;
    }
    if (ring->held_frames == 0)
        ring->head = ring->tail; /* over a pad that no frame followed */
    return place(ring, at) + sizeof(struct record);
}

static const struct ftvm_framemark *find(const struct ftvm_framering *ring, uint64_t number)
{
    for (uint32_t i = 0; i < ring->mark_count; i++) {
        const struct ftvm_framemark *mark = &ring->marks[(ring->mark_first + i) % FTVM_FRAME_MARKS_MAX];
        if (mark->number == number)
            return mark;
    }
    return NULL;
}

uint64_t ftvm_framering_pack(const struct ftvm_framering *ring, uint64_t number, uint8_t *out, uint64_t room,
                             uint32_t *frames)
{
    const struct ftvm_framemark *mark = find(ring, number);
    uint64_t written = 0, at = mark != NULL ? mark->first : 0;
    for (*frames = 0; mark != NULL && *frames < mark->frames; (*frames)++) {
        at = past_pad(ring, at);
        uint32_t bytes = record_at(ring, at).bytes;
        if (room - written < 4 || room - written - 4 < bytes)
            break;
        uint8_t length[4] = {(uint8_t)bytes, (uint8_t)(bytes >> 8), (uint8_t)(bytes >> 16), (uint8_t)(bytes >> 24)};
        memcpy(out + written, length, sizeof length);
        memcpy(out + written + 4, place(ring, at) + sizeof(struct record), bytes);
        written += 4 + bytes;
        at = past_frame(ring, at);
    }
    return written;
}

uint32_t ftvm_framering_clear(struct ftvm_framering *ring)
{
    uint32_t frames = ring->held_frames;
    ring->head = ring->tail;
    ring->held_frames = ring->mark_count = 0;
    ring->held_bytes = 0;
    ring->open = (struct ftvm_framemark){0};
    return frames;
}
