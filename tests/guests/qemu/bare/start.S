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
    .section .note.GNU-stack, "", @progbits
