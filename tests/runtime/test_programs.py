"""Every guest program lives on when its host dies, under every engine: what it says goes on without a gap.

The programs judge themselves: `dirty` finds a write that was lost, `journal` a record; their last words and the code
that they end with would tell.
"""

import os
import re
import threading
from collections.abc import Callable
from itertools import permutations
from os import urandom
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.config import Timing
from ftvm.engines.kemari import Kemari
from ftvm.engines.names import ENGINES, engine_named
from ftvm.errors import GuestEnded
from ftvm.events import EngineChanged
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.protection import Protection
from ftvm.runtime.world import CallbackWorld
from ftvm.units import Nanos

from .live import PATIENCE_S, Ear, kill, start_pair

MS = 1_000_000
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(600 * MS), primary_limit_ns=Nanos(2_000 * MS))
PROGRAMS = {
    "ticks": "ms=10 beats=300",
    "dirty": "pages=256 rate=4000 writes=12000 pattern=random",
    "journal": "records=64 batch=2 ms=100",
    "entropy": "draws=400",
    "console": "lines=2000 listen=1",
}
"""Each takes some seconds, or waits to be told to end; `hello` ends as soon as it began."""


DISK_BYTES = 1 << 20


def machine(name: str | None, entropy: Callable[[int], bytes] = urandom, disk: Path | int = DISK_BYTES) -> RiscvGuest:
    return RiscvGuest(
        read_program(name) if name is not None else None,
        clock=MonotonicClock(),
        memory_bytes=4 << 20,
        disk=disk,
        command_line=PROGRAMS[name] if name is not None else "",
        entropy=entropy,
    )


def slow_entropy(size: int) -> bytes:
    """Randomness that takes its time, so that the program that asks for it does, too."""
    threading.Event().wait(0.005)
    return urandom(size)


def end_of(host: Protection) -> str:
    """Wait until the guest ends; return how."""
    with pytest.raises(GuestEnded, match="the guest ended") as ended:
        host.wait(PATIENCE_S)
    return str(ended.value)


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_program_goes_on_where_its_host_died(name: str, engine: str, tmp_path: Path) -> None:
    ear = Ear()
    world = CallbackWorld(ear.hear)

    def talk() -> None:
        if name == "console":
            world.put("console", b"still there?\nquit\n")

    said = lived_through_a_kill(machine(name, slow_entropy), machine(None), engine, tmp_path, ear, world, talk)

    JUDGES[name](said)


