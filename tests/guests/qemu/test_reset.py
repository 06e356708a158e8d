"""A guest that reboots: QEMU loads its ROMs and tables once more, so what leads the saved state is taken once more.

Else a takeover gives the new host's QEMU the ROMs of the first boot.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.guests.qemu import QemuGuest
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing.transcript import fill_region

from .conftest import Ear
from .tiny import REBOOTING, tiny_guest

FIRMWARE = 1
"""The number of the region."""

NOT_NOTICED = Mutant(
    name="a reset is not noticed",
    breaks="the head of the first boot leads the state of the second",
    edits=(Edit("ftvm.guests.qemu.guest:QemuGuest._stop", 'event.name == "RESET"', "False"),),
)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., QemuGuest]]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")
    made: list[QemuGuest] = []

    def make(**options: bool) -> QemuGuest:
        made.append(tiny_guest(tmp_path, len(made), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for guest in made:
        guest.close()


def head_of(guest: QemuGuest) -> bytes:
    return bytes(guest.memory[FIRMWARE].buffer)


def run_until(guest: QemuGuest, ear: Ear, words: bytes, *, key: bytes = b"") -> int:
    """Let it run, and press a key, until it has said so; return how many pages of the head are to be copied then."""
    guest.resume()
    guest.deliver("console", key)
    ear.wait_for(words)
    guest.pause()
    return int.from_bytes(guest.collect_dirty().words[FIRMWARE], "little").bit_count()


def reboot(guest: QemuGuest) -> tuple[bytes, bytes, int]:
    """Have a guest boot twice; return the head before and after, and how many of its pages are to be copied."""
    ear = Ear()
    guest.attach(ear)
    run_until(guest, ear, b"B")
    before = head_of(guest)
    copied = run_until(guest, ear, b"BB", key=b"!")
    return before, head_of(guest), copied


def test_a_guest_that_reboots_has_its_head_taken_and_copied_once_more(make: Callable[..., QemuGuest]) -> None:
    guest = make(code=REBOOTING)

    before, after, copied = reboot(guest)

    assert after != before
    assert copied == guest.memory[FIRMWARE].page_count


def test_a_guest_that_only_runs_keeps_its_head(make: Callable[..., QemuGuest]) -> None:
    guest, ear = make(), Ear()
    guest.attach(ear)
    run_until(guest, ear, b"B")
    before = head_of(guest)

    copied = run_until(guest, ear, b"BCD")

    assert (head_of(guest), copied) == (before, 0)


def test_a_mutant_that_does_not_notice_the_reset_keeps_the_head_of_the_first_boot(
    make: Callable[..., QemuGuest],
) -> None:
    with broken(NOT_NOTICED):
        before, after, copied = reboot(make(code=REBOOTING))

    assert (after, copied) == (before, 0)


def test_a_guest_that_rebooted_goes_on_elsewhere_and_reboots_there(make: Callable[..., QemuGuest]) -> None:
    guest, other, ear = make(code=REBOOTING), make(code=REBOOTING, boots=False), Ear()
    other.attach(ear)
    reboot(guest)

    devices = guest.save_devices()
    for theirs, ours in zip(guest.memory, other.memory, strict=True):
        fill_region(ours, theirs.buffer)
    other.load_devices(devices)
    run_until(other, ear, b"B", key=b"!")
    run_until(other, ear, b"BB", key=b"!")

    assert other.failure() is None
    assert head_of(other) == head_of(guest)
