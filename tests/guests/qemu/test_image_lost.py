"""An image that is cut short or deleted beside the QEMU that uses it: noticed without a read, and told."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.engines.remus import Remus
from ftvm.errors import GuestError, StateUnreadable
from ftvm.guests.qemu import QemuGuest
from ftvm.units import PAGE_BYTES

from ...runtime.live import Ear as LiveEar
from ...runtime.live import start_pair
from .conftest import PATIENCE_S, Ear
from .test_protection import TIMING
from .tiny import tiny_guest


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[bool], QemuGuest]]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")
    made: list[QemuGuest] = []

    def make(boots: bool) -> QemuGuest:
        made.append(tiny_guest(tmp_path, len(made), boots=boots))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


def cut_short(folder: Path, number: int) -> None:
    os.truncate(folder / f"tiny{number}.img", PAGE_BYTES)


def test_a_guest_that_runs_goes_on_when_its_image_is_cut_short_but_nothing_is_captured(
    make: Callable[[bool], QemuGuest], tmp_path: Path
) -> None:
    guest, ear = make(True), Ear()
    guest.attach(ear)
    cut_short(tmp_path, 0)

    assert [guest.failure(), guest.failure()] == [None, None]
    (warning,) = [warning for warning in ear.warnings if "disk" in warning]
    assert warning.startswith(f"the disk {tmp_path}/tiny0.img cannot be read: its image was cut to {PAGE_BYTES} bytes")
    with pytest.raises(StateUnreadable):
        guest.collect_dirty()


def test_a_standby_whose_image_is_cut_short_has_failed(make: Callable[[bool], QemuGuest], tmp_path: Path) -> None:
    """What the image has lost no commit brings back: a takeover would run from zeros."""
    guest = make(False)
    guest.attach(Ear())
    cut_short(tmp_path, 0)

    assert f"its image was cut to {PAGE_BYTES} bytes" in (guest.failure() or "")


@pytest.mark.parametrize("boots", [True, False])
def test_an_image_that_is_deleted_is_told_once_and_ends_nobody(
    make: Callable[[bool], QemuGuest], tmp_path: Path, boots: bool
) -> None:
    guest, ear = make(boots), Ear()
    guest.attach(ear)
    (tmp_path / "tiny0.img").unlink()

    assert [guest.failure(), guest.failure()] == [None, None]
    assert sum("was deleted: it is gone for good when this host ends" in warning for warning in ear.warnings) == 1


def test_a_protected_guest_whose_image_is_cut_short_goes_on_at_its_standby(
    make: Callable[[bool], QemuGuest], tmp_path: Path
) -> None:
    """Regression: the standby was dropped, and each later first copy failed alike."""
    primary, standby = start_pair(
        make(True), make(False), tmp_path, engine=Remus(interval=0.05), timing=TIMING, ear=LiveEar()
    )
    with standby:
        assert primary.wait_protected(PATIENCE_S)

        cut_short(tmp_path, 0)

        assert standby.wait(PATIENCE_S) is not None
        with pytest.raises(GuestError, match=f"its image was cut to {PAGE_BYTES} bytes"):
            primary.wait(PATIENCE_S)
        primary.close()
