"""What a monitor says that cannot be so is named, and ends its guest."""

import os
import re
import threading
from typing import Any

import pytest

from ftvm.checkpoint import END_CHANNEL
from ftvm.errors import GuestError
from ftvm.guests.vmm import MonitorDoor, VmmGuest
from ftvm.guests.vmm.messages import frame

from .conftest import MakeFake
from .monitors import PATIENCE_S, FakeMonitor, hello, memfd, resumed, wait_until

LIES: list[tuple[list[Any], bytes, str]] = [
    (["output", 2, "net0"], b"x", "output 2 came where output 1 is due"),
    (["output", 0, "net0"], b"x", "output 0 came where output 1 is due"),
    (["output", 1, END_CHANNEL], b"x", "'end' is no channel"),
    (["paused", 1, ""], b"", "nobody asked for `paused` 1"),
    (["saved", 9, ""], b"x", "nobody asked for `saved` 9"),
    (["hello"], b"", "nothing called 'hello'"),
    (["output", 1, "net0"], bytes((1 << 20) + 1), "at most 1048576"),
]


@pytest.mark.parametrize(("said", "payload", "named"), LIES)
def test_a_lie_is_named_and_ends_the_guest(make_fake: MakeFake, said: list[Any], payload: bytes, named: str) -> None:
    guest, fake = make_fake()
    sink = resumed(guest)

    fake.say(*said, payload=payload)
    wait_until(guest.failure, "the lie is seen")

    assert re.search(rf"the monitor \(process \d+\) broke the protocol: .*{re.escape(named)}", str(guest.failure()))
    assert sink.said == []
    guest.pause()
    for refused in (guest.save_devices, guest.collect_dirty, lambda: guest.load_devices(b"")):
        with pytest.raises(GuestError, match="broke the protocol"):
            refused()
    wait_until(lambda: fake.socket.fileno() < 0 or not fake._thread.is_alive(), "the monitor sees the end")  # type: ignore[union-attr]


def test_a_frame_that_is_too_long_is_named_before_it_has_come(make_fake: MakeFake) -> None:
    guest, fake = make_fake()
    resumed(guest)

    fake.socket.sendall((1).to_bytes(4, "little") + (17 << 20).to_bytes(4, "little"))
    wait_until(guest.failure, "the length is seen")

    assert "17825792 bytes behind a header are more than the limit" in str(guest.failure())


def test_an_output_from_a_guest_that_stands_still_is_a_lie(make_fake: MakeFake) -> None:
    guest, fake = make_fake()
    sink = resumed(guest)
    fake.say("output", 1, "console", payload=b"fine")
    guest.pause()

    fake.say("output", 2, "console", payload=b"late")
    wait_until(guest.failure, "the output is seen")

    assert "output 2 came from a guest that stands still" in str(guest.failure())
    assert [one.payload for one in sink.said] == [b"fine"]


def test_an_answer_to_another_question_is_a_lie(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False)
    fake.serve(save=lambda number, _: fake.say("saved", number + 1, ""))

    with pytest.raises(GuestError, match="nobody asked for `saved` 3"):
        guest.save_devices()


@pytest.mark.parametrize(
    ("bitmap", "named"), [(b"", "bitmaps of 0 bytes"), (b"\0\1" + bytes(6), "a page behind the region's 8")]
)
def test_a_bitmap_of_other_pages_is_a_lie_and_ends_the_guest(make_fake: MakeFake, bitmap: bytes, named: str) -> None:
    guest, fake = make_fake(serves=False, tracking="bitmap")
    fake.serve(dirty=lambda number, _: fake.say("written", number, "", payload=bitmap))

    with pytest.raises(GuestError, match=named):
        guest.collect_dirty()

    assert named in str(guest.failure())


def test_a_monitor_that_speaks_on_for_ever_after_it_was_told_to_pause_is_ended(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False)
    sink, payload = resumed(guest), bytes(1 << 20)

    def flood() -> None:
        for number in range(1, 100):
            try:
                fake.say("output", number, "net0", payload=payload)
            except OSError:
                return

    fake.serve(pause=lambda _number, _payload: flood())
    guest.pause()

    assert "goes on speaking after it was told to pause" in str(guest.failure())
    assert len(sink.said) <= 64


def test_a_monitor_that_floods_with_empty_outputs_after_it_was_told_to_pause_is_ended(make_fake: MakeFake) -> None:
    """Regression: only the bytes of what it said were counted: a million of outputs without any were taken in."""
    guest, fake = make_fake(serves=False)
    guest._link._answer_seconds = PATIENCE_S
    sink, count = resumed(guest), 1 << 17
    flood = b"".join(frame(["output", number, "net0"]) for number in range(1, count + 1))

    def speak(number: int, _: bytes) -> None:
        try:
            fake.socket.sendall(flood)
            fake.say("paused", number, "")
        except OSError:
            return

    fake.serve(pause=speak)
    guest.pause()

    assert "goes on speaking after it was told to pause" in str(guest.failure())
    assert len(sink.said) <= count // 2


def test_nothing_is_read_before_the_monitor_says_that_its_memory_is_ready(door: MonitorDoor) -> None:
    """Regression: a guest was there as soon as its monitor was welcome, which had not put the program in place yet."""
    fake, memory = FakeMonitor(door.path), memfd()
    fake.greet(hello(), [os.dup(memory)])

    def boot() -> None:
        assert fake.hear() is not None
        threading.Event().wait(0.3)
        os.pwrite(memory, b"program", 4096)
        assert fake.hear() == ("pause", [1], b"")
        fake.say("paused", 1, "")

    booting = threading.Thread(target=boot)
    booting.start()
    guest = VmmGuest(door)
    found = bytes(guest.memory[0].buffer[4096:4103])
    booting.join()
    guest.close()
    fake.close()
    os.close(memory)

    assert found == b"program"


def test_a_monitor_that_never_gets_ready_is_named_and_given_up(door: MonitorDoor) -> None:
    fake = FakeMonitor(door.path)
    fake.greet(hello(), [memfd()])

    with pytest.raises(GuestError, match=r"did not answer `pause` within 0\.2 s"):
        VmmGuest(door, connect_seconds=0.2)

    assert [name for name, _, _ in iter(fake.hear, None)] == ["welcome", "pause"]  # type: ignore[misc]
    fake.close()
