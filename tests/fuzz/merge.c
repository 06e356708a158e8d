/* Any bytes as two or three batches: merging is safe, and what it makes of batches that apply applies to the same. */
#include "merge.h"

#include <stdlib.h>
#include <string.h>

#define PAGES 4
#define INPUTS_MAX 3
#define OUT_ENTRIES 64
#define OUT_BYTES (OUT_ENTRIES * FTVM_MERGE_BYTES_MAX)

static void memory_fill(uint8_t *base)
{
    for (size_t i = 0; i < (size_t)PAGES * FTVM_PAGE_BYTES; i++)
        base[i] = (uint8_t)(i * 7 + (i >> 8));
}

/* Applies a batch; returns whether it was good. */
static int batch_apply(uint8_t *pages, const struct ftvm_received *batch)
{
    struct ftvm_region region = {pages, 0, PAGES};
    struct ftvm_memory memory = {&region, 1, PAGES};
    struct ftvm_digest cells[PAGES] = {0}, sum, fresh[PAGES + 1];
    uint8_t part = 0;
    struct ftvm_digest_table table = {cells, &part, PAGES};
    ftvm_digest_memory(&memory, &table, &sum);
    struct ftvm_apply_progress progress = {.next_index = 0, .sum = sum};
    if (batch->entry_count > PAGES || ftvm_apply_verify(&memory, &table, batch, &progress, fresh) != FTVM_APPLY_GOOD)
        return 0;
    return ftvm_apply_commit(&memory, &table, batch, fresh) == batch->entry_count;
}

static void merged_check(struct ftvm_merge_input *inputs, size_t count)
{
    static uint32_t indices[OUT_ENTRIES];
    static uint16_t lengths[OUT_ENTRIES];
    static uint8_t payload[OUT_BYTES], by_parts[PAGES * FTVM_PAGE_BYTES], at_once[PAGES * FTVM_PAGE_BYTES];
    struct ftvm_batch out = {indices, lengths, payload, OUT_ENTRIES, OUT_BYTES, 0, 0};
    memory_fill(by_parts);
    memory_fill(at_once);
    int is_good = 1;
    for (size_t i = 0; i < count && is_good; i++)
        is_good = batch_apply(by_parts, &inputs[i].batch);
    enum ftvm_merge_end end = ftvm_merge_batches(inputs, count, PAGES, &out);
    if (!is_good)
        return;
    struct ftvm_received merged = {(uint8_t *)indices, (uint8_t *)lengths, payload, out.entry_count, out.payload_bytes};
    if (end != FTVM_MERGE_DONE || !batch_apply(at_once, &merged) || memcmp(by_parts, at_once, sizeof at_once) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ftvm_merge_input inputs[INPUTS_MAX] = {0};
    uint8_t *arrays[INPUTS_MAX] = {0};
    size_t count = 0;
    while (size > 2 && count < INPUTS_MAX) {
        size_t entries = data[0] % (PAGES + 1), bytes = entries * 6, payload = data[1];
        int folds = data[0] & 0x80;
        data += 2, size -= 2;
        if (size < bytes)
            break;
        uint8_t *folded = arrays[count] = malloc(bytes + 1);
        memcpy(folded, data, bytes);
        data += bytes, size -= bytes;
        for (size_t i = 0; folds && i < entries; i++) {
            folded[i * 4] %= PAGES + 1;
            memset(folded + i * 4 + 1, 0, 3);
            folded[entries * 4 + i * 2 + 1] = 0;
        }
        payload = payload < size ? payload : size;
        inputs[count++].batch = (struct ftvm_received){folded, folded + entries * 4, data, entries, payload};
        data += payload, size -= payload;
    }
    if (count > 0)
        merged_check(inputs, count);
    for (size_t i = 0; i < INPUTS_MAX; i++)
        free(arrays[i]);
    return 0;
}
