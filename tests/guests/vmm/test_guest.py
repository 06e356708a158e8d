"""A monitor's guest: the contract with the tiny monitor of examples/vmm, and every way in which a monitor can fail."""

import gc
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ftvm.checkpoint import END_CHANNEL, Bitmap
from ftvm.errors import ClosedError, GuestError, LocalProtocolError, StateUnreadable, TrackingLost
from ftvm.guests.vmm import MonitorDoor, VmmGuest
from ftvm.interfaces import Capability
from ftvm.testing.guest import check_guest
from ftvm.testing.transcript import Said, Transcript, load_picture, take_picture

from .conftest import MakeFake, MakeTiny
from .monitors import PAGES, PATIENCE_S, FakeMonitor, hello, memfd, reply, request, tick_lines, ticks_in, wait_until

TICKS = tick_lines(400)


def is_ticking(said: Sequence[Said]) -> bool:
    told = [one.payload.decode() for one in said if one.channel == "console"]
    return told == TICKS[: len(told)] if len(told) <= len(TICKS) else told[: len(TICKS)] == TICKS


@pytest.mark.parametrize("tracking", ["userfault", "bitmap", "compare"])
def test_the_tiny_monitor_keeps_the_contract_under_sanitizers(
    tracking: str, sanitized: Path, make_tiny: MakeTiny, processes: list["subprocess.Popen[bytes]"]
) -> None:
    frames = st.builds(request, st.sampled_from([b"P", b"G", b"X"]), st.integers(0, 9), st.integers(0, 2**32 - 1))

    check_guest(
        lambda: make_tiny(tracking=tracking, program=sanitized),
        inputs=st.tuples(st.just("net0"), st.one_of(frames, st.binary(max_size=40))),
        is_right=is_ticking,
        is_deterministic=True,
        examples=6,
        moment_seconds=0.02,
    )

    assert {process.wait(30) for process in processes} == {0}


