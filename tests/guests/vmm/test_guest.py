"""A monitor's guest: the contract with the tiny monitor of examples/vmm, and every way in which a monitor can fail."""

import gc
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ftvm.checkpoint import Bitmap
from ftvm.errors import ClosedError, LocalProtocolError, TrackingLost
from ftvm.guests.vmm import MonitorDoor
from ftvm.interfaces import Capability
from ftvm.testing.guest import check_guest
from ftvm.testing.transcript import Said, Transcript, load_picture, take_picture

from ...leftovers import nothing_left_behind
from .conftest import MakeFake, MakeTiny
from .monitors import (
    PAGES,
    FakeMonitor,
    hello,
    memfd,
    reply,
    request,
    resumed,
    tick_lines,
    ticks_in,
    wait_until,
)

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
    assert guest.can == {Capability.EXACT_OUTPUT_STOP, Capability.TELLS_SILENCE}
    assert guest.failure() is None


def test_a_monitor_that_cannot_stop_at_outputs_does_not_claim_it(make_fake: MakeFake) -> None:
    guest, _ = make_fake()

    assert guest.can == {Capability.TELLS_SILENCE}


def test_a_goodbye_is_said_and_all_is_given_back(door: MonitorDoor) -> None:
    with nothing_left_behind():
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
