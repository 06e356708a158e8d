"""A stock Linux under a stock QEMU, where Debian's packages for it are installed."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ftvm.checkpoint import GuestPosition
from ftvm.errors import ConfigError
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.lab.qemuimage import QemuImage, make_image
from ftvm.testing.transcript import fill_region

PATIENCE_S = 120.0
MEMORY = 160 << 20
DISK = 4 << 20
COMMAND_LINE = "ftvm_write=64 ftvm_disk=1"
MAC = "52:54:00:77:00:02"


class Ear:
    """A sink that keeps what was said, and lets a test wait for words on the console."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.console = bytearray()
        self.warnings: list[str] = []
        self.wishes = 0
        self._changed = threading.Condition()

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        assert position is None
        with self._changed:
            if channel == "console":
                self.console += payload
            else:
                self.frames.append(payload)
            self._changed.notify_all()

    def took_input(self, *_: object) -> None:
        raise AssertionError("a guest that cannot be replayed tells of no inputs")

    def want_cut(self) -> None:
        with self._changed:
            self.wishes += 1
            self._changed.notify_all()

    def warn(self, reason: str) -> None:
        self.warnings.append(reason)

    def may_wait(self, reason: str) -> bool:
        return bool(reason)

    def moved_clock(self, *_: object) -> None:
        raise AssertionError("a guest that cannot be replayed tells of no clock")

    def wait_for(self, words: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: words in self.console, PATIENCE_S), bytes(self.console[-400:])

    def wait_wish(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.wishes > 0, PATIENCE_S), "no cut was asked for"

    def wait_count(self, count: int) -> None:
        """Wait until the guest has counted so far."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.counts()[-1:] >= [count], PATIENCE_S), self.console[-400:]

    def counts(self) -> list[int]:
        """Return what the guest has counted, whole lines only."""
        return [int(count) for count in re.findall(rb"count (\d+)\r?\n", self.console)]


@pytest.fixture(scope="session")
def image() -> QemuImage:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")
    try:
        return make_image()
    except ConfigError as wrong:
        pytest.skip(str(wrong))


def make_disk(folder: Path, number: int = 0) -> str:
    """Make an image of zeros; return its path."""
    path = folder / f"disk{number}.img"
    with path.open("wb") as file:
        file.truncate(DISK)
    return str(path)


@dataclass(frozen=True, slots=True)
class Booted:
    """A machine that has booted and counts, as it was saved: to boot takes long, to load is quick."""

    machine: QemuMachine
    devices: bytes
    memory: tuple[bytes, ...]
    counted: int


@pytest.fixture(scope="session")
def booted(image: QemuImage, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    machine = QemuMachine(memory_bytes=MEMORY, arguments=image.arguments(COMMAND_LINE), mac=MAC, disk_bytes=DISK)
    disk = make_disk(tmp_path_factory.mktemp("booted"))
    guest, ear = QemuGuest(machine, boots=True, disk=disk), Ear()
    guest.attach(ear)
    guest.resume()
    ear.wait_count(3)
    ear.wait_for(b"disk record 2")
    guest.pause()
    guest.collect_dirty()
    devices = guest.save_devices()
    memory = tuple(bytes(region.buffer) for region in guest.memory)
    counted = ear.counts()[-1]
    guest.close()
    return Booted(machine, devices, memory, counted)


class Guests:
    """Makes guests, by default of the machine that has booted; all are closed at the end."""

    def __init__(self, booted: Booted, folder: Path) -> None:
        self.booted = booted
        self._folder = folder
        self._made: list[QemuGuest] = []

    def blank(self, *, arguments: tuple[str, ...] = (), tracker: str = "auto", boots: bool = False) -> QemuGuest:
        """Make one that waits for a state, or with `boots`, stands before its first instruction."""
        machine = replace(self.booted.machine, arguments=(*self.booted.machine.arguments, *arguments))
        disk = make_disk(self._folder, len(self._made))
        self._made.append(QemuGuest(machine, boots=boots, disk=disk, tracker=tracker))
        return self._made[-1]

    def loaded(self, *, tracker: str = "auto") -> QemuGuest:
        """Make one that has booted, paused."""
        guest = self.blank(tracker=tracker)
        for region, content in zip(guest.memory, self.booted.memory, strict=True):
            fill_region(region, content)
        guest.load_devices(self.booted.devices)
        return guest

    def running(self, *, tracker: str = "auto") -> tuple[QemuGuest, Ear]:
        """Make one that has booted and goes on."""
        guest, ear = self.loaded(tracker=tracker), Ear()
        guest.attach(ear)
        guest.resume()
        ear.wait_count(self.booted.counted + 1)
        return guest, ear

    def close(self) -> None:
        for guest in self._made:
            guest.close()


@pytest.fixture
def guests(booted: Booted, tmp_path: Path) -> Iterator[Guests]:
    made = Guests(booted, tmp_path)
    yield made
    made.close()


def nap(seconds: float) -> None:
    threading.Event().wait(seconds)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_it_fails(guest: QemuGuest) -> None:
    assert wait_until(lambda: guest.failure() is not None)


def wait_until(is_true: Callable[[], bool]) -> bool:
    for _ in range(int(PATIENCE_S * 50)):
        if is_true():
            return True
        nap(0.02)
    return False
