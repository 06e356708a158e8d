"""The outside of a guest as datagrams: one Ethernet frame in one datagram, as QEMU's ``-netdev dgram`` does it.

`DatagramPort` is one end of such a cable: a UDP or unix datagram socket with a fixed other end. `DatagramWorld` hangs a
guest's outputs and inputs on a port and keeps the World contract (ftvm/interfaces.py).

Promises: nothing here blocks; what does not fit is dropped and counted, as on a real wire; a datagram from anywhere but
the other end is refused. Knows nothing of epochs, hosts or what a frame means.

A cable is written ``udp:LOCALPORT:REMOTEPORT`` (both on this machine), ``unix:LOCALPATH:REMOTEPATH`` or, in full,
``udp:LOCALHOST:LOCALPORT:REMOTEHOST:REMOTEPORT``; one end alone is ``udp:HOST:PORT`` or ``unix:PATH``. Prefer UDP:
Linux queues only some ten datagrams on a unix socket (net.unix.max_dgram_qlen), and a commit may release more at once.
"""

import os
import re
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Final, Protocol

from ftvm._native.datagrams import Datagrams
from ftvm.checkpoint import Output, OutputTable
from ftvm.errors import ClosedError, ConfigError, TransportError

__all__ = [
    "CableWorld",
    "DatagramCounters",
    "DatagramPort",
    "DatagramWorld",
    "Port",
    "announcement_frames",
    "cable_ends",
    "mac_bytes",
]

FRAME_BYTES_MIN: Final = 14
"""An Ethernet header; anything shorter is not a frame."""

DATAGRAM_BYTES_MAX: Final = 1 << 16
"""More than any datagram holds, so that none is ever cut short."""

SOCKET_BUFFER_BYTES: Final = 1 << 20
"""Some hundred full frames: what a commit releases at once must not overrun the other end."""

LOOPBACK: Final = "127.0.0.1"
ETHERTYPE_RARP: Final = b"\x80\x35"
ETHERTYPE_IPV6: Final = b"\x86\xdd"
_ICMPV6: Final = 58
MAC_PATTERN: Final = re.compile("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")

SocketAddress = tuple[str, int] | str


@dataclass(slots=True, kw_only=True)
class DatagramCounters:
    """What a port moved, and what it dropped."""

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    sends_dropped: int = 0
    """The other end is absent or slow."""
    strangers_refused: int = 0
    runts_refused: int = 0
    outputs_unrouted: int = 0
    """Outputs on a channel that leads nowhere, like a network card without a cable."""


class DatagramPort:
    """One end of a cable: send and receive frames without ever blocking.

    peer  the other end, a struct sockaddr, and whether frames are taken from there alone
    """

    failure: ClassVar[None] = None
    """A socket outlives all that may become of the other end, of an interface or of its path."""

    def __init__(self, local: str, remote: str) -> None:
        """Bind `local`; frames go to `remote` and are taken from there only.

        Raises ConfigError if an address is malformed or the two are of different kinds, TransportError if `local`
        cannot be bound.
        """
        family, local_address = _parse_end(local)
        remote_family, self._remote = _parse_end(remote)
        if family != remote_family:
            raise ConfigError(f"both ends of a cable must be of one kind, not {local} and {remote}")
        self.counters = DatagramCounters()
        # A unix path is guarded by the rights of its directory, and a sender there need not have bound a name.
        self.peer = (_sockaddr(self._remote), isinstance(self._remote, tuple))
        self._datagrams = Datagrams(self.peer[0], from_there_alone=self.peer[1])
        self._unlink_path = local_address if isinstance(local_address, str) else None
        self._socket: socket.socket | None = _bind(family, local_address, local)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a frame has come."""
        return self._open_socket().fileno()

    def send(self, frame: bytes) -> bool:
        """Send one frame; return False if it was dropped (and counted)."""
        try:
            self._open_socket().sendto(frame, self._remote)
        except OSError:
            # Refused, full, unreachable, too long: on a wire all of these are one thing, a frame that did not arrive.
            self.counters.sends_dropped += 1
            return False
        self.counters.frames_sent += 1
        self.counters.bytes_sent += len(frame)
        return True

    def send_all(self, frames: bytes, lengths: Sequence[int]) -> None:
        """Send frames, which lie one behind the other, as by `send` of each: one call of the system for up to 64."""
        if len(lengths) == 1:
            self.send(frames)
            return
        sent, size_bytes = self._datagrams.send(self._open_socket().fileno(), frames, lengths)
        self.counters.sends_dropped += len(lengths) - sent
        self.counters.frames_sent += sent
        self.counters.bytes_sent += size_bytes

    def receive(self, limit: int) -> list[bytes]:
        """Return up to `limit` frames that have come.

        Datagrams that are refused count towards the limit too, so that a flood of them cannot hold the caller.
        """
        came, strangers = self._datagrams.receive(self._open_socket().fileno(), limit)
        frames = [frame for frame in came if len(frame) >= FRAME_BYTES_MIN]
        self.counters.strangers_refused += strangers
        self.counters.runts_refused += len(came) - len(frames)
        self.counters.frames_received += len(frames)
        self.counters.bytes_received += sum(map(len, frames))
        return frames

    def close(self) -> None:
        """Give back the socket and its path. Idempotent."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        if self._unlink_path is not None:
            _remove_if_socket(self._unlink_path)

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ClosedError("this datagram port was closed")
        return self._socket


