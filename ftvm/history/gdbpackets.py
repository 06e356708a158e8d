"""The frames of gdb's remote serial protocol: packets out of bytes, bytes out of packets. Pure, and safe on any bytes.

Source: "Debugging with GDB", appendix E, "Overview" (E.1).
"""

from dataclasses import dataclass, field
from typing import Final

from ftvm.errors import LimitExceeded

__all__ = ["INTERRUPT", "PACKET_BYTES_MAX", "PacketReader", "pack"]

PACKET_BYTES_MAX: Final = 0x4000
INTERRUPT: Final = b"\x03"
"""What stands for a person's ^C: a byte between packets."""

_ESCAPE: Final = 0x7D
_ESCAPED: Final = 0x20


def pack(packet: bytes) -> bytes:
    """Frame one packet, whose bytes must not need an escape: ours are letters, digits and XML."""
    return b"$" + packet + b"#%02x" % (sum(packet) & 0xFF)


@dataclass(slots=True)
class PacketReader:
    """Cuts a stream into packets. `acks` is what to answer the sender at once; take it with `take_acks`."""

    has_acks: bool = True
    _stream: bytearray = field(default_factory=bytearray)
    _acks: bytearray = field(default_factory=bytearray)

    def feed(self, content: bytes) -> list[bytes]:
        """Take bytes; return the packets that are whole now, INTERRUPT among them.

        Raises LimitExceeded if a packet is longer than PACKET_BYTES_MAX.
        """
        self._stream += content
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def take_acks(self) -> bytes:
        """Return what to answer besides replies."""
        acks = bytes(self._acks) if self.has_acks else b""
        self._acks.clear()
        return acks

    def _next(self) -> bytes | None:
        while self._stream:
            if self._stream[:1] == INTERRUPT:
                del self._stream[:1]
                return INTERRUPT
            if self._stream[:1] != b"$":
                del self._stream[:1]  # an acknowledgement, or noise between packets
                continue
            end = self._stream.find(b"#")
            if end < 0 or len(self._stream) < end + 3:
                if len(self._stream) > PACKET_BYTES_MAX:
                    raise LimitExceeded("bytes of a packet from gdb", limit=PACKET_BYTES_MAX, wanted=len(self._stream))
                return None
            packet, told = bytes(self._stream[1:end]), bytes(self._stream[end + 1 : end + 3])
            del self._stream[: end + 3]
            if told.lower() != b"%02x" % (sum(packet) & 0xFF):
                self._acks += b"-"
                continue
            self._acks += b"+"
            return _unescaped(packet)
        return None


def _unescaped(packet: bytes) -> bytes:
    plain = bytearray()
    is_escaped = False
    for byte in packet:
        if byte == _ESCAPE and not is_escaped:
            is_escaped = True
            continue
        plain.append(byte ^ _ESCAPED if is_escaped else byte)
        is_escaped = False
    return bytes(plain)
