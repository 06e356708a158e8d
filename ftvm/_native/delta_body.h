/* delta_body: the page codec, written once, over a handful of primitives that a CPU may have faster ones for.
 *
 * Internal. A delta_<variant>.c defines the primitives below and FTVM_DELTA_VARIANT, then includes this file:
 *
 *   int group_differs(const uint8_t *a, const uint8_t *b)
 *           whether any of 256 bytes differ
 *   uint64_t line_difference(const uint8_t *a, const uint8_t *b)
 *           bit i: byte i of the two lines differs
 *   void line_copy(uint8_t *to, const uint8_t *from)
 *           64 bytes
 *   uint8_t *line_put_parts(uint8_t *out, const uint8_t *line, uint64_t difference)
 *           writes a body in parts and returns its end; may scribble 64 bytes beyond
 *   const uint8_t *line_take_parts(const uint8_t *in, const uint8_t *end, const uint8_t *readable, uint8_t *line)
 *           applies a body in parts and returns its end, at most `end`; NULL if it is invalid. May read up to `readable`
 *
 * The format is drawn in delta.h.
 */
#include "delta.h"
#include "delta_form.h"

#define GROUP_LINES 4

/* Which lines differ, and for each of those (only), which bytes. */
struct page_difference {
    uint64_t lines;
    uint64_t bytes[FTVM_LINE_COUNT];
};

/* Most of a dirty page has not changed: four lines at once are found equal at the speed of memory, and only the others
 * are looked at closely. */
static inline void page_compare(const uint8_t *restrict page, const uint8_t *restrict base,
                                struct page_difference *found)
{
    uint64_t lines = 0;
    for (size_t group = 0; group < FTVM_LINE_COUNT; group += GROUP_LINES) {
        if (!group_differs(page + group * FTVM_LINE_BYTES, base + group * FTVM_LINE_BYTES))
            continue;
        for (size_t line = group; line < group + GROUP_LINES; line++) {
            uint64_t bytes = line_difference(page + line * FTVM_LINE_BYTES, base + line * FTVM_LINE_BYTES);
            found->bytes[line] = bytes;
            lines |= (uint64_t)(bytes != 0) << line;
        }
    }
    found->lines = lines;
}

static inline uint8_t *line_put(uint8_t *out, const uint8_t *line, uint64_t bytes)
{
    unsigned parts = (unsigned)(__builtin_popcountll(bytes) + __builtin_popcountll(ftvm_words_of(bytes)));
    if (parts < FTVM_LINE_BYTES)
        return line_put_parts(out, line, bytes);
    *out = FTVM_DELTA_WHOLE_LINE;
    line_copy(out + 1, line);
    return out + 1 + FTVM_LINE_BYTES;
}

/* --- SPARSE ------------------------------------------------------------------------------------------------------- */

/* The entry being written, which the next word may still join. Offsets are bytes of the page. */
struct sparse_entry {
    uint8_t *head;
    unsigned start;
    unsigned end;
    int is_run;
};

static inline void ref_put(uint8_t *at, unsigned ref)
{
    at[0] = (uint8_t)ref;
    at[1] = (uint8_t)(ref >> 8);
}

/* Whether the span that begins at `start` belongs to the same run. No run grows too long for its length byte: */
_Static_assert(FTVM_DELTA_SPARSE_WORDS_MAX * 8 <= 256, "SPARSE is tried for no more bytes than a run can have");
static inline int entry_takes(const struct sparse_entry *entry, unsigned start)
{
    return start / 8 == (entry->end - 1) / 8 + 1 && start - entry->end <= (unsigned)entry->is_run;
}

/* Makes room for the longer head of a run: the one word's bytes move up by one. */
static inline uint8_t *entry_make_run(struct sparse_entry *entry, uint8_t *at)
{
    if (entry->is_run)
        return at;
    entry->is_run = 1;
    ftvm_store64(entry->head + 3, ftvm_load64(entry->head + 2));
    ref_put(entry->head, FTVM_DELTA_RUN | entry->start);
    return at + 1;
}

/* Writes one word's span, as part of the entry before it or as a new one. Returns how many entries it added: 0 or 1. */
static inline unsigned span_put(struct sparse_entry *entry, uint8_t **out, const uint8_t *page, unsigned start,
                                unsigned end)
{
    uint8_t *at = *out;
    unsigned is_new = !entry_takes(entry, start);
    if (is_new) {
        *entry = (struct sparse_entry){.head = at, .start = start};
        ref_put(at, start / 8 << 6 | start % 8 << 3 | (end - start - 1));
        at += 2;
    } else {
        at = entry_make_run(entry, at);
        if (entry->end != start)
            *at++ = page[entry->end];
        entry->head[2] = (uint8_t)(end - entry->start - 1);
    }
    ftvm_store64(at, ftvm_load64(page + start / 8 * 8) >> (start % 8 * 8));
    entry->end = end;
    *out = at + (end - start);
    return is_new;
}