class Port(Protocol):
    """One end of a cable: a DatagramPort, or a TapPort (tap.py). Nothing in it ever blocks."""

    counters: DatagramCounters

    @property
    def failure(self) -> str | None:
        """Why no frame will come or leave any more; None while they may."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a frame has come."""
        ...

    def send(self, frame: bytes) -> bool:
        """Send one frame; return False if it was dropped (and counted)."""
        ...

    def receive(self, limit: int) -> list[bytes]:
        """Return up to `limit` frames that have come."""
        ...

    def close(self) -> None:
        """Give back what it holds. Idempotent."""
        ...


class CableWorld:
    """A guest's outside over one cable and, if wanted, a console. Keeps interfaces.World."""

    def __init__(
        self, port: Port, *, mac: str, channel: str = "net0", console: Callable[[bytes], object] | None = None
    ) -> None:
        """Take a port over; `mac` is the guest's address, announced after a takeover.

        `console` gets what the guest writes to its console, e.g. a file's `write`; it must not block for long.
        """
        self._announcements = announcement_frames(mac_bytes(mac))
        self._channel = channel
        self._console = console
        self._port = port
        self._is_failure_told = False
        self._send_all: Callable[[bytes, Sequence[int]], None] | None = getattr(port, "send_all", None)

    @property
    def counters(self) -> DatagramCounters:
        """What was moved and what was dropped."""
        return self._port.counters

    def fds(self) -> tuple[int, ...]:
        """File descriptors that become readable when an input has come: none of a port that failed, which would be
        readable for ever."""
        return () if self._port.failure is not None else (self._port.fileno(),)

    def news(self) -> str | None:
        """Return, once, why no frame will come or leave any more; None if that is told, or they may."""
        if self._port.failure is None or self._is_failure_told:
            return None
        self._is_failure_told = True
        return self._port.failure

    def receive(self, limit: int) -> Sequence[tuple[str, bytes]]:
        """Return up to `limit` frames that have come, each as (channel, frame)."""
        return [(self._channel, frame) for frame in self._port.receive(limit)]

    def release(self, output: Output) -> None:
        """Let one output leave: a frame onto the cable, console bytes to the console."""
        if output.channel == self._channel:
            self._port.send(output.payload)
        elif output.channel == "console" and self._console is not None:
            self._console(output.payload)
        else:
            self.counters.outputs_unrouted += 1

    def release_all(self, outputs: Sequence[Output]) -> None:
        """Let outputs leave together: frames in a row by one call, where the port knows that."""
        if self._send_all is not None and isinstance(outputs, OutputTable) and outputs.channels == (self._channel,):
            self._send_all(outputs.payloads, outputs.lengths)
            return
        for is_frame, group in groupby(outputs, key=lambda output: output.channel == self._channel):
            if is_frame and self._send_all is not None:
                frames = [output.payload for output in group]
                self._send_all(b"".join(frames), list(map(len, frames)))
            else:
                for output in group:
                    self.release(output)

    def announce(self) -> None:
        """Send frames from the guest's address, so that switches learn where it is now."""
        for frame in self._announcements:
            self._port.send(frame)

    def close(self) -> None:
        """Give back the port. Idempotent."""
        self._port.close()


class DatagramWorld(CableWorld):
    """A world over one datagram cable."""

    def __init__(
        self,
        local: str,
        remote: str,
        *,
        mac: str,
        channel: str = "net0",
        console: Callable[[bytes], object] | None = None,
    ) -> None:
        """Bind `local` and talk to `remote`; else as CableWorld."""
        mac_bytes(mac)  # before anything is opened
        super().__init__(DatagramPort(local, remote), mac=mac, channel=channel, console=console)


