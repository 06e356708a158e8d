"""A region's store is told of whole commits, in its own page numbers, and of nothing else."""

from collections.abc import Callable, Sequence

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Footing, PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import DigestMismatch
from ftvm.interfaces import Region
from ftvm.protocol.reports import Persisted
from ftvm.runtime.stored import Persists, StoredMemory
from ftvm.units import PAGE_BYTES, PageCount

from ..encode.test_apply import ONE_BYTE, make_batch

RAM_PAGES, DISK_PAGES = 3, 4


class Told:
    """A store that only remembers."""

    identity = ""
    has_content = True

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.waiting: list[Callable[[str | None], None]] = []

    def stands(self, footing: Footing) -> None:
        self.calls.append(footing.epoch)

    def present(self) -> bytearray | None:
        return None

    def take_flush(self) -> bool:
        return False

    def persist(self, then: Callable[[str | None], None]) -> None:
        self.waiting.append(then)

    def cover(self, *, is_covered: bool) -> None:
        self.calls.append(("cover", is_covered))

    def committed(self, pages: Sequence[int]) -> None:
        self.calls.append(list(pages))

    def discarded(self) -> None:
        self.calls.append("discarded")

    def held(self) -> Sequence[tuple[int, int]]:
        self.calls.append("held")
        return [(0, 1), (2, 2)]

    def place_at(self, first_page: int) -> None:
        self.first_page = first_page

    def offer(self, first: int, count: int) -> bytes | None:
        self.calls.append(("offer", first, count))
        return None

    def keep(self, first: int, count: int, pages: Sequence[int]) -> Sequence[int]:
        self.calls.append(("keep", first, count, list(pages)))
        return ()

    def completed(self) -> None:
        self.calls.append("completed")


class Backup:
    """Committed memory of some RAM and disks behind it."""

    def __init__(self, disks: int = 1) -> None:
        self.stores = [Told() for _ in range(disks)]
        self.store = self.stores[0]
        buffers = [memoryview(bytearray(count * PAGE_BYTES)) for count in (RAM_PAGES, *[DISK_PAGES] * disks)]
        self.committed = CommittedMemory(NativeMemory(buffers))
        regions = (
            Region(name="ram", buffer=buffers[0], page_count=PageCount(RAM_PAGES)),
            *(
                Region(name=f"disk{number or ''}", buffer=buffer, page_count=PageCount(DISK_PAGES), store=store)
                for number, (buffer, store) in enumerate(zip(buffers[1:], self.stores, strict=True))
            ),
        )
        self.stored = StoredMemory(self.committed, regions)

    def copy(self, *pages: int) -> None:
        batch = touching(*pages)
        self.stored.verify((batch,), None)
        self.stored.commit((batch,))

    def commit(self, *pages: int) -> None:
        batches = (touching(*pages),)
        self.stored.verify(batches, self.digest_after(batches))
        self.stored.commit(batches)

    def digest_after(self, batches: Sequence[PageBatch]) -> int:
        try:
            self.committed.verify(batches, -1)
        except DigestMismatch as told:
            return int(str(told).split("become ")[1].split(",")[0], 16)
        raise AssertionError("no digest is negative")


def touching(*pages: int) -> PageBatch:
    return make_batch([(page, ONE_BYTE) for page in pages])


def test_a_first_copy_is_told_in_parts_and_complete_with_the_first_commit() -> None:
    backup = Backup()

    backup.stored.clear()
    backup.copy(1, 3, 5)
    backup.copy(6)
    told_before = list(backup.store.calls)
    backup.commit(4)
    backup.commit(5)

    assert told_before == ["discarded", [0, 2], [3]]
    assert backup.store.calls == [*told_before, [1], "completed", [2]]


def test_a_commit_is_told_in_the_regions_own_page_numbers() -> None:
    backup = Backup()

    backup.commit(2, 3, 6)
    backup.commit(0, 1)

    assert backup.store.calls == [[0, 3]]


def test_each_of_several_disks_is_told_of_its_own_pages_and_of_what_concerns_all() -> None:
    """Mutants: pages of the next disk are told to this one; a copy, its end, a footing are told to the first alone."""
    backup = Backup(disks=2)

    backup.stored.clear()
    backup.copy(1, 3, 8)
    backup.commit(6, 7)
    backup.commit(10)
    backup.stored.stands(Footing(lineage="", generation=2, epoch=5, runs=False))
    backup.stored.measure()

    assert [store.calls for store in backup.stores] == [
        ["discarded", [0], [3], "completed", 5, []],
        ["discarded", [1], [0], "completed", [3], 5, []],
    ]


