"""The ACPI tables by which a system finds a KVM machine's processors, interrupts, console and virtio devices. Pure.

The machine has none of a personal computer's old parts, and the tables say so ("hardware-reduced"): no timer chip, no
keyboard, no clock chip, no PCI. Devices are described in AML, as a firmware's compiler would write it.

Source: ACPI specification 6.5, chapters 5 (tables), 6.4 (resources), 19 and 20 (AML).
"""

import struct
from collections.abc import Sequence
from typing import Final

__all__ = ["VIRTIO_BASE", "VIRTIO_BYTES", "acpi_tables"]

VIRTIO_BASE: Final = 0xD000_0000
VIRTIO_BYTES: Final = 0x1000
"""Where the virtio devices are, and what each takes; see kvm.h."""

_UART_PORT: Final = 0x3F8
_SLEEP_PORT: Final = 0x608
_SLEEP_STATUS_PORT: Final = 0x609
_RESET_PORT: Final = 0x60A
_RESET_VALUE: Final = 1
_OFF: Final = 5
"""What the machine is written to switch itself off: any value would do, this one other machines use, too."""

_LOCAL_APIC: Final = 0xFEE0_0000
_IO_APIC: Final = 0xFEC0_0000
_FIRST_LINE: Final = 16
"""Interrupt of the line with bit 0; see KVM_LINE_BASE."""
_UART_LINE: Final = _FIRST_LINE + 4

_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
_OEM: Final = (b"FTVM  ", b"FTVMKVM ", 1, b"FTVM", 1)


def acpi_tables(address: int, *, processors: int, slots: Sequence[int]) -> bytes:
    """Return the tables, to be put at `address`, a multiple of 16 below 4 GiB; the first is the one to find them by.

    `slots` are the places of virtio devices with one: 0 network, 1 disk, 2 entropy. Takes about 1 KiB.
    """
    placed = bytearray(_aligned(bytes(36)))  # the root pointer, once it is known what it points to

    def place(table: bytes) -> int:
        at = address + len(placed)
        placed.extend(_aligned(table))
        return at

    description = place(_table(b"DSDT", 2, _description(slots)))
    entries = [place(_facts(description)), place(_interrupts(processors))]
    root = place(_table(b"XSDT", 1, struct.pack(f"<{len(entries)}Q", *entries)))
    placed[:36] = _root_pointer(root)
    return bytes(placed)


def _aligned(table: bytes) -> bytes:
    return table + bytes(-len(table) % 16)


def _sum_to_zero(part: bytearray) -> int:
    return -sum(part) & 0xFF


def _root_pointer(root: int) -> bytes:
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, _OEM[0], 2, 0))
    first[8] = _sum_to_zero(first)
    whole = bytearray(first + struct.pack("<IQB3x", 36, root, 0))
    whole[32] = _sum_to_zero(whole)
    return bytes(whole)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    table = bytearray(_HEADER.pack(signature, _HEADER.size + len(body), revision, 0, *_OEM) + body)
    table[9] = _sum_to_zero(table)
    return bytes(table)


def _port(address: int) -> bytes:
    """Return the generic address of a port of one byte."""
    return struct.pack("<BBBBQ", 1, 8, 0, 1, address)


def _facts(description: int) -> bytes:
    """Return the fixed table: what there is not, and how the machine is switched off and reset."""
    body = bytearray(276 - _HEADER.size)

    def put(offset: int, content: bytes) -> None:
        body[offset - _HEADER.size : offset - _HEADER.size + len(content)] = content

    no_display, no_message_interrupts, no_clock_chip = 1 << 2, 1 << 3, 1 << 5
    reset_register, hardware_reduced = 1 << 10, 1 << 20
    put(109, struct.pack("<H", no_display | no_message_interrupts | no_clock_chip))
    put(112, struct.pack("<I", reset_register | hardware_reduced | 1 << 4 | 1 << 5))  # no buttons of the old kind
    put(116, _port(_RESET_PORT) + bytes([_RESET_VALUE]))
    put(131, b"\5")  # the minor version: 6.5
    put(140, struct.pack("<Q", description))
    put(244, _port(_SLEEP_PORT) + _port(_SLEEP_STATUS_PORT))
    return _table(b"FACP", 6, bytes(body))


def _interrupts(processors: int) -> bytes:
    """Return the table of interrupt controllers: one in each processor, and one for all devices."""
    local = b"".join(struct.pack("<BBBBI", 0, 8, number, number, 1) for number in range(processors))
    common = struct.pack("<BBBBII", 1, 12, 0, 0, _IO_APIC, 0)
    return _table(b"APIC", 6, struct.pack("<II", _LOCAL_APIC, 0) + local + common)


# --- AML ---


def _description(slots: Sequence[int]) -> bytes:
    """Return the devices, and the state in which the machine is off."""
    console = _device(
        "COM1",
        _name("_HID", _eisa("PNP0501")),
        _name("_UID", _integer(0)),
        _name("_CRS", _resources(_io_ports(_UART_PORT, 8), _interrupt(_UART_LINE, is_by_edge=True))),
    )
    virtio = [
        _device(
            f"VR{slot:02}",
            _name("_HID", b"\x0dLNRO0005\0"),
            _name("_UID", _integer(slot)),
            _name(
                "_CRS",
                _resources(
                    _memory(VIRTIO_BASE + slot * VIRTIO_BYTES, VIRTIO_BYTES),
                    _interrupt(_FIRST_LINE + 1 + slot, is_by_edge=False),
                ),
            ),
        )
        for slot in slots
    ]
    return _scope("\\_SB_", console, *virtio) + _name("_S5_", _package(_integer(_OFF)))


def _with_length(content: bytes) -> bytes:
    """Put before some content how long it is, with the length itself."""
    if len(content) + 1 < 1 << 6:
        return bytes([len(content) + 1]) + content
    length = len(content) + 3
    if length >= 1 << 20:
        raise ValueError("more AML than three bytes can measure")
    return bytes([2 << 6 | length & 0xF, length >> 4 & 0xFF, length >> 12]) + content


def _scope(name: str, *parts: bytes) -> bytes:
    return b"\x10" + _with_length(name.encode() + b"".join(parts))


def _device(name: str, *parts: bytes) -> bytes:
    return b"\x5b\x82" + _with_length(name.encode() + b"".join(parts))


def _name(name: str, value: bytes) -> bytes:
    return b"\x08" + name.encode() + value


def _integer(value: int) -> bytes:
    return bytes([value]) if value < 2 else b"\x0a" + bytes([value])


def _package(*elements: bytes) -> bytes:
    return b"\x12" + _with_length(bytes([len(elements)]) + b"".join(elements))


def _eisa(name: str) -> bytes:
    """Return the compressed form of a name like PNP0501."""
    letters = [ord(letter) - 0x40 for letter in name[:3]]
    packed = letters[0] << 10 | letters[1] << 5 | letters[2]
    return b"\x0c" + struct.pack(">HH", packed, int(name[3:], 16))


def _resources(*parts: bytes) -> bytes:
    content = b"".join(parts) + b"\x79\0"
    return b"\x11" + _with_length(b"\x0b" + struct.pack("<H", len(content)) + content)


def _io_ports(first: int, count: int) -> bytes:
    return struct.pack("<BBHHBB", 0x47, 1, first, first, 1, count)


def _memory(base: int, size: int) -> bytes:
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def _interrupt(line: int, *, is_by_edge: bool) -> bytes:
    return struct.pack("<BHBBI", 0x89, 6, 1 | is_by_edge << 1, 1, line)
