/* device: what a memory-mapped device is, and what it knows of the machine that it is part of.
 *
 * Two machines share the devices of this folder: riscv and kvm. A device is a struct in the machine's state and a
 * device_ops; the machine gives it a place in its map and an interrupt line. All that a device reaches is the board:
 * memory, a disk, the outputs, the time.
 *
 * A device never waits and keeps no time: it acts when the guest touches it, or when an input is given. */
#ifndef FTVM_DEVICES_DEVICE_H
#define FTVM_DEVICES_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "output.h"
#include "wire.h"

#define DEVICE_PAGE_SHIFT 12

typedef struct device_board device_board;

/* What a machine shows to its devices. Configuration and outputs, no state: the devices' own structs are the state. */
struct device_board {
    uint8_t *ram;
    uint64_t ram_base; /* where RAM begins for the guest */
    uint64_t ram_bytes;
    uint8_t *disk;
    uint64_t disk_bytes; /* 0: there is no disk */
    uint8_t *disk_flags; /* a byte per page of the disk, set to 1 when it is written */
    uint8_t *disk_flush; /* set to 1 when the guest asks that what it wrote to the disk be durable. NULL: nobody asks */
    uint8_t mac[6];
    uint64_t line_ticks;                      /* how long an unfinished console line may stay pending */
    uint64_t (*now)(const device_board *board); /* the time by which line_ticks counts */
    /* Called behind each write of a device to RAM: `bytes`, not 0, at `offset` from its start. NULL: nobody asks. */
    void (*wrote)(device_board *board, uint64_t offset, size_t bytes);
    device_output output;
};

typedef struct {
    /* Reads or writes `size` (1, 2, 4 or 8) naturally aligned bytes at `offset`. Returns false to make it an access
     * fault. */
    bool (*read)(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value);
    bool (*write)(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value);
    /* Whether its interrupt line is high. NULL if it has none. */
    bool (*line)(const void *device);
    /* Writes its state, or reads it and returns what is wrong with it, NULL if nothing. NULL if it has no state. */
    void (*save)(const void *device, wire_writer *writer);
    const char *(*load)(void *device, wire_reader *reader);
} device_ops;

/* Tells whether [address, address + bytes) lies in RAM. */
static inline bool device_is_ram(const device_board *board, uint64_t address, uint64_t bytes)
{
    uint64_t offset = address - board->ram_base;
    return offset < board->ram_bytes && bytes <= board->ram_bytes - offset;
}

/* A device's access to RAM. Returns false, having touched nothing, if the range is not all RAM. */
bool device_dma_read(const device_board *board, uint64_t address, void *into, size_t bytes);
bool device_dma_write(device_board *board, uint64_t address, const void *from, size_t bytes);

#endif