def test_a_monitor_that_dies_while_its_pages_are_collected_is_the_failure_not_the_collecting(
    make_tiny: MakeTiny, processes: list["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: its memory is gone before its connection ends, so the active dropped the standby that could go on,
    and then found its guest dead."""
    guest = make_tiny()
    guest.attach(Transcript())
    link, at_end = guest._link, threading.Event()

    def lose() -> Bitmap:
        processes[0].kill()
        threading.Timer(0.05, at_end.set).start()
        raise TrackingLost("memory region 0 is not tracked any more")

    read = link._read
    monkeypatch.setattr(link, "_read", lambda: at_end.wait(30) and read())
    monkeypatch.setattr(guest._tracker, "collect", lose)

    with pytest.raises(TrackingLost):
        guest.collect_dirty()

    assert f"the monitor (process {processes[0].pid})" in str(guest.failure())


def test_a_key_is_kept_in_the_state_that_another_monitor_takes_over(make_tiny: MakeTiny) -> None:
    guest, other = make_tiny(), make_tiny(boots=False)
    sinks = Transcript(), Transcript()
    guest.attach(sinks[0])
    other.attach(sinks[1])

    guest.resume()
    guest.deliver("net0", request(b"P", 1, 77, 1234))
    wait_until(lambda: (b"p", 1, 77, 1234) in [reply(one.payload) for one in sinks[0].said], "an answer to a put")
    guest.pause()
    load_picture(other, take_picture(guest))
    guest.close()
    other.deliver("net0", request(b"G", 2, 77))  # kept until it runs
    other.resume()
    wait_until(lambda: (b"g", 2, 77, 1234) in [reply(one.payload) for one in sinks[1].said], "an answer to a get")
    other.pause()

    assert is_ticking([*sinks[0].said, *sinks[1].said])


def test_geometry_names_all_that_both_hosts_must_have(make_fake: MakeFake) -> None:
    guest, _ = make_fake(kind="cloud", software="9.1", machine="cpu=x", stops=True)

    assert str(guest.geometry) == f"vmm/1 cloud 9.1 cpu=x with ram of {PAGES} pages"
    assert guest.can == {Capability.EXACT_OUTPUT_STOP}
    assert guest.failure() is None


def test_a_monitor_that_cannot_stop_at_outputs_claims_nothing(make_fake: MakeFake) -> None:
    guest, _ = make_fake()

    assert guest.can == frozenset()


# --- lies ---------------------------------------------------------------------------------------------------------


def resumed(guest: VmmGuest) -> Transcript:
    sink = Transcript()
    guest.attach(sink)
    guest.resume()
    return sink


def is_late_once(fake: FakeMonitor, name: str, reply: str, *payloads: bytes) -> threading.Event:
    """Have a monitor answer these requests with these payloads, the last but one only when the event is set."""
    go_on, left = threading.Event(), list(payloads)

    def answer(number: int, _: bytes) -> None:
        if len(left) == 2:
            go_on.wait(PATIENCE_S)
        fake.say(reply, number, "", payload=left.pop(0))

    fake.serve(**{name: answer})
    return go_on


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


# --- hanging, dying, failing --------------------------------------------------------------------------------------


def test_a_monitor_that_hangs_is_given_up_after_so_long(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False)
    resumed(guest)

    guest.pause()

    assert re.fullmatch(r"the monitor \(process \d+\) did not answer `pause` within 1 s", str(guest.failure()))
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


# --- our half -----------------------------------------------------------------------------------------------------


def test_a_goodbye_is_said_and_all_is_given_back(door: MonitorDoor) -> None:
    gc.collect()
    threads, before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    fake = FakeMonitor(door.path)
    fake.greet(hello(), [memfd()])
    guest = fake.make_guest(door)
    fake.serve()

    guest.close()
    guest.close()
    fake.close()
    with pytest.raises(ClosedError):
        guest.resume()
    del guest  # the last view of its memory
    gc.collect()

    assert fake.names() == ["welcome", "pause", "end"]
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_first_run_after_a_load_is_announced_and_inputs_follow_the_resume(make_fake: MakeFake) -> None:
    guest, fake = make_fake(boots=False)
    guest.attach(Transcript())

    guest.load_devices(b"state")
    guest.deliver("net0", b"while it stood")
    guest.resume()
    guest.deliver("net0", b"while it ran")
    guest.pause()
    guest.resume()
    guest.pause()

    assert fake.names() == ["load", "announce", "resume", "input", "input", "pause", "resume", "pause"]
    assert [payload for name, _, payload in fake.heard if name == "input"] == [b"while it stood", b"while it ran"]


def test_stop_at_output_goes_along_with_the_resume(make_fake: MakeFake) -> None:
    guest, fake = make_fake(stops=True)
    guest.attach(Transcript())

    for is_wanted in (True, False):
        guest.stop_at_output(is_wanted)
        guest.resume()
        guest.pause()

    assert [fields for name, fields, _ in fake.heard if name == "resume"] == [[True], [False]]


@pytest.mark.parametrize("tracking", ["bitmap", "compare"])
def test_after_a_load_every_page_counts_as_written(make_fake: MakeFake, tracking: str) -> None:
    """What this host wrote into the memory, no tracking of the monitor has seen."""
    guest, _ = make_fake(tracking=tracking)
    guest.collect_dirty()

    guest.load_devices(b"state")

    assert guest.collect_dirty() == Bitmap.full([PAGES])
    assert guest.collect_dirty() == Bitmap.empty([PAGES])


def test_the_first_look_reports_every_page_whatever_a_bitmap_says(make_fake: MakeFake) -> None:
    guest, _ = make_fake(tracking="bitmap")

    assert guest.collect_dirty() == Bitmap.full([PAGES])


def test_inputs_that_waited_are_not_given_to_another_state(make_fake: MakeFake) -> None:
    guest, fake = make_fake()
    guest.attach(Transcript())
    guest.deliver("net0", b"for the state before")

    guest.load_devices(b"state")
    guest.resume()
    guest.pause()

    assert "input" not in fake.names()


def test_what_a_failed_capture_puts_back_comes_again_from_a_bitmap(make_fake: MakeFake) -> None:
    guest, fake = make_fake(serves=False, tracking="bitmap")
    fake.serve(dirty=lambda number, _: fake.say("written", number, "", payload=b"\2" + bytes(7)))
    guest.collect_dirty()

    guest.restore_dirty(Bitmap((PAGES,), (bytearray(b"\4" + bytes(7)),)))

    assert guest.collect_dirty().words == (bytearray(b"\6" + bytes(7)),)


def test_what_needs_a_paused_or_an_attached_guest_says_so(make_fake: MakeFake) -> None:
    guest, _ = make_fake()

    with pytest.raises(LocalProtocolError, match="attach a sink"):
        guest.resume()
    resumed(guest)
    for refused in (guest.save_devices, guest.collect_dirty, lambda: guest.load_devices(b"")):
        with pytest.raises(LocalProtocolError, match="needs a paused guest"):
            refused()


def test_a_userfaultfd_that_does_not_work_is_told_and_every_page_compared(
    make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftvm.errors import ConfigError
    from ftvm.guests.vmm import guest as module

    def lacks(memory: object, *, writer: Any) -> None:
        assert memory is not None
        for descriptor in (writer.userfault, writer.pagemap):
            os.close(descriptor)
        raise ConfigError("no asynchronous write protection: it came with Linux 6.7")

    class Warned(Transcript):
        def warn(self, reason: str) -> None:
            warnings.append(reason)

    warnings: list[str] = []
    monkeypatch.setattr(module, "UserfaultTracker", lacks)
    guest = make_tiny(tracking="userfault")
    guest.attach(Warned())

    assert guest.tracker == "compare"
    (warning,) = warnings
    assert warning.startswith("each checkpoint compares every page of the guest, which is slow: no asynchronous write")


def test_ticks_are_computed_as_the_machine_does(make_tiny: MakeTiny) -> None:
    guest = make_tiny()
    sink = resumed(guest)
    wait_until(lambda: len(sink.said) > 20, "twenty ticks")
    guest.pause()

    told = ticks_in("".join(one.payload.decode() for one in sink.said))

    assert told == TICKS[: len(told)]
