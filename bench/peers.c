/* What the native core is measured against: memcpy, a full compare, XBZRLE as QEMU documents it, and loops that call
 * one codec for many pages without Python in between. Built by bench/peers.py when a benchmark starts. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PAGE 4096

typedef size_t encode_function(const uint8_t *page, uint8_t *base, uint8_t *out);
typedef int decode_function(const uint8_t *delta, size_t length, size_t slack, uint8_t *page);
typedef int lz4_compress_function(const char *source, char *target, int source_bytes, int capacity);
typedef int lz4_decompress_function(const char *source, char *target, int source_bytes, int capacity);

/* Counts the bytes that differ: reads both images to the end, as an encoder must. */
uint64_t peer_compare(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    uint64_t differing = 0;
    for (size_t at = 0; at < bytes; at += PAGE) {
        uint64_t any = 0;
        for (size_t i = 0; i < PAGE; i += 8) {
            uint64_t x, y;
            memcpy(&x, a + at + i, 8);
            memcpy(&y, b + at + i, 8);
            any |= x ^ y;
        }
        differing += any != 0;
    }
    return differing;
}

void peer_copy(const uint8_t *from, uint8_t *to, size_t pages)
{
    for (size_t i = 0; i < pages; i++)
        memcpy(to + i * PAGE, from + i * PAGE, PAGE);
}

/* Encodes pages into one payload; lengths[i] is 0 for a page that does not differ. Returns the payload's length. */
size_t peer_encode(uintptr_t function, const uint8_t *newer, uint8_t *base, size_t pages, uint8_t *payload,
                   uint16_t *lengths)
{
    encode_function *encode = (encode_function *)function;
    size_t at = 0;
    for (size_t i = 0; i < pages; i++) {
        lengths[i] = (uint16_t)encode(newer + i * PAGE, base + i * PAGE, payload + at);
        at += lengths[i];
    }
    return at;
}

int peer_decode(uintptr_t function, const uint8_t *payload, size_t payload_bytes, const uint16_t *lengths, size_t pages,
                uint8_t *page)
{
    decode_function *decode = (decode_function *)function;
    size_t at = 0;
    for (size_t i = 0; i < pages; i++) {
        if (lengths[i] != 0 && decode(payload + at, lengths[i], payload_bytes - at - lengths[i], page + i * PAGE) != 0)
            return -1;
        at += lengths[i];
    }
    return 0;
}

/* --- XBZRLE: (length of a run that is equal, length of a run that differs, its bytes), lengths as LEB128 ---------- */

static uint8_t *leb128(uint8_t *out, unsigned value)
{
    if (value >= 0x80)
        *out++ = (uint8_t)(value | 0x80), value >>= 7;
    *out++ = (uint8_t)value;
    return out;
}

/* Returns the encoded length, 0 if equal, 4096 where QEMU would send the page as it is. */
static size_t xbzrle_page(const uint8_t *old, const uint8_t *new, uint8_t *out)
{
    uint8_t *to = out;
    size_t at = 0;
    while (at < PAGE) {
        size_t start = at;
        uint64_t x, y;
        while (at + 8 <= PAGE && (memcpy(&x, old + at, 8), memcpy(&y, new + at, 8), x == y))
            at += 8;
        while (at < PAGE && old[at] == new[at])
            at++;
        if (at == PAGE)
            break;
        to = leb128(to, (unsigned)(at - start));
        start = at;
        while (at < PAGE && old[at] != new[at])
            at++;
        if ((size_t)(to - out) + 2 + (at - start) >= PAGE)
            return PAGE;
        to = leb128(to, (unsigned)(at - start));
        memcpy(to, new + start, at - start);
        to += at - start;
    }
    return (size_t)(to - out);
}

size_t peer_xbzrle(const uint8_t *older, const uint8_t *newer, size_t pages, uint8_t *scratch)
{
    size_t bytes = 0;
    for (size_t i = 0; i < pages; i++)
        bytes += xbzrle_page(older + i * PAGE, newer + i * PAGE, scratch);
    return bytes;
}

/* --- LZ4 of the XORed page, by the system's liblz4 ---------------------------------------------------------------- */

