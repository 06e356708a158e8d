"""The machine's disk: memory that goes along with its guest, and is kept in an image where it has one."""

import os
import random
from pathlib import Path

import pytest

from ftvm.checkpoint import GuestPosition
from ftvm.errors import ConfigError, ImageError, StateUnreadable
from ftvm.guests.disk.kept import KeptDisk

from .stable import (
    Stable,
    chatter,
    wait_for_end,
    wait_for_failure,
)


def test_a_disk_is_memory_too_and_goes_along(stable: Stable) -> None:
    first, first_sink = stable.shipped("journal", disk=1 << 16, command_line="records=20")
    first.resume()
    wait_for_failure(first, first_sink)
    first.pause()

    disk = first.memory[1]
    dirty = first.collect_dirty()
    second, second_sink = stable.shipped("journal", disk=bytes(disk.buffer), command_line="records=20")
    second.resume()
    wait_for_failure(second, second_sink)

    assert [region.name for region in first.memory] == ["ram", "disk"]
    assert b"read back 20 records, all as written" in first_sink.console()
    written = {page for page in range(16) if any(disk.buffer[page * 4096 : page * 4096 + 4096])}
    assert written == {page for page in range(16) if dirty.words[1][page // 8] >> page % 8 & 1}
    assert b"read back 40 records, all as written" in second_sink.console()
    assert second.failure() == "the program ended with code 0"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 16))
    return tmp_path / "disk.img"


def test_a_disk_with_an_image_is_there_again_the_next_time(stable: Stable, image: Path) -> None:
    first, first_sink = stable.shipped("journal", disk=image, command_line="records=20")
    first.resume()
    wait_for_failure(first, first_sink)
    before = image.read_bytes()
    first.close()

    second, second_sink = stable.shipped("journal", disk=image, command_line="records=20")
    second.resume()
    wait_for_failure(second, second_sink)

    assert before == bytes(1 << 16)
    assert b"read back 40 records, all as written" in second_sink.console()


def test_a_disks_image_is_at_the_last_checkpoint(stable: Stable, image: Path) -> None:
    guest, sink = stable.shipped("journal", disk=image, command_line="records=20")
    guest.resume()
    wait_for_failure(guest, sink)
    guest.pause()
    disk, store = guest.memory[1].buffer, guest.memory[1].store

    dirty = guest.collect_dirty()

    assert isinstance(store, KeptDisk)
    store.image.sync()
    assert image.read_bytes() == bytes(disk)
    assert dirty.words[1] != bytes(8)


def test_a_machine_does_the_same_with_an_image_and_without(stable: Stable, image: Path) -> None:
    content = random.Random(7).randbytes(1 << 16)
    image.write_bytes(content)
    states = []

    for disk in (content, image):
        guest, _ = stable.shipped("journal", disk=disk, command_line="records=20", entropy=None)
        guest.run_until(GuestPosition(20_000, 0))
        states.append((guest.save_devices(), *(bytes(region.buffer) for region in guest.memory)))
        guest.collect_dirty()
        guest.run_until(GuestPosition(60_000, 0))
        states[-1] += (guest.save_devices(), *(bytes(region.buffer) for region in guest.memory))

    assert states[0] == states[1]


def test_an_image_that_cannot_be_read_ends_the_guest_and_it_says_nothing_more(stable: Stable, image: Path) -> None:
    guest, sink = stable.shipped("journal", disk=image, command_line="records=20")
    os.truncate(image, 0)

    guest.resume()
    failure = wait_for_end(guest)
    guest.pause()

    assert failure == f"the disk {image} cannot be read: 1 of its pages failed"
    assert b"read back" not in sink.console()
    with pytest.raises(StateUnreadable):
        guest.collect_dirty()


def test_an_image_that_was_deleted_is_told_once_while_there_is_still_time(stable: Stable, image: Path) -> None:
    """Regression: what the guest had written was gone when its host ended, and nobody had said a word."""
    guest, sink = stable.shipped("journal", disk=image, command_line="records=20")
    warnings: list[str] = []
    sink.warn = warnings.append  # type: ignore[method-assign]
    before = guest.failure()
    image.unlink()

    assert (before, guest.failure(), guest.failure()) == (None, None, None)
    assert warnings == [f"the image of the disk {image} was deleted: it is gone for good when this host ends"]


def test_an_image_is_one_guests_alone(stable: Stable, image: Path) -> None:
    stable(chatter(), disk=image)

    with pytest.raises(ConfigError, match="is in use: each host of a guest needs its own image"):
        stable(chatter(), disk=image)


def test_a_guest_that_cannot_be_made_lets_go_of_its_image(stable: Stable, image: Path) -> None:
    with pytest.raises(ImageError):
        stable(chatter(), disk=image, memory_bytes=4096)

    stable(chatter(), disk=image)


def test_a_standbys_disk_is_blank_and_its_image_as_it_was(stable: Stable, image: Path) -> None:
    image.write_bytes(b"x" * (1 << 16))

    standby, _ = stable(None, disk=str(image))
    active, _ = stable(chatter(), disk=1 << 16)

    assert not any(standby.memory[1].buffer)
    assert standby.geometry == active.geometry
    standby.close()
    assert image.read_bytes() == b"x" * (1 << 16)
