#include "merge.h"

#include "delta.h"
#include "delta_form.h"

#define NO_PAGE UINT32_MAX
#define RUN_BYTES_MAX 256u

/* The deltas of a page are decoded onto two pages that differ in every byte: where the two agree afterwards, the byte
 * came from a delta. So the fast decoders serve here, too, and check what they decode. */
struct merged_page {
    uint8_t bytes[FTVM_PAGE_BYTES];
    uint8_t other[FTVM_PAGE_BYTES];
};

/* Which bytes of each line are known, and how many lines and bytes there are of it. */
struct known_bytes {
    uint64_t lines;
    uint64_t bytes[FTVM_LINE_COUNT];
    unsigned whole_lines;
    size_t body_bytes; /* of all line bodies */
};

/* --- what is known ------------------------------------------------------------------------------------------------ */

static uint64_t line_known(const uint8_t *a, const uint8_t *b)
{
    uint64_t known = 0;
    for (unsigned word = 0; word < 8; word++) {
        uint64_t differing = ftvm_load64(a + word * 8) ^ ftvm_load64(b + word * 8);
        known |= (uint64_t)ftvm_low_bits_to_mask(~differing & FTVM_LOW_BITS) << (word * 8);
    }
    return known;
}

static int line_is_unknown(const uint8_t *a, const uint8_t *b)
{
    uint64_t all = ~UINT64_C(0);
    for (unsigned at = 0; at < FTVM_LINE_BYTES; at += 8)
        all &= ftvm_load64(a + at) ^ ftvm_load64(b + at);
    return all == ~UINT64_C(0);
}

static void page_known(const struct merged_page *page, struct known_bytes *known)
{
    *known = (struct known_bytes){.lines = 0};
    for (size_t line = 0; line < FTVM_LINE_COUNT; line++) {
        const uint8_t *a = page->bytes + line * FTVM_LINE_BYTES, *b = page->other + line * FTVM_LINE_BYTES;
        if (line_is_unknown(a, b))
            continue;
        uint64_t bytes = line_known(a, b);
        known->bytes[line] = bytes;
        known->lines |= UINT64_C(1) << line;
        if (bytes == ~UINT64_C(0)) {
            known->whole_lines++;
            known->body_bytes += 1 + FTVM_LINE_BYTES;
        } else {
            known->body_bytes +=
                1 + (size_t)__builtin_popcountll(bytes) + (size_t)__builtin_popcountll(ftvm_words_of(bytes));
        }
    }
}

/* The first byte at or after `at` that is known (or, with `flip` all ones, that is not); the page's size if none is. */
static unsigned next_byte(const struct known_bytes *known, unsigned at, uint64_t flip)
{
    while (at < FTVM_PAGE_BYTES) {
        uint64_t rest = (known->bytes[at / FTVM_LINE_BYTES] ^ flip) >> (at % FTVM_LINE_BYTES);
        if (rest != 0)
            return at + (unsigned)__builtin_ctzll(rest);
        at = (at / FTVM_LINE_BYTES + 1) * FTVM_LINE_BYTES;
    }
    return FTVM_PAGE_BYTES;
}

/* --- the exact encoder -------------------------------------------------------------------------------------------- */

static uint8_t *span_put(uint8_t *out, const uint8_t *page, unsigned start, unsigned length)
{
    int is_run = start / 8 != (start + length - 1) / 8;
    unsigned ref = is_run ? FTVM_DELTA_RUN | start : start / 8 << 6 | start % 8 << 3 | (length - 1);
    *out++ = (uint8_t)ref;
    *out++ = (uint8_t)(ref >> 8);
    if (is_run)
        *out++ = (uint8_t)(length - 1);
    memcpy(out, page + start, length);
    return out + length;
}

/* SPARSE with a span for each stretch of known bytes. Returns the length; 0 if there are too many spans, or it would
 * take more than `most` bytes. */
static size_t sparse_put(uint8_t *out, const uint8_t *page, const struct known_bytes *known, size_t most)
{
    uint8_t *at = out + 1;
    unsigned count = 0;
    for (unsigned start = next_byte(known, 0, 0); start < FTVM_PAGE_BYTES; start = next_byte(known, start, 0)) {
        unsigned length = next_byte(known, start, ~UINT64_C(0)) - start;
        length = length < RUN_BYTES_MAX ? length : RUN_BYTES_MAX;
        if (++count > FTVM_DELTA_SPARSE_MAX || (size_t)(at - out) + 3 + length > most)
            return 0;
        at = span_put(at, page, start, length);
        start += length;
    }
    *out = (uint8_t)count;
    return (size_t)(at - out);
}

static uint8_t *line_put(uint8_t *out, const uint8_t *line, uint64_t bytes)
{
    if (bytes != ~UINT64_C(0))
        return ftvm_parts_put(out, line, bytes);
    *out = FTVM_DELTA_WHOLE_LINE;
    memcpy(out + 1, line, FTVM_LINE_BYTES);
    return out + 1 + FTVM_LINE_BYTES;
}

