"""One card of a guest, whose frames are moved in C: `PumpedCard`.

Whoever emulates the card (QEMU) is given one end of it (ends.py); a pump (netpump.h) stands between the other and a tap
of this host, or a cable of datagrams. What the guest sends is held until the output that stands for it is released. Of
what it sends between two pauses, the first SHIPPED_BYTES travel with the outputs, so that a takeover can send them
again; of the rest the number only.

Safe from several threads: the guest's marks, the host's releases.
"""

import errno
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from ftvm._native.netpump import Inputs, NetPump, PumpCounters
from ftvm.errors import BadFrame, ClosedError
from ftvm.guests.cards.batch import PUMP_ID_BYTES, Batch, decode_batch, encode_batch, unpack_frames
from ftvm.guests.cards.ends import open_ends
from ftvm.guests.tap import tap_gone

__all__ = ["HELD_BYTES_MAX", "SHIPPED_BYTES", "CardCounters", "PumpedCard"]

HELD_BYTES_MAX: Final = 16 << 20
"""Beyond that the card is not read, and the kernel drops what the guest sends on: TCP slows down then."""

SHIPPED_BYTES: Final = 256 << 10
"""Of each epoch: small replies travel, bulk is repeated by whoever sends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardCounters:
    """What cards moved, and what was dropped; the names are those of DatagramCounters where they mean the same.

    frames_lost  not sent again at a takeover, because they were too many to travel
    """

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    sends_dropped: int = 0
    receives_dropped: int = 0
    card_dropped: int = 0
    runts_refused: int = 0
    strangers_refused: int = 0
    frames_lost: int = 0
    outputs_unrouted: int = 0


class PumpedCard:
    """A card that reaches the world by a cable: `NAME`, a tap of this host, with what the card offloads, or without
    that `tap:NAME`, or datagrams, as `udp:LOCALPORT:REMOTEPORT`.

    wire  the descriptor of the card's own end, for whoever emulates it
    """

    def __init__(self, cable: str) -> None:
        """Make the card. Raises ConfigError for a cable that cannot be or without the rights, TransportError if the tap
        or address is refused, GuestError if there is no room; nothing is open then.
        """
        self.name = cable
        self._id = os.urandom(PUMP_ID_BYTES)
        self._shipped_left = SHIPPED_BYTES
        self._frames_lost = self._outputs_unrouted = 0
        self._last: PumpCounters | None = None
        self._ends = ends = open_ends(cable)
        self.wire = ends.wire
        try:
            self._pump = NetPump(
                ends.ours,
                ends.outside,
                ring_bytes=HELD_BYTES_MAX,
                packed_bytes_max=SHIPPED_BYTES,
                header_bytes=ends.header_bytes,
                peer=ends.peer,
            )
        except BaseException:
            ends.close()
            raise

    # --- for the guest ---------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor that is readable when frames wait, until `is_waiting` is asked."""
        return self._pump.fileno()

    def flow(self) -> None:
        """The guest runs: hand it what comes."""
        self._pump.inputs(Inputs.FLOW)

    def hold(self) -> bytes | None:
        """The guest stands still: hand it nothing. Return the output for what it has sent by now, or None."""
        self._pump.inputs(Inputs.WAIT)
        taken = self.take()
        self._shipped_left = SHIPPED_BYTES
        return taken

    def is_waiting(self) -> bool:
        """Tell whether frames wait since this was asked last."""
        try:
            return bool(os.read(self._pump.fileno(), 8))
        except BlockingIOError:
            return False

    def take(self) -> bytes | None:
        """Return the output for what the guest has sent by now; None if there is nothing."""
        mark = self._pump.mark(self._shipped_left)
        if mark is None:
            return None
        self._shipped_left -= len(mark.packed)
        return encode_batch(
            Batch(
                pump=self._id,
                mark=mark.number,
                frames=mark.frames,
                packed_frames=mark.packed_frames,
                packed=mark.packed,
            )
        )

    def begin(self) -> None:
        """Another machine has the card from now on: forget what the one before sent, and throw away what comes for it
        until it runs."""
        self._pump.inputs(Inputs.DISCARD)
        self._pump.drop()
        _drain(self.wire)

    def failure(self) -> str | None:
        """Return why no frame comes or leaves any more; None while they do."""
        with suppress(ClosedError):
            if (wrong := self._pump.failure) is not None:
                return tap_gone(self.name.removeprefix("tap:"), wrong)
        return None

    # --- for the world ---------------------------------------------------------------------------------------------

    def release(self, payload: bytes) -> None:
        """Let the frames leave that an output stands for: what is held here, else what travelled with it."""
        with suppress(ClosedError):
            try:
                batch = decode_batch(payload)
            except BadFrame:
                self._outputs_unrouted += 1
                return
            if batch.pump == self._id and self._pump.release(batch.mark) is not None:
                return
            for frame in unpack_frames(batch):
                self._pump.send(frame)
            self._frames_lost += batch.frames - batch.packed_frames

    def send(self, frame: bytes) -> None:
        """Send a plain frame, without the header of virtio-net, in the guest's place."""
        with suppress(ClosedError):
            self._pump.send(bytes(self._ends.header_bytes) + frame)

    @property
    def counters(self) -> CardCounters:
        """What it moved, and what was dropped."""
        with suppress(ClosedError):
            self._last = self._pump.counters
        told = asdict(self._last) if self._last is not None else {}
        return CardCounters(
            **{name: told[name] for name in CardCounters.__slots__ if name in told},
            frames_lost=self._frames_lost,
            outputs_unrouted=self._outputs_unrouted,
        )

    def close(self) -> None:
        """Give devices and sockets back; what is held is gone. Idempotent."""
        with suppress(ClosedError):
            self._last = self._pump.counters
        self._pump.close()
        self._ends.close()
        self.wire = -1


def _drain(wire: int) -> None:
    """Throw away what waits for whoever emulated the card before, as far as it waits in the device or socket."""
    for _ in range(4_096):
        try:
            os.read(wire, 1 << 17)
        except OSError as wrong:
            if wrong.errno != errno.EINTR:
                return
