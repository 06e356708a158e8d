"""A guest's card in C: frames between a tap and the world, held until they may leave. Wraps the native nouns `netpump`,
`netcard` and `framering` (their headers are the manual). No thread of theirs calls Python.
"""

import errno
import mmap
import os
from dataclasses import dataclass
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm.errors import ClosedError, ConfigError, GuestError, TransportError

__all__ = [
    "FRAME_BYTES_MAX",
    "HEADER_BYTES",
    "RING_BYTES_MIN",
    "Inputs",
    "Mark",
    "NetPump",
    "Peer",
    "PumpCounters",
    "attach_tap",
    "make_card",
]

FRAME_BYTES_MAX: Final = int(lib.FTVM_FRAME_BYTES_MAX)
HEADER_BYTES: Final = int(lib.FTVM_NETCARD_HEADER_BYTES)
"""Of virtio-net, before each frame."""
RING_BYTES_MIN: Final = int(lib.FTVM_FRAMERING_BYTES_MIN)

_STEPS: Final = {
    int(lib.FTVM_NETCARD_NAMESPACE): "a network namespace for it",
    int(lib.FTVM_NETCARD_TAP): "a tap device for it",
    int(lib.FTVM_NETCARD_SOCKET): "a packet socket on it",
}


class Inputs:
    """What is done with frames that come for the guest."""

    DISCARD: Final = int(lib.FTVM_NETPUMP_DISCARD)
    WAIT: Final = int(lib.FTVM_NETPUMP_WAIT)
    FLOW: Final = int(lib.FTVM_NETPUMP_FLOW)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a cable of datagrams: a struct sockaddr. If `is_alone`, of IPv4, nobody else is heard."""

    address: bytes
    is_alone: bool


@dataclass(frozen=True, slots=True)
class PumpCounters:
    """See netpump.h, in its order."""

    frames_sent: int
    bytes_sent: int
    frames_received: int
    bytes_received: int
    sends_dropped: int
    receives_dropped: int
    receives_discarded: int
    runts_refused: int
    strangers_refused: int
    card_dropped: int
    frames_forgotten: int
    held_frames: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Mark:
    """So many frames that wait under one number. `packed` holds the first `packed_frames` of them, as framering.h has
    it."""

    number: int
    frames: int
    packed: bytes
    packed_frames: int


def make_card() -> tuple[int, int]:
    """Make a card's tap; return the descriptors of the tap and of our end. Raises ConfigError without the rights,
    GuestError otherwise.
    """
    ends, step = ffi.new("int[2]"), ffi.new("enum ftvm_netcard_step *")
    wrong = -int(lib.ftvm_netcard_make(ends, ends + 1, step))
    if wrong in (errno.EPERM, errno.EACCES):
        raise ConfigError(
            f"the guest's card needs {_STEPS[int(step[0])]}, which this user may not make: run as root, or write a "
            "cable of another kind, pump:tap:NAME or pump:udp:LOCALPORT:REMOTEPORT"
        )
    if wrong:
        raise GuestError(f"the guest's card needs {_STEPS[int(step[0])]}: {os.strerror(wrong)}")
    return int(ends[0]), int(ends[1])


def attach_tap(name: str) -> int:
    """Open a tap device of this host for a pump; return its descriptor. Raises TransportError."""
    descriptor = int(lib.ftvm_netcard_attach(name.encode()))
    if descriptor < 0:
        raise TransportError(
            f"the tap device {name} cannot be used: {os.strerror(-descriptor)}; "
            f"make it with: ip tuntap add dev {name} mode tap"
        )
    return descriptor


class NetPump:
    """One pump between two descriptors, which stay the caller's and outlive it."""

    __slots__ = ("_native", "_ring", "_room")

    def __init__(
        self,
        card: int,
        outside: int,
        *,
        ring_bytes: int,
        packed_bytes_max: int,
        header_bytes: int = HEADER_BYTES,
        peer: Peer | None = None,
    ) -> None:
        """Start it. It holds up to `ring_bytes` of frames, at least RING_BYTES_MIN, and packs up to `packed_bytes_max`
        of them at a mark. `peer` is of an `outside` that is a datagram socket. Raises GuestError.
        """
        self._ring = mmap.mmap(-1, ring_bytes)
        self._room: Any = ffi.new("uint8_t[]", packed_bytes_max)
        far: Any = ffi.NULL
        if peer is not None:
            address = ffi.from_buffer("uint8_t[]", peer.address)
            far = ffi.new("struct ftvm_netpump_peer *", (address, len(peer.address), peer.is_alone))
        ring = ffi.from_buffer("uint8_t[]", self._ring)
        self._native: Any = lib.ftvm_netpump_open(card, outside, ring, ring_bytes, header_bytes, far)
        if self._native == ffi.NULL:
            raise GuestError("there is no memory, or no thread, for a guest's card")

    def fileno(self) -> int:
        """Return the descriptor that is readable when frames wait for a mark; read it before you mark."""
        return int(lib.ftvm_netpump_event(self._open()))

    def inputs(self, way: int) -> None:
        """Say what is done with inputs: one of Inputs."""
        lib.ftvm_netpump_inputs(self._open(), way)

    def mark(self, packed_bytes_max: int) -> Mark | None:
        """Mark all that the card has sent by now; pack up to so many bytes of it. None if there is nothing."""
        counts, packed_bytes = ffi.new("uint32_t[2]"), ffi.new("uint64_t *")
        room = min(packed_bytes_max, len(self._room))
        number = lib.ftvm_netpump_mark(self._open(), self._room, room, packed_bytes, counts, counts + 1)
        if number == 0:
            return None
        packed = bytes(ffi.buffer(self._room, int(packed_bytes[0])))
        return Mark(int(number), int(counts[1]), packed, int(counts[0]))

    def release(self, number: int) -> int | None:
        """Let the frames of a mark leave, and forget those of earlier ones.

        Returns how many have left; None if it holds none of that mark.
        """
        left = int(lib.ftvm_netpump_release(self._open(), number))
        return left if left >= 0 else None

    def send(self, frame: bytes) -> bool:
        """Send a frame, with its header, to the outside now; tell whether it left."""
        return bool(lib.ftvm_netpump_send(self._open(), frame, len(frame)))

    def drop(self) -> None:
        """Forget all that is held, and all that the card has sent by now."""
        lib.ftvm_netpump_drop(self._open())

    @property
    def failure(self) -> OSError | None:
        """Why nothing comes or leaves any more; None while it may."""
        wrong = int(lib.ftvm_netpump_failure(self._open()))
        return OSError(wrong, os.strerror(wrong)) if wrong else None

    @property
    def counters(self) -> PumpCounters:
        """What it moved, and what it dropped."""
        counted = ffi.new("struct ftvm_netpump_counters *")
        lib.ftvm_netpump_count(self._open(), counted)
        return PumpCounters(*(int(getattr(counted, name)) for name in PumpCounters.__slots__))

    def close(self) -> None:
        """End it; what is held is gone. Idempotent."""
        if self._native is not None:
            native, self._native = self._native, None
            lib.ftvm_netpump_close(native)

    def _open(self) -> Any:
        if self._native is None:
            raise ClosedError("the guest's card is closed")
        return self._native
