"""A disk whose device is watched, and a client of it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.guests.disk.disk import Disk
from ftvm.units import PAGE_BYTES

from . import devices
from .nbd import Client
from .witness import Witness

PAGES = 16
SIZE = PAGES * PAGE_BYTES


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness()
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path, witness: Witness) -> Iterator[Disk]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    opened = Disk(str(path), boots=True, witnesses=witness.descriptors)
    opened.collect()
    yield opened
    opened.close()


@pytest.fixture
def client(disk: Disk) -> Iterator[Client]:
    made = Client(disk)
    yield made
    made.close()


def dirty(disk: Disk) -> set[int]:
    words = int.from_bytes(disk.collect().words[0], "little")
    return {page for page in range(PAGES) if words >> page & 1}


def image_of(disk: Disk) -> bytes:
    return disk.image.path.read_bytes()


def fill(disk: Disk) -> None:
    """Have the device behind the image full from now on."""
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), disk.image.descriptor)


def own_bytes(disk: Disk) -> int:
    """Return how much of a disk's memory is this process's own."""
    with open("/proc/self/smaps", encoding="ascii") as maps:
        lines = iter(maps)
        found = [field_of(lines, "Anonymous") for line in lines if line.rstrip().endswith(str(disk.image.path))]
    assert found, "the disk is mapped"
    return sum(found)


def field_of(lines: Iterator[str], name: str) -> int:
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A link to a loop device whose every page says `o`; its folder is in `state`."""
    monkeypatch.setenv("FTVM_DISKS", str(tmp_path / "state"))
    file = tmp_path / "behind"
    file.write_bytes(b"o" * devices.SIZE)
    try:
        made = subprocess.run(["losetup", "-f", "--show", str(file)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as wrong:
        pytest.skip(f"needs a loop device, and root: {wrong}")
    link = tmp_path / "links" / "disk"
    link.parent.mkdir()
    link.symlink_to(made.stdout.strip())
    yield link
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)
