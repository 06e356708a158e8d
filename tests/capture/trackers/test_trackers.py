import ctypes
import mmap
import os
import random
import threading

import pytest

from ftvm._native.memory import NativeMemory, bitmap_indices
from ftvm.capture.trackers import CompareTracker, StoreTracker, Tracker, UserfaultTracker, choose_tracker
from ftvm.checkpoint import Bitmap
from ftvm.errors import ClosedError, ConfigError, TrackingLost
from ftvm.units import PAGE_BYTES

PAGE_COUNTS = (1500, 700)
SHARING = {"private": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, "shared": mmap.MAP_SHARED | mmap.MAP_ANONYMOUS}


def userfault_missing() -> str | None:
    try:
        UserfaultTracker(NativeMemory([mmap.mmap(-1, PAGE_BYTES)])).close()
    except ConfigError as error:
        return str(error)
    return None


MISSING = userfault_missing()
needs_userfault = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
KINDS = [
    pytest.param(UserfaultTracker, "private", marks=needs_userfault),
    pytest.param(UserfaultTracker, "shared", marks=needs_userfault),
    pytest.param(CompareTracker, "private"),
]


class Tracked:
    """Memory under a tracker, and a full comparison to judge it by."""

    def __init__(self, kind: type[UserfaultTracker] | type[CompareTracker], sharing: str = "private") -> None:
        self.regions = [mmap.mmap(-1, count * PAGE_BYTES, flags=SHARING[sharing]) for count in PAGE_COUNTS]
        self.tracker: Tracker = kind(NativeMemory(self.regions))
        self.judge = CompareTracker(NativeMemory(self.regions))
        self.changed()

    def changed(self) -> set[int]:
        """What a full scan finds to have changed since the last one."""
        return set(bitmap_indices(self.judge.collect()))

    def collect(self) -> set[int]:
        return set(bitmap_indices(self.tracker.collect()))

    def write(self, page: int, data: bytes) -> None:
        region, page = (0, page) if page < PAGE_COUNTS[0] else (1, page - PAGE_COUNTS[0])
        self.regions[region][page * PAGE_BYTES : page * PAGE_BYTES + len(data)] = data


@pytest.mark.parametrize(("kind", "sharing"), KINDS)
def test_first_look_reports_every_page_that_is_not_zero(kind: type[CompareTracker], sharing: str) -> None:
    tracked = Tracked(kind, sharing)
    tracked.write(3, b"x")
    tracked.write(1600, b"y")

    assert {3, 1600} <= tracked.collect()
    assert tracked.collect() == set()


@pytest.mark.parametrize(("kind", "sharing"), KINDS)
def test_no_write_is_missed_over_a_thousand_random_epochs(kind: type[CompareTracker], sharing: str) -> None:
    tracked = Tracked(kind, sharing)
    rng = random.Random(4)
    tracked.collect()

    for _ in range(1000):
        # Mostly a few pages, now and then a burst that makes a chunk hot.
        base, span = rng.choice([(0, 2200), (0, 2200), (512, 512)])
        for _ in range(rng.choice([0, 1, 5, 20, 200])):
            tracked.write(base + rng.randrange(span), rng.randbytes(rng.randrange(1, 64)))
        reported = tracked.collect()
        assert tracked.changed() <= reported


@pytest.mark.parametrize(("kind", "sharing"), KINDS)
def test_pages_written_by_system_calls_and_other_threads_are_reported(kind: type[CompareTracker], sharing: str) -> None:
    tracked = Tracked(kind, sharing)
    tracked.collect()
    reader, writer = os.pipe()
    os.write(writer, b"from the kernel")

    with memoryview(tracked.regions[0])[7 * PAGE_BYTES :] as target:
        os.readv(reader, [target])
    thread = threading.Thread(target=tracked.write, args=(1501, b"from a thread"))
    thread.start()
    thread.join()
    os.close(reader)
    os.close(writer)

    assert tracked.collect() == {7, 1501}


