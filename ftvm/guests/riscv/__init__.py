"""The built-in machine: a deterministic RISC-V computer that runs real compiled programs on both hosts.

fdt.py describes the machine to programs, machine.py is the C core's one wrapper, guest.py makes it a `Guest`: a thread
that runs it, paced by a clock.
"""

from ftvm.guests.riscv.guest import RiscvGuest

__all__ = ["RiscvGuest"]
