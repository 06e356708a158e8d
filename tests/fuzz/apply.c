/* Any bytes as a batch: verifying writes nothing, and what was found good commits to exactly the digests foretold. */
#include "apply.h"

#include <stdlib.h>
#include <string.h>

#define PAGES 5
#define FIRST_REGION_PAGES 2

static uint8_t *region_new(size_t pages)
{
    uint8_t *base = malloc(pages * FTVM_PAGE_BYTES);
    for (size_t i = 0; i < pages * FTVM_PAGE_BYTES; i++)
        base[i] = (uint8_t)(i >> 9);
    return base;
}

static void batch_check(const struct ftvm_memory *memory, const struct ftvm_received *batch)
{
    struct ftvm_digest cells[PAGES] = {0}, cells_after[PAGES] = {0}, sum, sum_after;
    uint8_t part = 0, part_after = 0;
    struct ftvm_digest_table table = {cells, &part, PAGES}, after = {cells_after, &part_after, PAGES};
    struct ftvm_digest *fresh = malloc((batch->entry_count + 1) * sizeof *fresh);
    ftvm_digest_memory(memory, &table, &sum);
    struct ftvm_apply_progress progress = {.next_index = 0, .sum = sum};
    enum ftvm_apply_verdict verdict = ftvm_apply_verify(memory, &table, batch, &progress, fresh);
    ftvm_digest_memory(memory, &after, &sum_after);
    if (!ftvm_digest_equal(sum, sum_after))
        abort();
    size_t applied = ftvm_apply_commit(memory, &table, batch, fresh);
    if (verdict == FTVM_APPLY_GOOD) {
        ftvm_digest_memory(memory, &after, &sum_after);
        if (applied != batch->entry_count || !ftvm_digest_equal(progress.sum, sum_after) ||
            memcmp(cells, cells_after, sizeof cells) != 0)
            abort();
    }
    free(fresh);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    size_t count = data[0] % 16;
    size_t arrays = count * 6;
    if (size < 1 + arrays)
        return 0;
    uint8_t *first = region_new(FIRST_REGION_PAGES), *second = region_new(PAGES - FIRST_REGION_PAGES);
    struct ftvm_region regions[] = {{first, 0, FIRST_REGION_PAGES},
                                    {second, FIRST_REGION_PAGES, PAGES - FIRST_REGION_PAGES}};
    struct ftvm_memory memory = {regions, 2, PAGES};
    /* Index and length bytes are folded into small ranges half of the time, or nothing would ever be accepted. */
    uint8_t *folded = malloc(arrays + 1);
    memcpy(folded, data + 1, arrays);
    if (data[0] & 0x80) {
        for (size_t i = 0; i < count; i++) {
            folded[i * 4] %= PAGES + 1;
            memset(folded + i * 4 + 1, 0, 3);
            folded[count * 4 + i * 2 + 1] %= 2;
        }
    }
    struct ftvm_received batch = {folded, folded + count * 4, data + 1 + arrays, count, size - 1 - arrays};
    batch_check(&memory, &batch);
    free(first), free(second), free(folded);
    return 0;
}
