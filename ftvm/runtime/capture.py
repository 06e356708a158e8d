"""Captures the guest for its standby: rounds of the first copy, and cuts. Looks after the buffers on their way.

Decides nothing: rounds, epochs and their order come from the protocol as orders, and each order is answered by one
report. A guest under an engine that stands still goes on only when the replica says so; any other goes on as soon as
its pages are noted, and is encoded while it runs. If a capture fails, every dirty page that it had collected is put
back into the guest's tracker: that costs the session, never the guest.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final, Protocol, cast

from ftvm._native.memory import DigestTable, NativeMemory, bitmap_indices, take_flags
from ftvm.capture.known import KnownPages
from ftvm.capture.pages import (
    PAGES_MEASURED_MIN,
    BatchBuffers,
    CapturePolicy,
    Scrub,
    Shadow,
    StagedCopy,
    Way,
    capture_fused,
    encode_staged,
)
from ftvm.checkpoint import Bitmap, Checkpoint, PageBatch
from ftvm.config import Limits
from ftvm.errors import GuestError, LimitExceeded, StateUnreadable, TrackingLost
from ftvm.interfaces import Capability, Clock, DiskKeeper, Engine, Guest, Region, ReplayableGuest
from ftvm.protocol import effects as do
from ftvm.protocol.reports import (
    NOTHING_EMITTED,
    CaptureFailed,
    CutTaken,
    Emitted,
    NothingToCut,
    PagesCopied,
    PagesMatched,
    RoundCollected,
)
from ftvm.runtime.runner import GuestRunner, IdleTellingGuest
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.stored import present_pages
from ftvm.units import PAGE_BYTES, Nanos, pages_to_bytes

__all__ = ["CaptureOrder", "CaptureReport", "Capturer", "WriteTellingGuest"]

CaptureOrder = do.StartCopy | do.CollectRound | do.MatchPages | do.CopyMore | do.Cut
CaptureReport = RoundCollected | PagesMatched | PagesCopied | CutTaken | NothingToCut | CaptureFailed

_PAGES_PER_COPY_STEP: Final = 4096
"""A step of the first copy looks at this many pages (16 MiB) at most, so that the driver stays responsive."""


_TELLS_REST: Final = frozenset({Capability.TELLS_WRITES, Capability.TELLS_IDLE, Capability.REPLAY})
"""What a guest needs that is left alone while it is at rest: what wakes it is an input or a step of its clock, and one
that can be replayed tells both."""

_PAGES_PER_SCRUB: Final = 64
"""How many pages are compared with the shadow after each cut: at 40 cuts a second, 10 MiB/s for some 20 us each."""


class WriteTellingGuest(Guest, Protocol):
    """A guest with Capability.TELLS_WRITES."""

    def has_written(self) -> bool:
        """Tell whether pages were written since the last `collect_dirty`. From any thread, also while it runs; never
        blocks. What it writes in this very moment may be missed, and is told the next time.
        """


class Capturer:
    """Captures one guest. `buffers` are those that its batches lie in."""

    def __init__(
        self,
        runner: GuestRunner,
        guest: Guest,
        memory: NativeMemory,
        sink: NumberingSink,
        limits: Limits,
        clock: Clock,
        must_stand_still: Callable[[], bool],
        keepers: Sequence[DiskKeeper] = (),
    ) -> None:
        self.buffers = BatchBuffers(limits)
        self.is_warming_up = False
        self._runner = runner
        self._guest = guest
        self._memory = memory
        self._sink = sink
        self._limits = limits
        self._clock = clock
        self._must_stand_still = must_stand_still
        self._keepers = tuple(keepers)
        self._flushed = False
        if keepers:
            sink.has_flush = self.look_for_flush
        self._shadow: Shadow | None = None
        self._has_shadow = False
        self._is_level = False  # shadow and guest differ only in what it has written since
        self._known: KnownPages | None = None
        self._staged: StagedCopy | None = None
        self._round: array[int] = array("I")
        self._round_done = 0
        self._unmatched: array[int] = array("I")
        self._uncopied: Bitmap | None = None
        self._policy = CapturePolicy()
        self._cut_copy: StagedCopy | None = None
        self._scrub: Scrub | None = None
        self._warm_next = 0
        self._has_position = Capability.REPLAY in guest.can
        self._tells_writes = Capability.TELLS_WRITES in guest.can
        self._tells_rest = guest.can >= _TELLS_REST
        self._page_counts = tuple(region.page_count for region in guest.memory)

    def capture(self, order: CaptureOrder) -> CaptureReport:
        """Carry out an order, and report the result."""
        try:
            match order:
                case do.Cut():
                    report = (order.may_skip and self._nothing_to_cut()) or self._cut(order)
                    if isinstance(report, CutTaken):
                        self._is_level, self._known = True, None
                    self._flushed = False  # not if it raises: then the next epoch tells
                    behind = self._nothing_to_cut() if order.may_skip and isinstance(report, CutTaken) else None
                    return report if behind is None else replace(report, is_at_rest=behind.is_at_rest)
                case do.StartCopy():
                    start = order
                    return self._collect(lambda: self._start_copy(start))
                case do.CollectRound():
                    return self._collect(self._collect_round)
                case do.MatchPages():
                    return self._match(order)
                case do.CopyMore():
                    return self._copy_more(order.batches)
        except (GuestError, LimitExceeded, MemoryError, OSError) as wrong:
            # E.g. no memory for a shadow: without a standby the guest is no worse off than before.
            self._is_level, self._known = False, None  # a tracker does not tell twice
            return CaptureFailed(f"{type(wrong).__name__}: {wrong}", isinstance(wrong, StateUnreadable))

    # --- what it takes ---------------------------------------------------------------------------------------------

    @property
    def guest_bytes(self) -> int:
        """The size of the guest's memory."""
        return pages_to_bytes(sum(self._page_counts))

    @property
    def shadow_bytes(self) -> int:
        """The size of the shadow, 0 without one."""
        return self.guest_bytes if self._has_shadow else 0

    @property
    def staging_bytes(self) -> int:
        """What batches and staged copies have taken so far; they are used again and again."""
        copies = (copy.taken_bytes for copy in (self._staged, self._cut_copy) if copy is not None)
        return self.buffers.allocated_bytes + sum(copies)

    def shadow_content(self) -> memoryview:
        """Return the shadow's pages, which change with each capture: not to be written."""
        return self._require_shadow().content

    # --- the first copy --------------------------------------------------------------------------------------------

    def _collect(self, collect: Callable[[], int]) -> RoundCollected:
        """Collect a round of the first copy from the paused guest."""
        self._runner.stall()
        try:
            return RoundCollected(collect())
        finally:
            self._runner.stall_or_go_on(must_stand_still=self._must_stand_still())

    def _start_copy(self, order: do.StartCopy) -> int:
        """Begin a session with the paused guest: a shadow of zeros, all pages to be copied. Returns how many.

        What the joiner still has is compared with what is known here, as far as nothing was written since.
        """
        self._limits = replace(self._limits, staging_bytes=order.staging_bytes)
        self._scrub = None
        is_level, self._is_level = self._is_level, False
        written = bitmap_indices(self._guest.collect_dirty())
        if self._shadow is None:
            self._shadow = Shadow(self._page_counts)
        elif is_level and order.is_cached:
            self._known = KnownPages(self._shadow.part_with(), self._runs_of(lambda _: True))
        else:
            self._shadow.clear()
        if self._known is not None:
            self._known.forget(written)  # rule: written_pages_are_read
        self._has_shadow = True
        self._uncopied = present_pages(self._guest.memory)
        return self._begin_round()

    def warm_up(self, digests: DigestTable) -> bool:
        """Bring the shadow closer to what the guest holds, which does not run here yet; tell whether it has all of it.

        One call takes a few milliseconds. What changes behind it is left for `adopt`.
        """
        self._warm_next = self._require_shadow().adopt(self._memory, digests, self._warm_next, _PAGES_PER_COPY_STEP)
        is_done = self._warm_next >= self._memory.page_count
        if is_done:
            self.end_warm_up()
        return is_done

    def begin_warm_up(self) -> None:
        """Start to bring the shadow closer to what the guest holds: `warm_up` does it."""
        self.is_warming_up = True

    def end_warm_up(self) -> None:
        """Stop copying: a page that the guest writes once it runs must not get into the shadow of a session."""
        self.is_warming_up = False
        self._warm_next = 0

    def inherit(self, digests: DigestTable) -> None:
        """Know of the guest's disks, as it goes on here with the next step, what was committed: `digests` are of that.
        They are this capturer's to write to until the guest runs here no longer."""
        self._is_level, self._known = False, KnownPages(digests, self._runs_of(lambda region: region.store is not None))

    def adopt(self, digests: DigestTable, staging_bytes: int) -> None:
        """Begin a session with a standby that holds what the paused guest holds: nothing is sent.

        `digests` are those of the guest's memory; what a warm-up has copied is not copied again.
        """
        self._limits = replace(self._limits, staging_bytes=staging_bytes)
        self._scrub = None
        self.end_warm_up()
        self.end_session()
        self._is_level, self._known = False, None
        self._require_shadow().adopt(self._memory, digests, 0, self._memory.page_count)

    def release(self) -> None:
        """Give back the shadow's memory: the guest no longer runs here."""
        self._scrub = self._known = None
        self.end_warm_up()
        self._has_shadow = self._is_level = False
        if self._shadow is not None:
            self._shadow.clear()

    def _collect_round(self) -> int:
        """Collect the pages that the guest, paused now, has written since the last round. Returns how many."""
        self._uncopied = self._guest.collect_dirty()
        pages = self._begin_round()
        if self._known is not None:
            self._known.forget(self._round)
        return pages

    def _match(self, order: do.MatchPages) -> PagesMatched:
        """Compare pages with what the joiner still has of them, and take the same out of the round. Those of one round
        come in rising order; the guest runs."""
        known = None if self._known is None else self._known.of(order.first, len(order.digests) // 16)
        shadow = self._require_shadow()
        kept = shadow.match(self._memory, order.first, order.digests, known)  # rule: only_equal_pages_kept
        end = order.first + len(kept)
        first, behind = bisect_left(self._round, order.first), bisect_left(self._round, end)
        self._unmatched += self._round[self._round_done : first]
        self._unmatched.extend(page for page in self._round[first:behind] if not kept[page - order.first])
        self._round_done = max(behind, self._round_done)
        if order.is_last:
            self._round = self._unmatched + self._round[self._round_done :]
            self._unmatched, self._round_done = array("I"), 0
        left = len(self._round) if order.is_last else 0
        words = bytes(take_flags(kept))
        return PagesMatched(first=order.first, pages=end - order.first, kept=words, is_last=order.is_last, left=left)

    def _copy_more(self, batch_limit: int) -> PagesCopied:
        """Encode up to about `batch_limit` batches of the round while the guest runs."""
        shadow = self._require_shadow()
        pages_per_batch = self._limits.batch_bytes // (PAGE_BYTES + 1)
        if self._staged is None:
            self._staged = StagedCopy(pages_per_batch)
        self._uncopied = None
        batches: list[PageBatch] = []
        looked_at = 0
        while self._round_done < len(self._round) and len(batches) < batch_limit and looked_at < _PAGES_PER_COPY_STEP:
            piece = self._round[self._round_done : self._round_done + pages_per_batch]
            self._staged.gather(self._memory, piece)
            batches += encode_staged(self._staged, shadow, limits=self._limits, buffers=self.buffers)
            self._round_done += len(piece)
            looked_at += len(piece)
        return PagesCopied(tuple(batches), len(self._round) - self._round_done)

    def end_session(self) -> None:
        """Forget the round; buffers come back one by one as they are forgotten and let go."""
        self._round, self._unmatched = array("I"), array("I")
        self._round_done = 0
        self._uncopied = None

    # --- epochs ----------------------------------------------------------------------------------------------------

    def _cut(self, order: do.Cut) -> CutTaken | NothingToCut:
        """Cut an epoch: all that the guest emitted before the pause belongs to it, nothing that it emits after does. If
        this raises LimitExceeded or GuestError (TrackingLost), all is as before, but the guest is paused."""
        runner, guest, sink, limits = self._runner, self._guest, self._sink, self._limits
        engine, before, shadow = order.engine, runner.engine, self._shadow or self._require_shadow()
        paused_at = self._clock.now()
        runner.stall()
        dirty, emitted = guest.collect_dirty(), NOTHING_EMITTED
        batches: tuple[PageBatch, ...] = ()
        try:
            wanted = dirty if self._uncopied is None else dirty | self._uncopied  # rule: uncopied_pages_cut
            if self._scrub is not None and self._scrub.suspects:
                self._judge(self._scrub, dirty)
            indices = bitmap_indices(wanted)
            if self._keepers:
                self.look_for_flush()
            if order.may_skip and not (indices or sink.items or self._flushed):  # rule: skipped_if_nothing_was_written
                runner.stall_or_go_on(must_stand_still=self._must_stand_still())
                return NothingToCut()
            way = self._policy.choose(len(indices))
            if way is Way.FUSED:
                batches = capture_fused(self._memory, shadow, indices, limits=limits, buffers=self.buffers)
            else:
                self._room().gather(self._memory, indices)
            if len(devices := guest.save_devices()) > limits.devices_bytes:  # the standby would refuse it for ever
                raise LimitExceeded("bytes of device state", limit=limits.devices_bytes, wanted=len(devices))
            position = cast("ReplayableGuest", guest).position if self._has_position else None
            output_next, log_index = sink.output_next, sink.log_index
            emitted = sink.drain() if sink.items else NOTHING_EMITTED
            if engine is not before:
                runner.use(engine)
            self._uncopied = None
            pause_ns = Nanos(self._clock.now() - paused_at)
            if not engine.stands_still:
                runner.stall_or_go_on(must_stand_still=self._must_stand_still())
            if len(indices) >= PAGES_MEASURED_MIN:
                self._policy = self._policy.measured(way, pages=len(indices), pause_ns=pause_ns)
            if way is Way.STAGED:
                batches = encode_staged(self._room(), shadow, limits=limits, buffers=self.buffers)
            scrub = self._scrub = self._scrub or Scrub(self._memory, shadow, pages_per_look=_PAGES_PER_SCRUB)
            scrub.look()  # the next cut tells which of the pages that differ were reported
            checkpoint = Checkpoint(
                epoch=order.epoch,
                base=order.base,
                engine=engine.name,
                batches=batches,
                devices=devices,
                outputs=(),
                output_next=output_next,
                log_index=log_index,
                memory_digest=shadow.memory_digest,
                dirty_pages=len(indices),
                position=position,
                page_digests=shadow.page_digests(indices) if order.lists_pages else b"",
                has_flush=self._flushed,
            )
        except BaseException:
            self._put_back(dirty, batches, emitted, before)
            raise
        return CutTaken(emitted=emitted, engine=engine, checkpoint=checkpoint, paused_at=paused_at, pause_ns=pause_ns)

    def _nothing_to_cut(self) -> NothingToCut | None:
        """Ask the guest, which is not paused for it, whether it has written and said nothing; None if it has.

        One that waits comes back by an input or a step of its clock, which it tells the sink. So the sink is asked to
        watch first, then whether it waits, then what was written: what it does behind the answers is told.
        """
        sink = self._sink
        if not self._tells_writes or sink.items or self._uncopied is not None or self.look_for_flush():
            return None
        is_at_rest = self._tells_rest and self._watch_rest()
        if not cast("WriteTellingGuest", self._guest).has_written():
            return NothingToCut(is_at_rest)
        sink.is_watched = False  # the pause for the cut moves the guest's clock
        return None

    def _watch_rest(self) -> bool:
        """Tell whether the guest waits; if so, the sink tells when it goes on."""
        self._sink.is_watched = True
        self._sink.is_watched = waits = cast("IdleTellingGuest", self._guest).is_idle()
        return waits

    def look_for_flush(self) -> bool:
        """Tell whether the guest, which may be running, has flushed a disk since the last epoch that was cut."""
        for keeper in self._keepers:
            self._flushed |= keeper.take_flush()  # rule: flush_is_told
        return self._flushed

    def _put_back(self, dirty: Bitmap, batches: tuple[PageBatch, ...], emitted: Emitted, engine: Engine | None) -> None:
        """A cut has failed: pause the guest, and make all as if nobody had asked."""
        self._runner.stall()
        self.buffers.acknowledged(*batches)
        self._guest.restore_dirty(dirty)
        self._sink.put_back(emitted)
        if engine is not None:
            self._runner.use(engine)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _begin_round(self) -> int:
        self._round = bitmap_indices(self._uncopied) if self._uncopied is not None else array("I")
        self._round_done, self._unmatched = 0, array("I")
        return len(self._round)

    def _runs_of(self, is_meant: Callable[[Region], bool]) -> tuple[tuple[int, int], ...]:
        ends = accumulate(self._page_counts)
        runs = zip(self._guest.memory, self._page_counts, ends, strict=True)
        return tuple((end - count, end) for region, count, end in runs if is_meant(region))

    def _room(self) -> StagedCopy:
        """Return the room for staged captures; it takes memory only as it is filled."""
        if self._cut_copy is None:
            self._cut_copy = StagedCopy(self._policy.staged_pages_max)
        return self._cut_copy

    def _judge(self, scrub: Scrub, dirty: Bitmap) -> None:
        """Raise TrackingLost if pages that the last look found different were written, and not reported."""
        missed = scrub.judge(dirty)
        if missed:
            pages = ", ".join(map(str, missed[:8]))
            raise TrackingLost(f"{len(missed)} written pages were not reported, among them {pages}")

    def _require_shadow(self) -> Shadow:
        if self._shadow is None:
            self._shadow = Shadow(self._page_counts)
        self._has_shadow = True
        return self._shadow
