"""A guest that starts in a second: a boot sector that counts in memory and says a letter each time that a byte is over.

again: incw 0x8000               count (ds = 0)
       mov 0x8000, %cx
       es = 0x2000 + (cx & 63) * 256; mov %cx, %es:0       into one of 64 pages
       test %cl, %cl; jnz wait
       out 'A' + (ch & 15), 0x3f8                           to the serial port
wait:  loop 500 times; jmp again
"""

from pathlib import Path

from ftvm.guests.qemu import QemuGuest, QemuMachine

__all__ = ["DISK_BYTES", "LETTERS", "REBOOTING", "tiny_guest"]

CODE = bytes.fromhex(
    "31c08ed8ff0600808b0e008089c883e03fc1e0080500208ec026890e000084c9750abaf80388e8240f0441eeb9f401e2feebd1"
)
REBOOTING = bytes.fromhex("baf803b042eebafd03eca80174fbb0fee664f4ebfd")
"""Says B, waits for a key, and has the keyboard controller reset the machine."""
DISK_BYTES = 4 << 20
STILL_CLOCK = ("-rtc", "clock=vm")
"""By default a PC's calendar clock goes on while the machine stands still, and its saved state with it."""
LETTERS = b"BCDEFGHIJKLMNOPA"


def tiny_guest(folder: Path, number: int, *, boots: bool = True, code: bytes = CODE) -> QemuGuest:
    """Make one that stands before its first instruction, with its own disk in `folder`."""
    path = folder / f"tiny{number}.img"
    path.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(DISK_BYTES, b"\0") if boots else bytes(DISK_BYTES))
    return QemuGuest(
        QemuMachine(memory_bytes=16 << 20, disk_bytes=DISK_BYTES, arguments=STILL_CLOCK), boots=boots, disk=str(path)
    )
