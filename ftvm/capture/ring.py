"""The buffers that batches are encoded into, and when each may be written again.

A buffer is in use from its capture until two things have happened: the backup acknowledged what is in it (until then
it may have to be sent again), and the transport let go of every send that reads from it. It promises never to hand
out a buffer in use, and to keep as few as the traffic needs: three in a steady state. It knows nothing about sockets or
acknowledgements; the protocol tells it.

Wraps `struct ftvm_batch` of the native noun `capture` (capture.h is its manual).
"""

from array import array
from typing import Any, Final

from ftvm._native import ffi
from ftvm._native.memory import bytes_digest
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.errors import InternalError, LimitExceeded, LocalProtocolError

__all__ = ["BatchBuffer", "BatchBuffers", "entries_max"]

_BYTES_PER_ENTRY: Final = 64
"""A batch has room for one entry per so many payload bytes: most deltas are longer, and where they are not the batch is
simply cut earlier. It keeps the index arrays at a tenth of the payload."""

_SPARE_BUFFERS: Final = 3
"""What the ring may always hold beyond the limits: one being filled, one being sent, one waiting for its word."""


def entries_max(limits: Limits) -> int:
    """Return how many pages one batch can hold at most."""
    return limits.batch_bytes // _BYTES_PER_ENTRY


class BatchBuffer:
    """Room for one batch: page indices, lengths, payload; and `native`, a `struct ftvm_batch *` to fill it by."""

    __slots__ = (
        "_indices",
        "_lengths",
        "_payload",
        "indices",
        "is_unacknowledged",
        "lengths",
        "native",
        "number",
        "payload",
        "sends",
    )

    native: Any

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.indices = array("I", bytes(4 * entries_max(limits)))
        self.lengths = array("H", bytes(2 * entries_max(limits)))
        self.payload = bytearray(limits.batch_bytes)
        self._indices = memoryview(self.indices).cast("B").toreadonly()
        self._lengths = memoryview(self.lengths).cast("B").toreadonly()
        self._payload = memoryview(self.payload).toreadonly()
        self.native = ffi.new("struct ftvm_batch *")
        self.native.indices = ffi.from_buffer("uint32_t[]", self.indices)
        self.native.lengths = ffi.from_buffer("uint16_t[]", self.lengths)
        self.native.payload = ffi.from_buffer("uint8_t[]", self.payload)
        self.native.entry_capacity = len(self.indices)
        self.native.payload_capacity = len(self.payload)
        self.is_unacknowledged = False
        self.sends = 0

    @property
    def is_free(self) -> bool:
        """Whether nobody needs what is in it."""
        return not self.is_unacknowledged and self.sends == 0

    def batch(self) -> PageBatch:
        """Return what was written into it by `native`, as views of its memory."""
        count = int(self.native.entry_count)
        indices, lengths = self._indices[: 4 * count], self._lengths[: 2 * count]
        payload = self._payload[: self.native.payload_bytes]
        digest = bytes_digest(indices, lengths, payload)
        return PageBatch(
            count=count, indices=indices, lengths=lengths, payload=payload, digest=digest, buffer=self.number
        )


class BatchBuffers:
    """A ring of batch buffers that grows with what is in flight, up to a limit."""

    __slots__ = ("_buffers", "_free", "_limits", "capacity")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffers: list[BatchBuffer] = []
        self._free: list[BatchBuffer] = []
        self.capacity = limits.epochs_in_flight * limits.staging_bytes // limits.batch_bytes + _SPARE_BUFFERS

    @property
    def in_use(self) -> int:
        """How many buffers somebody still needs."""
        return len(self._buffers) - len(self._free)

    @property
    def allocated_bytes(self) -> int:
        """What all payload buffers take, in use or not."""
        return len(self._buffers) * self._limits.batch_bytes

    def lend(self) -> BatchBuffer:
        """Return a buffer that nobody needs; it is in use, unacknowledged, from now on. Raises LimitExceeded."""
        if self._free:
            buffer = self._free.pop()
        elif len(self._buffers) < self.capacity:
            buffer = BatchBuffer(len(self._buffers), self._limits)
            self._buffers.append(buffer)
        else:
            raise LimitExceeded("batch buffers in use", limit=self.capacity, wanted=self.capacity + 1)
        if buffer.is_unacknowledged or buffer.sends:
            raise InternalError(f"batch buffer {buffer.number} was free and in use at once")
        buffer.is_unacknowledged = True
        buffer.native.entry_count = buffer.native.payload_bytes = 0
        return buffer

    def give_back(self, buffer: BatchBuffer) -> None:
        """Take back a buffer that was lent and that no batch came out of."""
        buffer.is_unacknowledged = False
        if not buffer.sends:
            self._free.append(buffer)

    def sent(self, batch: PageBatch) -> None:
        """Note that the transport reads from this batch until it lets go; once per send."""
        self._of(batch).sends += 1

    def let_go(self, batch: PageBatch) -> None:
        """Note that the transport finished one send of this batch."""
        buffer = self._of(batch)
        if buffer.sends == 0:
            raise LocalProtocolError(f"batch buffer {buffer.number} was let go of more often than it was sent")
        buffer.sends -= 1
        if not buffer.sends and not buffer.is_unacknowledged:
            self._free.append(buffer)

    def acknowledged(self, *batches: PageBatch) -> None:
        """Note that these batches need not be sent again: the backup has them, or their session is over."""
        for batch in batches:
            buffer = self._of(batch)
            if not buffer.is_unacknowledged:
                raise LocalProtocolError(f"batch buffer {buffer.number} was acknowledged twice")
            buffer.is_unacknowledged = False
            if not buffer.sends:
                self._free.append(buffer)

    def _of(self, batch: PageBatch) -> BatchBuffer:
        if batch.buffer is None or not 0 <= batch.buffer < len(self._buffers):
            raise LocalProtocolError("this batch was not captured into this ring")
        return self._buffers[batch.buffer]
