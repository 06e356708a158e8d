"""The active side's hands: collects dirty pages, copies, cuts, and looks after the buffers that are on their way.

Decides nothing: rounds, epochs and their order come from the protocol as effects. If a capture fails, every dirty page
that it had collected is put back into the guest's tracker.
"""

from array import array
from dataclasses import dataclass, replace
from typing import Final, cast

from ftvm._native.digest import DigestTable
from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import StagedCopy, capture_fused, encode_staged, page_indices
from ftvm.capture.policy import CapturePolicy, Way
from ftvm.capture.ring import BatchBuffers
from ftvm.capture.scrub import Scrub
from ftvm.capture.shadow import Shadow
from ftvm.checkpoint import Bitmap, Checkpoint, Output, PageBatch
from ftvm.config import Limits
from ftvm.errors import LimitExceeded, TrackingLost
from ftvm.interfaces import Capability, Guest, ReplayableGuest
from ftvm.protocol.effects import Cut
from ftvm.units import PAGE_BYTES, Nanos, pages_to_bytes

__all__ = ["Captured", "Hands"]

_PAGES_PER_COPY_STEP: Final = 4096
"""A step of the first copy looks at no more pages than this (16 MiB), so that the driver stays responsive."""


_PAGES_PER_SCRUB: Final = 64
"""After each cut so many pages are compared with the shadow: at 40 cuts a second, 10 MiB/s for some 20 us each."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What a pause has captured: all that the checkpoint needs, its pages perhaps still to be encoded."""

    checkpoint: Checkpoint
    way: Way
    indices: "array[int]"
    dirty: Bitmap
    lists_pages: bool


