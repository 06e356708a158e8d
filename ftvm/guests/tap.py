"""The outside of a guest as a tap device: a network interface of this host, to be put into a bridge.

`TapPort` has the same interface as `DatagramPort` (datagram.py), and keeps its promises: it never blocks, and what does
not fit is dropped and counted. A cable is written ``tap:NAME``. The interface is made by whoever runs the host (``ip
tuntap add dev NAME mode tap user USER``), which leaves ftvm without special rights; run as root, ftvm makes one that
goes when it ends. Bringing it up and adding it to a bridge is yours to do. One that is
deleted does not come back: a port of it never sends or receives again, and `failure` says so.

Source: Linux, Documentation/networking/tuntap.rst.
"""

import errno
import fcntl
import os
import struct
from typing import Final

from ftvm.errors import ClosedError, ConfigError, TransportError
from ftvm.guests.datagram import DATAGRAM_BYTES_MAX, FRAME_BYTES_MIN, DatagramCounters

__all__ = ["TapPort", "tap_gone"]

_DEVICE: Final = "/dev/net/tun"
_SET_INTERFACE: Final = 0x400454CA
_REQUEST: Final = struct.Struct("16sH22x")
_SET_OFFLOADS: Final = 0x400454D0
_TAP_WITHOUT_HEADER: Final = 0x0002 | 0x1000
_NAME_BYTES_MAX: Final = 15

_GONE: Final = frozenset({errno.EBADFD, errno.ENODEV, errno.ENXIO, errno.EBADF})
"""What the system says of a device that was deleted; all else may pass, as EIO does once the interface is up."""


def tap_gone(name: str, why: OSError) -> str:
    """Return what an operator is told of a device that is gone."""
    return (
        f"the tap device {name} is gone ({why.strerror}): the guest goes on without a network; make the device, and "
        "switch the guest over or restart this host"
    )


class TapPort:
    """One interface: send and receive frames without ever blocking."""

    def __init__(self, name: str) -> None:
        """Attach to the interface. Raises ConfigError for a name that cannot be, TransportError if it is refused."""
        if not 0 < len(name.encode()) <= _NAME_BYTES_MAX or "/" in name:
            raise ConfigError(f"{name!r} is not the name of an interface: write tap:NAME, at most 15 characters")
        self.counters = DatagramCounters()
        self.failure: str | None = None
        self._name = name
        self._descriptor = -1
        try:
            self._descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self._descriptor, _SET_INTERFACE, _REQUEST.pack(name.encode(), _TAP_WITHOUT_HEADER))
            # A tap that was made before keeps what its last user could take, a pump's large segments without checksums.
            fcntl.ioctl(self._descriptor, _SET_OFFLOADS, 0)
        except OSError as wrong:
            self.close()
            raise TransportError(
                f"the tap device {name} cannot be used: {wrong.strerror}; "
                f"make it with: ip tuntap add dev {name} mode tap user $USER"
            ) from wrong

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a frame has come."""
        if self._descriptor < 0:
            raise ClosedError("this tap port was closed")
        return self._descriptor

    def send(self, frame: bytes) -> bool:
        """Send one frame; return False if it was dropped (and counted): the interface is down, or full."""
        try:
            os.write(self.fileno(), frame)
        except OSError as wrong:
            self._look_at(wrong)
            self.counters.sends_dropped += 1
            return False
        self.counters.frames_sent += 1
        self.counters.bytes_sent += len(frame)
        return True

    def receive(self, limit: int) -> list[bytes]:
        """Return up to `limit` frames that have come."""
        frames: list[bytes] = []
        for _ in range(limit):
            try:
                frame = os.read(self.fileno(), DATAGRAM_BYTES_MAX)
            except OSError as wrong:
                self._look_at(wrong)
                break  # nothing more, or the interface is down: frames come again when it is up
            if len(frame) < FRAME_BYTES_MIN:
                self.counters.runts_refused += 1
            else:
                frames.append(frame)
        self.counters.frames_received += len(frames)
        self.counters.bytes_received += sum(map(len, frames))
        return frames

    def _look_at(self, wrong: OSError) -> None:
        """Keep what shows that the device is gone."""
        if wrong.errno in _GONE:
            self.failure = tap_gone(self._name, wrong)

    def close(self) -> None:
        """Let go of the interface. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
