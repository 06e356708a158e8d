"""A stock QEMU keeps the contract of `Guest`; nothing here measures time."""

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import CompareTracker, UserfaultTracker
from ftvm.checkpoint import Bitmap
from ftvm.errors import GuestError, StateUnreadable, TrackingLost
from ftvm.guests.qemu import QemuGuest, qmp
from ftvm.guests.qemu.devices import pack_devices, unpack_devices
from ftvm.interfaces import Guest
from ftvm.testing.transcript import fill_region

from ...leftovers import policies_of
from .conftest import DISK, PATIENCE_S, Ear, Guests, is_alive, nap, wait_until, wait_until_it_fails
from .test_haste import urgently

STATION = bytes.fromhex("020000000001")
WHO_HAS_THE_GUEST = (
    b"\xff" * 6
    + STATION
    + bytes.fromhex("0806 0001 0800 06 04 0001")
    + STATION
    + bytes([10, 77, 0, 1])
    + bytes(6)
    + bytes([10, 77, 0, 2])
)


def copy_memory(source: Guest, target: Guest) -> None:
    for theirs, ours in zip(source.memory, target.memory, strict=True):
        fill_region(ours, theirs.buffer)


def pages_of(bitmap: Bitmap, region: int) -> int:
    """Return a region's pages as the bits of a number."""
    return int.from_bytes(bitmap.words[region], "little")


def test_a_machine_saved_here_goes_on_there(guests: Guests) -> None:
    guest, ear = guests.running()
    other, other_ear = guests.blank(), Ear()
    other.attach(other_ear)

    guest.pause()
    guest.collect_dirty()
    devices = guest.save_devices()
    copy_memory(guest, other)
    last = ear.counts()[-1]
    other.load_devices(devices)
    other.resume()
    other_ear.wait_count(last + 5)
    other_ear.wait_for(b"bad 0 ")
    other.pause()

    assert other_ear.counts() == list(range(last + 1, other_ear.counts()[-1] + 1))
    assert b"guest: boot" not in other_ear.console
    assert b"bad 0 " in other_ear.console
    assert not re.search(rb"bad [1-9]", other_ear.console)
    assert len(devices) < 64 << 10


def test_a_state_can_be_loaded_again_into_a_guest_that_ran(guests: Guests) -> None:
    guest, ear = guests.running()
    guest.pause()
    guest.collect_dirty()
    devices = guest.save_devices()
    kept = [bytes(region.buffer) for region in guest.memory]
    last = ear.counts()[-1]
    guest.resume()
    ear.wait_count(last + 2)
    guest.pause()

    for region, content in zip(guest.memory, kept, strict=True):
        fill_region(region, content)
    ear.console.clear()
    guest.load_devices(devices)
    guest.resume()
    ear.wait_count(last + 2)

    assert ear.counts()[0] == last + 1


@pytest.mark.parametrize("tracker", ["userfault", "compare"])
def test_no_changed_page_is_missed(guests: Guests, tracker: str) -> None:
    """Written by the processor, by the network card and by the disk."""
    guest, ear = guests.running(tracker=tracker)
    epochs = int(os.environ.get("FTVM_QEMU_EPOCHS", "150" if tracker == "userfault" else "20"))
    guest.pause()
    guest.collect_dirty()
    oracle = CompareTracker(NativeMemory([guest.memory[0].buffer]))
    oracle.collect()
    changed_in_all = 0

    for epoch in range(epochs):
        guest.resume()
        guest.deliver("net0", WHO_HAS_THE_GUEST)
        nap(0.02)
        guest.pause()
        dirty = pages_of(guest.collect_dirty(), 0)
        guest.save_devices()
        changed = pages_of(oracle.collect(), 0)
        changed_in_all += changed.bit_count()
        assert changed & ~dirty == 0, f"epoch {epoch} misses {(changed & ~dirty).bit_count()} pages"

    assert changed_in_all > epochs
    assert any(frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" for frame in ear.frames), "no ARP reply"
    assert not re.search(rb"bad [1-9]", ear.console)


def test_many_checkpoints_leave_nothing_behind_in_qemu(guests: Guests) -> None:
    guest, _ = guests.running()
    epochs = int(os.environ.get("FTVM_QEMU_EPOCHS", "200"))
    checkpoint(guest, 50)
    files, memory_kib = len(os.listdir(f"/proc/{guest.pid}/fd")), anonymous_kib(guest.pid)

    checkpoint(guest, epochs)

    assert wait_until(lambda: len(os.listdir(f"/proc/{guest.pid}/fd")) <= files)
    assert anonymous_kib(guest.pid) - memory_kib < 8_192


def checkpoint(guest: QemuGuest, count: int) -> None:
    for _ in range(count):
        guest.resume()
        guest.pause()
        guest.collect_dirty()
        guest.save_devices()


def anonymous_kib(pid: int) -> int:
    (found,) = re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found)


