"""Builds the flattened device tree by which a program learns what machine it runs on. Pure.

Source: Devicetree Specification 0.4, chapters 2, 3 and 5; the nodes are those of QEMU's `virt` board.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["TreeNode", "build_fdt", "machine_tree"]

_MAGIC: Final = 0xD00DFEED
_VERSION: Final = 17
_VERSION_COMPATIBLE: Final = 16
_HEADER_BYTES: Final = 40
_NO_RESERVATIONS: Final = bytes(16)
_BEGIN_NODE, _END_NODE, _PROPERTY, _END = 1, 2, 3, 9

Value = int | str | bytes | Sequence[int] | None
"""A cell, a string, raw bytes, several cells, or nothing but the property's name."""

_CPU_INTERRUPTS: Final = 1
_PLIC: Final = 2
_TEST: Final = 3
_FINISHER_PASS: Final = 0x5555
_SOFTWARE_INTERRUPT, _TIMER_INTERRUPT, _EXTERNAL_INTERRUPT = 3, 7, 11
_TIMEBASE_HZ: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeNode:
    """A node with its properties and children, in order."""

    name: str
    properties: dict[str, Value] = field(default_factory=dict)
    children: tuple["TreeNode", ...] = ()


def build_fdt(root: TreeNode) -> bytes:
    """Return the blob for a tree."""
    strings = bytearray()
    offsets: dict[str, int] = {}
    structure = _node(root, strings, offsets) + struct.pack(">I", _END)
    structure_at = _HEADER_BYTES + len(_NO_RESERVATIONS)
    strings_at = structure_at + len(structure)
    header = struct.pack(
        ">10I",
        _MAGIC,
        strings_at + len(strings),
        structure_at,
        strings_at,
        _HEADER_BYTES,
        _VERSION,
        _VERSION_COMPATIBLE,
        0,
        len(strings),
        len(structure),
    )
    return header + _NO_RESERVATIONS + structure + bytes(strings)


def _node(node: TreeNode, strings: bytearray, offsets: dict[str, int]) -> bytes:
    parts = [struct.pack(">I", _BEGIN_NODE), _padded(node.name.encode() + b"\0")]
    for name, value in node.properties.items():
        content = _encode(value)
        if name not in offsets:
            offsets[name] = len(strings)
            strings += name.encode() + b"\0"
        parts += [struct.pack(">III", _PROPERTY, len(content), offsets[name]), _padded(content)]
    parts += [_node(child, strings, offsets) for child in node.children]
    return b"".join([*parts, struct.pack(">I", _END_NODE)])


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _encode(value: Value) -> bytes:
    match value:
        case None:
            return b""
        case bytes():
            return value
        case str():
            return value.encode() + b"\0"
        case int():
            return struct.pack(">I", value)
        case _:
            return struct.pack(f">{len(value)}I", *value)


def machine_tree(*, ram_base: int, ram_bytes: int, virtio_slots: Sequence[int], command_line: str = "") -> TreeNode:
    """Describe the built-in machine with the given virtio slots (0 is at 0x10001000, interrupt 1)."""
    soc: dict[str, Value] = {"#address-cells": 2, "#size-cells": 2, "compatible": "simple-bus", "ranges": None}
    devices = (_test(), _clint(), _plic(), _serial(), *(_virtio(slot) for slot in virtio_slots))
    return TreeNode(
        name="",
        properties={"#address-cells": 2, "#size-cells": 2, "compatible": "riscv-virtio", "model": "ftvm,riscv"},
        children=(
            TreeNode(name="chosen", properties={"stdout-path": "/soc/serial@10000000", "bootargs": command_line}),
            TreeNode(
                name=f"memory@{ram_base:x}",
                properties={"device_type": "memory", "reg": _range(ram_base, ram_bytes)},
            ),
            _cpus(),
            TreeNode(name="soc", properties=soc, children=devices),
            _poweroff(),
        ),
    )


def _range(base: int, size: int) -> tuple[int, ...]:
    return (base >> 32, base & 0xFFFFFFFF, size >> 32, size & 0xFFFFFFFF)


def _cpus() -> TreeNode:
    controller: dict[str, Value] = {
        "#interrupt-cells": 1,
        "interrupt-controller": None,
        "compatible": "riscv,cpu-intc",
        "phandle": _CPU_INTERRUPTS,
    }
    cpu: dict[str, Value] = {
        "device_type": "cpu",
        "reg": 0,
        "status": "okay",
        "compatible": "riscv",
        "riscv,isa": "rv64imac_zicntr_zicsr_zifencei",
        "mmu-type": "riscv,none",
    }
    children = (TreeNode(name="interrupt-controller", properties=controller),)
    return TreeNode(
        name="cpus",
        properties={"#address-cells": 1, "#size-cells": 0, "timebase-frequency": _TIMEBASE_HZ},
        children=(TreeNode(name="cpu@0", properties=cpu, children=children),),
    )


def _test() -> TreeNode:
    compatible = b"sifive,test1\0sifive,test0\0syscon\0"
    properties: dict[str, Value] = {"compatible": compatible, "reg": _range(0x100000, 0x1000), "phandle": _TEST}
    return TreeNode(name="test@100000", properties=properties)


def _poweroff() -> TreeNode:
    """Say which word, written to the test finisher, turns the machine off."""
    properties: dict[str, Value] = {
        "compatible": "syscon-poweroff",
        "regmap": _TEST,
        "offset": 0,
        "value": _FINISHER_PASS,
    }
    return TreeNode(name="poweroff", properties=properties)


def _clint() -> TreeNode:
    wired = (_CPU_INTERRUPTS, _SOFTWARE_INTERRUPT, _CPU_INTERRUPTS, _TIMER_INTERRUPT)
    compatible = b"sifive,clint0\0riscv,clint0\0"
    properties: dict[str, Value] = {
        "compatible": compatible,
        "reg": _range(0x2000000, 0x10000),
        "interrupts-extended": wired,
    }
    return TreeNode(name="clint@2000000", properties=properties)


def _plic() -> TreeNode:
    properties: dict[str, Value] = {
        "compatible": b"sifive,plic-1.0.0\0riscv,plic0\0",
        "reg": _range(0xC000000, 0x600000),
        "#interrupt-cells": 1,
        "#address-cells": 0,
        "interrupt-controller": None,
        "interrupts-extended": (_CPU_INTERRUPTS, _EXTERNAL_INTERRUPT),
        "riscv,ndev": 31,
        "phandle": _PLIC,
    }
    return TreeNode(name="plic@c000000", properties=properties)


def _serial() -> TreeNode:
    properties: dict[str, Value] = {
        "compatible": "ns16550a",
        "reg": _range(0x10000000, 0x100),
        "clock-frequency": 3_686_400,
        "interrupts": 10,
        "interrupt-parent": _PLIC,
    }
    return TreeNode(name="serial@10000000", properties=properties)


def _virtio(slot: int) -> TreeNode:
    base = 0x10001000 + slot * 0x1000
    properties: dict[str, Value] = {
        "compatible": "virtio,mmio",
        "reg": _range(base, 0x1000),
        "interrupts": 1 + slot,
        "interrupt-parent": _PLIC,
    }
    return TreeNode(name=f"virtio_mmio@{base:x}", properties=properties)