def test_a_refused_commit_is_told_to_nobody() -> None:
    backup = Backup()
    batches = (touching(3),)

    with pytest.raises(DigestMismatch):
        backup.stored.verify(batches, 12345)

    assert backup.store.calls == []


def test_what_the_guest_left_here_is_told_as_committed() -> None:
    backup = Backup()

    backup.stored.measure()

    assert backup.store.calls == [[]]


def test_a_store_is_told_where_the_guest_stands_when_that_changes_and_not_when_it_stands_nowhere() -> None:
    backup = Backup()
    footings = [Footing(lineage="", generation=2, epoch=epoch, runs=False) for epoch in (1, 1, 2)]

    for footing in (*footings, None, footings[2]):
        backup.stored.stands(footing)

    assert backup.store.calls == [1, 2, 2]


def test_what_a_disk_kept_is_offered_with_the_ram_of_a_guest_that_stood_here() -> None:
    backup = Backup(disks=2)
    backup.stored.clear()
    backup.commit(0)
    backup.stored.stands(Footing(lineage="", generation=2, epoch=5, runs=False))

    offered = backup.stored.hold()

    first, second = RAM_PAGES, RAM_PAGES + DISK_PAGES
    assert offered == ((0, RAM_PAGES), (first, 1), (first + 2, 2), (second, 1), (second + 2, 2))


def test_ram_in_which_no_guest_stood_is_not_offered_and_becomes_zero() -> None:
    backup = Backup()
    backup.copy(0)

    offered = backup.stored.hold()

    assert offered == ((RAM_PAGES, 1), (RAM_PAGES + 2, 2))
    assert backup.stored.memory_digest == Backup().stored.memory_digest


def test_a_disk_is_asked_for_what_is_offered_and_told_what_is_kept_in_its_own_page_numbers() -> None:
    backup = Backup(disks=2)
    backup.stored.hold()
    for store in backup.stores:
        store.calls.clear()
    begin = RAM_PAGES + DISK_PAGES

    digests = backup.stored.offer(begin + 2, 2)
    kept = backup.stored.keep(begin + 2, 2, b"\2" + bytes(7))

    assert len(digests) == 2 * 16
    assert kept == 1
    assert [store.calls for store in backup.stores] == [[], [("offer", 2, 2), ("keep", 2, 2, [3])]]


def test_a_copy_that_rests_on_a_cache_is_judged_by_what_is_there_and_not_by_what_was_to_be_kept() -> None:
    """The store of this test keeps nothing: a page that was to be kept, and is not, is known as it is."""
    backup = Backup()
    backup.stored.hold()
    backup.stored.offer(RAM_PAGES, 1)

    backup.stored.keep(RAM_PAGES, 1, b"\1" + bytes(7))

    assert backup.stored.memory_digest == Backup().stored.memory_digest
    backup.committed.measure()
    assert backup.stored.memory_digest == Backup().stored.memory_digest


def test_a_wish_is_granted_when_all_disks_have_it_and_whoever_waits_is_woken() -> None:
    stores, woken = [Told(), Told()], []
    persists = Persists(stores, lambda: woken.append("woken"))
    persists.ask(7)

    stores[0].waiting.pop()(None)
    before = persists.take()
    stores[1].waiting.pop()(None)

    assert before == []
    assert persists.take() == [Persisted(7)]
    assert woken == ["woken", "woken"]


def test_a_disk_that_fails_is_told_once_whatever_the_others_say() -> None:
    stores = [Told(), Told()]
    persists = Persists(stores, lambda: None)
    persists.ask(7)

    stores[1].waiting.pop()("the device is gone")
    stores[0].waiting.pop()(None)

    assert persists.take() == [Persisted(7, "the device is gone")]


def test_all_disks_are_covered_or_none() -> None:
    stores = [Told(), Told()]
    persists = Persists(stores, lambda: None)

    persists.cover(is_covered=True)
    persists.cover(is_covered=False)

    assert [store.calls for store in stores] == [[("cover", True), ("cover", False)]] * 2


def test_what_a_disk_says_while_it_is_asked_wakes_nobody_and_is_there_at_once() -> None:
    class Prompt(Told):
        def persist(self, then: Callable[[str | None], None]) -> None:
            then(None)

    woken: list[str] = []
    persists = Persists([Prompt()], lambda: woken.append("woken"))

    persists.ask(7)

    assert persists.take() == [Persisted(7)]
    assert woken == []


def test_without_a_disk_a_wish_is_granted_at_once() -> None:
    persists = Persists((), lambda: None)

    persists.ask(7)

    assert persists.take() == [Persisted(7)]
