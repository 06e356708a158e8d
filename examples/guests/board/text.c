#include "text.h"

#define DIGITS_MAX 20 /* of 2^64 - 1 in decimal */

struct text text_in(char *at, size_t capacity) { return (struct text){.at = at, .capacity = capacity}; }

static void add_character(struct text *text, char character)
{
    if (text->bytes < text->capacity)
        text->at[text->bytes++] = character;
}

void text_add(struct text *text, const char *string)
{
    while (*string != '\0')
        add_character(text, *string++);
}

static void add_digits(struct text *text, uint64_t number, uint64_t base)
{
    char digits[DIGITS_MAX];
    size_t count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0);
    while (count > 0)
        add_character(text, digits[--count]);
}

void text_add_number(struct text *text, uint64_t number) { add_digits(text, number, 10); }

void text_add_hex(struct text *text, uint64_t number)
{
    text_add(text, "0x");
    add_digits(text, number, 16);
}
