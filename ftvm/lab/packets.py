"""Ethernet frames and what the lab's client says in them: ARP, IPv4 and UDP, to bytes and back.

Promises: `decode` of what `encode` made is the same value; bytes that are not what the standard says are a BadFrame,
never a wrong value. Knows only what one host on one network needs: no VLAN tags, no IP fragments (refused), no IP
options in what it sends (skipped in what it reads).

Sources: IEEE 802.3 (Ethernet II framing), RFC 826 (ARP), RFC 791 (IPv4), RFC 768 (UDP), RFC 1071 (checksum).
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Self

from ftvm.errors import BadFrame

__all__ = [
    "ARP_REPLY",
    "ARP_REQUEST",
    "BROADCAST",
    "PROTOCOL_UDP",
    "Arp",
    "EtherType",
    "Frame",
    "Ipv4",
    "Udp",
    "checksum",
]

BROADCAST: Final = b"\xff" * 6
FRAME_BYTES_MIN: Final = 60
"""The least a card puts on the wire, without the check sequence; shorter frames are padded with zeros."""

ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2
PROTOCOL_UDP: Final = 17

_ETHERNET: Final = struct.Struct("!6s6sH")
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ARP_PREFIX: Final = (1, 0x0800, 6, 4)
"""Ethernet addresses of six bytes for IPv4 addresses of four."""
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")
_PSEUDO: Final = struct.Struct("!4s4sBBH")

_DONT_FRAGMENT: Final = 0x4000
_FRAGMENT: Final = 0x3FFF
"""More-fragments flag and fragment offset: both are zero in a packet that is whole."""


class EtherType:
    """What a frame carries, by IANA's numbers."""

    IPV4: Final = 0x0800
    ARP: Final = 0x0806


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An Ethernet II frame without its check sequence. MAC addresses are six bytes."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes, padded to the least length."""
        header = _ETHERNET.pack(self.destination, self.source, self.ethertype)
        return (header + self.payload).ljust(FRAME_BYTES_MIN, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a frame; its payload may end in padding, which only the payload's own length tells."""
        _need(data, _ETHERNET.size, "an Ethernet header")
        destination, source, ethertype = _ETHERNET.unpack_from(data)
        return cls(destination=destination, source=source, ethertype=ethertype, payload=data[_ETHERNET.size :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Arp:
    """An ARP request or reply that maps IPv4 to Ethernet."""

    operation: int
    sender_mac: bytes
    sender_ip: IPv4Address
    target_mac: bytes
    target_ip: IPv4Address

    def encode(self) -> bytes:
        """Return the packet's bytes."""
        target = (self.target_mac, self.target_ip.packed)
        return _ARP.pack(*_ARP_PREFIX, self.operation, self.sender_mac, self.sender_ip.packed, *target)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a packet; trailing padding is ignored."""
        _need(data, _ARP.size, "an ARP packet")
        *prefix, operation, sender_mac, sender_ip, target_mac, target_ip = _ARP.unpack_from(data)
        if tuple(prefix) != _ARP_PREFIX:
            raise BadFrame("an ARP packet maps something other than IPv4 to Ethernet")
        return cls(
            operation=operation,
            sender_mac=sender_mac,
            sender_ip=IPv4Address(sender_ip),
            target_mac=target_mac,
            target_ip=IPv4Address(target_ip),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv4:
    """A whole IPv4 packet."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    time_to_live: int = 64

    def encode(self) -> bytes:
        """Return the packet's bytes, header checksum included."""
        length = _IPV4.size + len(self.payload)
        ends = (self.source.packed, self.destination.packed)
        fields = (0x45, 0, length, 0, _DONT_FRAGMENT, self.time_to_live, self.protocol)
        header = _IPV4.pack(*fields, 0, *ends)
        return _IPV4.pack(*fields, checksum(header), *ends) + self.payload

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a packet, cut off the frame's padding and check the header's checksum."""
        _need(data, _IPV4.size, "an IPv4 header")
        first, _, length, _, fragment, time_to_live, protocol, _, source, destination = _IPV4.unpack_from(data)
        header_bytes = (first & 0xF) * 4
        if first >> 4 != 4 or not _IPV4.size <= header_bytes <= length:
            raise BadFrame("an IPv4 header's version or lengths contradict each other")
        _need(data, length, "the IPv4 packet its header announces")
        if checksum(data[:header_bytes]) != 0:
            raise BadFrame("an IPv4 header's checksum is wrong")
        if fragment & _FRAGMENT:
            raise BadFrame("an IPv4 packet is a fragment; the lab sends none and takes none")
        return cls(
            source=IPv4Address(source),
            destination=IPv4Address(destination),
            protocol=protocol,
            payload=data[header_bytes:length],
            time_to_live=time_to_live,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    """A UDP datagram. Its checksum covers the addresses of the IP packet around it, so both ways take them."""

    source_port: int
    destination_port: int
    payload: bytes

    def encode(self, source: IPv4Address, destination: IPv4Address) -> bytes:
        """Return the datagram's bytes as sent from `source` to `destination`."""
        length = _UDP.size + len(self.payload)
        plain = _UDP.pack(self.source_port, self.destination_port, length, 0) + self.payload
        total = checksum(_pseudo_header(source, destination, length) + plain) or 0xFFFF
        return _UDP.pack(self.source_port, self.destination_port, length, total) + self.payload

    @classmethod
    def decode(cls, data: bytes, source: IPv4Address, destination: IPv4Address) -> Self:
        """Read a datagram that came from `source` to `destination`; a checksum of zero means the sender gave none."""
        _need(data, _UDP.size, "a UDP header")
        source_port, destination_port, length, total = _UDP.unpack_from(data)
        if length < _UDP.size:
            raise BadFrame("a UDP length is less than its own header")
        _need(data, length, "the UDP datagram its header announces")
        if total and checksum(_pseudo_header(source, destination, length) + data[:length]) != 0:
            raise BadFrame("a UDP checksum is wrong")
        return cls(source_port=source_port, destination_port=destination_port, payload=data[_UDP.size : length])


def checksum(data: bytes) -> int:
    """Return the Internet checksum: the complement of the ones' complement sum of 16-bit words.

    Over data that holds its own correct checksum the result is zero.
    """
    padded = data + bytes(len(data) & 1)
    # The sum of 16-bit digits modulo 0xffff is the number itself modulo 0xffff: one big division does all the carries.
    total = int.from_bytes(padded, "big") % 0xFFFF
    if total == 0 and any(padded):
        total = 0xFFFF
    return total ^ 0xFFFF


def _pseudo_header(source: IPv4Address, destination: IPv4Address, length: int) -> bytes:
    return _PSEUDO.pack(source.packed, destination.packed, 0, PROTOCOL_UDP, length)


def _need(data: bytes, size_bytes: int, what: str) -> None:
    if len(data) < size_bytes:
        raise BadFrame(f"{len(data)} bytes are too short for {what} of {size_bytes}")