size_t peer_lz4_compress(uintptr_t function, const uint8_t *older, const uint8_t *newer, size_t pages, uint8_t *payload,
                         uint16_t *lengths)
{
    lz4_compress_function *compress = (lz4_compress_function *)function;
    char mixed[PAGE];
    size_t at = 0;
    for (size_t i = 0; i < pages; i++) {
        for (size_t k = 0; k < PAGE; k++)
            mixed[k] = (char)(older[i * PAGE + k] ^ newer[i * PAGE + k]);
        lengths[i] = (uint16_t)compress(mixed, (char *)payload + at, PAGE, PAGE + 64);
        at += lengths[i];
    }
    return at;
}

int peer_lz4_decompress(uintptr_t function, const uint8_t *payload, const uint16_t *lengths, size_t pages, uint8_t *page)
{
    lz4_decompress_function *decompress = (lz4_decompress_function *)function;
    char mixed[PAGE];
    size_t at = 0;
    for (size_t i = 0; i < pages; i++) {
        if (decompress((const char *)payload + at, mixed, lengths[i], PAGE) != PAGE)
            return -1;
        for (size_t k = 0; k < PAGE; k++)
            page[i * PAGE + k] ^= (uint8_t)mixed[k];
        at += lengths[i];
    }
    return 0;
}

/* --- memory that others write ------------------------------------------------------------------------------------- */

/* Writes one word to every `step`-th page from `first` on. */
void peer_touch(uint8_t *memory, size_t pages, size_t first, size_t step, uint64_t value)
{
    for (size_t i = first; i < pages; i += step)
        memcpy(memory + i * PAGE + (value * 64 % PAGE), &value, 8);
}

/* Writes one word to each page of a list. */
void peer_touch_list(uint8_t *memory, const uint32_t *indices, size_t count, uint64_t value)
{
    for (size_t i = 0; i < count; i++)
        memcpy(memory + (size_t)indices[i] * PAGE + (value * 8 % PAGE), &value, 8);
}

/* Compares every page with its shadow, leaving each at the first difference. Returns how many differ. */
size_t peer_scan(const uint8_t *memory, const uint8_t *shadow, size_t pages)
{
    size_t differing = 0;
    for (size_t i = 0; i < pages; i++)
        differing += memcmp(memory + i * PAGE, shadow + i * PAGE, PAGE) != 0;
    return differing;
}

/* Copies the pages of a list, one memcpy each. */
void peer_gather(const uint8_t *memory, const uint32_t *indices, size_t count, uint8_t *to)
{
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * PAGE, memory + (size_t)indices[i] * PAGE, PAGE);
}

static void prefetch(const uint8_t *page)
{
    for (size_t at = 0; at < 512; at += 64)
        __builtin_prefetch(page + at);
}

/* Encodes the pages of a list from memory against their shadows: fused capture without the digest. */
size_t peer_encode_list(uintptr_t function, const uint8_t *memory, uint8_t *shadow, const uint32_t *indices, size_t count,
                        uint8_t *payload)
{
    encode_function *encode = (encode_function *)function;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (i + 1 < count) {
            prefetch(memory + (size_t)indices[i + 1] * PAGE);
            prefetch(shadow + (size_t)indices[i + 1] * PAGE);
        }
        at += encode(memory + (size_t)indices[i] * PAGE, shadow + (size_t)indices[i] * PAGE, payload + at);
    }
    return at;
}

/* What fused capture replaces: copy the pages, encode the copies, then copy them into the shadow. */
size_t peer_three_passes(uintptr_t function, const uint8_t *memory, uint8_t *shadow, const uint32_t *indices,
                         size_t count, uint8_t *staging, uint8_t *bases, uint8_t *payload)
{
    encode_function *encode = (encode_function *)function;
    size_t at = 0;
    peer_gather(memory, indices, count, staging);
    for (size_t i = 0; i < count; i++) {
        /* The encoder updates its base; here the base must stay, so it gets a scratch copy that is warm in cache. */
        memcpy(bases, shadow + (size_t)indices[i] * PAGE, PAGE);
        at += encode(staging + i * PAGE, bases, payload + at);
    }
    for (size_t i = 0; i < count; i++)
        memcpy(shadow + (size_t)indices[i] * PAGE, staging + i * PAGE, PAGE);
    return at;
}
