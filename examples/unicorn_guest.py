"""Protect a CPU emulator that knows nothing of ftvm: unicorn (`pip install ftvm[unicorn]`). Run it: hosts get killed.

The emulator works in memory that we give it, so ftvm can read and track it; the registers are the devices; an `out`
instruction is an output. An emulator runs a slice at a time: that is a turn, and all else is in ftvm.ThreadedGuest.
"""

# ruff: noqa: D102 - ftvm.ThreadedGuest says what each method must do

import ctypes
import struct

import unicorn
from unicorn import x86_const as x86

import ftvm

CODE, PAGES = 0x100000, 16
SLICE = 500  # instructions
REGISTERS = (x86.UC_X86_REG_RIP, x86.UC_X86_REG_EFLAGS, x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RDX)
DEVICES = struct.Struct(f"<4s{len(REGISTERS)}Q")

PROGRAM = bytes.fromhex(
    "48ffc0"  #         again: inc rax
    "4801c2"  #                add rdx, rax
    "4889c3"  #                mov rbx, rax
    "81e3ff7f0000"  #          and ebx, 0x7fff
    "48899300101000"  #        mov [rbx + 0x101000], rdx
    "a9ff000000"  #            test eax, 0xff
    "75e3"  #                  jne again
    "e701"  #                  out 1, eax
    "ebdf"  #                  jmp again
)


class UnicornGuest(ftvm.ThreadedGuest):
    """An x86-64 machine that adds up all numbers and tells every 256th."""

    def __init__(self, boots=True):
        super().__init__(f"unicorn/{unicorn.__version__} x86-64", page_count=PAGES)
        self.arena[: len(PROGRAM)] = PROGRAM if boots else bytes(len(PROGRAM))  # a standby's comes over the wire
        self.machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.cell = ctypes.c_char.from_buffer(self.arena)  # kept, for the emulator has only its address
        self.machine.mem_map_ptr(CODE, len(self.arena), unicorn.UC_PROT_ALL, ctypes.addressof(self.cell))
        self.machine.reg_write(x86.UC_X86_REG_RIP, CODE)
        self.machine.hook_add(unicorn.UC_HOOK_INSN, self.tell, None, 1, 0, x86.UC_X86_INS_OUT)

    def turn(self):
        self.machine.emu_start(self.machine.reg_read(x86.UC_X86_REG_RIP), 0, count=SLICE)
        return 0.001  # seconds in which others may have the processor

    def tell(self, _machine, port, _size, value, _data):
        total = self.machine.reg_read(x86.UC_X86_REG_RDX)
        self.emit(f"port{port}", f"the numbers up to {value} make {total}".encode())

    def save(self):
        return DEVICES.pack(b"UNIC", *map(self.machine.reg_read, REGISTERS))

    def load(self, devices):
        if len(devices) != DEVICES.size or devices[:4] != b"UNIC":
            raise ftvm.GuestError(f"{len(devices)} bytes are no registers of this machine")
        for register, value in zip(REGISTERS, DEVICES.unpack(devices)[1:], strict=True):
            self.machine.reg_write(register, value)
        self.machine.ctl_flush_tb()  # the code it has translated may not be the code that came


if __name__ == "__main__":
    import failover_demo

    failover_demo.main(UnicornGuest)
