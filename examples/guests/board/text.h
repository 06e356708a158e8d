/* text: builds a short text in memory that the caller gives. What does not fit is cut off, never written.
 *
 * A program that prints one line needs no printf; one that prints much takes the C library's (see hello/).
 */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdint.h>

struct text {
    char *at;
    size_t capacity;
    size_t bytes; /* written so far; no terminating zero */
};

/* An empty text in `capacity` bytes at `at`. */
struct text text_in(char *at, size_t capacity);

/* Adds a string, a decimal number, a number as 0x and hexadecimal digits. */
void text_add(struct text *text, const char *string);
void text_add_number(struct text *text, uint64_t number);
void text_add_hex(struct text *text, uint64_t number);

#endif