def test_a_paused_guest_writes_and_says_nothing(guests: Guests) -> None:
    guest, ear = guests.running()

    guest.pause()
    guest.pause()
    guest.collect_dirty()
    said, memory = len(ear.console), bytes(guest.memory[0].buffer)
    nap(0.5)

    assert len(ear.console) == said
    assert bytes(guest.memory[0].buffer) == memory
    assert pages_of(guest.collect_dirty(), 0) == 0


def test_what_a_failed_capture_collected_is_reported_again(guests: Guests) -> None:
    guest, ear = guests.running()
    guest.pause()
    guest.collect_dirty()
    guest.resume()
    said = ear.console.count(b"disk record")
    assert wait_until(lambda: ear.console.count(b"disk record") > said + 1)
    guest.pause()

    dirty = guest.collect_dirty()
    guest.restore_dirty(dirty)
    again = guest.collect_dirty()

    for region in (0, 2):
        assert pages_of(dirty, region)
        assert pages_of(dirty, region) & ~pages_of(again, region) == 0


def test_what_qemu_says_while_its_guest_is_paused_waits(guests: Guests) -> None:
    guest, ear = guests.running()
    guest.pause()
    frames = len(ear.frames)

    guest.monitor.execute("announce-self", initial=1, max=1, rounds=1, step=1)
    nap(0.3)
    while_paused = len(ear.frames)
    guest.resume()

    assert while_paused == frames
    assert wait_until(lambda: any(frame[12:14] == b"\x80\x35" for frame in ear.frames[frames:]))


def test_all_that_qemu_said_is_emitted_when_a_pause_returns(guests: Guests) -> None:
    guest, ear = guests.running()
    gate, console = guest._gate, guest._process.console
    assert gate is not None

    with gate._changed:  # so that nobody but the pause itself can hand anything on
        before = len(ear.console)
        assert select.select([console], [], [], PATIENCE_S)[0]
        guest.pause()
        after = len(ear.console)

    assert after > before
    assert not select.select([console], [], [], 0)[0]


def test_each_pause_saves_anew_and_only_once(guests: Guests) -> None:
    guest, ear = guests.running()
    guest.pause()
    first = guest.save_devices()
    again = guest.save_devices()

    guest.resume()
    ear.wait_count(ear.counts()[-1] + 1)
    guest.pause()

    assert again == first
    assert guest.save_devices() != first


def test_keys_reach_the_guest(guests: Guests) -> None:
    guest, ear = guests.running()

    guest.deliver("console", b"still there?\n")

    ear.wait_for(b"linux: heard still there?")


def test_a_killed_qemu_is_told_and_lets_itself_be_paused(guests: Guests) -> None:
    guest, _ = guests.running()

    os.kill(guest.pid, signal.SIGKILL)
    wait_until_it_fails(guest)
    guest.pause()

    assert guest.failure() == "QEMU was ended by SIGKILL"
    with pytest.raises(GuestError, match="SIGKILL"):
        guest.collect_dirty()
    with pytest.raises(GuestError, match="SIGKILL"):
        guest.save_devices()


