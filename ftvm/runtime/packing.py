"""Packs outgoing batches when that makes them arrive sooner.

Packing happens when a batch is sent, long after the guest went on: it costs no pause. What the link does is learned
from acknowledgements of large batches: the bytes acknowledged, over the time since the link began with them or finished
what was before them, whichever is later.
"""

from typing import Final

from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.compress import PackPolicy, pack_batch
from ftvm.interfaces import Clock
from ftvm.units import Nanos

__all__ = ["WORTH_BYTES", "Packer"]

WORTH_BYTES: Final = 4096
"""A smaller payload is sent as it is: it fits into three packets."""


class Packer:
    """One guest's link. `policy` says what is known about it; `sent_at` has when large batches were sent, by buffer."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.policy = PackPolicy()
        self._large_bytes = limits.batch_bytes // 2
        self._clock = clock
        self.sent_at: dict[int, tuple[Nanos, int]] = {}
        self._acknowledged_at: Nanos | None = None

    def pack(self, batch: PageBatch, *, is_first_copy: bool) -> PageBatch:
        """Return the batch as it is to be sent: packed if that pays."""
        if not self.policy.should_pack(is_first_copy=is_first_copy):
            self.policy = self.policy.sent_unpacked()
            packed = batch
        else:
            began = self._clock.now()
            packed = pack_batch(batch)
            took_ns = Nanos(self._clock.now() - began)
            before, after = len(batch.payload), len(packed.payload)
            self.policy = self.policy.packed(before_bytes=before, after_bytes=after, took_ns=took_ns)
        if batch.buffer is not None and packed.size_bytes >= self._large_bytes:
            self.sent_at[batch.buffer] = (self._clock.now(), packed.size_bytes)
        return packed

    def acknowledged(self, batches: tuple[PageBatch, ...]) -> None:
        """Learn from batches that were acknowledged together."""
        known = [self.sent_at.pop(batch.buffer) for batch in batches if batch.buffer in self.sent_at]
        if not known:
            return
        now = self._clock.now()
        began = min(sent_at for sent_at, _ in known)
        if self._acknowledged_at is not None:
            began = max(began, self._acknowledged_at)
        self._acknowledged_at = now
        sent_bytes = sum(size for _, size in known)
        self.policy = self.policy.acknowledged(sent_bytes=sent_bytes, took_ns=Nanos(now - began))
