"""A sparse disk of 1 TiB: what it costs is what is written to it. Counted in pages and bytes, not in time."""

import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm._native.memory import NativeMemory, bitmap_indices
from ftvm.capture.pages import BatchBuffers, Shadow, capture_fused
from ftvm.checkpoint import Bitmap, PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.hashes import REGION_PAGES, HashFile
from ftvm.interfaces import Region
from ftvm.runtime.stored import StoredMemory, present_pages
from ftvm.units import PAGE_BYTES, PageCount

from .nbd import WRITE_ZEROES, Client

SIZE = 1 << 40
LAST = SIZE // PAGE_BYTES - 1
MIDDLE = LAST // 2
OWN_BYTES_MAX = 64 << 20
"""For both hosts together, which are one process here."""


class Host:
    """A host as far as its disk goes: the memory to ftvm, with its digests."""

    def __init__(self, path: Path, *, boots: bool) -> None:
        if not path.exists():
            path.touch()
            os.truncate(path, SIZE)
        self.disk = Disk(str(path), boots=boots)
        region = Region(
            name="disk", buffer=self.disk.buffer, page_count=PageCount(self.disk.page_count), store=self.disk
        )
        self.regions = (region,)
        self.memory = NativeMemory([self.disk.buffer])
        self.committed = CommittedMemory(self.memory, lambda: present_pages(self.regions))
        self.stored = StoredMemory(self.committed, self.regions)

    def capture(self, shadow: Shadow, pages: Bitmap) -> tuple[PageBatch, ...]:
        return capture_fused(
            self.memory, shadow, bitmap_indices(pages), limits=Limits(), buffers=BatchBuffers(Limits())
        )


def collected(host: Host) -> Bitmap:
    return host.disk.collect()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    try:
        path.touch()
        os.truncate(path, SIZE)
    except OSError as wrong:
        pytest.skip(f"needs a file system that takes a sparse file of 1 TiB: {wrong}")
    with path.open("r+b") as file:
        for page in (0, MIDDLE, LAST):
            file.seek(page * PAGE_BYTES)
            file.write(b"data")
    return path


@pytest.fixture
def hosts(image: Path, tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    active, standby = Host(image, boots=True), Host(tmp_path / "b.img", boots=False)
    yield active, standby
    active.disk.close()
    standby.disk.close()


def own_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as found:
        return next(int(line.split()[1]) for line in found if line.startswith("RssAnon")) * 1024


def first_copy(active: Host, standby: Host, shadow: Shadow) -> int:
    """Copy what is there; return how many pages were looked at."""
    standby.stored.clear()
    active.disk.collect()
    present = present_pages(active.regions)
    batches = active.capture(shadow, present)
    standby.stored.verify(batches, shadow.memory_digest)
    standby.stored.commit(batches)
    return present.count()


def cut(active: Host, standby: Host, shadow: Shadow) -> None:
    batches = active.capture(shadow, collected(active))
    standby.stored.verify(batches, shadow.memory_digest)
    standby.stored.commit(batches)


def test_copy_epochs_and_takeover_of_a_tebibyte_cost_what_was_written(
    image: Path, tmp_path: Path, hosts: tuple[Host, Host]
) -> None:
    before = own_bytes()
    active, standby = hosts
    shadow = Shadow(active.memory.page_counts)
    client = Client(active.disk).agree()

    copied = first_copy(active, standby, shadow)
    for page in (7, MIDDLE + 1, LAST - 1):
        assert client.write(page * PAGE_BYTES, b"more") == 0
        cut(active, standby, shadow)
    assert client.ask(WRITE_ZEROES, MIDDLE * PAGE_BYTES, PAGE_BYTES) == 0
    cut(active, standby, shadow)
    client.close()
    is_told = threading.Event()
    standby.disk.when_settled(lambda trouble: is_told.set() if trouble is None else None)
    assert is_told.wait(60)
    taken = own_bytes() - before

    other = Client(standby.disk).agree()
    read = [other.read(page * PAGE_BYTES, 4) for page in (0, 7, MIDDLE, MIDDLE + 1, LAST - 1, LAST)]
    other.close()
    assert copied == 3
    assert read == [b"data", b"more", bytes(4), b"more", b"more", b"data"]
    assert taken < OWN_BYTES_MAX
    standby.disk.image.sync()
    assert all(path.stat().st_blocks * 512 < 1 << 20 for path in (image, tmp_path / "b.img"))


def test_a_switchover_of_a_tebibyte_copies_what_differs(hosts: tuple[Host, Host]) -> None:
    """The old active measures what it holds, the new one takes it over as its shadow: neither looks at holes."""
    active, standby = hosts
    first_copy(active, standby, Shadow(active.memory.page_counts))
    before = own_bytes()

    active.stored.measure()
    shadow = Shadow(standby.memory.page_counts)
    end = shadow.adopt(standby.memory, standby.committed.digests, 0, 100)

    assert end == LAST + 1
    assert shadow.memory_digest == standby.stored.memory_digest == active.stored.memory_digest
    assert own_bytes() - before < OWN_BYTES_MAX


def test_the_hashes_of_a_tebibyte_cost_what_it_has_data_for(image: Path) -> None:
    """In memory a byte for each MiB; in the file that, and 16 bytes a page of what is known."""
    descriptor, pages = os.open(image, os.O_RDWR), PageCount(SIZE // PAGE_BYTES)
    turns = 0
    tracemalloc.start()  # what the system has given says nothing where a sanitizer keeps what was freed
    hashes = HashFile(image, image, descriptor, pages, is_given=False)
    hashes.place_at(0)
    while hashes.has_more() and turns < 10:
        hashes.learn(descriptor, is_resting=True, is_wanted=lambda: False)
        turns += 1
    hashes.close(descriptor, is_good=True)
    file = image.with_name("a.img.hashes").stat()
    again = HashFile(image, image, descriptor, pages, is_given=False)
    again.place_at(0)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    known = [page // REGION_PAGES for page in range(0, pages, REGION_PAGES) if again._states[page // REGION_PAGES]]

    assert turns < 10
    assert known == [0, MIDDLE // REGION_PAGES, LAST // REGION_PAGES]
    assert taken < 8 << 20
    assert file.st_blocks * 512 < 2 << 20
    again.close(descriptor, is_good=False)
    os.close(descriptor)
