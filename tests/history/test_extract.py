from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.checkpoint import Geometry, GuestPosition, LogKind, LogRecord, RegionShape
from ftvm.cli.history import history
from ftvm.errors import ConfigError, HistoryError
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.machine import MachineShape
from ftvm.guests.riscv.programs import read_program
from ftvm.history.extract import inputs_between, shape_of
from ftvm.history.history import History
from ftvm.history.recording import read_recording
from ftvm.history.timeline import TimeMachine
from ftvm.runtime.alone import record
from ftvm.store.entry import Entry, EntryLevel
from ftvm.units import PageCount

from ..runtime.test_recording import wait_until
from .test_pipeline import Host


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A history of the built-in machine, asleep between the beats of its timer, recorded alone."""
    folder = tmp_path_factory.mktemp("extract") / "past"
    guest = RiscvGuest(read_program("ticks"), memory_bytes=1 << 20, command_line="beats=0 ms=2", disk=1 << 14)
    with (
        record(guest, History.open(folder, create=True), interval=0.01),
        History.open(folder) as looking,
    ):
        wait_until(lambda: len(list(looking.epochs())) > 40)
    with History.open(folder) as opened:
        yield opened


def test_the_time_machine_comes_to_the_states_of_later_epochs(past: History) -> None:
    epochs = list(past.epochs())
    first, middle, last = epochs[0], epochs[20], epochs[-1]
    recording = past.extract(first.number, last.number)

    with TimeMachine(recording) as machine:
        assert machine.end == recording.end.retired
        for epoch in (last, middle):
            assert epoch.position is not None
            guest = RiscvGuest(None, memory_bytes=1 << 20, disk=1 << 14)
            past.restore(epoch.number, guest)
            machine.go(epoch.position.retired)

            ram = bytes(guest.memory[0].buffer)
            differing = [at for at in range(0, len(ram), 4096) if ram[at : at + 4096] != page_of(machine, at)]
            guest.close()
            assert differing == []


def page_of(machine: TimeMachine, offset: int) -> bytes:
    return machine.read(0x8000_0000 + offset, 4096)


def test_a_stretch_without_a_log_is_refused_by_name(tmp_path: Path) -> None:
    host = Host(tmp_path / "past")
    host.run(30)
    host.finish()

    with History.open(tmp_path / "past") as opened, pytest.raises(ConfigError, match="only the built-in machine"):
        opened.extract(10, 20)


def test_the_command_writes_a_file_for_the_time_machine(past: History, tmp_path: Path) -> None:
    numbers = [epoch.number for epoch in past.epochs()]
    file = tmp_path / "stretch"

    said = CliRunner().invoke(history, ["extract", *map(str, (past.folder, numbers[0], numbers[9], file))])

    assert said.exit_code == 0
    assert read_recording(file) == past.extract(numbers[0], numbers[9])
    assert f"up to instruction {read_recording(file).end.retired}" in said.output


def test_epochs_that_are_gone_or_in_the_wrong_order_are_refused(past: History) -> None:
    numbers = [epoch.number for epoch in past.epochs()]

    with pytest.raises(ConfigError, match="not before"):
        past.extract(numbers[5], numbers[2])
    with pytest.raises(HistoryError):
        past.extract(numbers[0], numbers[-1] + 1_000)


@pytest.mark.parametrize(
    ("memory_bytes", "disk", "mac"),
    [
        ((1 << 20) + (1 << 13), 1 << 13, bytes.fromhex("525400123456")),
        (1 << 20, 1 << 14, bytes.fromhex("525400123457")),
    ],
    ids=["other regions", "another card"],
)
def test_a_guest_of_the_same_size_and_another_shape_is_not_restored_into(
    past: History, memory_bytes: int, disk: int, mac: bytes
) -> None:
    guest = RiscvGuest(None, memory_bytes=memory_bytes, disk=disk, mac=mac)
    try:
        assert guest.geometry.page_count == past.geometry.page_count
        with pytest.raises(ConfigError, match="is not the one of the history"):
            past.restore(list(past.epochs())[-1].number, guest)
    finally:
        guest.close()


def test_a_machines_shape_is_read_from_its_geometry() -> None:
    shape = MachineShape(ram_bytes=1 << 20, mac=bytes(range(6)), disk_bytes=1 << 14, has_entropy=True)
    regions = (RegionShape(name="ram", page_count=PageCount(256)),)

    assert shape_of(Geometry(machine=str(shape), regions=regions)) == shape


def kept(index: int) -> LogRecord:
    return LogRecord(index=index, kind=LogKind.CLOCK, position=GuestPosition(10 * index, index), amount=1)


BEFORE = Entry(
    level=EntryLevel.FINE, base=1, epoch=2, time_ns=1, output_next=3, log_index=4, position=GuestPosition(45, 4)
)
WHOLE = replace(
    BEFORE,
    base=2,
    epoch=3,
    output_next=4,
    log_index=7,
    position=GuestPosition(75, 7),
    log=(kept(5), kept(6), kept(7)),
)


def test_an_unbroken_log_follows() -> None:
    idle = replace(BEFORE, base=2, epoch=3, position=GuestPosition(60, 4))

    assert inputs_between(BEFORE, [WHOLE]) == WHOLE.log
    assert inputs_between(BEFORE, [idle]) == ()


@pytest.mark.parametrize(
    "broken",
    [
        replace(WHOLE, log=WHOLE.log[1:]),
        replace(WHOLE, log=WHOLE.log[:-1]),
        replace(WHOLE, log=(kept(5), kept(7))),
        replace(WHOLE, log=(kept(6), kept(7), kept(8))),
        replace(WHOLE, log=(), log_index=4, position=GuestPosition(75, 4)),
        replace(WHOLE, log=(), log_index=4, output_next=3),
    ],
    ids=["first", "last", "middle", "all one later", "an output alone", "a wait alone"],
)
def test_a_record_of_the_log_that_is_missing_is_found_wherever_it_was(broken: Entry) -> None:
    with pytest.raises(HistoryError, match="the inputs of epoch 3 are not in the history"):
        inputs_between(BEFORE, [broken])
