"""A stock QEMU under KVM: no write is missed, and its guest lives on, timers, clock and memory, when its host dies.

How many epochs are compared is set by FTVM_KVM_EPOCHS; `.ci/full kvm` compares 500, with one processor and with four.
"""

import os
import signal
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import CompareTracker
from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import FtvmError, GuestError
from ftvm.guests.disk.several import Disks
from ftvm.testing.transcript import load_picture, take_picture
from ftvm.units import Nanos

from ...runtime.live import PATIENCE_S, kill, start_pair
from ...runtime.live import Ear as PairEar
from ..vmm.monitors import shared_folder
from .barekvm import BareGuest, Beat, beats_in, boot_bare_guest
from .conftest import Ear

MS = 1_000_000
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(1_000 * MS), primary_limit_ns=Nanos(3_000 * MS))
EPOCHS = int(os.environ.get("FTVM_KVM_EPOCHS", "60"))
BEAT_NS_MAX = 20_000 * MS
"""A beat is half a second of the guest's time; on a busy host KVM's clock goes on while no processor is free for it."""


@pytest.fixture(scope="module", params=[1, 4] if EPOCHS >= 500 else [1])  # to boot takes long where KVM has no hardware
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BareGuest:
    return boot_bare_guest(shared_folder(tmp_path_factory), request.param)


def require_whole(beats: list[Beat]) -> None:
    """Each beat is there once, no word was wrong, both timers tick on, the clock neither goes back nor jumps."""
    numbers = [beat.number for beat in beats]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {beat.bad for beat in beats} == {0}
    for earlier, later in pairwise(beats):
        assert later.pit > earlier.pit
        assert later.lapic > earlier.lapic
        assert later.writes > earlier.writes
        assert later.worker_writes > earlier.worker_writes or not later.workers
        assert 0 < later.clock_ns - earlier.clock_ns < BEAT_NS_MAX, (earlier, later)


def test_no_page_that_changed_is_left_out_however_it_was_written(bare: BareGuest) -> None:
    """By the processor, by QEMU's devices, and by KVM itself, which tells the guest the time."""
    with closing(bare.loaded()) as guest:
        guest.attach(Ear())
        oracle = CompareTracker(NativeMemory([guest.memory[0].buffer]))
        guest.collect_dirty()
        oracle.collect()
        changed_pages = clock_changes = 0
        for _ in range(EPOCHS):
            guest.resume()
            threading.Event().wait(0.015)
            guest.pause()
            told = int.from_bytes(guest.collect_dirty().words[0], "little")
            changed = int.from_bytes(oracle.collect().words[0], "little")
            guest.save_devices()

            assert changed & ~told == 0
            changed_pages += changed.bit_count()
            clock_changes += changed >> bare.clock_page & 1

        assert changed_pages > EPOCHS
        assert clock_changes > 0


def test_a_state_goes_on_in_another_qemu_after_a_while_and_its_clock_does_not_jump(bare: BareGuest) -> None:
    with closing(bare.loaded()) as guest, closing(bare.blank()) as other:
        ears = Ear(), Ear()
        guest.attach(ears[0])
        other.attach(ears[1])
        guest.resume()
        ears[0].wait_for(b"beat 4 ")
        guest.pause()
        load_picture(other, take_picture(guest))

        other.resume()
        ears[1].wait_for(b"beat 7 ")
        other.pause()

        require_whole(beats_in(bytes(ears[0].console + ears[1].console)))


@pytest.mark.parametrize("is_told_to_go", [False, True])
def test_a_clock_does_not_go_back_where_a_loaded_state_is_saved_before_it_has_run(
    is_told_to_go: bool, bare: BareGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(bare.loaded()) as guest:
        ear = Ear()
        guest.attach(ear)
        with monkeypatch.context() as patched:
            patched.setattr(Disks, "when_settled", lambda *_: None)  # as while a disk writes
            if is_told_to_go:
                guest.resume()
            guest.pause()

            saved = guest.save_devices()

        guest.resume()
        ear.wait_for(b"beat 4 ")
        guest.pause()
        assert beats_in(bytes(ear.console))[0].clock_ns > bare.clock_ns
        assert saved == bare.devices


class BeatEar(PairEar):
    def beats(self) -> list[Beat]:
        return beats_in(self.text().encode())

    def wait_more(self, count: int) -> None:
        before = len(self.beats())
        self.wait_until(lambda _: len(self.beats()) >= before + count)


@pytest.mark.parametrize(("engine", "victim"), [("remus", "host"), ("kemari", "qemu")])
def test_a_guest_under_kvm_goes_on_where_its_host_or_its_qemu_died(
    engine: str, victim: str, bare: BareGuest, tmp_path: Path
) -> None:
    ear = BeatEar()
    booted = bare.loaded()
    primary, standby = start_pair(
        booted, bare.blank(), tmp_path, engine=engine_named(engine, 0.05), timing=TIMING, ear=ear
    )
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_more(2)

        if victim == "host":
            kill(primary)
        else:
            os.kill(booted.pid, signal.SIGKILL)
        assert standby.wait(PATIENCE_S) is not None
        ear.wait_more(3)
        if victim == "qemu":
            with pytest.raises(GuestError, match="QEMU was ended by SIGKILL"):
                primary.wait(PATIENCE_S)
            primary.close()

    require_whole(ear.beats())


def test_geometry_names_what_the_guest_sees_of_the_processor(bare: BareGuest) -> None:
    with closing(bare.blank()) as guest:
        assert guest.geometry.machine.startswith("QEMU ")
        assert " -accel kvm " in guest.geometry.machine
        assert _processor(guest.geometry.machine)


def _processor(machine: str) -> list[str]:
    return [word for word in machine.split() if word.startswith(("cpu=", "tsc="))]


def test_a_host_with_another_processor_is_refused_with_both_shown_and_a_model_proposed(
    bare: BareGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftvm.guests.qemu import guest as module

    ear, booted = BeatEar(), bare.loaded()
    ours = _processor(booted.geometry.machine)
    monkeypatch.setattr(module, "describe_processor", lambda _: f"cpu=GenuineIntel-6-143-8/0123456789abcdef {ours[1]}")
    primary, standby = start_pair(
        booted, bare.blank(), tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=ear
    )
    with primary:
        with pytest.raises(FtvmError) as refused:
            standby.wait(PATIENCE_S)
        standby.close()

    assert f"machine {ours[0]} / cpu=GenuineIntel-6-143-8/0123456789abcdef; the processors differ" in str(refused.value)
    assert "-cpu qemu64" in str(refused.value)