static size_t lines_put(uint8_t *out, const uint8_t *page, const struct known_bytes *known, unsigned line_count)
{
    uint8_t *at = out;
    if (line_count <= FTVM_DELTA_LIST_MAX) {
        *at++ = (uint8_t)(FTVM_DELTA_LIST + line_count);
        for (uint64_t lines = known->lines; lines != 0; lines &= lines - 1)
            *at++ = (uint8_t)__builtin_ctzll(lines);
    } else {
        *at++ = FTVM_DELTA_MASK;
        ftvm_store64(at, known->lines);
        at += 8;
    }
    for (uint64_t lines = known->lines; lines != 0; lines &= lines - 1) {
        size_t line = (size_t)__builtin_ctzll(lines);
        at = line_put(at, page + line * FTVM_LINE_BYTES, known->bytes[line]);
    }
    return (size_t)(at - out);
}

static size_t page_put(uint8_t *out, const struct merged_page *page)
{
    struct known_bytes known;
    page_known(page, &known);
    if (known.whole_lines == FTVM_LINE_COUNT) {
        if (!ftvm_page_is_zero(page->bytes))
            return ftvm_raw_put(out, page->bytes);
        *out = FTVM_DELTA_ZERO;
        return 1;
    }
    unsigned line_count = (unsigned)__builtin_popcountll(known.lines);
    size_t by_line = 1 + (line_count <= FTVM_DELTA_LIST_MAX ? line_count : 8) + known.body_bytes;
    size_t length = sparse_put(out, page->bytes, &known, by_line);
    return length != 0 ? length : lines_put(out, page->bytes, &known, line_count);
}

/* --- the inputs --------------------------------------------------------------------------------------------------- */

static uint32_t input_index(const struct ftvm_merge_input *input)
{
    uint32_t index;
    if (input->entry == input->batch.entry_count)
        return NO_PAGE;
    memcpy(&index, input->batch.indices + input->entry * sizeof index, sizeof index);
    return index;
}

static size_t input_length(const struct ftvm_merge_input *input)
{
    uint16_t length;
    memcpy(&length, input->batch.lengths + input->entry * sizeof length, sizeof length);
    return length;
}

/* Moves on behind the entry at hand. Returns whether what comes next may come: a rising index, and payload that is used
 * to its end. */
static int input_advance(struct ftvm_merge_input *input, uint32_t index)
{
    input->offset += input_length(input);
    input->entry++;
    if (input->entry == input->batch.entry_count)
        return input->offset == input->batch.payload_bytes;
    return input_index(input) > index;
}

static int input_fits(const struct ftvm_merge_input *input)
{
    size_t length = input_length(input);
    return length != 0 && length <= input->batch.payload_bytes - input->offset;
}

/* The lowest page that any input names next, and how many name it. */
static uint32_t next_page(const struct ftvm_merge_input *inputs, size_t count, size_t *naming)
{
    uint32_t lowest = NO_PAGE;
    *naming = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t index = input_index(&inputs[i]);
        if (inputs[i].entry == inputs[i].batch.entry_count)
            continue;
        if (index < lowest) {
            lowest = index;
            *naming = 1;
        } else {
            *naming += index == lowest;
        }
    }
    return lowest;
}

static int page_take(struct ftvm_merge_input *input, const struct ftvm_delta_codec *codec, struct merged_page *page)
{
    const uint8_t *delta = input->batch.payload + input->offset;
    size_t length = input_length(input), slack = input->batch.payload_bytes - input->offset - length;
    return codec->decode(delta, length, slack, page->bytes) == 0 && codec->decode(delta, length, slack, page->other) == 0;
}

/* Merges what the inputs have of page `index`. Returns the length of the delta, 0 if an input is bad. */
static size_t page_merge(struct ftvm_merge_input *inputs, size_t count, uint32_t index, size_t naming, uint8_t *out)
{
    const struct ftvm_delta_codec *codec = ftvm_delta_best();
    struct merged_page page;
    size_t copied = 0;
    if (naming > 1) {
        memset(page.bytes, 0x00, FTVM_PAGE_BYTES);
        memset(page.other, 0xFF, FTVM_PAGE_BYTES);
    }
    for (size_t i = 0; i < count; i++) {
        struct ftvm_merge_input *input = &inputs[i];
        if (input_index(input) != index)
            continue;
        if (!input_fits(input))
            return 0;
        if (naming == 1) {
            copied = input_length(input);
            if (copied > FTVM_MERGE_BYTES_MAX)
                return 0;
            memcpy(out, input->batch.payload + input->offset, copied);
        } else if (!page_take(input, codec, &page)) {
            return 0;
        }
        if (!input_advance(input, index))
            return 0;
    }
    return naming == 1 ? copied : page_put(out, &page);
}

enum ftvm_merge_end ftvm_merge_batches(struct ftvm_merge_input *inputs, size_t count, uint32_t page_count,
                                       struct ftvm_batch *out)
{
    for (;;) {
        size_t naming;
        uint32_t index = next_page(inputs, count, &naming);
        if (index == NO_PAGE && naming == 0)
            return FTVM_MERGE_DONE;
        if (index >= page_count)
            return FTVM_MERGE_BAD;
        if (out->entry_count == out->entry_capacity ||
            out->payload_capacity - out->payload_bytes < FTVM_MERGE_BYTES_MAX)
            return FTVM_MERGE_FULL;
        size_t length = page_merge(inputs, count, index, naming, out->payload + out->payload_bytes);
        if (length == 0)
            return FTVM_MERGE_BAD;
        out->indices[out->entry_count] = index;
        out->lengths[out->entry_count] = (uint16_t)length;
        out->entry_count++;
        out->payload_bytes += length;
    }
}
