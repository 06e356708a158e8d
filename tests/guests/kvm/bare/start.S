/* The entry of the bare system, where a 64-bit Linux kernel has its own; its interrupts; and the start of the other
 * processors, from real mode to 64-bit mode by the tables that the machine left below 1 MiB. */
    .set PAGE_TABLE, 0x1000
    .set SEGMENTS, 0x9000
    .set TRAMPOLINE, 0x10000

    .section .start, "ax"
    .code64
    .skip 0x200
    .globl start
start:
    lea stack_top(%rip), %rsp
    mov %rsi, %rdi
    call guest
1:  hlt
    jmp 1b

    .text
    .macro interrupt name, count
    .globl \name
\name:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    cld
    call \count
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    iretq
    .endm

    interrupt on_timer, take_timer
    interrupt on_uart, take_uart
    interrupt on_net, take_net
    interrupt on_disk, take_disk
    interrupt on_entropy, take_entropy

    .globl trampoline, trampoline_end
    .code16
trampoline:
    cli
    lgdtl %cs:(segments - trampoline)
    mov $0x620, %eax
    mov %eax, %cr4
    mov $PAGE_TABLE, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    ljmpl $0x10, $(TRAMPOLINE + in_64 - trampoline)
segments:
    .word 0x1f
    .long SEGMENTS
    .code64
in_64:
    mov $0x18, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %edi
    mov $started, %eax
    lock xadd %edi, (%rax)
    mov %edi, %eax
    inc %eax
    shl $12, %eax
    lea worker_stacks(%rax), %rsp
    mov $work, %eax
    call *%rax
trampoline_end:

    .bss
    .align 4096
    .globl started
started:
    .skip 64
    .align 4096
worker_stacks:
    .skip 3 * 4096
    .skip 16384
stack_top:
