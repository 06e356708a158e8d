"""A checkpoint that is not whole yet, held aside from the committed state (invariant I4).

Parts come in order (channel.py); they must be of one epoch, counted from 0 without a gap, and stay within the bound
that was agreed in the handshake. The end makes it whole.
"""

from dataclasses import dataclass, field, replace

from ftvm.checkpoint import Checkpoint, PageBatch
from ftvm.encode.messages import EpochPart
from ftvm.errors import BadFrame, LimitExceeded

__all__ = ["Staging"]


@dataclass(slots=True)
class Staging:
    """At most one unfinished checkpoint. `limit_bytes` bounds its encoded pages."""

    limit_bytes: int
    epoch: int | None = None
    batches: list[PageBatch] = field(default_factory=list, repr=False)
    size_bytes: int = 0

    def add(self, part: EpochPart) -> Checkpoint | None:
        """Take a part; return the checkpoint if it is whole now, and be empty again.

        Raises BadFrame for a part out of place and LimitExceeded beyond the bound; the session cannot go on after
        either.
        """
        if part.part != len(self.batches) or self.epoch not in (None, part.epoch):
            raise BadFrame(
                f"part {part.part} of epoch {part.epoch} came while part {len(self.batches)} "
                f"of epoch {self.epoch or part.epoch} was due"
            )
        if part.batch is not None:
            self._stage(part.epoch, part.batch)
            return None
        if part.checkpoint is None:
            raise BadFrame("a part of an epoch carries neither pages nor the end")
        whole = replace(part.checkpoint, batches=tuple(self.batches))  # rule: all_batches_committed
        self.clear()
        return whole

    def clear(self) -> None:
        """Forget the unfinished checkpoint."""
        self.epoch = None
        self.batches = []
        self.size_bytes = 0

    def _stage(self, epoch: int, batch: PageBatch) -> None:
        wanted = self.size_bytes + batch.size_bytes
        if wanted > self.limit_bytes:
            raise LimitExceeded(f"staging of epoch {epoch}, bytes", limit=self.limit_bytes, wanted=wanted)
        self.epoch = epoch
        self.batches.append(batch)
        self.size_bytes = wanted
