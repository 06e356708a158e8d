"""What a kernel finds in memory when it begins: all parts where they are said to be, none over another."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError, ImageError
from ftvm.guests.kvm import KvmGuest, KvmSystem
from ftvm.guests.kvm.boot import PAGE_TABLE, page_tables
from ftvm.guests.kvm.machine import KvmShape
from ftvm.guests.kvm.system import BOOT_PARAMETERS, SEGMENTS, place_system

from .baresystem import MIB, kernel

BODY = bytes(range(256)) * 40


@pytest.fixture(scope="session", autouse=True)
def kvm() -> None:
    """These tests run everywhere."""


@given(
    ramdisk=st.binary(max_size=9000),
    line=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100),
    ram_mib=st.integers(4, 16),
    sectors=st.integers(1, 64),
)
def test_the_kernel_finds_each_part_where_the_boot_parameters_say(
    ramdisk: bytes, line: str, ram_mib: int, sectors: int
) -> None:
    ram = bytearray(ram_mib * MIB)
    system = KvmSystem(kernel=kernel(BODY, sectors=sectors), ramdisk=ramdisk, command_line=line)

    entry = place_system(system, memoryview(ram), processors=1, slots=[0])

    parameters = ram[BOOT_PARAMETERS : BOOT_PARAMETERS + 4096]
    assert entry == MIB + 0x200
    assert ram[MIB : MIB + len(BODY)] == BODY
    assert parameters[0x202:0x206] == b"HdrS"
    (line_at,) = struct.unpack_from("<I", parameters, 0x228)
    assert ram[line_at : line_at + len(line) + 1] == line.encode() + b"\0"
    at, length = struct.unpack_from("<II", parameters, 0x218)
    assert length == len(ramdisk)
    assert ram[at : at + length] == ramdisk
    (root,) = struct.unpack_from("<Q", parameters, 0x70)
    assert ram[root : root + 8] == b"RSD PTR "
    assert ram[PAGE_TABLE : PAGE_TABLE + len(page_tables())] == page_tables()
    assert ram[SEGMENTS + 16 : SEGMENTS + 24] == bytes.fromhex("ffff0000009baf00")


@given(ram_mib=st.integers(4, 16))
def test_the_memory_map_covers_all_ram_once_and_keeps_the_tables(ram_mib: int) -> None:
    ram = bytearray(ram_mib * MIB)

    place_system(KvmSystem(kernel=kernel(BODY)), memoryview(ram), processors=1, slots=[])

    count = ram[BOOT_PARAMETERS + 0x1E8]
    ranges = [struct.unpack_from("<QQI", ram, BOOT_PARAMETERS + 0x2D0 + 20 * number) for number in range(count)]
    end = 0
    for start, size, _ in ranges:
        assert start == end
        end += size
    assert end == len(ram)
    assert [kind for start, size, kind in ranges if start <= 0xE0000 < start + size] == [2]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (kernel(BODY, magic=b"ELF?"), "no Linux kernel for x86"),
        (b"", "no Linux kernel for x86"),
        (kernel(BODY, version=0x20B), "no 64-bit entry"),
        (kernel(BODY, flags=0), "no 64-bit entry"),
        (kernel(BODY, address=1 << 40), "where this machine cannot put it"),
        (kernel(BODY, needs=100 * MIB), "need more memory: at least 101 MiB"),
    ],
)
def test_what_cannot_boot_is_refused_with_the_reason_and_nothing_is_written(image: bytes, reason: str) -> None:
    ram = bytearray(4 * MIB)

    with pytest.raises(ImageError, match=reason):
        place_system(KvmSystem(kernel=image), memoryview(ram), processors=1, slots=[])

    assert not any(ram)


def test_a_command_line_that_the_kernel_would_cut_is_refused() -> None:
    system = KvmSystem(kernel=kernel(BODY), command_line="x" * 2048)

    with pytest.raises(ImageError, match="has 2048 bytes: it takes 2047 at most"):
        place_system(system, memoryview(bytearray(4 * MIB)), processors=1, slots=[])


def test_a_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    system = KvmSystem(kernel=tmp_path / "vmlinuz")

    with pytest.raises(ConfigError, match="vmlinuz cannot be read"):
        place_system(system, memoryview(bytearray(4 * MIB)), processors=1, slots=[])


def test_a_system_needs_processors_and_a_program_takes_none() -> None:
    with pytest.raises(ConfigError, match="processors=1 or more"):
        KvmGuest(KvmSystem(kernel=b""))
    with pytest.raises(ConfigError, match="leave out `processors`"):
        KvmGuest(b"", processors=1)


def test_a_shape_tells_its_processors_only_if_it_runs_a_system() -> None:
    assert "processors" not in str(KvmShape())
    assert "processors=2" in str(KvmShape(processors=2))
    with pytest.raises(ConfigError, match="1 to 4 processors, not 5"):
        KvmShape(processors=5)
