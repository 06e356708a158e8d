#include "apply.h"

#include "delta.h"
#include "page.h"

static uint32_t batch_index(const struct ftvm_received *batch, size_t entry)
{
    uint32_t index;
    memcpy(&index, batch->indices + entry * sizeof index, sizeof index);
    return index;
}

static size_t batch_length(const struct ftvm_received *batch, size_t entry)
{
    uint16_t length;
    memcpy(&length, batch->lengths + entry * sizeof length, sizeof length);
    return length;
}

/* Whether an entry names a page that may come now, and a delta that lies inside the payload. */
static enum ftvm_apply_verdict page_check(const struct ftvm_memory *memory, const struct ftvm_received *batch,
                                          size_t entry, size_t offset, uint64_t next_index)
{
    size_t length = batch_length(batch, entry);
    uint32_t index = batch_index(batch, entry);
    if (index < next_index || index >= memory->page_count)
        return FTVM_APPLY_BAD_INDEX;
    if (length == 0 || length > batch->payload_bytes - offset)
        return FTVM_APPLY_BAD_LENGTH;
    return FTVM_APPLY_GOOD;
}

enum ftvm_apply_verdict ftvm_apply_verify(const struct ftvm_memory *memory, const struct ftvm_digest_table *digests,
                                          const struct ftvm_received *batch, struct ftvm_apply_progress *progress,
                                          struct ftvm_digest *fresh)
{
    const struct ftvm_delta_codec *codec = ftvm_delta_best();
    uint8_t scratch[FTVM_PAGE_BYTES];
    uint32_t cursor = 0;
    size_t offset = 0;
    for (size_t entry = 0; entry < batch->entry_count; entry++) {
        progress->bad_entry = entry;
        enum ftvm_apply_verdict verdict = page_check(memory, batch, entry, offset, progress->next_index);
        if (verdict != FTVM_APPLY_GOOD)
            return verdict;
        uint32_t index = batch_index(batch, entry);
        size_t length = batch_length(batch, entry);
        memcpy(scratch, ftvm_memory_page(memory, index, &cursor), FTVM_PAGE_BYTES);
        size_t slack = batch->payload_bytes - offset - length;
        if (codec->decode(batch->payload + offset, length, slack, scratch) != 0)
            return FTVM_APPLY_BAD_DELTA;
        fresh[entry] = ftvm_digest_page(scratch, index);
        progress->sum = ftvm_digest_add(ftvm_digest_subtract(progress->sum, ftvm_digest_get(digests, index)), fresh[entry]);
        progress->next_index = (uint64_t)index + 1;
        offset += length;
    }
    progress->bad_entry = batch->entry_count;
    return offset == batch->payload_bytes ? FTVM_APPLY_GOOD : FTVM_APPLY_BAD_LENGTH;
}

size_t ftvm_apply_commit(const struct ftvm_memory *memory, struct ftvm_digest_table *digests,
                         const struct ftvm_received *batch, const struct ftvm_digest *fresh)
{
    const struct ftvm_delta_codec *codec = ftvm_delta_best();
    uint32_t cursor = 0;
    size_t offset = 0;
    size_t entry = 0;
    for (; entry < batch->entry_count; entry++) {
        if (page_check(memory, batch, entry, offset, 0) != FTVM_APPLY_GOOD)
            break;
        uint32_t index = batch_index(batch, entry);
        size_t length = batch_length(batch, entry);
        size_t slack = batch->payload_bytes - offset - length;
        uint8_t *page = ftvm_memory_page(memory, index, &cursor);
        if (codec->decode(batch->payload + offset, length, slack, page) != 0)
            break;
        ftvm_digest_put(digests, index, fresh[entry]);
        offset += length;
    }
    return entry;
}
