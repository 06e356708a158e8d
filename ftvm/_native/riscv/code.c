#include "code.h"

#include "bus.h"

void riscv_code_watch(riscv_code *code, uint64_t page, unsigned reason, uint8_t *flags)
{
    code->watched[page] |= (uint8_t)reason;
    if (flags[page] != 0)
        flags[page] = RISCV_FLAG_WATCHED;
}

void riscv_code_watch_range(riscv_code *code, uint64_t offset, uint64_t bytes, unsigned reason, uint8_t *flags)
{
    for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + bytes - 1) >> PAGE_SHIFT; page++)
        riscv_code_watch(code, page, reason, flags);
}

void riscv_code_flush(riscv_code *code, uint8_t *flags)
{
    for (unsigned i = 0; i < code->used; i++) { /* not all of RAM: a guest can make this happen all the time */
        uint64_t page = (code->pool[i].address - FTVM_RISCV_RAM_BASE) / FTVM_RISCV_PAGE_BYTES;
        code->pages[page] = NULL;
        code->watched[page] &= RISCV_WATCH_TOHOST | RISCV_WATCH_DEBUG;
        if (flags[page] == RISCV_FLAG_WATCHED && code->watched[page] == 0)
            flags[page] = RISCV_FLAG_DIRTY;
    }
    code->used = 0;
}

riscv_code_page *riscv_code_add(riscv_code *code, uint64_t page, uint8_t *flags)
{
    if (riscv_code_is_full(code))
        riscv_code_flush(code, flags);
    riscv_code_page *fresh = &code->pool[code->used++];
    fresh->address = FTVM_RISCV_RAM_BASE + page * FTVM_RISCV_PAGE_BYTES;
    for (unsigned half = 0; half < RISCV_PAGE_HALVES; half++)
        fresh->operations[half].handler = code->undecoded;
    fresh->operations[RISCV_PAGE_HALVES].handler = code->page_end;
    fresh->operations[RISCV_PAGE_HALVES + 1].handler = code->page_end;
    code->pages[page] = fresh;
    riscv_code_watch(code, page, RISCV_WATCH_CODE, flags);
    return fresh;
}

void riscv_code_forget(riscv_code *code, uint64_t offset, uint64_t bytes)
{
    uint64_t end = (offset + bytes - 1) / 2 + 1;
    uint64_t half = offset < 2 ? 0 : offset / 2 - 1; /* an instruction of two halves may begin one before */
    while (half < end) {
        riscv_code_page *page = code->pages[half / RISCV_PAGE_HALVES];
        uint64_t next_page = (half / RISCV_PAGE_HALVES + 1) * RISCV_PAGE_HALVES;
        uint64_t stop = next_page < end ? next_page : end;
        for (; page != NULL && half < stop; half++)
            page->operations[half % RISCV_PAGE_HALVES].handler = code->undecoded;
        half = stop;
    }
}
