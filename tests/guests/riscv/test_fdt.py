import struct

from ftvm.guests.riscv.fdt import TreeNode, build_fdt, machine_tree

BEGIN, END_NODE, PROPERTY, END = 1, 2, 3, 9


def read(blob: bytes) -> dict[str, dict[str, bytes]]:
    """Return the properties of each node by its path; written from the specification's layout alone."""
    magic, total, structure_at, strings_at, _, version, _, _, _, structure_bytes = struct.unpack_from(">10I", blob)
    assert (magic, total, version) == (0xD00DFEED, len(blob), 17)
    nodes: dict[str, dict[str, bytes]] = {}
    path: list[str] = []
    at = structure_at
    while (token := struct.unpack_from(">I", blob, at)[0]) != END:
        at += 4
        if token == BEGIN:
            name = blob[at : blob.index(0, at)].decode()
            at += (len(name) + 4) & ~3
            path.append(name)
            nodes["/".join(path)] = {}
        elif token == END_NODE:
            path.pop()
        else:
            assert token == PROPERTY
            length, name_at = struct.unpack_from(">II", blob, at)
            start = strings_at + name_at
            key = blob[start : blob.index(0, start)].decode()
            nodes["/".join(path)][key] = blob[at + 8 : at + 8 + length]
            at += 8 + (length + 3 & ~3)
    assert at + 4 == structure_at + structure_bytes
    assert not path
    return nodes


def test_each_kind_of_value_is_laid_out_as_the_specification_says() -> None:
    root = TreeNode(name="", properties={"cell": 7, "text": "ab", "cells": (1, 2), "raw": b"\1", "empty": None})

    nodes = read(build_fdt(root))

    assert nodes[""] == {
        "cell": b"\0\0\0\7",
        "text": b"ab\0",
        "cells": b"\0\0\0\1\0\0\0\2",
        "raw": b"\1",
        "empty": b"",
    }


def test_the_machines_tree_names_its_memory_and_only_the_devices_plugged_in() -> None:
    tree = machine_tree(ram_base=0x80000000, ram_bytes=64 << 20, virtio_slots=(0, 2), command_line="host=3")

    nodes = read(build_fdt(tree))

    assert nodes["/memory@80000000"]["reg"] == struct.pack(">QQ", 0x80000000, 64 << 20)
    assert nodes["/chosen"]["bootargs"] == b"host=3\0"
    assert nodes["/soc/virtio_mmio@10001000"]["interrupts"] == b"\0\0\0\1"
    assert nodes["/soc/virtio_mmio@10003000"]["interrupts"] == b"\0\0\0\3"
    assert "/soc/virtio_mmio@10002000" not in nodes
    assert nodes["/cpus"]["timebase-frequency"] == struct.pack(">I", 10_000_000)
