/* code: decoded instructions, kept per page of RAM. A cache: invisible to the program, never part of the state.
 *
 * A page has one operation per half-word, so that an instruction is found by its address alone. An operation not yet
 * decoded is UNDECODED; behind the last one stand two PAGE_ENDs, as an instruction takes one or two places. An
 * instruction that straddles two pages is STRADDLE: it is decoded each time, so only its first half matters here. One
 * with a breakpoint goes to BREAK first, and keeps its own number, by which it goes on.
 *
 * Coherent: a page with decoded code is "watched", its flag is never plainly dirty, so that every write to it comes by
 * riscv_code_forget (bus.c), which returns the places written to UNDECODED. */
#ifndef FTVM_RISCV_CODE_H
#define FTVM_RISCV_CODE_H

#include "../riscv.h"

#include <stdbool.h>

#include "decode.h"

#define RISCV_PAGE_HALVES (FTVM_RISCV_PAGE_BYTES / 2)
#define RISCV_CODE_PAGES 256 /* 8 MiB of operations for 1 MiB of hot code; when they are used up, all are forgotten */

enum { /* why a page is watched; a set */
    RISCV_WATCH_CODE = 1,
    RISCV_WATCH_TOHOST = 2,
    RISCV_WATCH_DEBUG = 4,
};

typedef struct {
    uint64_t address;
    riscv_operation operations[RISCV_PAGE_HALVES + 2];
} riscv_code_page;

typedef struct {
    riscv_code_page **pages; /* per page of RAM: its decoded code, or NULL */
    uint8_t *watched;        /* per page of RAM: RISCV_WATCH_... */
    const void *undecoded;   /* the handlers that fresh pages get; NULL until the interpreter first ran */
    const void *page_end;
    unsigned used;
    riscv_code_page pool[RISCV_CODE_PAGES];
} riscv_code;

static inline bool riscv_code_is_watched(const riscv_code *code, uint64_t page)
{
    return code->watched[page] != 0;
}

/* Gives the page of RAM a fresh set of operations; forgets all others if there is no room. `flags` are the pages'
 * flags. */
riscv_code_page *riscv_code_add(riscv_code *code, uint64_t page, uint8_t *flags);

/* Watches a page for one more reason. */
void riscv_code_watch(riscv_code *code, uint64_t page, unsigned reason, uint8_t *flags);

/* Likewise all pages of [offset, offset + bytes) of RAM; bytes is not 0. */
void riscv_code_watch_range(riscv_code *code, uint64_t offset, uint64_t bytes, unsigned reason, uint8_t *flags);

/* Forgets what was decoded from [offset, offset + bytes) of RAM, and from an instruction that reaches into it. */
void riscv_code_forget(riscv_code *code, uint64_t offset, uint64_t bytes);

/* Tells whether the next page to be added makes all others be forgotten. */
static inline bool riscv_code_is_full(const riscv_code *code)
{
    return code->used == RISCV_CODE_PAGES;
}

/* Forgets everything; the pages' flags are made plain again. Walks the pages with decoded code, not RAM. */
void riscv_code_flush(riscv_code *code, uint8_t *flags);

#endif
