"""The tables of a KVM machine say what it has, in the form that a system reads: by a reader written for these tests."""

import struct
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.guests.kvm.acpi import VIRTIO_BASE, acpi_tables

ADDRESS = 0xE0000
shapes = st.tuples(st.integers(1, 4), st.sets(st.integers(0, 2)).map(sorted))


@pytest.fixture(scope="session", autouse=True)
def kvm() -> None:
    """These tests run everywhere."""


def tables(processors: int, slots: Sequence[int], address: int = ADDRESS) -> dict[bytes, bytes]:
    """Find all tables as a system does, by the addresses in them; each must sum to zero."""
    image = acpi_tables(address, processors=processors, slots=slots)

    def at(place: int) -> bytes:
        (length,) = struct.unpack_from("<I", image, place - address + 4)
        table = image[place - address : place - address + length]
        assert len(table) == length
        assert sum(table) % 256 == 0
        return table

    assert image[:8] == b"RSD PTR "
    assert sum(image[:20]) % 256 == sum(image[:36]) % 256 == 0
    root = at(struct.unpack_from("<Q", image, 24)[0])
    found = [at(entry) for (entry,) in struct.iter_unpack("<Q", root[36:])]
    facts = next(table for table in found if table[:4] == b"FACP")
    found += [root, at(struct.unpack_from("<Q", facts, 140)[0])]
    return {table[:4]: table for table in found}


def package(aml: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a package begins, and where it ends."""
    more = aml[at] >> 6
    length = aml[at] & (0x3F if not more else 0xF)
    for number in range(more):
        length |= aml[at + 1 + number] << (4 + 8 * number)
    return at + 1 + more, at + length


def devices(aml: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each device in the first scope."""
    assert aml[0] == 0x10
    at, end = package(aml, 1)
    assert aml[at : at + 4] == b"\\_SB_"[:4]
    at += 5
    while at < end:
        assert aml[at : at + 2] == b"\x5b\x82"
        start, stop = package(aml, at + 2)
        yield aml[start : start + 4], aml[start + 4 : stop]
        at = stop
    assert at == end


@given(shapes, st.integers(0x1000, 0xFFFFF).map(lambda page: page << 4))
def test_all_tables_are_found_and_sum_to_zero_wherever_they_lie(shape: tuple[int, list[int]], address: int) -> None:
    assert set(tables(*shape, address=address)) == {b"XSDT", b"FACP", b"APIC", b"DSDT"}


@given(shapes)
def test_each_device_is_named_with_its_place_and_its_interrupt(shape: tuple[int, list[int]]) -> None:
    _, slots = shape

    found = dict(devices(tables(*shape)[b"DSDT"][36:]))

    assert list(found) == [b"COM1", *(f"VR{slot:02}".encode() for slot in slots)]
    for slot in slots:
        content = found[f"VR{slot:02}".encode()]
        assert b"LNRO0005\0" in content
        assert struct.pack("<BHBII", 0x86, 9, 1, VIRTIO_BASE + slot * 0x1000, 0x1000) in content
        assert struct.pack("<BHBBI", 0x89, 6, 1, 1, 17 + slot) in content
    assert struct.pack("<BHBBI", 0x89, 6, 3, 1, 20) in found[b"COM1"]


@given(shapes)
def test_each_processor_has_an_entry_and_all_share_one_controller(shape: tuple[int, list[int]]) -> None:
    processors, _ = shape
    entries, rest = [], tables(*shape)[b"APIC"][44:]

    while rest:
        entries.append(rest[: rest[1]])
        rest = rest[rest[1] :]

    local = [struct.unpack("<BBBBI", entry) for entry in entries if entry[0] == 0]
    assert local == [(0, 8, number, number, 1) for number in range(processors)]
    assert [entry[0] for entry in entries].count(1) == 1
    assert len(entries) == processors + 1


def test_the_system_is_told_that_it_has_no_old_parts_and_how_to_switch_off() -> None:
    facts = tables(1, [])[b"FACP"]

    assert struct.unpack_from("<I", facts, 112)[0] & 1 << 20  # hardware-reduced
    assert struct.unpack_from("<BBBBQ", facts, 244) == (1, 8, 0, 1, 0x608)
    assert b"_S5_\x12" in tables(1, [])[b"DSDT"]