/* Returns the length, 0 if there are too many entries. The caller has checked that lines and words are few. */
static inline size_t sparse_put(uint8_t *out, const uint8_t *page, const struct page_difference *found)
{
    struct sparse_entry entry = {.head = NULL, .start = 0, .end = FTVM_PAGE_BYTES};
    uint8_t *at = out + 1;
    unsigned count = 0;
    for (uint64_t lines = found->lines; lines != 0; lines &= lines - 1) {
        unsigned line = (unsigned)__builtin_ctzll(lines) * FTVM_LINE_BYTES;
        for (uint64_t rest = found->bytes[line / FTVM_LINE_BYTES]; rest != 0;) {
            unsigned word = (unsigned)__builtin_ctzll(rest) & ~7u;
            unsigned mask = (unsigned)(rest >> word) & 0xFF;
            unsigned first = (unsigned)__builtin_ctz(mask);
            unsigned past = 32 - (unsigned)__builtin_clz(mask);
            count += span_put(&entry, &at, page, line + word + first, line + word + past);
            if (count > FTVM_DELTA_SPARSE_MAX)
                return 0;
            rest &= ~(UINT64_C(0xFF) << word);
        }
    }
    *out = (uint8_t)count;
    return (size_t)(at - out);
}

/* --- LIST, MASK, RAW ---------------------------------------------------------------------------------------------- */

static inline void base_update(uint8_t *base, const uint8_t *page, uint64_t lines)
{
    for (; lines != 0; lines &= lines - 1) {
        size_t at = (size_t)__builtin_ctzll(lines) * FTVM_LINE_BYTES;
        line_copy(base + at, page + at);
    }
}

/* LIST or MASK, or RAW where they would not be shorter. Brings the base up to date while each line is at hand. */
static inline size_t lines_put(uint8_t *restrict out, const uint8_t *restrict page, uint8_t *restrict base,
                               const struct page_difference *found, unsigned line_count)
{
    uint8_t *at = out;
    if (line_count <= FTVM_DELTA_LIST_MAX) {
        *at++ = (uint8_t)(FTVM_DELTA_LIST + line_count);
        for (uint64_t lines = found->lines; lines != 0; lines &= lines - 1)
            *at++ = (uint8_t)__builtin_ctzll(lines);
    } else {
        *at++ = FTVM_DELTA_MASK;
        ftvm_store64(at, found->lines);
        at += 8;
    }
    for (uint64_t lines = found->lines; lines != 0; lines &= lines - 1) {
        size_t line = (size_t)__builtin_ctzll(lines);
        at = line_put(at, page + line * FTVM_LINE_BYTES, found->bytes[line]);
        line_copy(base + line * FTVM_LINE_BYTES, page + line * FTVM_LINE_BYTES);
    }
    if (at - out >= FTVM_DELTA_BYTES_MAX)
        return ftvm_raw_put(out, page);
    return (size_t)(at - out);
}

/* What few lines hold: decides between SPARSE and the forms by line. */
struct few_lines {
    unsigned words;
    unsigned bytes;
};

/* Counts, and brings the base up to date on the way: one walk over the lines instead of two. */
static inline struct few_lines few_lines_take(const uint8_t *restrict page, uint8_t *restrict base,
                                              const struct page_difference *found)
{
    struct few_lines count = {0, 0};
    for (uint64_t lines = found->lines; lines != 0; lines &= lines - 1) {
        size_t line = (size_t)__builtin_ctzll(lines);
        uint64_t bytes = found->bytes[line];
        count.words += (unsigned)__builtin_popcountll(ftvm_words_of(bytes));
        count.bytes += (unsigned)__builtin_popcountll(bytes);
        line_copy(base + line * FTVM_LINE_BYTES, page + line * FTVM_LINE_BYTES);
    }
    return count;
}

static inline size_t few_lines_put(uint8_t *restrict out, const uint8_t *restrict page, uint8_t *restrict base,
                                   const struct page_difference *found, unsigned lines)
{
    struct few_lines count = few_lines_take(page, base, found);
    if (count.words <= FTVM_DELTA_SPARSE_WORDS_MAX) {
        unsigned names = lines <= FTVM_DELTA_LIST_MAX ? lines : 8;
        size_t length = sparse_put(out, page, found);
        if (length != 0 && length <= 1 + names + lines + count.words + count.bytes)
            return length;
    }
    return lines_put(out, page, base, found, lines);
}

/* A zero page is zero where it differs, too: most pages are told apart by one line. */
static inline int page_became_zero(const uint8_t *page, uint64_t lines)
{
    return ftvm_line_is_zero(page + (size_t)__builtin_ctzll(lines) * FTVM_LINE_BYTES) && ftvm_page_is_zero(page);
}

