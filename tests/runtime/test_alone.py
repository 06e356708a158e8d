"""A guest of any kind that runs alone is recorded, and each epoch restores into another that goes on from there."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from ftvm.checkpoint import Output
from ftvm.errors import ConfigError, GuestError
from ftvm.events import Event, GuestFinished, HostServiceFailed
from ftvm.guests.kvm import KvmGuest
from ftvm.guests.kvm.machine import check_device
from ftvm.guests.kvm.programs import read_program as read_kvm_program
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.history.history import History
from ftvm.interfaces import Guest
from ftvm.runtime import capture
from ftvm.runtime.alone import record
from ftvm.runtime.world import CallbackWorld

from ..guests.qemu.tiny import tiny_guest
from .test_recording import wait_until


def riscv_guest(folder: Path, *, boots: bool) -> Guest:
    del folder
    program = read_program("ticks") if boots else None
    return RiscvGuest(program, memory_bytes=2 << 20, disk=1 << 16, command_line="beats=0 ms=2")


def kvm_guest(folder: Path, *, boots: bool) -> Guest:
    del folder
    try:
        check_device()
    except ConfigError as wrong:
        pytest.skip(f"needs KVM: {wrong}")
    return KvmGuest(read_kvm_program("work") if boots else None, memory_bytes=4 << 20, mac=None)


def qemu_guest(folder: Path, *, boots: bool) -> Guest:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")
    return tiny_guest(folder, int(boots), boots=boots)


@pytest.mark.parametrize("make", [riscv_guest, kvm_guest, qemu_guest])
def test_each_kind_of_guest_is_recorded_and_restored(tmp_path: Path, make: Callable[..., Guest]) -> None:
    heard: list[Output] = []
    with (
        record(
            make(tmp_path, boots=True),
            History.open(tmp_path / "past", create=True),
            world=CallbackWorld(heard.append),
        ) as recording,
        History.open(tmp_path / "past") as looking,
    ):
        wait_until(lambda: len(list(looking.epochs())) > 20 or recording.failure)
        assert recording.failure is None

    assert [output.number for output in heard] == list(range(1, len(heard) + 1))
    with History.open(tmp_path / "past") as past:
        epochs = list(past.epochs())
        assert list(past.verify()) == []
        assert len(past.diff(epochs[1].number, epochs[15].number)) > 0
        with past.clone(epochs[1].number, make(tmp_path, boots=False)) as clone:
            clone.resume()
            wait_until(lambda: sum((clone.compared.same, clone.compared.beyond)) > 0 or clone.failure())
            is_exact = make is not qemu_guest  # QEMU hands on what its serial port says in other pieces each time
            assert clone.compared.different is None or not is_exact


def test_all_that_it_was_given_and_said_comes_with_its_epochs(tmp_path: Path) -> None:
    with (
        record(riscv_guest(tmp_path, boots=True), History.open(tmp_path / "past", create=True)),
        History.open(tmp_path / "past") as looking,
    ):
        wait_until(lambda: len(list(looking.epochs())) > 20)

    with History.open(tmp_path / "past") as past:
        first, last = (list(past.epochs())[place].number for place in (0, -1))
        begin, entries = past.entry(first), list(past.entries(first, last))
    records = [record for entry in entries for record in entry.log]
    outputs = [output for entry in entries for output in entry.outputs]
    assert [record.index for record in records] == list(range(begin.log_index + 1, entries[-1].log_index + 1))
    assert [output.number for output in outputs] == list(range(begin.output_next, entries[-1].output_next))


def test_a_guest_whose_recording_fails_runs_on(tmp_path: Path) -> None:
    events: list[Event] = []
    heard: list[Output] = []
    guest = riscv_guest(tmp_path, boots=True)
    history = History.open(tmp_path / "past", create=True)
    real = os.pwrite

    def full(descriptor: int, content: bytes, offset: int) -> int:
        if threading.current_thread().name == "ftvm-history":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content, offset)

    with (
        mock.patch.object(os, "pwrite", full),
        record(guest, history, world=CallbackWorld(heard.append), on_event=events.append) as recording,
    ):
        wait_until(lambda: recording.failure)
        count = len(heard)
        wait_until(lambda: len(heard) > count + 5)

    assert any(isinstance(event, HostServiceFailed) and "disk is full" in event.error for event in events)


def test_a_guest_runs_on_that_could_not_be_recorded_for_want_of_memory(tmp_path: Path) -> None:
    heard: list[Output] = []
    events: list[Event] = []
    guest = riscv_guest(tmp_path, boots=True)
    history, world = History.open(tmp_path / "past", create=True), CallbackWorld(heard.append)

    with record(guest, history, world=world, on_event=events.append) as recording:
        with mock.patch.object(capture, "capture_fused", side_effect=MemoryError):
            wait_until(lambda: recording.failure)
        count = len(heard)
        wait_until(lambda: len(heard) > count + 5)

    assert [event.error for event in events if isinstance(event, HostServiceFailed)] == [
        "an epoch could not be captured: MemoryError: "
    ]


def test_what_was_said_before_a_cut_that_fails_is_let_out_all_the_same(tmp_path: Path) -> None:
    heard: list[Output] = []
    guest = riscv_guest(tmp_path, boots=True)

    with record(guest, History.open(tmp_path / "past", create=True), world=CallbackWorld(heard.append)) as recording:
        wait_until(lambda: heard)
        with mock.patch.object(RiscvGuest, "save_devices", side_effect=GuestError("no devices")):
            wait_until(lambda: recording.failure)
        count = len(heard)
        wait_until(lambda: len(heard) > count + 5)

    assert [output.number for output in heard] == list(range(1, len(heard) + 1))


def test_a_guest_that_comes_to_its_end_says_so_and_all_of_it_is_kept(tmp_path: Path) -> None:
    events: list[Event] = []
    guest = RiscvGuest(read_program("hello"), memory_bytes=2 << 20)

    with record(guest, History.open(tmp_path / "past", create=True), on_event=events.append) as recording:
        wait_until(lambda: recording.end)

    assert any(isinstance(event, GuestFinished) for event in events)


def test_what_cannot_be_recorded_is_refused_and_the_guest_closed(tmp_path: Path) -> None:
    guest = RiscvGuest(read_program("console"), memory_bytes=2 << 20)

    with pytest.raises(ConfigError, match="an interval of 0 s"):
        record(guest, History.open(tmp_path / "past", create=True), interval=0)

    with History.open(tmp_path / "past") as past:
        past.collect()
