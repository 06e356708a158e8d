from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.checkpoint import Commit, PageBatch
from ftvm.errors import HistoryError
from ftvm.history.basing import PortionReader
from ftvm.history.marks import copy_pages
from ftvm.history.pipeline import Break, Pipeline, Queued
from ftvm.history.restore import RestoredMemory
from ftvm.store.entry import EntryLevel
from ftvm.store.retention import Keep
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES

from ..store.test_store import new_store
from ..store.world import PAGES, SmallGuest


@dataclass
class Host:
    """A host whose commits are recorded, step by step, with nobody's thread."""

    folder: Path
    guest: SmallGuest = field(default_factory=SmallGuest)
    calls: int = 0
    lifetime: int = 0

    def __post_init__(self) -> None:
        self.store = new_store(self.folder)
        self.gaps: list[str] = []
        self.waiting: list[Commit] = []
        self.pipeline = Pipeline(
            self.store,
            Keep(),
            PortionReader(self.guest.memory, portion_pages=5),
            host="h",
            calls=lambda: self.calls,
            lifetime=lambda: self.lifetime,
            on_gap=self.gaps.append,
        )

    def commit(self, *, is_first: bool = False) -> None:
        """Commit an epoch: memory has changed, and nobody was told yet."""
        self.waiting.append(self.guest.commit(is_first=is_first))

    def show(self, at_once: int = 1) -> None:
        """Show what was committed to the pipeline."""
        self.calls += 1
        shown, self.waiting = self.waiting, []
        queued = [
            Queued(commit, self.guest.time_ns, self.calls, place == len(shown) - 1)
            for place, commit in enumerate(shown)
        ]
        self.pipeline.take(queued, at_once=at_once)

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self.commit()
            self.show()
            self.pipeline.turn()

    def marks(self, count: int, also: Iterable[int] = ()) -> None:
        """Have the guest execute here up to so many marks, one after the other; it writes pages `also`, too."""
        for _ in range(count):
            commit = self.guest.commit()
            changed = array("I")
            for batch in commit.checkpoint.batches:
                changed.frombytes(bytes(batch.indices))
            written = sorted({*changed, *also})
            self.calls += 1
            pages = copy_pages(self.guest.memory, written) if written else None
            checkpoint = replace(commit.checkpoint, batches=(), engine="lockstep")
            executed = replace(commit, checkpoint=checkpoint, is_executed=True, written=written)
            self.pipeline.take([Queued(executed, self.guest.time_ns, self.calls, is_last=True, pages=pages)])
            self.pipeline.turn()

    def finish(self) -> None:
        self.pipeline.finish("the test ended")
        self.store.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "past")
    yield made
    made.store.close()


def restorable(folder: Path, guest: SmallGuest) -> list[int]:
    """Return the epochs that can be restored; whatever restores must be what the guest was then."""
    found = []
    with Store(folder) as store:
        for stream in store.catalogue.streams():
            for epoch in guest.states:
                buffer = bytearray(PAGES * PAGE_BYTES)
                try:
                    entry = RestoredMemory(store, stream.id, [buffer]).go_to(epoch)
                except HistoryError as wrong:
                    assert "digest" not in str(wrong)  # noqa: PT017
                    continue
                assert bytes(buffer) == guest.states[epoch]
                assert entry.devices.endswith(b"%d" % epoch)
                found.append(epoch)
    return sorted(found)


def test_memory_with_another_digest_than_the_primary_computed_is_not_restored(host: Host) -> None:
    host.run(20)
    host.finish()
    epoch = restorable(host.folder, host.guest)[-1]

    with Store(host.folder) as store:
        stream, read = store.catalogue.streams()[0].id, store.read
        with mock.patch.object(store, "read", lambda *row: replace(read(*row), memory_digest=bytes(16))):
            restored = RestoredMemory(store, stream, [bytearray(PAGES * PAGE_BYTES)])

            with pytest.raises(HistoryError, match=f"epoch {epoch} of .* restores to another digest"):
                restored.go_to(epoch)

    assert restored.entry is None


