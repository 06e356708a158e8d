#include "capture.h"

#include "delta.h"
#include "delta_form.h"
#include "page.h"


/* A page whose run has reached RAW_SEARCH_OFF is not searched until the run reaches RAW_SEARCH_AGAIN. */
#define RAW_SEARCH_OFF 2
#define RAW_SEARCH_AGAIN (RAW_SEARCH_OFF + 7)

/* A page that the shadow knows by its digest alone: its bytes there are zero, and are not what the backup holds. */
#define RAW_ABSENT 255

uint32_t ftvm_capture_adopt(const struct ftvm_memory *memory, const struct ftvm_digest_table *digests,
                            struct ftvm_shadow *shadow, uint32_t from, uint32_t limit)
{
    uint32_t cursor = 0;
    uint32_t index = from;
    for (; index < shadow->page_count && limit > 0; index++) {
        uint32_t part = index / FTVM_DIGEST_PART_PAGES;
        if (!digests->parts[part] && !shadow->digests.parts[part]) { /* zeros on both sides */
            index |= FTVM_DIGEST_PART_PAGES - 1;
            continue;
        }
        struct ftvm_digest known = ftvm_digest_get(&shadow->digests, index);
        if (ftvm_digest_equal(ftvm_digest_get(digests, index), known))
            continue;
        uint8_t *base = shadow->pages + (size_t)index * FTVM_PAGE_BYTES;
        memcpy(base, ftvm_memory_page(memory, index, &cursor), FTVM_PAGE_BYTES);
        struct ftvm_digest fresh = ftvm_digest_page(base, index);
        shadow->sum = ftvm_digest_add(ftvm_digest_subtract(shadow->sum, known), fresh);
        ftvm_digest_put(&shadow->digests, index, fresh);
        shadow->raw_runs[index] = 0;
        limit--;
    }
    return index < shadow->page_count ? index : shadow->page_count;
}

/* Tells whether a page of this hash is the one that was hashed; if so, and it is not zero, the shadow knows it by its
 * digest. `zero` is the hash of one of zeros. */
static int page_match(struct ftvm_digest digest, struct ftvm_digest zero, struct ftvm_shadow *shadow, uint32_t index,
                      struct ftvm_digest offered)
{
    if (!ftvm_digest_equal(offered, digest))
        return 0;
    if (ftvm_digest_equal(digest, zero))
        return 1;
    shadow->sum = ftvm_digest_add(ftvm_digest_subtract(shadow->sum, zero), offered);
    ftvm_digest_put(&shadow->digests, index, offered);
    shadow->raw_runs[index] = RAW_ABSENT;
    return 1;
}

void ftvm_capture_match(const struct ftvm_memory *memory, const struct ftvm_digest_table *known,
                        struct ftvm_shadow *shadow, uint32_t first, uint32_t count, const uint8_t *offered,
                        uint8_t *flags)
{
    uint32_t cursor = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = first + i;
        struct ftvm_digest theirs, ours, zero = ftvm_digest_get(&shadow->digests, index);
        memcpy(&theirs, offered + (size_t)i * sizeof theirs, sizeof theirs);
        if (known != NULL && ftvm_digest_is_known(known, index)) {
            ours = ftvm_digest_get(known, index);
        } else {
            const uint8_t *page = ftvm_memory_page(memory, index, &cursor);
            ours = ftvm_page_is_zero(page) ? zero : ftvm_digest_page(page, index);
        }
        flags[i] = (uint8_t)page_match(ours, zero, shadow, index, theirs);
    }
}

static size_t page_encode_raw(const uint8_t *page, uint8_t *base, uint8_t *out)
{
    if (memcmp(page, base, FTVM_PAGE_BYTES) == 0)
        return 0;
    memcpy(base, page, FTVM_PAGE_BYTES);
    return ftvm_raw_put(out, page);
}

/* A page that the shadow knows by its digest alone, from now on by its bytes: there is nothing to take a difference from.
 */
static size_t page_encode_absent(const uint8_t *page, uint32_t index, struct ftvm_shadow *shadow, uint8_t *out)
{
    if (ftvm_digest_equal(ftvm_digest_page(page, index), ftvm_digest_get(&shadow->digests, index)))
        return 0;
    memcpy(shadow->pages + (size_t)index * FTVM_PAGE_BYTES, page, FTVM_PAGE_BYTES);
    shadow->raw_runs[index] = 0;
    return ftvm_raw_put(out, page);
}

