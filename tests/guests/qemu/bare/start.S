/* Starts the bare guest: 32-bit, flat, by multiboot. Interrupts return without `iret`: a KVM without hardware support
 * (kvm_pvm) does not emulate it in protected mode. */
    .section .multiboot, "a"
    .align 4
    .long 0x1BADB002, 0, -(0x1BADB002)

    .text
    .globl _start
_start:
    cli
    mov $stack_top, %esp
    lgdt table_pointer
    ljmp $8, $1f
1:  mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    call guest
2:  hlt
    jmp 2b

/* The other processors start in 16-bit mode, at the page to which guest.c copies this. */
    .set TRAMPOLINE, 0x8000
    .globl trampoline, trampoline_end
    .code16
trampoline:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + trampoline_table - trampoline
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $start_worker
trampoline_table:
    .word 23
    .long table
trampoline_end:

    .code32
start_worker:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $1, %eax
    lock xadd %eax, workers
    mov %eax, %ecx
    inc %ecx
    shl $12, %ecx
    lea worker_stacks(%ecx), %esp
    push %eax
    call work
3:  hlt
    jmp 3b

    .macro handler name, function
    .globl \name
\name:
    pusha
    .ifnb \function
    call \function
    .endif
    popa
    pushl 8(%esp)
    popf
    lret $4
    .endm
    handler on_pit count_pit
    handler on_lapic count_lapic
    handler on_other

    .align 8
table:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
table_pointer:
    .word . - table - 1
    .long table

    .bss
    .align 16
    .skip 16384
stack_top:
worker_stacks:
    .skip 4096 * 3
    .globl workers
workers:
    .skip 4
    .section .note.GNU-stack, "", @progbits