def test_all_epochs_behind_the_first_base_can_be_restored(host: Host) -> None:
    host.run(100)
    host.finish()

    found = restorable(host.folder, host.guest)

    assert found == list(range(found[0], 101))
    assert found[0] < 10
    assert host.gaps == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.sampled_from(["commit", "show", "turn"]), max_size=80))
def test_a_base_read_in_the_midst_of_commits_is_never_wrong(seed: int, steps: list[str]) -> None:
    with TemporaryDirectory() as folder:
        host = Host(Path(folder) / "past", SmallGuest(seed=seed))
        for step in steps:
            if step == "commit":
                host.commit()
            elif step == "show" and host.waiting:
                host.show()
            elif step == "turn":
                host.pipeline.turn()
        host.finish()

        restorable(host.folder, host.guest)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_what_the_guest_writes_once_it_runs_here_gets_into_no_base(
    seed: int, before: int, turns: int, is_shown: bool
) -> None:
    with TemporaryDirectory() as folder:
        host = Host(Path(folder) / "past", SmallGuest(seed=seed))
        host.run(1)
        for _ in range(before):
            host.pipeline.turn()
        host.commit()
        if is_shown:
            host.show()
        host.lifetime += 1
        host.guest.write()
        for _ in range(turns):
            host.pipeline.turn()
        if host.waiting:
            host.show()
        host.pipeline.take([Break("it runs here", is_gap=False)])
        host.finish()

        restorable(host.folder, host.guest)


def changed_everywhere(host: Host) -> None:
    """Commit an epoch that changes each page."""
    for page in range(PAGES):
        host.guest.buffer[page * PAGE_BYTES] = host.guest.buffer[page * PAGE_BYTES] + 1 & 0xFF
    host.commit()


def test_a_base_is_the_state_of_the_last_epoch_that_was_committed_before_it_was_told(host: Host) -> None:
    host.guest.buffer[:] = b"1" * len(host.guest.buffer)
    host.run(1)
    changed_everywhere(host)
    changed_everywhere(host)
    for _ in range(5):
        host.pipeline.turn()

    host.show()
    host.finish()

    assert restorable(host.folder, host.guest) == [3]


def test_an_epoch_that_was_told_before_the_base_was_read_is_not_its_state(host: Host) -> None:
    host.guest.buffer[:] = b"1" * len(host.guest.buffer)
    host.run(1)
    changed_everywhere(host)
    told, host.waiting = host.waiting, []
    host.calls += 1
    changed_everywhere(host)
    for _ in range(5):
        host.pipeline.turn()

    host.pipeline.take([Queued(told[0], host.guest.time_ns, host.calls, is_last=True)])
    host.show()
    host.finish()

    assert restorable(host.folder, host.guest) == [3]


def test_a_base_during_which_the_guest_began_to_run_here_is_given_up(host: Host) -> None:
    host.guest.buffer[:] = b"1" * len(host.guest.buffer)
    host.run(1)
    changed_everywhere(host)
    read = PortionReader.read

    def read_late(reader: PortionReader, first: int) -> PageBatch:
        if first > PAGES - 5:
            host.lifetime += 1
            host.guest.buffer[:] = b"x" * len(host.guest.buffer)
        return read(reader, first)

    with mock.patch.object(PortionReader, "read", read_late):
        for _ in range(5):
            host.pipeline.turn()
    host.show()
    host.finish()

    assert restorable(host.folder, host.guest) == []


def test_an_epoch_that_does_not_follow_begins_a_new_stream_and_is_told(host: Host) -> None:
    host.run(10)
    host.guest.commit()
    host.run(10)
    host.finish()

    with Store(host.folder) as store:
        first, second = store.catalogue.streams()
    assert second.reason == first.ended
    assert len(host.gaps) == 1
    found = restorable(host.folder, host.guest)
    assert 11 not in found
    assert found[-1] == 21