static size_t page_encode(const uint8_t *page, uint8_t *base, uint8_t *run, uint8_t *out)
{
    if (*run >= RAW_SEARCH_OFF && *run < RAW_SEARCH_AGAIN) {
        *run = (uint8_t)(*run + 1);
        return page_encode_raw(page, base, out);
    }
    size_t length = ftvm_delta_encode(page, base, out);
    if (length != FTVM_DELTA_BYTES_MAX)
        *run = 0;
    else
        *run = *run == RAW_SEARCH_AGAIN ? RAW_SEARCH_OFF : (uint8_t)(*run + 1);
    return length;
}

static void page_digest_update(struct ftvm_shadow *shadow, uint32_t index, const uint8_t *page)
{
    struct ftvm_digest digest = ftvm_digest_page(page, index);
    struct ftvm_digest known = ftvm_digest_get(&shadow->digests, index);
    shadow->sum = ftvm_digest_add(ftvm_digest_subtract(shadow->sum, known), digest);
    ftvm_digest_put(&shadow->digests, index, digest);
}

static int batch_is_full(const struct ftvm_batch *batch)
{
    return batch->entry_count == batch->entry_capacity ||
           batch->payload_capacity - batch->payload_bytes < FTVM_DELTA_ROOM_BYTES;
}

static void page_capture(const uint8_t *page, uint32_t index, struct ftvm_shadow *shadow, struct ftvm_batch *batch)
{
    uint8_t *base = shadow->pages + (size_t)index * FTVM_PAGE_BYTES;
    uint8_t *run = &shadow->raw_runs[index];
    uint8_t *out = batch->payload + batch->payload_bytes;
    size_t length = *run == RAW_ABSENT ? page_encode_absent(page, index, shadow, out) : page_encode(page, base, run, out);
    if (length == 0)
        return;
    /* The digest is of the shadow, not of the guest's page: it is what the backup will hold, whatever the guest does
     * meanwhile. */
    page_digest_update(shadow, index, base);
    batch->indices[batch->entry_count] = index;
    batch->lengths[batch->entry_count] = (uint16_t)length;
    batch->entry_count++;
    batch->payload_bytes += length;
}

/* What capturing page `index` will touch of the shadow's. */
static void shadow_prefetch(const struct ftvm_shadow *shadow, uint32_t index)
{
    ftvm_page_prefetch(shadow->pages + (size_t)index * FTVM_PAGE_BYTES);
    __builtin_prefetch(&shadow->digests.cells[index], 1);
    __builtin_prefetch(&shadow->raw_runs[index], 1);
}

size_t ftvm_capture_fused(const struct ftvm_memory *memory, struct ftvm_shadow *shadow, const uint32_t *indices,
                          size_t count, struct ftvm_batch *batch)
{
    uint32_t cursor = 0;
    uint32_t ahead = 0;
    size_t done = 0;
    for (; done < count && !batch_is_full(batch); done++) {
        if (done + 1 < count) {
            ftvm_page_prefetch(ftvm_memory_page(memory, indices[done + 1], &ahead));
            shadow_prefetch(shadow, indices[done + 1]);
        }
        page_capture(ftvm_memory_page(memory, indices[done], &cursor), indices[done], shadow, batch);
    }
    return done;
}

size_t ftvm_capture_staged(const uint8_t *staging, struct ftvm_shadow *shadow, const uint32_t *indices, size_t count,
                           struct ftvm_batch *batch)
{
    size_t done = 0;
    for (; done < count && !batch_is_full(batch); done++) {
        if (done + 1 < count) {
            ftvm_page_prefetch(staging + (done + 1) * FTVM_PAGE_BYTES);
            shadow_prefetch(shadow, indices[done + 1]);
        }
        page_capture(staging + done * FTVM_PAGE_BYTES, indices[done], shadow, batch);
    }
    return done;
}

/* --- scrubbing ---------------------------------------------------------------------------------------------------- */

static int page_differs(const uint8_t *page, const struct ftvm_shadow *shadow, uint32_t index)
{
    if (shadow->raw_runs[index] == RAW_ABSENT)
        return !ftvm_digest_equal(ftvm_digest_page(page, index), ftvm_digest_get(&shadow->digests, index));
    return memcmp(page, shadow->pages + (size_t)index * FTVM_PAGE_BYTES, FTVM_PAGE_BYTES) != 0;
}

size_t ftvm_capture_differing(const struct ftvm_memory *memory, const struct ftvm_shadow *shadow, uint32_t from,
                              uint32_t count, uint32_t *indices)
{
    uint32_t cursor = 0;
    size_t found = 0;
    for (uint32_t index = from; index < shadow->page_count && index - from < count; index++) {
        if (page_differs(ftvm_memory_page(memory, index, &cursor), shadow, index))
            indices[found++] = index;
    }
    return found;
}
