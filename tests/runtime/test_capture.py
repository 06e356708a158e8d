"""A capture, fused or staged, makes the same checkpoint; what was emitted comes first; what a scrub finds fails it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import CapturePolicy
from ftvm.checkpoint import Checkpoint
from ftvm.encode.apply import CommittedMemory
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.protocol.effects import CollectRound, CopyMore, Cut, MatchPages, StartCopy
from ftvm.protocol.reports import (
    CaptureFailed,
    CutTaken,
    NothingToCut,
    PagesCopied,
    PagesMatched,
    RoundCollected,
)
from ftvm.sim.guest import SimGuest
from ftvm.units import Nanos

from ..native.test_digest import from_scratch
from .captured import LIMITS, ORDER, QUIET, Primary, RestingGuest, TellingGuest


def applied(checkpoint: Checkpoint) -> bytes:
    ram = bytearray(24 * 4096)
    memory = CommittedMemory(NativeMemory([ram]))
    memory.verify(checkpoint.batches, checkpoint.memory_digest)
    memory.commit(checkpoint.batches)
    return bytes(ram)


def test_fused_and_staged_capture_make_the_same_memory() -> None:
    fused, staged = Primary(), Primary(CapturePolicy(pause_target_ns=Nanos(1)))

    assert applied(fused.cut()) == applied(staged.cut()) == bytes(fused.guest.memory[0].buffer)
    assert (fused.capturer._cut_copy, staged.capturer._cut_copy is None) == (None, False)


def test_a_cut_that_nothing_waits_for_is_skipped_if_nothing_was_written() -> None:
    primary, went_on = Primary(), [False]
    primary.cut()
    primary.on_go_on = lambda: went_on.append(True)

    report = primary.report(QUIET)

    assert report == NothingToCut()
    assert went_on[-1]


def test_a_guest_that_tells_that_it_has_written_nothing_is_not_even_paused() -> None:
    primary = Primary(kind=TellingGuest)
    primary.cut()
    paused = primary.guest.pauses

    report = primary.report(QUIET)

    assert report == NothingToCut()
    assert primary.guest.pauses == paused


@pytest.mark.parametrize("may_skip", [False, True])
def test_a_guest_that_tells_that_it_has_written_or_that_something_waits_for_is_cut(may_skip: bool) -> None:
    primary = Primary(kind=TellingGuest)
    primary.cut()
    if may_skip:
        primary.run()

    report = primary.report(replace(QUIET, may_skip=may_skip))

    assert isinstance(report, CutTaken)


def keeper(flushes: list[bool]) -> Any:
    """Return a disk that tells each of these once."""
    return SimpleNamespace(take_flush=lambda: bool(flushes) and flushes.pop())


@pytest.mark.parametrize("kind", [SimGuest, TellingGuest])
def test_a_flush_alone_is_worth_a_cut_and_is_told_once(kind: type[SimGuest]) -> None:
    """Mutants: a guest that wrote nothing is skipped though it flushed; each epoch after a flush holds one."""
    primary, flushes = Primary(kind=kind), list[bool]()
    primary.capturer._keepers = (keeper(flushes), keeper([]))
    before = primary.cut()
    flushes.append(True)

    first, second = primary.report(QUIET), primary.report(QUIET)

    assert not before.has_flush
    assert isinstance(first, CutTaken)
    assert first.checkpoint.has_flush
    assert second == NothingToCut()


def test_a_flush_as_soon_as_the_guest_goes_on_from_its_cut_is_told_by_the_next() -> None:
    primary, flushes = Primary(kind=RestingGuest), list[bool]()
    primary.capturer._keepers = (keeper(flushes),)
    primary.on_go_on = lambda: flushes.append(True)

    first, second = primary.report(QUIET), primary.report(QUIET)

    assert isinstance(first, CutTaken)
    assert isinstance(second, CutTaken)
    assert [report.checkpoint.has_flush for report in (first, second)] == [False, True]
    assert not first.is_at_rest


def test_a_flush_of_a_cut_that_fails_is_told_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    primary = Primary()
    primary.capturer._keepers = (keeper([True]),)
    with monkeypatch.context() as failing:
        failing.setattr(primary.guest, "save_devices", lambda: bytes(LIMITS.devices_bytes + 1))
        failed = primary.report()

    assert isinstance(failed, CaptureFailed)
    assert primary.cut().has_flush


def test_a_page_written_after_a_skipped_cut_is_in_the_next() -> None:
    primary, memory = Primary(), CommittedMemory(NativeMemory([bytearray(24 * 4096)]))
    checkpoint = primary.cut()
    memory.verify(checkpoint.batches, checkpoint.memory_digest)
    memory.commit(checkpoint.batches)
    primary.report(QUIET)
    primary.run()

    report = primary.report(QUIET)

    assert isinstance(report, CutTaken)
    memory.verify(report.checkpoint.batches, report.checkpoint.memory_digest)


def test_a_guest_that_tells_that_it_has_written_nothing_is_cut_while_pages_of_a_round_wait() -> None:
    primary = Primary(kind=TellingGuest)
    primary.cut()
    primary.run()
    primary.sink.drain()
    primary.capturer.capture(CollectRound())

    report = primary.report(QUIET)

    assert not primary.guest.has_written()
    assert isinstance(report, CutTaken)
    assert report.checkpoint.dirty_pages > 0


@pytest.mark.parametrize("kind", [SimGuest, TellingGuest])
def test_a_cut_is_not_skipped_if_the_guest_has_said_something_or_something_waits(kind: type[SimGuest]) -> None:
    primary = Primary(kind=kind)
    primary.cut()

    waiting = primary.report(replace(QUIET, may_skip=False))
    primary.sink.emit("net0", b"said")
    said = primary.report(replace(QUIET, epoch=3, base=2))

    assert isinstance(waiting, CutTaken)
    assert isinstance(said, CutTaken)


def test_a_staged_capture_is_of_the_moment_of_the_pause() -> None:
    primary = Primary(CapturePolicy(pause_target_ns=Nanos(1)))
    before = bytes(primary.guest.memory[0].buffer)
    primary.on_go_on = primary.run

    checkpoint = primary.cut()

    assert applied(checkpoint) == before != bytes(primary.guest.memory[0].buffer)


def test_a_report_tells_first_what_the_guest_emitted_before_the_pause() -> None:
    primary = Primary()
    output_next = primary.sink.output_next
    primary.on_go_on = primary.run

    report = primary.report()

    assert isinstance(report, CutTaken)
    assert [output.number for output, _ in report.emitted.outputs] == list(range(1, output_next))
    assert (report.checkpoint.output_next, report.checkpoint.outputs) == (output_next, ())


def test_a_guest_whose_engine_stands_still_does_not_go_on_with_the_cut() -> None:
    primary = Primary()
    went_on: list[str] = []
    primary.on_go_on = lambda: went_on.append("went on")

    primary.cut(Cut(1, 0, Kemari(), False))
    assert went_on == []

    primary.cut(ORDER)
    assert went_on == ["went on"]


def test_a_capture_that_fails_keeps_what_the_guest_emitted_and_its_dirty_pages() -> None:
    primary = Primary()
    primary.cut()
    first = primary.sink.output_next
    primary.run()
    dirty = primary.guest.collect_dirty()
    primary.guest.restore_dirty(dirty)
    primary.guest.save_devices = lambda: bytes(LIMITS.devices_bytes + 1)  # type: ignore[method-assign]

    report = primary.report()

    assert isinstance(report, CaptureFailed)
    assert "bytes of device state" in report.error
    emitted = primary.sink.drain()
    assert [output.number for output, _ in emitted.outputs] == list(range(first, primary.sink.output_next))
    assert primary.guest.collect_dirty() == dirty
    assert primary.capturer.buffers.in_use == 0


def test_an_encoding_that_fails_while_the_guest_runs_leaves_the_sink_and_the_engine_as_they_were() -> None:
    primary = Primary(CapturePolicy(pause_target_ns=Nanos(1)))
    used: list[str] = []
    primary.runner.use = lambda engine: used.append(engine.name)
    primary.on_go_on = primary.run
    primary.capturer._limits = replace(LIMITS, staging_bytes=10)

    report = primary.report(Cut(1, 0, Lockstep(), False))

    assert isinstance(report, CaptureFailed)
    assert "encoded bytes of one checkpoint" in report.error
    assert used == ["lockstep", "remus"]
    numbers = [output.number for output, _ in primary.sink.drain().outputs]
    assert numbers == list(range(1, primary.sink.output_next))


def test_a_written_page_that_was_not_reported_is_found_and_ends_the_session() -> None:
    primary = Primary()
    primary.cut()
    primary.guest.memory[0].buffer[9 * 4096] ^= 1
    primary.cut()  # looks at the page behind this cut

    report = primary.report()

    assert isinstance(report, CaptureFailed)
    assert "TrackingLost: 1 written pages were not reported, among them 9" in report.error


def test_a_new_session_holds_nothing_against_the_old_one() -> None:
    primary = Primary()
    primary.cut()
    primary.guest.memory[0].buffer[9 * 4096] ^= 1
    primary.cut()

    primary.capturer.capture(StartCopy(LIMITS.staging_bytes))
    primary.run()
    checkpoint = primary.cut()

    assert applied(checkpoint) == bytes(primary.guest.memory[0].buffer)


def test_pages_are_listed_only_for_a_backup_that_executes() -> None:
    primary = Primary()

    checkpoint = primary.cut(Cut(1, 0, Lockstep(), True))

    assert len(checkpoint.page_digests) == 20 * checkpoint.dirty_pages
    assert primary.cut().page_digests == b""


class Store:
    """A region's store that knows which pages may not be zero."""

    identity = ""

    def __init__(self, present: bytearray | None) -> None:
        self._present = present

    def present(self) -> bytearray | None:
        return self._present


