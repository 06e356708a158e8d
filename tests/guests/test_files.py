"""A disk's content comes from a file that somebody may change; what cannot be a disk at all: test_imagefile.py."""

from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.files import load_disk
from ftvm.guests.imagefile import image_bytes
from ftvm.guests.riscv.machine import FlaggedMemory

MEBIBYTE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def test_a_raw_image_becomes_the_disk_and_what_is_zero_stays_untouched(image: Path) -> None:
    content = b"first" + bytes(2 * MEBIBYTE - 5) + b"x" * 4096
    image.write_bytes(content)
    disk = FlaggedMemory(image_bytes(str(image)))

    load_disk(image, disk)

    assert bytes(disk.buffer) == content
    assert {at // 256 for at, flag in enumerate(disk.flags) if flag} == {0, 2}


@pytest.mark.parametrize("size_bytes", [4096, 12288], ids=["shorter", "longer"])
def test_an_image_that_changed_its_size_since_it_was_asked_is_refused(image: Path, size_bytes: int) -> None:
    image.write_bytes(bytes(8192))
    disk = FlaggedMemory(image_bytes(str(image)))
    image.write_bytes(bytes(size_bytes))

    with pytest.raises(ConfigError, match="changed its size while it was read"):
        load_disk(image, disk)


def test_an_image_that_went_away_is_refused_by_name(image: Path) -> None:
    with pytest.raises(ConfigError, match=f"the disk {image} cannot be read: No such file or directory"):
        load_disk(image, FlaggedMemory(4096))