def announcement_frame(mac: bytes) -> bytes:
    """Return a broadcast from `mac` that asks nobody for anything: a reverse ARP request (RFC 903) about itself.

    A gratuitous ARP would also do, but needs the guest's IP address, which only the guest knows.
    """
    ethernet = b"\xff" * 6 + mac + ETHERTYPE_RARP
    request = bytes.fromhex("0001 0800 06 04 0003")
    return (ethernet + request + mac + bytes(4) + mac + bytes(4)).ljust(60, b"\0")


def neighbour_frame(mac: bytes) -> bytes:
    """Return an IPv6 neighbour advertisement (RFC 4861, 4.4) from `mac` to all nodes, for its own link-local address.

    That address is the one made of the MAC (RFC 4291, appendix A): a guest that has another is not told of, but the
    frame still teaches switches, those too that pass on IPv6 only.
    """
    address = bytes.fromhex("fe80000000000000") + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    all_nodes = bytes.fromhex("ff020000000000000000000000000001")
    message = bytes.fromhex("88 00 0000 20000000") + address + b"\x02\x01" + mac
    pseudo = address + all_nodes + len(message).to_bytes(4, "big") + bytes((0, 0, 0, _ICMPV6))
    message = message[:2] + _checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    ethernet = b"\x33\x33\x00\x00\x00\x01" + mac + ETHERTYPE_IPV6
    head = bytes.fromhex("60000000") + len(message).to_bytes(2, "big") + bytes((_ICMPV6, 255))
    return ethernet + head + address + all_nodes + message


def announcement_frames(mac: bytes) -> tuple[bytes, ...]:
    """Return what is sent in a guest's place when it has come to this host."""
    return announcement_frame(mac), neighbour_frame(mac)


def _checksum(content: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac_bytes(text: str) -> bytes:
    """Return the six bytes of an address like ``52:54:00:12:34:56``; raises ConfigError unless it is one card's."""
    if not MAC_PATTERN.fullmatch(text):
        raise ConfigError(f"{text!r} is not a MAC address: write six bytes like 52:54:00:12:34:56")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1:
        raise ConfigError(f"{text} is a group address; a network card's own has an even first byte")
    return mac


def cable_ends(cable: str) -> tuple[str, str]:
    """Split a cable into the addresses of its two ends, local first; raises ConfigError."""
    match cable.split(":"):
        case ["udp", local, remote] if _is_port(local) and _is_port(remote):
            return f"udp:{LOOPBACK}:{local}", f"udp:{LOOPBACK}:{remote}"
        case ["udp", local_host, local, remote_host, remote] if _is_port(local) and _is_port(remote):
            return f"udp:{local_host}:{local}", f"udp:{remote_host}:{remote}"
        case ["unix", local, remote]:
            return f"unix:{local}", f"unix:{remote}"
    raise ConfigError(
        f"{cable!r} is not a cable: write udp:LOCALPORT:REMOTEPORT, "
        "udp:LOCALHOST:LOCALPORT:REMOTEHOST:REMOTEPORT or unix:LOCALPATH:REMOTEPATH; a host also takes tap:NAME, and "
        "with a QEMU pump:NAME or pump: before any of these"
    )


def _parse_end(text: str) -> tuple[socket.AddressFamily, SocketAddress]:
    match text.split(":"):
        case ["udp", host, port] if host and _is_port(port):
            return socket.AF_INET, (_resolve(host), int(port))
        case ["unix", path] if path:
            return socket.AF_UNIX, path
    raise ConfigError(f"{text!r} is not an address: write udp:HOST:PORT or unix:PATH")


def _sockaddr(address: SocketAddress) -> bytes:
    """Return a struct sockaddr_in or sockaddr_un, as the system's calls take it."""
    if isinstance(address, str):
        return struct.pack("=H", socket.AF_UNIX) + os.fsencode(address) + b"\0"
    host, port = address
    return struct.pack("=H", socket.AF_INET) + port.to_bytes(2, "big") + socket.inet_aton(host) + bytes(8)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65_536


def _resolve(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise ConfigError(f"host {host!r} cannot be resolved: {error}") from error


def _bind(family: socket.AddressFamily, address: SocketAddress, shown: str) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        if isinstance(address, str) and not _is_in_use(address):
            _remove_if_socket(address)  # left behind by a host that was killed
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise TransportError(f"cannot bind {shown}: {error.strerror or error}") from error
    return opened


def _is_in_use(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == 0


def _remove_if_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        return  # gone already
