"""The base for guests with a thread: turns, pauses, inputs, failures, and a host that ends with its guest."""

import struct
import threading
from pathlib import Path

import pytest
from hypothesis import strategies as st

import ftvm
from ftvm.guests import threaded
from ftvm.testing import check_guest
from ftvm.testing.transcript import Transcript

SECONDS = 30


class Adder(ftvm.ThreadedGuest):
    """Adds up the lengths of its inputs; says each sum."""

    def __init__(self, *, rest: float | None = 0.0005, regions: tuple[ftvm.Region, ...] = ()) -> None:
        super().__init__("adder/1", page_count=0 if regions else 4, regions=regions)
        self.total = self.turns = 0
        self.rest = rest
        self.has_turned = threading.Event()

    def turn(self) -> float | None:
        self.turns += 1
        while (taken := self.take_input()) is not None:
            self.total += len(taken[1])
            struct.pack_into("<Q", self.memory[0].buffer, 8 * (self.total % 512), self.total)
            self.emit("sum", b"%d" % self.total)
        self.has_turned.set()
        return self.rest

    def save(self) -> bytes:
        return struct.pack("<Q", self.total)

    def load(self, devices: bytes) -> None:
        self.total = -1  # carelessly, before it knows
        (self.total,) = struct.unpack("<Q", devices)


def running(guest: Adder) -> Transcript:
    sink = Transcript()
    guest.attach(sink)
    guest.resume()
    assert guest.has_turned.wait(SECONDS)
    return sink


def test_it_keeps_the_contract() -> None:
    inputs = st.tuples(st.just("in"), st.binary(max_size=9))

    check_guest(Adder, inputs=inputs, examples=8)


def test_a_paused_guest_takes_no_turn_and_a_pause_need_not_wait_for_the_end_of_a_rest() -> None:
    guest = Adder(rest=10 * SECONDS)
    running(guest)

    guest.pause()
    turns = guest.turns
    guest.deliver("in", b"abc")

    assert guest.turns == turns
    guest.close()


def test_an_input_ends_a_rest() -> None:
    guest = Adder(rest=10 * SECONDS)
    sink = running(guest)
    guest.has_turned.clear()

    guest.deliver("in", b"abc")

    assert guest.has_turned.wait(SECONDS)
    guest.pause()
    assert [one.payload for one in sink.said] == [b"3"]
    guest.close()


@pytest.mark.parametrize("size", [1, 5_000])
def test_inputs_beyond_the_limit_are_dropped(size: int) -> None:
    guest = Adder()
    guest.attach(Transcript())

    for _ in range(3 * threaded.INPUTS_MAX):
        guest.deliver("in", bytes(size))

    assert len(guest._inputs) == min(threaded.INPUTS_MAX, threaded.INPUT_BYTES_MAX // size)
    guest.resume()
    assert guest.has_turned.wait(SECONDS)
    guest.pause()
    assert guest.total == size * min(threaded.INPUTS_MAX, threaded.INPUT_BYTES_MAX // size)
    guest.close()


def test_bytes_that_do_not_load_are_a_guest_error_and_leave_the_guest_as_it_was() -> None:
    guest = Adder()
    guest.total = 7

    with pytest.raises(ftvm.GuestError, match=r"3 bytes do not load: error: unpack requires a buffer of 8 bytes"):
        guest.load_devices(b"abc")

    assert guest.total == 7
    guest.close()


def test_what_waits_to_be_taken_does_not_outlive_a_load() -> None:
    guest = Adder()
    guest.deliver("in", b"abc")

    guest.load_devices(struct.pack("<Q", 5))

    assert guest.take_input() is None
    guest.close()


@pytest.mark.parametrize("call", ["collect_dirty", "save_devices"])
def test_a_running_guest_cannot_be_captured(call: str) -> None:
    guest = Adder()
    running(guest)

    with pytest.raises(ftvm.LocalProtocolError, match=f"{call} needs the guest paused"):
        getattr(guest, call)()

    guest.close()


def test_memory_of_ones_own_is_used_as_it_is() -> None:
    buffer = memoryview(bytearray(4096 * 2))[:4096]
    region = ftvm.Region(name="mine", buffer=buffer, page_count=1)

    guest = Adder(regions=(region,))

    assert guest.memory == (region,)
    assert str(guest.geometry) == "adder/1 with mine of 1 pages"
    guest.close()


def test_a_guest_needs_memory_and_one_kind_of_it() -> None:
    region = ftvm.Region(name="mine", buffer=memoryview(bytearray(4096)), page_count=1)

    class Odd(Adder):
        def __init__(self, page_count: int, regions: tuple[ftvm.Region, ...]) -> None:
            ftvm.ThreadedGuest.__init__(self, "odd/1", page_count=page_count, regions=regions)

    for page_count, regions in ((0, ()), (1, (region,))):
        with pytest.raises(ftvm.ConfigError, match="either page_count, or the regions"):
            Odd(page_count, regions)


def test_a_turn_cannot_pause_its_own_guest() -> None:
    refused = []

    class PausesItself(Adder):
        def turn(self) -> float | None:
            try:
                self.pause()
            except ftvm.LocalProtocolError as wrong:
                refused.append(str(wrong))
            return super().turn()

    guest = PausesItself()
    running(guest)
    guest.close()

    assert "return from it instead" in refused[0]


def test_a_guest_without_a_thread_yet_can_be_closed_and_cannot_run_again() -> None:
    guest = Adder()

    guest.close()
    guest.close()

    with pytest.raises(ftvm.ClosedError):
        guest.resume()


def test_a_host_ends_with_the_reason_when_the_thread_of_its_guest_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda end: told.append(end.exc_value))

    class Dies(Adder):
        def turn(self) -> float | None:
            raise ZeroDivisionError("of no use")

    protection = ftvm.protect(Dies(), listen=f"ipc://{tmp_path}/a", arbiter=f"file://{tmp_path}", create=True)

    with pytest.raises(ftvm.GuestError, match="its thread ended by ZeroDivisionError: of no use"):
        protection.wait(SECONDS)
    protection.close()
    assert [str(each) for each in told] == ["of no use"]