@pytest.mark.parametrize("kind", [pytest.param(UserfaultTracker, marks=needs_userfault), CompareTracker])
def test_pages_given_back_to_the_system_are_reported(kind: type[CompareTracker]) -> None:
    tracked = Tracked(kind)
    tracked.write(5, b"here")
    tracked.write(6, b"here")
    tracked.collect()

    tracked.regions[0].madvise(mmap.MADV_DONTNEED, 5 * PAGE_BYTES, PAGE_BYTES)

    assert 5 in tracked.collect()
    tracked.write(5, b"again")
    assert tracked.collect() == {5}


@pytest.mark.parametrize(("kind", "sharing"), KINDS)
def test_what_a_failed_capture_collected_is_reported_again(kind: type[CompareTracker], sharing: str) -> None:
    tracked = Tracked(kind, sharing)
    tracked.collect()
    tracked.write(9, b"x")
    failed = tracked.tracker.collect()

    tracked.tracker.restore(failed)
    tracked.write(10, b"y")

    assert tracked.collect() == {9, 10}
    assert tracked.collect() == set()


@needs_userfault
def test_memory_that_was_mapped_anew_is_lost_not_silent() -> None:
    tracked = Tracked(UserfaultTracker)
    tracked.collect()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = ctypes.addressof(ctypes.c_char.from_buffer(tracked.regions[0]))
    fixed = 0x10

    libc.mmap(address + 8 * PAGE_BYTES, 4 * PAGE_BYTES, 3, SHARING["private"] | fixed, -1, 0)

    with pytest.raises(TrackingLost, match="memory region 0"):
        tracked.collect()


@needs_userfault
def test_hot_chunk_is_reported_whole_until_it_calms_down() -> None:
    tracked = Tracked(UserfaultTracker)
    tracked.collect()
    whole = set(range(512, 1024))
    sizes = []

    for epoch in range(60):
        busy = epoch < 10
        for page in range(512, 812 if busy else 514):
            tracked.write(page, bytes([epoch + 1]))
        reported = tracked.collect()
        assert tracked.changed() <= reported <= whole
        sizes.append(len(reported))

    # The look before the loop found every page written: with the first one in it, that makes two busy ones running.
    assert sizes[:2] == [300, 512]
    assert sizes[-1] == 2


@needs_userfault
def test_closed_tracker_says_so() -> None:
    tracker = UserfaultTracker(NativeMemory([mmap.mmap(-1, PAGE_BYTES)]))

    tracker.close()
    tracker.close()

    with pytest.raises(ClosedError):
        tracker.collect()


@needs_userfault
def test_memory_that_is_not_page_aligned_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="must be page-aligned"):
        UserfaultTracker(NativeMemory([memoryview(mmap.mmap(-1, 3 * PAGE_BYTES))[8 : 8 + PAGE_BYTES]]))


def test_store_tracker_reports_all_at_first_then_what_was_flagged() -> None:
    tracker = StoreTracker([3, 70])

    first = tracker.collect()
    tracker.flags[1][69] = 1
    second = tracker.collect()
    tracker.restore(second)
    third = tracker.collect()

    assert first == Bitmap.full([3, 70])
    assert list(bitmap_indices(second)) == list(bitmap_indices(third)) == [72]
    assert tracker.collect().count() == 0
    tracker.close()


def test_auto_compares_small_memory_and_says_why() -> None:
    chosen = choose_tracker(NativeMemory([bytearray(PAGE_BYTES)]))

    assert chosen.tracker.name == "compare"
    assert chosen.warning == ""


def test_auto_falls_back_to_comparing_and_names_what_is_missing() -> None:
    unaligned = memoryview(mmap.mmap(-1, (16 << 20) + PAGE_BYTES))[8 : 8 + (16 << 20)]

    chosen = choose_tracker(NativeMemory([unaligned]))

    assert chosen.tracker.name == "compare"
    assert "'userfault' is not available" in chosen.warning


@needs_userfault
def test_auto_takes_write_faults_for_large_memory() -> None:
    assert choose_tracker(NativeMemory([mmap.mmap(-1, 16 << 20)])).tracker.name == "userfault"


def test_unknown_tracker_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="auto, userfault, compare"):
        choose_tracker(NativeMemory([bytearray(PAGE_BYTES)]), "magic")
