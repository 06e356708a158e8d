/* device: what a memory-mapped device is to the machine.
 *
 * A device is a struct inside riscv_core and a riscv_device_ops. To add one: write the module, put its struct into
 * riscv_core, and give it a row in the table of bus.c (where it lies, its interrupt, its operations); the bus, the
 * interrupt controller, save and load then know it.
 *
 * A device never waits and never keeps time of its own: it acts when the hart touches it, or when an input is given. */
#ifndef FTVM_RISCV_DEVICE_H
#define FTVM_RISCV_DEVICE_H

#include "../riscv.h"

#include <stdbool.h>

#include "wire.h"

typedef struct {
    /* Reads or writes `size` (1, 2, 4 or 8) naturally aligned bytes at `offset`. Returns false to make it an access
     * fault. */
    bool (*read)(ftvm_riscv *machine, void *device, uint64_t offset, unsigned size, uint64_t *value);
    bool (*write)(ftvm_riscv *machine, void *device, uint64_t offset, unsigned size, uint64_t value);
    /* Whether its interrupt line is high. NULL if it has none. */
    bool (*line)(const void *device);
    /* Writes its state, or reads it and returns what is wrong with it, NULL if nothing. NULL if it has no state. */
    void (*save)(const void *device, riscv_writer *writer);
    const char *(*load)(void *device, riscv_reader *reader);
} riscv_device_ops;

#endif
