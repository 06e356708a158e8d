"""One bad guest for each promise that authors break: check_guest names just that promise."""

import mmap
import struct
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest

import ftvm
from ftvm.checkpoint import Bitmap, GuestPosition
from ftvm.sim.guest import SimGuest
from ftvm.testing import ContractBroken, check_guest
from ftvm.testing.transcript import Said

PAGES = 8


class Counter(ftvm.ThreadedGuest):
    """The good one, of which each bad one changes a thing."""

    def __init__(self) -> None:
        super().__init__("counter/1", page_count=PAGES)
        self.count = 0

    def turn(self) -> float:
        self.count += 1
        struct.pack_into("<Q", self.arena, 8 * (self.count * 113 % (PAGES * 512)), self.count)
        self.emit("count", b"count %d" % self.count)
        return 0.0005

    def save(self) -> bytes:
        return struct.pack("<Q", self.count)

    def load(self, devices: bytes) -> None:
        (self.count,) = struct.unpack("<Q", devices)


class LeavesAPageUnreported(Counter):
    def collect_dirty(self) -> Bitmap:
        found = super().collect_dirty()
        found.words[0][0] &= ~(1 << 3)
        return found


class DoesNotStop(Counter):
    """A second thread of it knows nothing of pauses."""

    def resume(self) -> None:
        super().resume()
        if not hasattr(self, "stray"):
            self.stray = threading.Thread(target=self._write_on, daemon=True)
            self.stray.start()

    def _write_on(self) -> None:
        while not self._thread.is_closed:
            self.arena[5000] = (self.arena[5000] + 1) % 256


class PausesInName(Counter):
    def pause(self) -> None:
        pass


class ReordersOutputs(Counter):
    def turn(self) -> float:
        self.count += 2
        for count in (self.count, self.count - 1):
            self.emit("count", b"count %d" % count)
        return 0.0005


class SavesNoRegister(Counter):
    def save(self) -> bytes:
        return b"counter"

    def load(self, devices: bytes) -> None:
        if devices != b"counter":
            raise ValueError("not a counter's")


class RaisesTheWrongError(Counter):
    def load_devices(self, devices: bytes) -> None:
        (self.count,) = struct.unpack("<Q", devices)


class DiesUnseen(Counter):
    def turn(self) -> float:
        if self.count == 5:
            raise ValueError("out of ideas")
        return super().turn()

    def failure(self) -> str | None:
        return None


class Dies(DiesUnseen):
    def failure(self) -> str | None:
        return ftvm.ThreadedGuest.failure(self)


class DiesBehindItsPause(Counter):
    """Of a copy, one that is made beside another, the thread is dead only when it is closed, as on a busy machine."""

    alive: ClassVar[set["DiesBehindItsPause"]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.is_copy, self.is_over = bool(self.alive), threading.Event()
        self.alive.add(self)

    def turn(self) -> float:
        if self.is_copy:
            raise ValueError("out of ideas")
        return super().turn()

    def _take_turns(self) -> None:
        try:
            super()._take_turns()
        except ValueError:
            self.is_over.wait(60)
            raise

    def close(self) -> None:
        self.alive.discard(self)
        self.is_over.set()
        super().close()


class Moves(Counter):
    """Takes new memory, with all that was in the old one, when it goes on."""

    def resume(self) -> None:
        if self.count:
            new = mmap.mmap(-1, PAGES * 4096)
            new[:] = self.arena[:]
            self.arena = new
            self.memory = (ftvm.Region(name="arena", buffer=memoryview(new), page_count=PAGES),)
        super().resume()


class IsOffByOne(SimGuest):
    def __init__(self) -> None:
        super().__init__(page_count=PAGES, pages_per_step=1, output_every=2, boots=True)

    @property
    def position(self) -> GuestPosition:
        return GuestPosition(self._steps + 1, 0)


def is_counting(said: Sequence[Said]) -> bool:
    return [one.payload for one in said] == [b"count %d" % number for number in range(1, len(said) + 1)]


DEAD = "A guest under check goes on for ever: failure.. says 'its thread ended by ValueError: out of ideas'"
BAD = [
    (LeavesAPageUnreported, r"No write goes unreported: pages \[3\] of arena"),
    (DoesNotStop, "A paused guest stands still: "),
    (PausesInName, "A paused guest stands still: behind .* needs the guest paused"),
    (ReordersOutputs, "Outputs come in the order in which the program makes them, none left out: "),
    (SavesNoRegister, "A copy goes the same way: output 0 of the guest is "),
    (RaisesTheWrongError, "Devices that do not load are refused with GuestError .*: 0 of 8 bytes raised .*is no Gues"),
    (
        DiesUnseen,
        "A thread of the guest that dies is a failure of the guest: .*ValueError: out of ideas; failure.. says",
    ),
    (Dies, DEAD),
    (DiesBehindItsPause, DEAD),
    (Moves, "The memory stays where it is: behind "),
]


def test_the_good_guest_passes() -> None:
    check_guest(Counter, is_right=is_counting, is_deterministic=True, examples=8)


@pytest.mark.parametrize(("kind", "promise"), BAD, ids=[kind.__name__ for kind, _ in BAD])
def test_a_broken_promise_is_named(kind: Callable[[], Counter], promise: str) -> None:
    is_right = is_counting if kind is ReordersOutputs else None

    with pytest.raises(ContractBroken, match=promise):
        check_guest(kind, is_right=is_right, is_deterministic=kind is SavesNoRegister, examples=8)


def test_a_position_off_by_one_is_named() -> None:
    def advance(guest: SimGuest) -> None:
        for _ in range(20):
            guest.advance()

    with pytest.raises(ContractBroken, match="A replay to a position is bit-identical: "):
        check_guest(IsOffByOne, let_run=advance, examples=8)
