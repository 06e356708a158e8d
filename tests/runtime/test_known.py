"""For a host that comes back its active reads of its memory only what was written since it last knew it."""

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from ftvm._native.memory import DigestTable, NativeMemory
from ftvm.checkpoint import Bitmap
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.interfaces import Capability, Region
from ftvm.protocol.effects import CollectRound, MatchPages, StartCopy
from ftvm.protocol.reports import CaptureFailed, PagesMatched
from ftvm.runtime.capture import Capturer
from ftvm.runtime.sink import NumberingSink
from ftvm.testing.pair import ManualClock
from ftvm.units import PAGE_BYTES, PageCount

from ..native.test_digest import from_scratch
from .captured import LIMITS, Primary

PAGES = 24
START = StartCopy(LIMITS.staging_bytes, is_cached=True)


def same_as_before(capturer: Capturer, before: bytes, first: int = 0, count: int = PAGES) -> list[int]:
    """Return which pages the active holds for those that a joiner has of `before`."""
    backup = CommittedMemory(NativeMemory([bytearray(before)]))
    backup.hold()
    report = capturer.capture(MatchPages(first, backup.offer(first, count), True))
    assert isinstance(report, PagesMatched)
    kept = int.from_bytes(report.kept, "little")
    return [first + page for page in range(count) if kept >> page & 1]


def ram_of(primary: Primary) -> bytearray:
    buffer: bytearray = primary.guest.memory[0].buffer
    return buffer


def write_unseen(primary: Primary, page: int) -> None:
    """Change a page past the guest's tracker: who reads it sees it, who does not takes it for what it was."""
    ram_of(primary)[page * PAGE_BYTES + 9] ^= 1


def write(primary: Primary, *pages: int) -> None:
    for page in pages:
        write_unseen(primary, page)
        primary.guest._dirty[page // 8] |= 1 << page % 8


def all_but(*pages: int) -> list[int]:
    return [page for page in range(PAGES) if page not in pages]


@pytest.fixture
def primary() -> Primary:
    made = Primary()
    made.cut()
    return made


def test_a_page_written_behind_the_last_cut_is_compared_as_it_is_now(primary: Primary) -> None:
    before = bytes(ram_of(primary))
    write(primary, 3, 20)

    primary.capturer.capture(START)

    assert same_as_before(primary.capturer, before) == all_but(3, 20)


def test_a_page_that_was_not_written_is_not_read(primary: Primary) -> None:
    before = bytes(ram_of(primary))
    write_unseen(primary, 7)

    primary.capturer.capture(START)

    assert same_as_before(primary.capturer, before) == all_but()


def test_a_page_is_not_read_for_the_next_joiner_either_if_the_first_goes_before_it_is_whole(primary: Primary) -> None:
    before = bytes(ram_of(primary))
    write(primary, 3)
    primary.capturer.capture(START)
    write(primary, 4)
    primary.capturer.capture(CollectRound())
    write(primary, 5)
    primary.capturer.end_session()
    write_unseen(primary, 7)

    primary.capturer.capture(START)

    assert same_as_before(primary.capturer, before) == all_but(3, 4, 5)


def test_a_copy_that_did_not_become_whole_makes_nothing_known(primary: Primary) -> None:
    """Its shadow is zeros still, where the guest is not."""
    before = bytes(ram_of(primary))
    primary.capturer.capture(StartCopy(LIMITS.staging_bytes))
    primary.capturer.end_session()
    write_unseen(primary, 7)

    primary.capturer.capture(START)

    assert same_as_before(primary.capturer, before) == all_but(7)


def test_behind_a_capture_that_failed_nothing_is_known(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tracker has lost is not told again."""
    before = bytes(ram_of(primary))

    def lose() -> Any:
        raise GuestError("the tracker has lost what was written")

    with monkeypatch.context() as patched:
        patched.setattr(primary.guest, "collect_dirty", lose)
        assert isinstance(primary.report(), CaptureFailed)
    write_unseen(primary, 7)

    primary.capturer.capture(START)

    assert same_as_before(primary.capturer, before) == all_but(7)


@pytest.mark.parametrize("leave", ["release", "release in a copy", "adopt", "adopt in a copy"])
def test_what_was_known_is_of_no_use_once_the_guest_ran_elsewhere(primary: Primary, leave: str) -> None:
    before = bytes(ram_of(primary))
    if leave.endswith("in a copy"):
        primary.capturer.capture(START)
    if leave.startswith("release"):
        primary.capturer.release()
    else:
        digests = DigestTable(PAGES)
        digests.measure(NativeMemory([ram_of(primary)]))
        primary.capturer.adopt(digests, LIMITS.staging_bytes)
    write_unseen(primary, 7)

    primary.capturer.capture(START)

    assert same_as_before(primary.capturer, before) == all_but(7)


class Store:
    """A region's store that knows no page to be zero."""

    def present(self) -> None:
        return None


class TakenOver:
    """A guest of 8 pages of RAM and a disk of 16 that went on from committed memory, `before`."""

    can = frozenset[Capability]()

    def __init__(self, before: bytes) -> None:
        self.ram, self.disk = bytearray(before[: 8 * PAGE_BYTES]), bytearray(before[8 * PAGE_BYTES :])
        store: Any = Store()
        self.memory = (
            Region(name="ram", buffer=self.ram, page_count=PageCount(8)),
            Region(name="disk", buffer=self.disk, page_count=PageCount(16), store=store),
        )
        self.written = Bitmap.empty((8, 16))

    def collect_dirty(self) -> Bitmap:
        written, self.written = self.written, Bitmap.empty((8, 16))
        return written


def test_of_what_was_committed_only_disks_are_known_and_what_was_written_since_is_read() -> None:
    before = random.Random(4).randbytes(PAGES * PAGE_BYTES)
    guest: Any = TakenOver(before)
    memory = NativeMemory([guest.ram, guest.disk])
    runner: Any = SimpleNamespace(stall=lambda: None, stall_or_go_on=lambda **_: None)
    sink = NumberingSink(lambda: None, ManualClock())
    capturer = Capturer(runner, guest, memory, sink, LIMITS, ManualClock(), lambda: False)
    digests = DigestTable(PAGES)
    digests.measure(memory)

    capturer.inherit(digests)
    guest.ram[2 * PAGE_BYTES] ^= 1
    guest.disk[4 * PAGE_BYTES] ^= 1
    guest.disk[5 * PAGE_BYTES] ^= 1
    guest.written.words[1][0] = 1 << 5
    capturer.capture(START)
    ram, disk = same_as_before(capturer, before, 0, 8), same_as_before(capturer, before, 8, 16)

    assert (ram, disk) == ([0, 1, 3, 4, 5, 6, 7], [page for page in range(8, PAGES) if page != 8 + 5])


def test_a_table_that_was_forgotten_in_part_is_whole_again_once_refreshed() -> None:
    content = bytearray(random.Random(3).randbytes(4 * PAGE_BYTES))
    memory, table = NativeMemory([content]), CommittedMemory(NativeMemory([content]))
    table.digests.forget(array("I", [1, 2]))

    content[PAGE_BYTES] ^= 1
    table.digests.refresh(memory, array("I", [1, 2]))

    assert table.memory_digest == from_scratch(bytes(content))
