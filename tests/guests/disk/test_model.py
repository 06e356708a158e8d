"""Whatever a guest asks for, in whichever role its host is, the disk is what a plain array of bytes would be."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ftvm.guests.disk.disk import Disk

from .nbd import FLUSH, FUA, TRIM, WRITE_ZEROES, Client

PAGE = 4096
PAGES = 6
SIZE = PAGES * PAGE
RANGES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted)
EDGES = st.sampled_from([n * PAGE + d for n in range(PAGES + 1) for d in (-1, 0, 1) if 0 <= n * PAGE + d <= SIZE])
SPANS = RANGES | st.tuples(EDGES, EDGES).map(sorted)


class TwoRoles(RuleBasedStateMachine):
    """A host where the guest runs, or which stands by, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ftvm-disk-model-"))
        self.path = self.folder / "disk"
        self.fill = 0

    @initialize(boots=st.booleans())
    def begin(self, boots: bool) -> None:
        self.model = bytearray(os.urandom(SIZE) if boots else SIZE)
        self.path.write_bytes(self.model)
        self.disk = Disk(str(self.path), boots=boots)
        self.client = Client(self.disk).agree()
        self.runs = boots
        self.written: set[int] = set()
        self.unchanged: set[int] = set()  # made zero, which they were
        self.disk.collect()
        if not boots:
            self.disk.discarded()
            self.disk.completed()

    def touched(self, start: int, end: int) -> set[int]:
        return set(range(start // PAGE, (end + PAGE - 1) // PAGE)) if end > start else set()

    @precondition(lambda self: self.runs)
    @rule(span=SPANS, fill=st.integers(0, 255), flags=st.sampled_from([0, FUA]))
    def write(self, span: list[int], fill: int, flags: int) -> None:
        start, end = span
        content = bytes([fill]) * (end - start)
        assert self.client.write(start, content, flags) == 0
        self.model[start:end] = content
        self.written |= self.touched(start, end)

    @precondition(lambda self: self.runs)
    @rule(span=SPANS, trims=st.booleans())
    def zero(self, span: list[int], trims: bool) -> None:
        start, end = span
        assert self.client.ask(TRIM if trims else WRITE_ZEROES, start, end - start) == 0
        if trims:
            start, end = (start + PAGE - 1) // PAGE * PAGE, end // PAGE * PAGE
        if end > start:
            zeros = {page for page in range(PAGES) if not any(self.model[page * PAGE : (page + 1) * PAGE])}
            self.model[start:end] = bytes(end - start)
            self.written |= self.touched(start, end) - zeros
            self.unchanged |= self.touched(start, end) & zeros

    @precondition(lambda self: self.runs)
    @rule(span=SPANS)
    def read(self, span: list[int]) -> None:
        start, end = span
        assert self.client.read(start, end - start) == self.model[start:end]

    @precondition(lambda self: self.runs)
    @rule()
    def flush(self) -> None:
        assert self.client.ask(FLUSH) == 0
        assert self.path.read_bytes() == self.model

    @precondition(lambda self: self.runs)
    @rule(flushes=st.booleans())
    def collect(self, flushes: bool) -> None:
        """A cut: QEMU flushes as it stops, or does not."""
        self.disk.hurry()
        if flushes:
            assert self.client.ask(FLUSH) == 0
        words = int.from_bytes(self.disk.collect().words[0], "little")
        found = {page for page in range(PAGES) if words >> page & 1}
        assert self.written <= found <= self.written | self.unchanged
        self.written, self.unchanged = set(), set()
        self.disk.require_readable()
        self.disk.when_settled(lambda trouble: self.fail_on(trouble))

    def fail_on(self, trouble: str | None) -> None:
        assert trouble is None

    @precondition(lambda self: self.runs)
    @rule()
    def leave(self) -> None:
        self.disk.hurry()
        self.disk.committed(())
        self.runs = False

    @precondition(lambda self: not self.runs)
    @rule(pages=st.sets(st.integers(0, PAGES - 1), max_size=3))
    def commit(self, pages: set[int]) -> None:
        self.fill = self.fill % 255 + 1
        for page in pages:
            self.disk.buffer[page * PAGE : (page + 1) * PAGE] = bytes([self.fill]) * PAGE
            self.model[page * PAGE : (page + 1) * PAGE] = bytes([self.fill]) * PAGE
        self.disk.committed(sorted(pages))

    @precondition(lambda self: not self.runs)
    @rule()
    def copy_again(self) -> None:
        self.disk.buffer[:] = bytes(SIZE)
        self.disk.discarded()
        self.model[:] = bytes(SIZE)
        self.disk.completed()

    @precondition(lambda self: not self.runs)
    @rule()
    def take_over(self) -> None:
        self.runs = True
        self.disk.collect()
        self.written = set()
        self.disk.when_settled(lambda trouble: self.fail_on(trouble))

    @precondition(lambda self: not self.runs)
    @rule()
    def image_catches_up(self) -> None:
        self.disk.image.sync()
        assert self.path.read_bytes() == self.model

    @invariant()
    def memory_shows_the_disk(self) -> None:
        if hasattr(self, "disk"):
            assert bytes(self.disk.buffer) == self.model

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.client.close()
            self.disk.close()
            assert self.path.read_bytes() == self.model
        shutil.rmtree(self.folder)


TestTwoRoles = TwoRoles.TestCase
TestTwoRoles.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