def capture_until_it_fails(guest: QemuGuest, capture: str) -> None:
    for _ in range(100_000):
        guest._saved = None  # else it is asked no more
        getattr(guest, capture)()


@pytest.mark.parametrize("capture", ["collect_dirty", "save_devices"])
def test_a_capture_that_a_kill_breaks_off_tells_that_the_guest_is_lost(capture: str, guests: Guests) -> None:
    """Regression: its process was not gone yet, so it was a failed capture, and the standby was dropped."""
    guest, _ = guests.running()
    guest.pause()

    os.kill(guest.pid, signal.SIGKILL)
    with pytest.raises(GuestError):
        capture_until_it_fails(guest, capture)

    assert guest.failure() == "QEMU was ended by SIGKILL"


def test_a_guest_that_turns_itself_off_is_told(guests: Guests) -> None:
    guest, _ = guests.running()

    guest.deliver("console", b"quit\n")
    wait_until_it_fails(guest)

    assert str(guest.failure()).startswith("QEMU ended with status 0")


def test_a_qemu_that_hangs_is_ended(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "ANSWER_SECONDS", 0.5)
    guest, ear = guests.running()
    os.kill(guest.pid, signal.SIGSTOP)

    guest.pause()
    said = len(ear.console)

    assert "hangs or is stopped" in str(guest.failure())
    assert not Path(f"/proc/{guest.pid}").exists()
    assert len(ear.console) == said