def test_a_first_copy_begins_a_new_stream_even_if_its_number_follows(host: Host) -> None:
    host.run(10)
    host.commit(is_first=True)
    host.show()
    host.run(10)
    host.finish()

    with Store(host.folder) as store:
        assert len(store.catalogue.streams()) == 2
    assert restorable(host.folder, host.guest)[-1] == 21


def test_marks_of_a_second_become_one_entry_that_can_be_restored(host: Host) -> None:
    host.run(1)
    host.marks(100)
    host.finish()

    found = restorable(host.folder, host.guest)

    assert found[-1] == 101
    assert 3 <= len(found) <= 6
    assert host.gaps == []


def test_marks_do_not_wait_for_their_second_when_it_is_over(host: Host) -> None:
    host.run(1)
    host.marks(45)
    host.pipeline.take([Break("the guest's memory was in use on this host", is_gap=False)])

    assert restorable(host.folder, host.guest)[-1] == 46


def test_marks_whose_pages_take_much_become_an_entry_at_once(host: Host) -> None:
    host.run(1)
    host.marks(3)  # its base is whole

    with mock.patch("ftvm.history.pipeline._MARKS_BYTES", PAGE_BYTES):
        host.marks(10)

    host.finish()
    assert len([epoch for epoch in restorable(host.folder, host.guest) if epoch > 4]) > 5


def test_epochs_before_and_behind_marks_are_of_one_stream(host: Host) -> None:
    host.run(10)
    host.marks(7)
    host.run(10)
    host.finish()

    found = restorable(host.folder, host.guest)

    assert {10, 17, 18, 27} <= set(found)
    assert host.gaps == []


def test_a_page_that_a_base_found_changed_between_two_marks_comes_whole_with_the_next(host: Host) -> None:
    read = PortionReader.read

    def read_between(reader: PortionReader, first: int) -> PageBatch:
        kept = bytes(host.guest.buffer)
        host.guest.buffer[:] = b"?" * len(kept)  # the guest is led on, and writes...
        portion = read(reader, first)
        host.guest.buffer[:] = kept  # ...and then the same again as before
        return portion

    host.commit()
    host.show()
    with mock.patch.object(PortionReader, "read", read_between):
        host.marks(5, also=range(PAGES))
    host.finish()

    assert restorable(host.folder, host.guest)


def test_under_pressure_several_epochs_become_one_entry(host: Host) -> None:
    host.run(5)
    for _ in range(16):
        host.commit()
    host.show(at_once=8)
    host.run(3)
    host.finish()

    found = restorable(host.folder, host.guest)
    assert {13, 21, 22, 23, 24} <= set(found)
    assert 17 not in found


def test_outputs_are_kept_with_the_epoch_that_made_them(host: Host) -> None:
    host.run(40)
    host.finish()

    with Store(host.folder) as store:
        stream = store.catalogue.streams()[0].id
        first = store.catalogue.bases(stream)[0].until
        said = [o.number for row in store.fine_chain(stream, first, 40) for o in store.read(stream, row).outputs]
    assert said == list(range(said[0], host.guest.outputs))


def test_a_stream_that_ends_gives_up_the_base_that_was_being_read(host: Host) -> None:
    host.commit()
    host.show()
    host.pipeline.turn()
    host.finish()

    with Store(host.folder) as store:
        (stream,) = store.catalogue.streams()
        assert store.catalogue.rows(stream.id, EntryLevel.BASE, 0, 1 << 62) == []


def test_time_never_goes_back_within_a_history(host: Host) -> None:
    host.run(5)
    host.guest.time_ns -= 10**12
    host.run(5)
    host.finish()

    with Store(host.folder) as store:
        stream = store.catalogue.streams()[0].id
        times = [row.time_ns for row in store.catalogue.rows(stream, EntryLevel.FINE, 0, 99)]
    assert times == sorted(set(times))
