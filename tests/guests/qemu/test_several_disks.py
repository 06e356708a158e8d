"""A guest with several disks: each is replicated to its own image, and none is settled before all are."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.disk.disk import Disk
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.testing.transcript import Transcript
from ftvm.units import PAGE_BYTES

if shutil.which("qemu-system-x86_64") is None:
    pytest.skip("needs QEMU: apt install qemu-system-x86", allow_module_level=True)

SIZES = (1 << 20, 2 << 20)
SLICE = 1 << 20


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[QemuGuest]:
    paths = [tmp_path / f"{number}.img" for number in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(bytes(size))
    machine = QemuMachine(memory_bytes=16 << 20, disk_bytes=SIZES)
    made = QemuGuest(machine, boots=True, disk=[str(path) for path in paths])
    made.attach(Transcript())
    made.resume()  # until then its disks are not active in QEMU
    made.pause()
    yield made
    made.close()


def write(guest: QemuGuest, disk: int, command: str) -> None:
    """Have QEMU ask for something of a disk, as its card does."""
    cards: Any = guest.monitor.execute("query-block")
    nodes = {card["inserted"]["node-name"]: card["qdev"] for card in cards if "inserted" in card}
    card = nodes["ftvm-disk" + (str(disk) if disk else "")]
    said = guest.monitor.execute("human-monitor-command", command_line=f'qemu-io -d {card} "{command}"')
    assert "error" not in json.dumps(said).lower(), said


def dirty(guest: QemuGuest) -> list[set[int]]:
    bitmap = guest.collect_dirty()
    return [
        {page for page in range(count) if int.from_bytes(words, "little") >> page & 1}
        for count, words in zip(bitmap.page_counts, bitmap.words, strict=True)
    ]


def test_what_is_written_to_a_disk_is_in_its_own_image_and_region(guest: QemuGuest, tmp_path: Path) -> None:
    dirty(guest)

    write(guest, 0, "write -P 7 4096 4096")
    write(guest, 1, "write -P 9 8192 8192")

    _, _, first, second = dirty(guest)
    assert [shape.name for shape in guest.geometry.regions[2:]] == ["disk", "disk1"]
    assert (first, second) == ({1}, {2, 3})
    assert (tmp_path / "0.img").read_bytes()[PAGE_BYTES : 2 * PAGE_BYTES] == b"\7" * PAGE_BYTES
    assert bytes(guest.memory[3].buffer[2 * PAGE_BYTES : 4 * PAGE_BYTES]) == b"\11" * 2 * PAGE_BYTES


def test_a_disk_that_is_trimmed_whole_changes_what_it_had_and_nothing_else(guest: QemuGuest, tmp_path: Path) -> None:
    write(guest, 1, "write -P 9 8192 8192")
    before = (tmp_path / "1.img").stat().st_blocks
    dirty(guest)

    for offset in range(0, SIZES[1], SLICE):  # as much as the card takes at once
        write(guest, 1, f"discard {offset} {SLICE}")

    *_, second = dirty(guest)
    assert {2, 3} <= second
    assert bytes(guest.memory[3].buffer) == bytes(SIZES[1])
    assert (tmp_path / "1.img").stat().st_blocks < before


def test_a_guest_that_has_stopped_lets_each_image_have_what_was_held_meanwhile(
    guest: QemuGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[str] = []
    monkeypatch.setattr(Disk, "rest", lambda disk: rested.append(disk.name))

    guest.resume()
    assert rested == []
    guest.pause()

    assert rested == ["disk", "disk1"]


def test_a_machine_is_given_an_image_for_each_disk(tmp_path: Path) -> None:
    machine = QemuMachine(memory_bytes=16 << 20, disk_bytes=SIZES)

    with pytest.raises(ConfigError, match="the machine has 2 disks, and 1 images were given"):
        QemuGuest(machine, boots=True, disk=str(tmp_path / "0.img"))
