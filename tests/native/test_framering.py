"""The ring in which a card's frames wait, against a plain list of frames."""

from collections import deque
from itertools import cycle
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ftvm._native import ffi, lib

FRAME_MAX = int(lib.FTVM_FRAME_BYTES_MAX)
CAPACITY = int(lib.FTVM_FRAMERING_BYTES_MIN)
MARKS_MAX = int(lib.FTVM_FRAME_MARKS_MAX)
RECORD_BYTES = 8


class FrameRing(RuleBasedStateMachine):
    """The model: a queue of marks, each a number and its frames; and the frames without one."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = ffi.new("uint8_t[]", CAPACITY)
        self.ring = ffi.new("struct ftvm_framering *")
        lib.ftvm_framering_open(self.ring, self.memory, CAPACITY)
        self.marks: deque[tuple[int, deque[bytes]]] = deque()
        self.open: list[bytes] = []
        self.last_mark = 0

    def held(self) -> list[bytes]:
        return [*(frame for _, frames in self.marks for frame in frames), *self.open]

    @rule(size=st.one_of(st.integers(0, 100), st.integers(0, FRAME_MAX)), fill=st.integers(0, 255))
    def put(self, size: int, fill: int) -> None:
        room = lib.ftvm_framering_reserve(self.ring)
        if room == ffi.NULL:
            taken = sum(len(frame) + 2 * RECORD_BYTES for frame in self.held())
            assert taken + 3 * FRAME_MAX > CAPACITY, "it is full, and not only said to be"
            return
        frame = bytes([fill]) * size
        ffi.memmove(room, frame, size)
        lib.ftvm_framering_commit(self.ring, size)
        self.open.append(frame)

    @rule()
    def mark(self) -> None:
        mark = lib.ftvm_framering_mark(self.ring)
        if not self.open or len(self.marks) == MARKS_MAX:
            assert mark == ffi.NULL
            return
        self.last_mark += 1
        assert (mark.number, mark.frames, mark.bytes) == (self.last_mark, len(self.open), sum(map(len, self.open)))
        self.marks.append((self.last_mark, deque(self.open)))
        self.open = []

    @rule(count=st.integers(1, 6))
    def pop(self, count: int) -> None:
        size = ffi.new("uint32_t *")
        for _ in range(count):
            frame = lib.ftvm_framering_pop(self.ring, size)
            if not self.marks:
                assert frame == ffi.NULL
                return
            assert bytes(ffi.buffer(frame, size[0])) == self.marks[0][1].popleft()
            if not self.marks[0][1]:
                self.marks.popleft()

    @precondition(lambda self: self.marks)
    @rule(data=st.data(), room=st.integers(0, 2 * FRAME_MAX))
    def pack(self, data: Any, room: int) -> None:
        number, frames = data.draw(st.sampled_from(self.marks))
        expected, whole = b"", 0
        for frame in frames:
            if len(expected) + 4 + len(frame) > room:
                break
            expected += len(frame).to_bytes(4, "little") + frame
            whole += 1
        out, packed = ffi.new("uint8_t[]", room), ffi.new("uint32_t *")

        written = lib.ftvm_framering_pack(self.ring, number, out, room, packed)

        assert (bytes(ffi.buffer(out, written)), packed[0]) == (expected, whole)

    @rule()
    def clear(self) -> None:
        assert lib.ftvm_framering_clear(self.ring) == len(self.held())
        self.marks.clear()
        self.open = []

    @invariant()
    def it_counts_what_it_holds(self) -> None:
        assert (self.ring.held_frames, self.ring.held_bytes) == (len(self.held()), sum(map(len, self.held())))

    @invariant()
    def the_oldest_mark_is_the_first(self) -> None:
        oldest = lib.ftvm_framering_oldest(self.ring)
        assert (None if oldest == ffi.NULL else oldest.number) == (self.marks[0][0] if self.marks else None)


TestFrameRing = FrameRing.TestCase
TestFrameRing.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def make_ring() -> tuple[Any, Any]:
    memory, ring = ffi.new("uint8_t[]", CAPACITY), ffi.new("struct ftvm_framering *")
    lib.ftvm_framering_open(ring, memory, CAPACITY)
    return ring, memory


def put(ring: Any, frame: bytes) -> None:
    room = lib.ftvm_framering_reserve(ring)
    assert room != ffi.NULL
    ffi.memmove(room, frame, len(frame))
    lib.ftvm_framering_commit(ring, len(frame))


def test_there_is_always_room_again_for_a_ring_that_was_emptied() -> None:
    ring, memory = make_ring()

    for _ in range(50):
        while lib.ftvm_framering_reserve(ring) != ffi.NULL:
            lib.ftvm_framering_commit(ring, FRAME_MAX)
        assert ring.held_frames >= 2
        lib.ftvm_framering_clear(ring)

    assert ring.held_bytes == 0
    del memory


def test_frames_wait_for_a_later_mark_where_there_are_too_many_marks() -> None:
    ring, memory = make_ring()
    for number in range(MARKS_MAX):
        put(ring, b"%d" % number)
        assert lib.ftvm_framering_mark(ring) != ffi.NULL
    put(ring, b"waits")

    assert lib.ftvm_framering_mark(ring) == ffi.NULL
    assert lib.ftvm_framering_pop(ring, ffi.new("uint32_t *")) != ffi.NULL
    late = lib.ftvm_framering_mark(ring)

    assert (late.number, late.frames) == (MARKS_MAX + 1, 1)
    del memory


def test_a_ring_of_large_frames_gives_no_room_that_a_frame_still_has() -> None:
    """As full as it gets, again and again, with the end of the memory at another place each time."""
    ring, memory = make_ring()
    sizes, size, held = cycle((65_000, 21_000, 64_321, 7, 43_210)), ffi.new("uint32_t *"), deque[bytes]()
    for number in range(600):
        while (room := lib.ftvm_framering_reserve(ring)) != ffi.NULL:
            held.append(bytes([number % 251]) * next(sizes))
            # All that was promised may be written before the frame's length is known.
            ffi.memmove(room, held[-1].ljust(FRAME_MAX, b"\xff"), FRAME_MAX)
            lib.ftvm_framering_commit(ring, len(held[-1]))
        lib.ftvm_framering_mark(ring)

        found = lib.ftvm_framering_pop(ring, size)

        assert bytes(ffi.buffer(found, size[0])) == held.popleft()
    del memory


def test_a_frame_is_packed_if_it_fits_to_the_last_byte_and_not_with_one_less() -> None:
    ring, memory = make_ring()
    put(ring, b"frame")
    number = lib.ftvm_framering_mark(ring).number
    out, packed = ffi.new("uint8_t[]", 16), ffi.new("uint32_t *")

    sizes = [(lib.ftvm_framering_pack(ring, number, out, room, packed), packed[0]) for room in (3, 8, 9)]

    assert sizes == [(0, 0), (0, 0), (9, 1)]
    del memory
