/* The machine's insides, shared by the modules of this folder; riscv.h is the outside.
 *
 * `riscv_core` is all that a takeover needs beside RAM, and nothing else: save and load walk exactly it. What
 * stands in `struct ftvm_riscv` outside `core` is configuration, or can be made anew. */
#ifndef FTVM_RISCV_MACHINE_H
#define FTVM_RISCV_MACHINE_H

#include "../riscv.h"

#include <stdatomic.h>
#include <stdbool.h>

#include "clint.h"
#include "code.h"
#include "hart.h"
#include "output.h"
#include "plic.h"
#include "uart.h"
#include "virtio.h"
#include "virtio_block.h"
#include "virtio_entropy.h"
#include "virtio_net.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the guest's memory is read and written as the host's");

#define PAGE_SHIFT 12
#define PAGE_MASK UINT64_C(4095)

typedef struct {
    riscv_hart hart;
    riscv_clint clint;
    riscv_plic plic;
    riscv_uart uart;
    riscv_virtio net;
    riscv_virtio block;
    riscv_virtio entropy;
    uint64_t tohost;
    uint64_t exit_code;
    uint8_t ended_by;
} riscv_core;

struct ftvm_riscv {
    riscv_core core;
    ftvm_riscv_config config;
    atomic_bool is_stop_wanted;
    bool must_leave; /* something changed that the outer loop has to look at: interrupts, outputs, the end */
    uint64_t window;   /* how many addresses of RAM loads and stores may use unasked: open_windows */
    bool is_code_open; /* whether all of RAM may be executed */
    riscv_output output;
    riscv_code code;
};

#endif
