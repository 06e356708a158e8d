/* bus: who answers at a physical address. RAM's fast path is in execute_*.c; everything else comes through here.
 *
 * Every write to RAM, the hart's or a device's, ends in this module or in the one fast path, which writes only to pages
 * whose flag is RISCV_FLAG_DIRTY. That is what makes dirty tracking whole and the decoded code coherent. */
#ifndef FTVM_RISCV_BUS_H
#define FTVM_RISCV_BUS_H

#include "machine.h"

/* A page's flag; clean is 0. A watched page has decoded code, or the HTIF word: each store to it is looked at. */
enum { RISCV_FLAG_DIRTY = 1, RISCV_FLAG_WATCHED = 2 };

/* Loads or stores `size` bytes at any alignment, as the hart does. Returns 0, or the exception's cause; memory is then
 * as before. A device access sets machine->must_leave. */
uint64_t riscv_bus_load(ftvm_riscv *machine, uint64_t address, unsigned size, uint64_t *value);
uint64_t riscv_bus_store(ftvm_riscv *machine, uint64_t address, unsigned size, uint64_t value);

/* Fetches the instruction at hart->pc. Returns 0, or the exception's cause with *bad the address that failed. */
uint64_t riscv_bus_fetch(ftvm_riscv *machine, uint32_t *raw, uint64_t *bad);

/* Follows a device's write to RAM; the board's `wrote`. */
void riscv_bus_wrote(device_board *board, uint64_t offset, size_t bytes);

/* Tells the interrupt controller the level of all lines. */
void riscv_bus_settle_lines(ftvm_riscv *machine);

/* Saves or loads all devices, in the order of the table. */
void riscv_bus_save(const riscv_core *core, wire_writer *writer);
const char *riscv_bus_load_devices(riscv_core *core, wire_reader *reader);

#endif