@pytest.mark.parametrize(("present", "pages"), [(bytearray(b"\x05" + bytes(7)), 2), (None, 24)])
def test_a_first_copy_leaves_out_what_a_regions_store_knows_to_be_zero(
    present: bytearray | None, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = Primary()
    region = replace(primary.guest.memory[0], store=Store(present))  # type: ignore[arg-type]
    monkeypatch.setattr(type(primary.guest), "memory", (region,))

    report = primary.capturer.capture(StartCopy(LIMITS.staging_bytes))

    assert report == RoundCollected(pages)


def cached(primary: Primary, *, differs: tuple[int, ...]) -> CommittedMemory:
    """Return the memory of a host that has all that the guest has now, but for some pages."""
    ram = bytearray(primary.guest.memory[0].buffer)
    for page in differs:
        ram[page * 4096] ^= 1
    memory = CommittedMemory(NativeMemory([ram]))
    memory.hold()
    return memory


def matched(primary: Primary, backup: CommittedMemory, first: int, count: int, *, is_last: bool) -> PagesMatched:
    report = primary.capturer.capture(MatchPages(first, backup.offer(first, count), is_last))
    assert isinstance(report, PagesMatched)
    backup.keep(first, count, report.kept)
    return report


def test_pages_that_a_joiner_still_has_are_not_copied() -> None:
    primary = Primary()
    primary.capturer.capture(StartCopy(LIMITS.staging_bytes))
    backup = cached(primary, differs=(0, 7, 15))

    first = matched(primary, backup, 0, 10, is_last=False)
    last = matched(primary, backup, 10, 10, is_last=True)
    copied = primary.capturer.capture(CopyMore(8))

    assert isinstance(copied, PagesCopied)
    assert (first.left, last.left, copied.left) == (0, 3 + 4, 0)  # 20 to 23 were never offered
    backup.verify(copied.batches, None)
    backup.commit(copied.batches)
    assert backup.memory_digest == from_scratch(bytes(primary.guest.memory[0].buffer))


def test_a_page_written_behind_the_comparison_is_in_the_first_cut() -> None:
    primary = Primary()
    primary.capturer.capture(StartCopy(LIMITS.staging_bytes))
    backup = cached(primary, differs=())
    matched(primary, backup, 0, 24, is_last=True)

    primary.run()
    primary.capturer.capture(CollectRound())
    checkpoint = primary.cut()
    backup.verify(checkpoint.batches, checkpoint.memory_digest)
    backup.commit(checkpoint.batches)

    assert backup.memory_digest == from_scratch(bytes(primary.guest.memory[0].buffer))
