/* The machine's insides, shared by the modules of this folder; riscv.h is the outside.
 *
 * `riscv_core` is all that a takeover needs beside RAM, and nothing else: save and load walk exactly it. What
 * stands in `struct ftvm_riscv` outside `core` is configuration, or can be made again. */
#ifndef FTVM_RISCV_MACHINE_H
#define FTVM_RISCV_MACHINE_H

#include "../riscv.h"

#include <stdatomic.h>
#include <stdbool.h>

#include "clint.h"
#include "code.h"
#include "hart.h"
#include "hooks.h"
#include "../devices/output.h"
#include "plic.h"
#include "../devices/uart.h"
#include "../devices/virtio.h"
#include "../devices/virtio_block.h"
#include "../devices/virtio_entropy.h"
#include "../devices/virtio_net.h"

#define PAGE_SHIFT DEVICE_PAGE_SHIFT
#define PAGE_MASK UINT64_C(4095)

typedef struct {
    riscv_hart hart;
    riscv_clint clint;
    riscv_plic plic;
    device_uart uart;
    device_virtio net;
    device_virtio block;
    device_virtio entropy;
    uint64_t tohost;
    uint64_t exit_code;
    uint8_t ended_by;
} riscv_core;

struct ftvm_riscv {
    riscv_core core;
    device_board board; /* what the devices see of all this */
    ftvm_riscv_config config;
    atomic_bool is_stop_wanted;
    bool must_leave; /* something changed that the outer loop has to look at: interrupts, outputs, the end */
    uint64_t window;   /* how many addresses of RAM loads and stores may use unasked: open_windows */
    bool is_code_open; /* whether all of RAM may be executed */
    riscv_hooks hooks;
    riscv_code code;
};

/* The machine that a board belongs to. */
static inline ftvm_riscv *riscv_of(device_board *board)
{
    return (ftvm_riscv *)(void *)((char *)board - offsetof(ftvm_riscv, board));
}

#endif
