"""A recording holds all that leads a machine the same way again, in memory and in a file."""

import struct
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape
from ftvm.guests.riscv.programs import read_program
from ftvm.guests.riscv.standalone import run_standalone
from ftvm.history.hooks import Hooks, InputLog
from ftvm.history.recording import RecordedMachine, Recording, read_recording, write_recording

from .past import kv_past, recorded

DISK = MachineShape(ram_bytes=8 << 20, disk_bytes=1 << 20)


def standalone(name: str, shape: MachineShape, keys: bytes = b"") -> tuple[RecordedMachine, Recording]:
    machine = recorded(read_program(name), shape)
    run_standalone(machine, say=lambda _: None, keys=keys, instructions_max=2_000_000)
    return machine, machine.recording()


def fingerprint(machine: Machine) -> str:
    memory = xxhash.xxh3_128(machine.save())
    memory.update(machine.ram.buffer)
    memory.update(machine.disk.buffer if machine.disk is not None else b"")
    return memory.hexdigest()


@pytest.mark.parametrize(("name", "keys"), [("ticks", b""), ("journal", b""), ("console", b"hello\nquit\n")])
def test_a_recording_leads_another_machine_to_the_same_end(name: str, keys: bytes) -> None:
    machine, past = standalone(name, DISK, keys)
    other = Machine(past.shape)

    past.restore(other)
    Hooks(other).replay(InputLog(past.inputs), 0, until=past.end.retired)

    assert other.position == machine.position
    assert fingerprint(other) == fingerprint(machine)


def test_a_machine_that_is_recorded_runs_as_one_that_is_not() -> None:
    plain = Machine(DISK)
    plain.boot(parse_elf(read_program("ticks"), ram_base=RAM_BASE, ram_bytes=DISK.ram_bytes))
    expected = run_standalone(plain, say=lambda _: None, instructions_max=2_000_000)

    machine = recorded(read_program("ticks"), DISK)

    assert run_standalone(machine, say=lambda _: None, instructions_max=2_000_000) == expected


def test_what_a_device_had_no_room_for_is_not_recorded() -> None:
    machine = recorded(read_program("hello"), MachineShape(ram_bytes=8 << 20))

    taken = machine.receive_console(b"x" * 100)
    machine.receive_frame(b"x" * 60)

    assert [record.payload for record in machine.recording().inputs] == [b"x" * taken]


def test_a_recording_comes_back_from_its_file(tmp_path: Path) -> None:
    past = kv_past(5)

    write_recording(tmp_path / "kv.rec", past)

    assert read_recording(tmp_path / "kv.rec") == past
    assert (tmp_path / "kv.rec").stat().st_mode & 0o077 == 0


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("recording") / "r"
    write_recording(file, standalone("ticks", DISK)[1])
    return file.read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: b"", "is not a recording"),
        (lambda whole: b"ELF" + whole, "is not a recording"),
        (lambda whole: whole[:-1], "is damaged"),
        (lambda whole: whole[:200] + b"x" + whole[201:], "is damaged"),
        (lambda whole: whole[:8] + b"\2" + whole[9:], "is a recording of version 2; this ftvm reads version 1"),
    ],
    ids=["empty", "other", "short", "changed", "version"],
)
def test_a_file_that_is_not_a_whole_recording_is_named(
    content: bytes, change: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "r").write_bytes(change(content))

    with pytest.raises(ConfigError, match=f"r {reason}"):
        read_recording(tmp_path / "r")


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recording(tmp_path / "gone")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_recording(tmp_path / "gone" / "r", standalone("ticks", DISK)[1])


@given(junk=st.binary(max_size=300), at=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_refused(
    content: bytes, junk: bytes, at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("junk") / "r"
    file.write_bytes(content[:at] + junk)

    with pytest.raises(ConfigError):
        read_recording(file)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pages": []},
        {"end": ["a", -1]},
        {"end": [1 << 63, -1]},
        {"shape": [-4096, None, 0, False]},
        {"shape": [1 << 20, None, -4096, False]},
        {"state": 1 << 40},
        {"inputs": [[True, 0, 0, 0, "a", 1 << 40]]},
    ],
    ids=str,
)
def test_a_whole_file_whose_fields_make_no_sense_is_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    fields = {"shape": [1 << 20, None, 0, False], "state": b"", "pages": {}, "inputs": [], "end": [0, 0]}
    body = msgpack.packb(fields | wrong)
    packed = lz4.frame.compress(body)
    header = struct.pack("<8sIIQ16s", b"FTVMREC\0", 1, 0, len(body), xxhash.xxh3_128_digest(packed))
    (tmp_path / "r").write_bytes(header + packed)

    with pytest.raises(ConfigError):
        read_recording(tmp_path / "r")


def test_a_recording_is_its_owners_alone_also_where_a_file_was_there(tmp_path: Path) -> None:
    (tmp_path / "r").touch(mode=0o666)
    (tmp_path / "r").chmod(0o666)

    write_recording(tmp_path / "r", standalone("ticks", DISK)[1])

    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
