# start: from the first instruction to program(). The machine begins here at privilege level 3, in 64-bit mode, with
# memory mapped one to one, a stack, and rdi = 0 where the other board hands over a device tree.

    .section .text.start, "ax"
    .globl _start
_start:
    lea     bss_start(%rip), %rdi
    lea     bss_end(%rip), %rcx
    sub     %rdi, %rcx
    xor     %eax, %eax
    cld
    rep stosb
    lea     stack_top(%rip), %rsp
    incq    boot_record+8(%rip)         # memory is always new here: the first boot is the only one
    xor     %edi, %edi
    call    program
    mov     %eax, %edi
    call    finisher_end                # does not return
    .section .note.GNU-stack, "", @progbits
