"""Calls out of order, and what QEMU cannot save or does not know, are refused in words, and no process is left."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from ftvm.errors import ClosedError, ConfigError, GuestError, LocalProtocolError
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.guests.qemu import machine as machine_module

from ...leftovers import nothing_left_behind, processes
from .conftest import Ear, Guests


def test_calls_out_of_order_are_refused(guests: Guests) -> None:
    guest = guests.blank(boots=True)

    with pytest.raises(LocalProtocolError, match="attach a sink"):
        guest.resume()
    guest.attach(Ear())
    guest.resume()
    with pytest.raises(LocalProtocolError, match="needs a paused guest"):
        guest.collect_dirty()
    with pytest.raises(LocalProtocolError, match="needs a paused guest"):
        guest.load_devices(b"")
    guest.close()
    guest.close()
    with pytest.raises(ClosedError):
        guest.save_devices()
    assert not Path(f"/proc/{guest.pid}").exists()


def test_memory_outside_the_shared_is_refused_and_no_process_is_left(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "check_arguments", lambda _: None)

    with nothing_left_behind(processes), pytest.raises(ConfigError, match=r"vga\.vram"):
        guests.blank(boots=True, arguments=("-vga", "std"))


def test_a_device_that_qemu_cannot_save_is_refused_in_qemus_words_and_no_process_is_left(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "check_arguments", lambda _: None)
    told = r"cannot be protected: non-migratable device: \S*/nvme; remove the cause"

    with nothing_left_behind(processes), pytest.raises(ConfigError, match=told):
        guests.blank(boots=True, arguments=("-device", "nvme,serial=1"))


def test_what_qemu_comes_to_be_unable_to_save_is_told_before_the_first_checkpoint(guests: Guests) -> None:
    guest = guests.blank(boots=True)
    guest.monitor.execute("device_add", driver="nvme", serial="1", id="late")

    with pytest.raises(GuestError, match=r"cannot be protected: non-migratable device: \S*/nvme; remove the cause"):
        guest.collect_dirty()


EVERYTHING = """
    -smp 2 -cpu max -usb -vga none -nographic -nic none -sandbox on -boot order=c -name vm -rtc base=utc
    -object rng-random,id=r -device virtio-rng-pci,rng=r -device usb-tablet -device qemu-xhci -device ahci
    -device virtio-gpu-pci -device i6300esb -device intel-hda -device virtio-scsi-pci -device scsi-cd,drive=cd
"""


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_machine_of_all_that_is_accepted_starts_and_is_saved(machine: str, guests: Guests, tmp_path: Path) -> None:
    (tmp_path / "cd.iso").write_bytes(bytes(1 << 16))
    cd = f"id=cd,file={tmp_path}/cd.iso,if=none,media=cdrom,format=raw"
    guest = guests.blank(boots=True, arguments=("-M", machine, "-drive", cd, *EVERYTHING.split()))

    guest.collect_dirty()

    assert guest.save_devices()


def test_wrong_arguments_are_refused_with_qemus_own_words(guests: Guests) -> None:
    with pytest.raises(GuestError, match=r"ended with status 1: .*no-such-model"):
        guests.blank(boots=True, arguments=("-cpu", "no-such-model"))


def test_a_missing_program_is_refused_with_its_package() -> None:
    with pytest.raises(ConfigError, match="qemu-system-x86"):
        QemuGuest(QemuMachine(memory_bytes=16 << 20, program="qemu-system-none"), boots=True)


def test_an_accelerator_that_is_not_tested_is_said_to_be_so() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")
    ear = Ear()
    machine = QemuMachine(memory_bytes=16 << 20, accel="tcg,thread=single")

    with closing(QemuGuest(machine, boots=True)) as guest:
        guest.attach(ear)

    assert ear.warnings == ["QEMU with accel tcg,thread=single is not tested under protection: tcg and kvm are"]