static size_t variant_encode(const uint8_t *restrict page, uint8_t *restrict base, uint8_t *restrict out)
{
    struct page_difference found;
    page_compare(page, base, &found);
    if (found.lines == 0)
        return 0;
    if (page_became_zero(page, found.lines)) {
        base_update(base, page, found.lines);
        *out = FTVM_DELTA_ZERO;
        return 1;
    }
    unsigned line_count = (unsigned)__builtin_popcountll(found.lines);
    if (line_count <= FTVM_DELTA_SPARSE_LINES_MAX)
        return few_lines_put(out, page, base, &found, line_count);
    return lines_put(out, page, base, &found, line_count);
}

/* --- decoding: `end` is where the delta ends, `readable` (at or after it) where the buffer does ------------------- */

/* One SPARSE entry. Returns where the next one begins, NULL if it is invalid.
 *
 * least  in and out: the first byte of the page that it may touch */
static inline const uint8_t *entry_take(const uint8_t *in, const uint8_t *end, const uint8_t *readable, uint8_t *page,
                                        unsigned *least)
{
    if (end - in < 3)
        return NULL;
    unsigned ref = (unsigned)in[0] | (unsigned)in[1] << 8;
    int is_run = (ref & FTVM_DELTA_RUN) != 0;
    unsigned start = is_run ? ref - FTVM_DELTA_RUN : (ref >> 6) * 8 + (ref >> 3 & 7);
    unsigned length = is_run ? in[2] + 1u : (ref & 7) + 1;
    unsigned room = is_run ? FTVM_PAGE_BYTES : (start | 7) + 1;
    in += is_run ? 3 : 2;
    if (start < *least || start + length > room || (size_t)(end - in) < length)
        return NULL;
    if (is_run)
        memcpy(page + start, in, length);
    else
        ftvm_word_take(page + start / 8 * 8, start % 8, length, in, readable);
    *least = start + length;
    return in + length;
}

static inline int sparse_take(const uint8_t *in, const uint8_t *end, const uint8_t *readable, unsigned count,
                              uint8_t *page)
{
    unsigned least = 0;
    for (; count != 0; count--) {
        in = entry_take(in, end, readable, page, &least);
        if (in == NULL)
            return -1;
    }
    return in == end ? 0 : -1;
}

static inline const uint8_t *line_take(const uint8_t *in, const uint8_t *end, const uint8_t *readable, uint8_t *line)
{
    if (in == end)
        return NULL;
    if (*in != FTVM_DELTA_WHOLE_LINE)
        return line_take_parts(in, end, readable, line);
    if (end - in < 1 + FTVM_LINE_BYTES)
        return NULL;
    line_copy(line, in + 1);
    return in + 1 + FTVM_LINE_BYTES;
}

static inline int mask_take(const uint8_t *in, const uint8_t *end, const uint8_t *readable, uint8_t *page)
{
    if (end - in < 8)
        return -1;
    uint64_t lines = ftvm_load64(in);
    in += 8;
    if (lines == 0)
        return -1;
    for (; lines != 0; lines &= lines - 1) {
        in = line_take(in, end, readable, page + (size_t)__builtin_ctzll(lines) * FTVM_LINE_BYTES);
        if (in == NULL)
            return -1;
    }
    return in == end ? 0 : -1;
}

static inline int list_take(const uint8_t *in, const uint8_t *end, const uint8_t *readable, unsigned count,
                            uint8_t *page)
{
    if ((size_t)(end - in) < count)
        return -1;
    const uint8_t *lines = in;
    in += count;
    for (unsigned i = 0; i < count; i++) {
        if (lines[i] >= FTVM_LINE_COUNT || (i != 0 && lines[i] <= lines[i - 1]))
            return -1;
        in = line_take(in, end, readable, page + (size_t)lines[i] * FTVM_LINE_BYTES);
        if (in == NULL)
            return -1;
    }
    return in == end ? 0 : -1;
}

static int variant_decode(const uint8_t *restrict delta, size_t length, size_t slack, uint8_t *restrict page)
{
    if (length == 0)
        return -1;
    const uint8_t *in = delta + 1;
    const uint8_t *end = delta + length;
    const uint8_t *readable = end + slack;
    unsigned tag = *delta;
    if (tag == FTVM_DELTA_ZERO && length == 1) {
        memset(page, 0, FTVM_PAGE_BYTES);
        return 0;
    }
    if (tag >= 1 && tag <= FTVM_DELTA_SPARSE_MAX)
        return sparse_take(in, end, readable, tag, page);
    if (tag > FTVM_DELTA_LIST && tag <= FTVM_DELTA_LIST + FTVM_DELTA_LIST_MAX)
        return list_take(in, end, readable, tag - FTVM_DELTA_LIST, page);
    if (tag == FTVM_DELTA_MASK)
        return mask_take(in, end, readable, page);
    if (tag == FTVM_DELTA_RAW && length == FTVM_DELTA_BYTES_MAX) {
        memcpy(page, in, FTVM_PAGE_BYTES);
        return 0;
    }
    return -1;
}

const struct ftvm_delta_codec FTVM_DELTA_VARIANT = {FTVM_DELTA_VARIANT_NAME, variant_encode, variant_decode};
