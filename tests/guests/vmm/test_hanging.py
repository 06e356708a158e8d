"""A monitor that hangs, dies or fails: what is waited for, and what its guest's host says."""

import re
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack

import pytest

from ftvm.checkpoint import END_CHANNEL, Bitmap
from ftvm.errors import GuestError, StateUnreadable
from ftvm.guests.vmm import MonitorDoor

from .conftest import MakeFake, MakeTiny
from .monitors import PAGES, PATIENCE_S, FakeMonitor, hello, memfd, resumed, wait_until


def is_late_once(fake: FakeMonitor, name: str, reply: str, *payloads: bytes) -> threading.Event:
    """Have a monitor answer these requests with these payloads, the last but one only when the event is set."""
    go_on, left = threading.Event(), list(payloads)

    def answer(number: int, _: bytes) -> None:
        if len(left) == 2:
            go_on.wait(PATIENCE_S)
        fake.say(reply, number, "", payload=left.pop(0))

    fake.serve(**{name: answer})
    return go_on


def test_a_monitor_that_hangs_is_given_up_after_so_long(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False)
    resumed(guest)

    guest.pause()

    assert re.fullmatch(r"the monitor \(process \d+\) did not answer `pause` within 1 s; .*", str(guest.failure()))
    while fake.hear() is not None:
        pass
    assert fake.names() == ["resume", "pause"]


def test_a_monitor_may_take_as_long_as_a_patient_standby_waits(door: MonitorDoor, stack: ExitStack) -> None:
    """Regression: five seconds, which a busy machine can take, cost a guest its standby, or a lone guest its life."""
    patient_silence_s, limits_without_progress = 15.0, 4
    fake = FakeMonitor(door.path)
    stack.callback(fake.close)
    fake.greet(hello(), [memfd()])

    guest = fake.make_guest(door)
    stack.callback(guest.close)

    assert patient_silence_s * limits_without_progress <= guest._link._answer_seconds


def test_a_state_that_a_monitor_does_not_give_in_time_is_unreadable_and_the_guest_can_go_on(
    make_fake: MakeFake,
) -> None:
    """Regression: the connection was ended, and so the guest, though it stood still and nothing of it was lost."""
    guest, fake = make_fake(serves=False)
    resumed(guest)
    go_on = is_late_once(fake, "save", "saved", b"late", b"devices")
    guest.pause()
    guest._link._answer_seconds = 0.05

    with pytest.raises(StateUnreadable, match=r"did not answer `save` within 0\.05 s"):
        guest.save_devices()
    guest._link._answer_seconds = PATIENCE_S
    go_on.set()
    guest.resume()
    guest.pause()

    assert guest.save_devices() == b"devices"
    assert guest.failure() is None


def test_what_was_written_is_not_lost_with_an_answer_that_comes_late(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False, tracking="bitmap")
    go_on = is_late_once(fake, "dirty", "written", bytes(8), b"\1" + bytes(7), bytes(8))
    guest.collect_dirty()  # the first tells of every page
    guest._link._answer_seconds = 0.05

    with pytest.raises(StateUnreadable):
        guest.collect_dirty()
    guest._link._answer_seconds = PATIENCE_S
    go_on.set()

    assert guest.collect_dirty() == Bitmap.full([PAGES])


def test_a_monitor_with_a_second_answer_missing_is_given_up(make_fake: MakeFake) -> None:
    guest, _ = make_fake(serves=False)
    guest._link._answer_seconds = 0.05
    with pytest.raises(StateUnreadable):
        guest.save_devices()

    with pytest.raises(GuestError, match="did not answer `save`") as given_up:
        guest.save_devices()

    assert not isinstance(given_up.value, StateUnreadable)
    assert "did not answer `save`" in str(guest.failure())


def test_an_answer_that_was_late_may_not_come_twice(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False)
    guest._link._answer_seconds = 0.05
    with pytest.raises(StateUnreadable):
        guest.save_devices()

    for _ in range(2):
        fake.say("saved", 2, "", payload=b"devices")

    wait_until(guest.failure, "the lie is seen")
    assert "nobody asked for `saved` 2" in str(guest.failure())


def test_a_monitor_that_does_not_read_gets_no_more_inputs_and_holds_nobody_up(make_fake: MakeFake) -> None:
    guest, _ = make_fake(serves=False)
    resumed(guest)

    for _ in range(100):
        guest.deliver("net0", bytes(1 << 16))

    assert len(guest._link._unsent) <= (1 << 20) + (1 << 17)
    assert guest.failure() is None


def test_the_end_of_a_connection_alone_ends_the_guest(make_fake: MakeFake) -> None:
    """Nothing is asked of the monitor: no answer that fails to come may be what ends it."""
    guest, fake = make_fake(serves=False)
    resumed(guest)

    fake.socket.shutdown(socket.SHUT_WR)

    wait_until(guest.failure, "the end of the connection is seen")
    assert "closed its connection" in str(guest.failure())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_monitor_that_is_killed_or_stopped_is_named(
    number: signal.Signals, make_tiny: MakeTiny, processes: list["subprocess.Popen[bytes]"]
) -> None:
    guest = make_tiny()
    guest._link._answer_seconds = 0.5
    resumed(guest)

    processes[0].send_signal(number)
    guest.pause()

    assert guest.failure() is not None
    named = "closed its connection|broke: " if number is signal.SIGKILL else "did not answer `pause` within 0.5 s"
    assert re.search(rf"the monitor \(process {processes[0].pid}\).*({named})", f"{guest.failure()}") or re.search(
        rf"connection to the monitor \(process {processes[0].pid}\) broke", f"{guest.failure()}"
    )
    with pytest.raises(GuestError):
        guest.collect_dirty()


def test_the_tiny_monitor_ends_when_its_host_does(
    make_tiny: MakeTiny, processes: list["subprocess.Popen[bytes]"]
) -> None:
    guest = make_tiny()
    resumed(guest)

    guest._link._connection.shutdown(2)  # as the end of this process would

    assert processes[0].wait(30) == 1


def test_a_guest_that_fails_says_why_and_can_be_given_another_state(make_fake: MakeFake) -> None:
    guest, fake = make_fake()
    sink = resumed(guest)

    fake.say("failed", "a triple fault at 0x10")
    wait_until(guest.failure, "the failure is seen")
    guest.pause()
    reason = guest.failure()
    guest.resume()
    guest.load_devices(b"another state")

    assert reason == "a triple fault at 0x10"
    assert guest.failure() is None
    assert sink.said == []


def test_an_end_is_an_output_and_nothing_follows_it(make_fake: MakeFake) -> None:
    guest, fake = make_fake()
    sink = resumed(guest)

    fake.say("output", 1, "console", payload=b"bye")
    fake.say("ended", "halted with code 0")
    wait_until(guest.failure, "the end is seen")
    guest.pause()

    assert [(one.channel, one.payload) for one in sink.said] == [
        ("console", b"bye"),
        (END_CHANNEL, b"halted with code 0"),
    ]
    assert guest.failure() == "the guest ended: halted with code 0"


def test_devices_that_a_monitor_refuses_are_refused_with_its_words(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False)
    fake.serve(load=lambda number, _: fake.say("loaded", number, "another cpu"))

    with pytest.raises(GuestError, match="the devices do not load: another cpu"):
        guest.load_devices(b"x")

    assert guest.failure() is None
