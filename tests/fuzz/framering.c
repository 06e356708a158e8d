/* Any order of calls on a ring of frames: what comes out is what went in, in order, mark by mark; and nothing is written
 * beside the room that was given, which the address sanitizer sees.
 *
 * Input: pairs of bytes, what to do and how much of it. */
#include "framering.h"

#include <stdlib.h>
#include <string.h>

#define FRAMES_MAX 4096

static void must(int is_so)
{
    if (!is_so)
        abort();
}

struct model {
    uint32_t sizes[FRAMES_MAX]; /* of the frames that are held, from `first` up to `next` */
    uint32_t first, next, marked;
};

static void put(struct ftvm_framering *ring, struct model *model, uint32_t size)
{
    if (model->next == FRAMES_MAX)
        return;
    uint8_t *room = ftvm_framering_reserve(ring);
    if (room == NULL) {
        must(model->first < model->next);
        return;
    }
    memset(room, (int)(model->next & 0xff), FTVM_FRAME_BYTES_MAX);
    ftvm_framering_commit(ring, size);
    model->sizes[model->next++] = size;
}

static void pop(struct ftvm_framering *ring, struct model *model)
{
    uint32_t size;
    const uint8_t *frame = ftvm_framering_pop(ring, &size);
    must((frame != NULL) == (model->first < model->marked));
    if (frame == NULL)
        return;
    must(size == model->sizes[model->first]);
    for (uint32_t i = 0; i < size; i++)
        must(frame[i] == (uint8_t)(model->first & 0xff));
    model->first++;
}

static void pack(const struct ftvm_framering *ring, uint64_t room)
{
    const struct ftvm_framemark *oldest = ftvm_framering_oldest(ring);
    uint8_t *out = malloc(room ? room : 1);
    uint32_t frames;
    uint64_t written = ftvm_framering_pack(ring, oldest != NULL ? oldest->number : 1, out, room, &frames);
    must(written <= room && frames <= (oldest != NULL ? oldest->frames : 0));
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *memory = malloc(FTVM_FRAMERING_BYTES_MIN);
    struct ftvm_framering *ring = malloc(sizeof *ring);
    struct model model = {.first = 0};
    ftvm_framering_open(ring, memory, FTVM_FRAMERING_BYTES_MIN);
    for (size_t i = 0; i + 1 < size; i += 2) {
        uint32_t much = data[i + 1];
        switch (data[i] % 6) {
        case 0:
            put(ring, &model, much);
            break;
        case 1:
            put(ring, &model, much * FTVM_FRAME_BYTES_MAX / 255);
            break;
        case 2:
            if (ftvm_framering_mark(ring) != NULL)
                model.marked = model.next;
            break;
        case 3:
            for (uint32_t j = 0; j <= much % 8; j++)
                pop(ring, &model);
            break;
        case 4:
            pack(ring, (uint64_t)much * 1024);
            break;
        default:
            must(ftvm_framering_clear(ring) == model.next - model.first);
            model.first = model.marked = model.next;
        }
        must(ring->held_frames == model.next - model.first);
    }
    free(ring), free(memory);
    return 0;
}