@pytest.mark.parametrize("name", ["ticks", "journal"])
def test_a_program_whose_outputs_share_checkpoints_goes_on_where_its_host_died(name: str, tmp_path: Path) -> None:
    ear = Ear()
    world = CallbackWorld(ear.hear)
    engine = Kemari(0.02, group=0.03)

    said = lived_through_a_kill(machine(name), machine(None), engine, tmp_path, ear, world, lambda: None)

    JUDGES[name](said)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_disk_that_came_from_a_file_lives_on_where_only_its_size_is_known(engine: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    ear = Ear()
    world = CallbackWorld(ear.hear)

    def take_file_away(_: Protection) -> None:
        image.unlink()

    said = lived_through_a_kill(
        machine("journal", disk=image), machine(None), engine, tmp_path, ear, world, lambda: None, take_file_away
    )

    judge_journal(said)


def lived_through_a_kill(
    booted: RiscvGuest,
    blank: RiscvGuest,
    engine: str | Kemari,
    folder: Path,
    ear: Ear,
    world: CallbackWorld,
    talk: Callable[[], None],
    before: Callable[[Protection], None] = lambda _: None,
) -> str:
    """Protect a guest, do what comes `before`, kill its host, `talk` to it on the other, and wait until it ends well.

    Returns what it said.
    """
    chosen = engine_named(engine, 0.02) if isinstance(engine, str) else engine
    primary, standby = start_pair(booted, blank, folder, engine=chosen, timing=TIMING, ear=ear, world=world)
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        before(primary)
        kill(primary)

        protection = standby.wait(PATIENCE_S)
        assert protection is not None
        talk()
        assert end_of(protection).endswith("code 0")
    return ear.text()


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_program_that_ends_well_ends_both_its_hosts_and_leaves_no_claim(engine: str, tmp_path: Path) -> None:
    ear = Ear()
    chosen = engine_named(engine, 0.02)
    primary, standby = start_pair(machine("console"), machine(None), tmp_path, engine=chosen, timing=TIMING, ear=ear)
    with standby, primary:
        assert primary.wait_protected(PATIENCE_S)

        primary._node._world.put("console", b"quit\n")
        how = end_of(primary)

        with pytest.raises(GuestEnded, match="the guest ended"):
            standby.wait(PATIENCE_S)
        took_over = standby.status().takeovers
    assert how.endswith("code 0")
    judge_console_end(ear.text())
    assert took_over == 0
    record = FileRecordStore(tmp_path).read("guest")
    assert (record.active, record.standby) == (None, None)


@pytest.mark.parametrize(("old", "new"), list(permutations(ENGINES, 2)))
def test_a_program_goes_on_where_its_host_died_after_a_change_of_engine(old: str, new: str, tmp_path: Path) -> None:
    ear = Ear()
    world = CallbackWorld(ear.hear)

    def change(primary: Protection) -> None:
        primary.set_engine(engine_named(new, 0.02))
        while not any(isinstance(event, EngineChanged) for event in primary.events(PATIENCE_S)):
            primary.check()
        assert primary.status().engine == new

    def talk() -> None:
        world.put("console", b"still there?\nquit\n")

    said = lived_through_a_kill(machine("console"), machine(None), old, tmp_path, ear, world, talk, change)

    judge_console(said)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_linux_goes_on_where_its_host_died(engine: str, tmp_path: Path) -> None:
    """The same boot counts on; what is typed after the takeover reaches it, and it ends as it is told to."""
    folder = os.environ.get("FTVM_LINUX")
    if folder is None:
        pytest.skip("needs the Linux guest: FTVM_LINUX=FOLDER, after python3 examples/linux/build.py FOLDER")
    ear = Ear()
    world = CallbackWorld(ear.hear)

    def talk() -> None:
        ear.wait_until(lambda said: "linux: count 3" in said)  # before it listens, a kernel throws away what is typed
        world.put("console", b"still there?\nquit\n")

    said = lived_through_a_kill(
        RiscvGuest(Path(folder) / "linux.elf", clock=MonotonicClock(), memory_bytes=32 << 20),
        RiscvGuest(None, clock=MonotonicClock(), memory_bytes=32 << 20),
        engine,
        tmp_path,
        ear,
        world,
        talk,
    )

    counted = [int(count) for count in re.findall(r"count (\d+)", said)]
    assert counted == list(range(1, len(counted) + 1))
    assert said.count("Linux version") <= 1
    assert "linux: heard still there?" in said


def judge_ticks(said: str) -> None:
    assert [int(beat) for beat in re.findall(r"beat (\d+)\n", said)] == list(range(10, 301, 10))
    assert "too early" not in said


def judge_dirty(said: str) -> None:
    (expected, found) = re.findall(r"(\d+) words expected, (\d+) found", said)[0]
    assert expected == found


def judge_journal(said: str) -> None:
    assert "read back 64 records, all as written" in said
    assert [int(count) for count in re.findall(r"(\d+) durable", said)] == list(range(2, 65, 2))


def judge_entropy(said: str) -> None:
    assert "looks random" in said


def judge_console_end(said: str) -> None:
    assert said.endswith("console: done\n")


def judge_console(said: str) -> None:
    assert [int(line) for line in re.findall(r"line (\d+) after", said)] == list(range(1, 2001))
    assert "heard: still there?" in said
    assert "console: done" in said


JUDGES = {
    "ticks": judge_ticks,
    "dirty": judge_dirty,
    "journal": judge_journal,
    "entropy": judge_entropy,
    "console": judge_console,
}
