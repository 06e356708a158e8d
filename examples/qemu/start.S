# start: Linux enters a program with rsp on its arguments; they are passed on, and init never returns.
    .globl _start
_start:
    xor     %ebp, %ebp
    mov     %rsp, %rdi
    and     $-16, %rsp
    call    init
    .section .note.GNU-stack, "", @progbits
