/* What a compiler calls by itself, and the programs by name: no C library is linked. */
#include <stdint.h>
#include <string.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
    return start;
}

void *memset(void *at, int value, size_t bytes)
{
    void *start = at;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
    return start;
}

int memcmp(const void *one, const void *other, size_t bytes)
{
    const unsigned char *a = one, *b = other;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

void *memchr(const void *at, int value, size_t bytes)
{
    const unsigned char *from = at;
    for (size_t i = 0; i < bytes; i++) {
        if (from[i] == (unsigned char)value)
            return (void *)(from + i);
    }
    return NULL;
}

size_t strlen(const char *text)
{
    size_t bytes = 0;
    while (text[bytes] != '\0')
        bytes++;
    return bytes;
}

int strncmp(const char *one, const char *other, size_t bytes)
{
    size_t i = 0;
    while (i < bytes && one[i] == other[i] && one[i] != '\0')
        i++;
    return i == bytes ? 0 : (unsigned char)one[i] - (unsigned char)other[i];
}

int strcmp(const char *one, const char *other)
{
    return strncmp(one, other, SIZE_MAX);
}