def test_a_state_that_qemu_does_not_give_in_time_is_unreadable_and_the_guest_can_go_on(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was any failed capture, so the standby, the one that could go on, was dropped."""
    guest, ear = guests.running()
    guest.pause()
    os.kill(guest.pid, signal.SIGSTOP)

    with monkeypatch.context() as soon:
        soon.setattr(qmp, "ANSWER_SECONDS", 0.01)
        with pytest.raises(StateUnreadable, match=r"QEMU has not answered xen-save-devices-state for 0\.01 s"):
            guest.save_devices()
    os.kill(guest.pid, signal.SIGCONT)
    guest.resume()

    ear.wait_count(ear.counts()[-1] + 2)
    assert guest.failure() is None


def test_qemu_may_take_as_long_as_a_patient_standby_waits() -> None:
    """Regression: five seconds, which a busy machine can take, cost a guest its standby, or a lone guest its life."""
    patient_silence_s, limits_without_progress = 15.0, 4

    assert patient_silence_s * limits_without_progress <= qmp.ANSWER_SECONDS


def test_a_flush_that_qemu_makes_to_stop_is_not_its_guests(guests: Guests) -> None:
    """Mutant: each pause counts as a flush of the guest's, so each epoch waits for the standby's device."""
    guest, _ = guests.running()
    disk = next(iter(guest._disks))
    assert disk is not None
    (drive,) = [each["qdev"] for each in guest.monitor.execute("query-block") if each.get("inserted")]
    told = []

    for _ in range(20):  # the guest syncs its disk at some of them
        written = f'qemu-io -d {drive} "write -P 0 {DISK - 512} 512"'  # behind all files: now QEMU has to flush
        guest.monitor.execute("human-monitor-command", command_line=written)
        guest.pause()
        told.append(disk.take_flush())
        guest.resume()

    assert not all(told)


def test_a_machine_that_somebody_else_stopped_is_not_resumed(guests: Guests) -> None:
    guest, _ = guests.running()

    guest.monitor.execute("stop")
    guest.pause()
    guest.resume()

    assert "QEMU stopped the guest (paused), though ftvm had not asked for it" in str(guest.failure())
    assert wait_until(lambda: not is_alive(guest.pid))
    with pytest.raises(GuestError, match="QEMU stopped the guest"):  # and not that it runs
        guest.save_devices()


def test_a_full_disk_is_told_and_ends_the_guest_here(guests: Guests) -> None:
    guest, ear = guests.running()
    ear.wait_for(b"disk record")
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), next(iter(guest._disks)).image.descriptor)
    assert wait_until(lambda: guest.monitor.execute("query-status")["status"] == "io-error")

    guest.pause()

    assert "QEMU stopped the guest (io-error): the disk" in str(guest.failure())
    assert "No space left on device" in str(guest.failure())


def test_a_state_that_does_not_load_leaves_a_guest_that_takes_another(guests: Guests) -> None:
    guest, ear = guests.running()
    guest.pause()
    guest.collect_dirty()
    devices = guest.save_devices()
    other, other_ear = guests.blank(), Ear()
    other.attach(other_ear)
    copy_memory(guest, other)

    for wrong in (b"", b"\0" * 100, devices[:-40], pack_devices(unpack_devices(devices)[:-4000])):
        with pytest.raises(GuestError):
            other.load_devices(wrong)
    other.load_devices(devices)
    other.resume()

    other_ear.wait_count(ear.counts()[-1] + 1)


def test_a_guest_whose_pages_must_be_compared_says_why(guests: Guests) -> None:
    """Regression: it went past the events, into `logging`."""
    guest, ear = guests.blank(boots=True), Ear()
    guest.attach(ear)
    fault = guest._process.take_userfault()
    guest._process.userfault_refused = "no such thing here"

    guest.collect_dirty()

    assert ear.warnings == ["each checkpoint compares every page of the guest, which is slow: no such thing here"]
    if fault is not None:
        os.close(fault)


def test_a_disk_that_asks_for_a_cut_is_heard_by_its_guests_sink(guests: Guests) -> None:
    guest, ear = guests.running()
    disk = next(iter(guest._disks))

    os.eventfd_write(disk.fileno(), 1)

    ear.wait_wish()


def test_qemu_goes_first_while_an_urgent_thread_has_it_stopped_and_not_while_the_guest_runs(guests: Guests) -> None:
    guest, _ = guests.running()
    processors = {processor["thread-id"] for processor in guest.monitor.execute("query-cpus-fast")}
    others = {int(thread) for thread in os.listdir(f"/proc/{guest.pid}/task")} - processors
    assert guest.pid in others

    def policies(threads: set[int]) -> set[int]:
        return {policy & ~os.SCHED_RESET_ON_FORK for policy in policies_of(threads)}

    running = policies(processors | others)
    urgently(guest.pause)
    stopped = policies(processors), policies(others)
    guest.resume()

    assert running == {os.SCHED_OTHER}
    assert stopped == ({os.SCHED_OTHER}, {os.SCHED_RR})
    assert wait_until(lambda: policies(processors | others) == {os.SCHED_OTHER})


def test_lost_tracking_is_told_and_everything_reported_after(guests: Guests) -> None:
    guest, _ = guests.running()
    guest.pause()
    guest.collect_dirty()
    tracker = guest._tracker
    assert isinstance(tracker, UserfaultTracker)
    with open(os.devnull, "rb") as wrong:
        os.dup2(wrong.fileno(), tracker._native.pagemap)

    with pytest.raises(TrackingLost):
        guest.collect_dirty()
    all_again = pages_of(guest.collect_dirty(), 0)

    oracle = CompareTracker(NativeMemory([guest.memory[0].buffer]))
    assert pages_of(oracle.collect(), 0) & ~all_again == 0


CHILD = """
import sys, time
from ftvm.guests.qemu import QemuGuest, QemuMachine
guest = QemuGuest(QemuMachine(memory_bytes=16 << 20), boots=True)
print(guest.pid, flush=True)
time.sleep(600)
"""


def test_qemu_ends_with_the_process_that_started_it(image: object) -> None:
    del image
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        pid = int(child.stdout.readline())
        assert Path(f"/proc/{pid}").exists()

        child.kill()

    assert wait_until(lambda: not is_alive(pid))
