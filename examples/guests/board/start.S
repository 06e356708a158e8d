# start: from the first instruction to program(), and the way into and out of a trap.
#
# The machine jumps here in M mode with a0 = hart id and a1 = address of the device tree. Nothing is promised about the
# other registers, nor about memory outside the ELF file's segments: a machine that was reset without losing its memory
# still holds the old contents, which is why .bss is cleared here and not taken as zero.

    .file   "start.S"                   # else the symbol table names the object, a temporary file
    .section .text.start, "ax"
    .globl _start
_start:
    .option push
    .option norelax                     # relaxation would turn this load of gp into a use of gp
    la      gp, __global_pointer$
    .option pop
    la      sp, stack_top
    la      tp, thread_start            # one thread: errno and its like live here
    mv      s0, a1

    la      t0, trap_entry
    csrw    mtvec, t0
    csrw    mie, zero

    la      t0, bss_start
    la      t1, bss_end
1:  bgeu    t0, t1, 2f
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       1b
2:
    # Count this boot in memory that nobody clears. The magic tells a count from what the memory held before.
    la      t0, boot_record
    li      t1, 0x746f6f62              # "boot"
    ld      t2, 0(t0)
    ld      t3, 8(t0)
    beq     t1, t2, 3f
    sd      t1, 0(t0)
    li      t3, 0
3:  addi    t3, t3, 1
    sd      t3, 8(t0)

    mv      a0, s0
    call    program
    call    finisher_end                # its result is the exit code; does not return

# A trap saves what a C function may change, asks trap_handle(mcause, mepc, mtval), and goes back to where it was.
# Traps do not nest: the hardware clears mstatus.MIE, and nothing in a handler sets it.
    .section .text.trap, "ax"
    .balign 4                           # the low bits of mtvec choose the mode: 0 is "direct"
trap_entry:
    addi    sp, sp, -128
    sd      ra, 0(sp)
    sd      t0, 8(sp)
    sd      t1, 16(sp)
    sd      t2, 24(sp)
    sd      t3, 32(sp)
    sd      t4, 40(sp)
    sd      t5, 48(sp)
    sd      t6, 56(sp)
    sd      a0, 64(sp)
    sd      a1, 72(sp)
    sd      a2, 80(sp)
    sd      a3, 88(sp)
    sd      a4, 96(sp)
    sd      a5, 104(sp)
    sd      a6, 112(sp)
    sd      a7, 120(sp)
    csrr    a0, mcause
    csrr    a1, mepc
    csrr    a2, mtval
    call    trap_handle
    ld      ra, 0(sp)
    ld      t0, 8(sp)
    ld      t1, 16(sp)
    ld      t2, 24(sp)
    ld      t3, 32(sp)
    ld      t4, 40(sp)
    ld      t5, 48(sp)
    ld      t6, 56(sp)
    ld      a0, 64(sp)
    ld      a1, 72(sp)
    ld      a2, 80(sp)
    ld      a3, 88(sp)
    ld      a4, 96(sp)
    ld      a5, 104(sp)
    ld      a6, 112(sp)
    ld      a7, 120(sp)
    addi    sp, sp, 128
    mret
