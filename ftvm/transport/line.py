"""One ZeroMQ socket that never blocks: whole messages in and out, and whether there is something to receive.

libzmq signals on a descriptor, but only the edge: it becomes readable when something happens after everything that had
happened was looked at, and any call on the socket, a send too, looks. So a Line remembers that it may have a message,
from a signal or its own send until a look finds none. Asking costs nothing while nothing happened. That is why
`Line` exists: the plain way (receive until libzmq says no) costs more than a message.

Does not know: peers, lanes, keys. Source: zmq_getsockopt(3), ZMQ_FD and ZMQ_EVENTS; zmq_msg_send(3).
"""

import errno
from collections.abc import Sequence
from typing import Final

import zmq

from ftvm.checkpoint import Buffer
from ftvm.errors import TransportError

__all__ = ["FRAMES_MAX", "QUEUE_MESSAGES", "Context", "Line", "Trackers", "open_socket", "why"]

Context = zmq.Context[zmq.Socket[bytes]]
Trackers = list[zmq.MessageTracker]

FRAMES_MAX: Final = 64
"""Frames of one message: far above what any message has, and far below what would cost memory."""

_COPY_BELOW_BYTES: Final = 16 << 10
"""Below it a copy is cheaper than keeping track of when libzmq lets go."""
_LINGER_MS: Final = 250
"""What `close` gives the last messages (a LEAVE) to get out."""
QUEUE_MESSAGES: Final = 32
"""For each lane of each direction and at each end; the kernel's buffers come on top."""

# Plain ints: arithmetic on pyzmq's flag enums costs more than the calls they are for.
_EVENTS: Final = int(zmq.EVENTS)
_READABLE: Final = int(zmq.POLLIN)
_LAST: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

_OPTIONS: Final = {
    zmq.LINGER: _LINGER_MS,
    zmq.SNDHWM: QUEUE_MESSAGES,
    zmq.RCVHWM: QUEUE_MESSAGES,
    zmq.HANDSHAKE_IVL: 1_000,
    zmq.CONNECT_TIMEOUT: 2_000,
    zmq.RECONNECT_IVL: 10,  # a link that a firewall has reset is up again long before anybody is suspected
    zmq.RECONNECT_IVL_MAX: 1_000,
    # TCP clears away dead connections; suspicion has its own, faster heartbeat (config.Timing). Not libzmq's: its timer
    # aborts the process when a connection breaks while its full queue is not being read (libzmq issue 3937).
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 2,
    zmq.TCP_KEEPALIVE_CNT: 5,
    # TCP_USER_TIMEOUT: after a long partition a fresh connection is up sooner than an old one that retransmits rarely.
    zmq.TCP_MAXRT: 10_000,
    zmq.BACKLOG: 128,
}


def open_socket(context: Context, kind: int, *, frame_bytes_max: int, is_ipv6: bool) -> "zmq.Socket[bytes]":
    """Return a socket with every limit set; the caller closes it."""
    socket = context.socket(kind)
    socket.copy_threshold = _COPY_BELOW_BYTES
    for option, value in _OPTIONS.items():
        socket.set(option, value)
    socket.set(zmq.MAXMSGSIZE, frame_bytes_max)
    socket.set(zmq.IPV6, int(is_ipv6))
    return socket


def why(error: zmq.ZMQError) -> str:
    """Return what libzmq's error means, for the person who chose the endpoint."""
    return _REASONS.get(error.errno or 0, error.strerror)


class Line:
    """A socket in use. Whoever sees its `fd` readable sets `may_have`; while that is False there is no message."""

    __slots__ = ("_socket", "fd", "may_have")

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self.may_have = True
        self.fd = int(socket.get(zmq.FD))

    def has_message(self) -> bool:
        """Tell whether a message can be pulled; handles what was signalled."""
        if self.may_have:
            self.may_have = bool(int(self._socket.get(_EVENTS)) & _READABLE)
        return self.may_have

    def pull(self) -> list[zmq.Frame]:
        """Take one whole message, without copying; only after `has_message`.

        libzmq shows a message only when it is whole. Frames beyond the limit are let go of at once; two more than the
        limit are kept, to tell (one of them may be a routing id).
        """
        frames: list[zmq.Frame] = []
        more = True
        while more:
            frame = self._socket.recv(_LAST, copy=False)
            more = frame.more
            if len(frames) < FRAMES_MAX + 2:
                frames.append(frame)
        return frames

    def push(self, parts: Sequence[Buffer], *, is_lent: bool) -> Trackers | None:
        """Hand a message to libzmq; None if it did not take it. Lent parts are tracked, others and small ones copied.

        When the connection breaks between two frames libzmq drops the rest of the message, but wants to be given it:
        otherwise the next message would be taken for the rest. Such a message counts as sent, and lost with its
        connection.
        """
        self.may_have = True
        trackers = []
        last = len(parts) - 1
        for position, part in enumerate(parts):
            flags = _LAST if position == last else _MORE
            is_tracked = is_lent and len(part) >= _COPY_BELOW_BYTES
            try:
                tracker = self._socket.send(part, flags, copy=not is_tracked, track=is_tracked)
            except zmq.ZMQError as error:
                if error.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                    raise TransportError(f"ZeroMQ cannot send: {why(error)}") from error
                if position == 0:
                    return None
            else:
                if tracker is not None and not tracker.done:
                    trackers.append(tracker)
        return trackers

    def close(self) -> None:
        """Close the socket; what was pushed gets a moment to leave while the context is terminated. Idempotent."""
        self._socket.close()


_REASONS: Final = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this host has no such address; use one that it has, or 0.0.0.0 for all",
    errno.ENODEV: "this host has no such address or interface; use one that it has, or 0.0.0.0 for all",
    errno.EACCES: "permission denied; choose a port above 1023, or a directory that may be written",
    errno.ENOENT: "the directory of the socket does not exist; make it first",
}
