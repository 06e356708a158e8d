"""A host whose image has content keeps what is the same, is sent only what differs, and spoils nothing before it has
all of it."""

import errno
import os
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Footing
from ftvm.encode.apply import CommittedMemory
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.kept import KeptDisk
from ftvm.interfaces import Region
from ftvm.runtime.stored import StoredMemory
from ftvm.units import PAGE_BYTES, PageCount

from ...encode.delta import delta_encode
from ...encode.test_apply import make_batch
from .learning import rest
from .test_kept import resident

PAGES = 16
SIZE = PAGES * PAGE_BYTES

Kind = type[Disk] | type[KeptDisk]
both = pytest.mark.parametrize("kind", [Disk, KeptDisk])
contents = st.lists(st.integers(0, 3), min_size=PAGES, max_size=PAGES).map(bytes)
"""A byte that each page is full of."""


def disk_of(fills: bytes) -> bytes:
    return b"".join(bytes([fill]) * PAGE_BYTES for fill in fills)


def write_image(path: Path, fills: bytes) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
        for page, fill in enumerate(fills):
            if fill:
                file.seek(page * PAGE_BYTES)
                file.write(bytes([fill]) * PAGE_BYTES)
    return path


class Joiner:
    """A host that has just started, with an image from before. `sent` are the pages that it was sent."""

    def __init__(self, kind: Kind, path: Path) -> None:
        self.path = path
        self.disk = kind(str(path), boots=False)
        self.buffer = self.disk.memory.buffer if isinstance(self.disk, KeptDisk) else self.disk.buffer
        region = Region(name="disk", buffer=self.buffer, page_count=PageCount(PAGES), store=self.disk)
        self.memory = CommittedMemory(NativeMemory([self.buffer]))
        self.stored = StoredMemory(self.memory, [region])
        self.sent: list[int] = []

    def offer_and_keep(self, fills: bytes, pieces: int = PAGES) -> None:
        """Offer what is here to an active whose disk has these bytes, in pieces, and keep what is the same."""
        runs = [
            (first + done, min(pieces, count - done))
            for first, count in self.stored.hold()
            for done in range(0, count, pieces)
        ]
        theirs = digests_of(disk_of(fills))
        offered = [(first, count, self.stored.offer(first, count)) for first, count in runs]
        for first, count, digests in offered:
            same = [digests[16 * n : 16 * n + 16] == theirs[first + n] for n in range(count)]
            words = sum(is_same << n for n, is_same in enumerate(same)).to_bytes(8, "little")
            self.stored.keep(first, count, words)

    def copy(self, fills: bytes, *, is_whole: bool = True) -> None:
        """Take what is still different from the active, as a first copy and its first epoch."""
        ours, theirs = bytes(self.buffer), disk_of(fills)
        places = [slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES) for page in range(PAGES)]
        deltas = [(n, delta_encode(theirs[at], ours[at])) for n, at in enumerate(places) if theirs[at] != ours[at]]
        self.sent += [page for page, _ in deltas]
        if deltas:
            batch = make_batch(deltas)
            self.stored.verify((batch,), None)
            self.stored.commit((batch,))
        if is_whole:
            self.stored.verify((), sum_of(theirs))
            self.stored.commit(())

    def image(self) -> bytes:
        self.disk.image.sync()
        return self.path.read_bytes()


def digests_of(content: bytes) -> list[bytes]:
    memory = CommittedMemory(NativeMemory([memoryview(bytearray(content))]))
    return [memory.page_digest(page) for page in range(PAGES)]


def sum_of(content: bytes) -> int:
    return CommittedMemory(NativeMemory([memoryview(bytearray(content))])).memory_digest


@contextmanager
def joiner(kind: Kind, path: Path) -> Iterator[Joiner]:
    made = Joiner(kind, path)
    try:
        yield made
    finally:
        made.disk.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


KEPT, NOW = bytes([1, 2, 3, 0, 5, 6] + 10 * [0]), bytes([1, 9, 3, 4, 0, 6] + 10 * [0])
"""What a host's disk had when it went, and what the guest's has by now: four pages of three kinds differ."""


@both
@given(kept=contents, now=contents, pieces=st.integers(1, PAGES))
def test_whatever_an_image_has_it_becomes_the_actives_and_only_what_differs_is_sent(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, kept: bytes, now: bytes, pieces: int
) -> None:
    path = write_image(tmp_path_factory.mktemp("disk") / "disk.img", kept)
    with joiner(kind, path) as host:
        host.offer_and_keep(now, pieces)
        host.copy(now)

        assert bytes(host.buffer) == disk_of(now)
        assert host.image() == disk_of(now)
        assert host.sent == [page for page in range(PAGES) if now[page] not in (0, kept[page])]


@both
def test_what_is_kept_takes_no_memory(kind: Kind, path: Path) -> None:
    with joiner(kind, write_image(path, KEPT)) as host:
        host.offer_and_keep(KEPT)
        host.copy(KEPT)

        assert host.image() == disk_of(KEPT)
        assert resident(host.disk) == 0
        assert host.sent == []