class Hands:
    """Captures one guest."""

    def __init__(self, guest: Guest, memory: NativeMemory, limits: Limits) -> None:
        self._guest = guest
        self._memory = memory
        self._limits = limits
        self._shadow: Shadow | None = None
        self._has_shadow = False
        self._buffers = BatchBuffers(limits)
        self._staged: StagedCopy | None = None
        self._round: array[int] = array("I")
        self._round_done = 0
        self._uncopied: Bitmap | None = None
        self._policy = CapturePolicy()
        self._cut_copy: StagedCopy | None = None
        self._scrub: Scrub | None = None
        self.is_warming_up = False
        self._warm_next = 0
        self._page_counts = tuple(region.page_count for region in guest.memory)

    # --- what it takes ---------------------------------------------------------------------------------------------

    @property
    def guest_bytes(self) -> int:
        """The size of the guest's memory."""
        return pages_to_bytes(sum(self._page_counts))

    @property
    def shadow_bytes(self) -> int:
        """The size of the shadow, 0 while there is none."""
        return self.guest_bytes if self._has_shadow else 0

    @property
    def staging_bytes(self) -> int:
        """What batches and staged copies have taken so far; they are used again and again."""
        copies = (copy.taken_bytes for copy in (self._staged, self._cut_copy) if copy is not None)
        return self._buffers.allocated_bytes + sum(copies)

    # --- the first copy --------------------------------------------------------------------------------------------

    def start_copy(self, staging_bytes: int) -> int:
        """Begin a session with the paused guest: a shadow of zeros, all pages to be copied. Returns how many.

        `staging_bytes` is what both sides agreed that one checkpoint may take.
        """
        self._limits = replace(self._limits, staging_bytes=staging_bytes)
        self._scrub = None
        if self._shadow is None:
            self._shadow = Shadow(self._page_counts)
        else:
            self._shadow.clear()
        self._has_shadow = True
        self._guest.collect_dirty()
        self._uncopied = Bitmap.full(self._page_counts)
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

    def end_warm_up(self) -> None:
        """Copy no more: a page that the guest writes once it runs must not get into the shadow behind a session."""
        self.is_warming_up = False
        self._warm_next = 0

    def adopt(self, digests: DigestTable, staging_bytes: int) -> None:
        """Begin a session with a standby that holds what the paused guest holds: nothing is sent.

        `digests` are those of the guest's memory; what a warm-up has copied is not copied again.
        """
        self._limits = replace(self._limits, staging_bytes=staging_bytes)
        self._scrub = None
        self.end_warm_up()
        self.end_session()
        self._require_shadow().adopt(self._memory, digests, 0, self._memory.page_count)

    def release(self) -> None:
        """Give the shadow's memory back: the guest does not run here any more."""
        self._scrub = None
        self.end_warm_up()
        self._has_shadow = False
        if self._shadow is not None:
            self._shadow.clear()

    def collect_round(self) -> int:
        """Collect the pages that the guest, paused now, has written since the last round. Returns how many."""
        self._uncopied = self._guest.collect_dirty()
        return self._begin_round()

    def copy_more(self, batch_limit: int) -> tuple[tuple[PageBatch, ...], int]:
        """Encode up to about `batch_limit` batches of the round while the guest runs. Returns them, and the pages
        left."""
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
            batches += encode_staged(self._staged, shadow, limits=self._limits, buffers=self._buffers)
            self._round_done += len(piece)
            looked_at += len(piece)
        return tuple(batches), len(self._round) - self._round_done

    def end_session(self) -> None:
        """Forget the round; buffers come back one by one as they are forgotten and let go."""
        self._round = array("I")
        self._round_done = 0
        self._uncopied = None

    # --- epochs ----------------------------------------------------------------------------------------------------

    def cut(self, order: Cut, outputs: tuple[Output, ...], output_next: int, log_index: int) -> "Captured":
        """Capture the paused guest. `outputs` are those that the checkpoint must carry, `log_index` what it covers.

        The guest may go on when this returns; `finish` makes the checkpoint. Raises LimitExceeded, or GuestError:
        TrackingLost if a scrub found that a written page was not reported.
        """
        shadow, guest = self._require_shadow(), self._guest
        dirty = guest.collect_dirty()
        wanted = dirty if self._uncopied is None else dirty | self._uncopied  # rule: uncopied_pages_cut
        batches: tuple[PageBatch, ...] = ()
        try:
            self._judge(dirty)
            indices = page_indices(wanted)
            way = self._policy.choose(len(indices))
            if way is Way.FUSED:
                batches = capture_fused(self._memory, shadow, indices, limits=self._limits, buffers=self._buffers)
            else:
                self._room().gather(self._memory, indices)
            devices = guest.save_devices()
            position = cast("ReplayableGuest", guest).position if Capability.REPLAY in guest.can else None
            self._check_limits(devices, outputs)
        except BaseException:
            self.forget(batches)
            guest.restore_dirty(dirty)
            raise
        self._uncopied = None
        checkpoint = Checkpoint(
            epoch=order.epoch,
            base=order.base,
            engine=order.engine.name,
            batches=batches,
            devices=devices,
            outputs=outputs,
            output_next=output_next,
            log_index=log_index,
            memory_digest=0,
            dirty_pages=len(indices),
            position=position,
        )
        return Captured(checkpoint, way, indices, dirty, order.lists_pages)

    def finish(self, captured: "Captured", pause_ns: Nanos) -> Checkpoint:
        """Make the checkpoint of what was captured; the guest, which stood still for `pause_ns`, may run.

        If this raises LimitExceeded, the guest is paused, and its dirty pages are put back.
        """
        shadow, checkpoint = self._require_shadow(), captured.checkpoint
        self._policy = self._policy.measured(captured.way, pages=len(captured.indices), pause_ns=pause_ns)
        if captured.way is Way.STAGED:
            try:
                batches = encode_staged(self._room(), shadow, limits=self._limits, buffers=self._buffers)
            except BaseException:
                self._guest.pause()
                self._guest.restore_dirty(captured.dirty)
                raise
            checkpoint = replace(checkpoint, batches=batches)
        if self._scrub is None:
            self._scrub = Scrub(self._memory, shadow, pages_per_look=_PAGES_PER_SCRUB)
        self._scrub.look()
        return replace(
            checkpoint,
            memory_digest=shadow.memory_digest,
            page_digests=shadow.page_digests(captured.indices) if captured.lists_pages else b"",
        )

    # --- buffers ---------------------------------------------------------------------------------------------------

    def sent(self, batch: PageBatch) -> None:
        """Note that the transport reads from this batch."""
        self._buffers.sent(batch)

    def let_go(self, batch: PageBatch) -> None:
        """Note that the transport has let go of one send of this batch."""
        self._buffers.let_go(batch)

    def forget(self, batches: tuple[PageBatch, ...]) -> None:
        """Note that these batches need not be sent again."""
        for batch in batches:
            self._buffers.acknowledged(batch)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _begin_round(self) -> int:
        self._round = page_indices(self._uncopied) if self._uncopied is not None else array("I")
        self._round_done = 0
        return len(self._round)

    def _room(self) -> StagedCopy:
        """Return the room for staged captures; it takes memory only as it is filled."""
        if self._cut_copy is None:
            self._cut_copy = StagedCopy(self._policy.staged_pages_max)
        return self._cut_copy

    def _judge(self, dirty: Bitmap) -> None:
        """Raise TrackingLost if pages that the last look found different were written, and not reported."""
        missed = self._scrub.judge(dirty) if self._scrub is not None else ()
        if missed:
            pages = ", ".join(map(str, missed[:8]))
            raise TrackingLost(f"{len(missed)} written pages were not reported, among them {pages}")

    def _check_limits(self, devices: bytes, outputs: tuple[Output, ...]) -> None:
        """Refuse here what the standby would refuse to read: it would be sent again and again."""
        limits = self._limits
        if len(devices) > limits.devices_bytes:
            raise LimitExceeded("bytes of device state", limit=limits.devices_bytes, wanted=len(devices))
        longest = max((len(output.payload) for output in outputs), default=0)
        if longest > limits.output_bytes:
            raise LimitExceeded("bytes of one output", limit=limits.output_bytes, wanted=longest)

    def _require_shadow(self) -> Shadow:
        if self._shadow is None:
            self._shadow = Shadow(self._page_counts)
        self._has_shadow = True
        return self._shadow
