# start: Linux enters a program with rsp on its arguments; the service needs none of them and never returns.
    .globl _start
_start:
    xor     %ebp, %ebp
    and     $-16, %rsp
    call    init
    .section .note.GNU-stack, "", @progbits