@both
def test_a_source_that_dies_leaves_the_image_as_it_was_and_it_is_offered_again(kind: Kind, path: Path) -> None:
    with joiner(kind, write_image(path, KEPT)) as host:
        host.offer_and_keep(NOW)
        host.copy(NOW, is_whole=False)
        between = path.read_bytes()
        host.sent.clear()

        host.offer_and_keep(KEPT)
        host.copy(KEPT)

        assert between == disk_of(KEPT)
        assert host.sent == []
        assert host.image() == disk_of(KEPT)


@both
def test_a_host_that_dies_while_it_is_copied_to_has_its_image_as_it_was(kind: Kind, path: Path) -> None:
    with joiner(kind, write_image(path, KEPT)) as host:
        host.offer_and_keep(NOW)
        host.copy(NOW, is_whole=False)

    assert path.read_bytes() == disk_of(KEPT)
    beside = {f"disk.img.{kind}" for kind in ("label", "journal", "hashes")}
    assert {each.name for each in path.parent.iterdir()} <= {"disk.img", *beside}


@both
def test_a_standby_that_was_lost_is_sent_what_changed_since(kind: Kind, path: Path) -> None:
    with joiner(kind, write_image(path, KEPT)) as host:
        host.offer_and_keep(KEPT)
        host.copy(KEPT)
        host.stored.stands(Footing(lineage="a" * 16, generation=1, epoch=1, runs=False))
        host.disk.image.sync()

        host.offer_and_keep(NOW)
        host.copy(NOW)

        assert host.sent == [1, 3]
        assert host.image() == disk_of(NOW)


@both
def test_pages_that_cannot_be_read_are_sent_and_end_nobody(kind: Kind, path: Path) -> None:
    with joiner(kind, write_image(path, KEPT)) as host:
        runs = host.stored.hold()
        with path.open("r+b") as file:
            file.truncate(2 * PAGE_BYTES)
        for run in runs:
            host.stored.offer(*run)
        with path.open("r+b") as file:
            file.truncate(SIZE)  # the device is well again, but what was there is gone
        for run in runs:
            host.stored.keep(*run, b"\xff" * 8)

        host.copy(KEPT)

        assert host.sent == [2, 4, 5]
        assert host.image() == disk_of(KEPT)


def stand_by(kind: Kind, path: Path) -> None:
    """Have a host learn what an image has, and end in order."""
    with joiner(kind, path) as host:
        rest(host.disk.image)


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the pages that are read to know their hashes, as they come."""
    pages: list[int] = []
    look = CommittedMemory.look

    def note(memory: CommittedMemory, wanted: "array[int]") -> None:
        pages.extend(wanted)
        look(memory, wanted)

    monkeypatch.setattr(CommittedMemory, "look", note)
    return pages


@both
def test_a_host_that_starts_again_reads_nothing_of_what_it_knows_and_keeps(
    kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_by(kind, write_image(path, KEPT))
    with joiner(kind, path) as host:
        pages = looked_at(monkeypatch)
        host.offer_and_keep(NOW)
        read = list(pages)
        host.copy(NOW)

        assert read == [1, 3, 4]  # the copy has zeros there, in place of what differs
        assert host.sent == [1, 3]
        assert host.image() == disk_of(NOW)


@both
def test_a_page_that_cannot_be_copied_is_looked_at_though_its_hash_is_known(
    kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_by(kind, write_image(path, KEPT))
    with joiner(kind, path) as host:
        pages, read, image = looked_at(monkeypatch), os.pread, host.disk.image.descriptor

        def fail(descriptor: int, count: int, offset: int) -> bytes:
            if descriptor == image and offset <= 2 * PAGE_BYTES < offset + count:
                raise OSError(errno.EIO, "broken")
            return read(descriptor, count, offset)

        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
        monkeypatch.setattr(os, "pread", fail)
        host.offer_and_keep(KEPT)
        monkeypatch.setattr(os, "pread", read)
        host.copy(KEPT)

        assert pages == [2, 3]
        assert host.sent == [2]
        assert host.image() == disk_of(KEPT)


def test_an_image_is_offered_once_the_step_on_its_way_is_in_it_and_not_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed behind its digest would be another page than was offered."""
    sync, may_go_on, is_syncing = os.fdatasync, threading.Event(), threading.Event()

    def wait(descriptor: int) -> None:
        is_syncing.set()
        may_go_on.wait(60)
        sync(descriptor)

    with joiner(Disk, write_image(path, KEPT)) as host:
        monkeypatch.setattr(os, "fdatasync", wait)
        monkeypatch.setattr(image_module, "_STEP_SECONDS", 0)
        host.disk.image.put([9], memoryview(disk_of(bytes(PAGES * [7]))))
        is_syncing.wait(60)

        before = host.stored.hold()
        may_go_on.set()
        monkeypatch.setattr(image_module, "_STEP_SECONDS", 60)
        after = host.stored.hold()

        assert before == ()
        assert after == ((0, 10),)


@both
@pytest.mark.parametrize("fills", [bytes(PAGES), KEPT])
def test_an_image_without_data_is_no_cache(kind: Kind, path: Path, fills: bytes) -> None:
    with joiner(kind, write_image(path, fills)) as host:
        assert host.disk.has_content == any(fills)
