# start: Linux enters a program with sp set up; init needs nothing else and never returns.
    .section .text.start, "ax"
    .globl _start
_start:
    andi    sp, sp, -16
    tail    init
