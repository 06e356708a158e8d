"""A host on the lab's network with one UDP conversation: finds its peer by ARP, answers ARP itself, wraps and unwraps.

Pure: frames and payloads in, frames and payloads out, time is an argument. It promises to hand up only payloads that
came whole from the peer's address and port to its own. It queues nothing: a payload sent while the peer's address is
still being asked for is dropped, since whoever speaks UDP repeats what matters.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from ftvm.errors import BadFrame
from ftvm.lab.packets import ARP_REPLY, ARP_REQUEST, BROADCAST, PROTOCOL_UDP, Arp, EtherType, Frame, Ipv4, Udp
from ftvm.units import Nanos

__all__ = ["Heard", "Station", "UdpAddress"]

ASK_INTERVAL_NS: Final = 50_000_000
"""How often the peer's address is asked for while nobody answers."""

UNKNOWN_MAC: Final = bytes(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpAddress:
    """An IPv4 address and a UDP port."""

    ip: IPv4Address
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a frame led to: payloads for whoever uses the station, and frames to send in answer."""

    payloads: tuple[bytes, ...] = ()
    frames: tuple[bytes, ...] = ()


class Station:
    """One host's network stack, just large enough."""

    def __init__(self, *, mac: bytes, here: UdpAddress, peer: UdpAddress) -> None:
        self._mac = mac
        self._here = here
        self._peer = peer
        self._peer_mac: bytes | None = None
        self._asked_at: Nanos | None = None
        self.frames_refused = 0

    def send(self, payload: bytes, now: Nanos) -> list[bytes]:
        """Return the frames that carry a payload to the peer; a question for its address while that is unknown."""
        if self._peer_mac is None:
            return self._ask(now)
        datagram = Udp(source_port=self._here.port, destination_port=self._peer.port, payload=payload)
        packet = Ipv4(
            source=self._here.ip,
            destination=self._peer.ip,
            protocol=PROTOCOL_UDP,
            payload=datagram.encode(self._here.ip, self._peer.ip),
        )
        return [self._frame(self._peer_mac, EtherType.IPV4, packet.encode())]

    def hear(self, frame_bytes: bytes) -> Heard:
        """Take one frame from the network; a malformed one is counted and has no other effect."""
        try:
            frame = Frame.decode(frame_bytes)
            if frame.destination not in (self._mac, BROADCAST):
                return Heard()
            if frame.ethertype == EtherType.ARP:
                return self._hear_arp(Arp.decode(frame.payload))
            if frame.ethertype == EtherType.IPV4:
                return self._hear_packet(Ipv4.decode(frame.payload))
        except BadFrame:
            self.frames_refused += 1
        return Heard()

    def _ask(self, now: Nanos) -> list[bytes]:
        if self._asked_at is not None and now - self._asked_at < ASK_INTERVAL_NS:
            return []
        self._asked_at = now
        return [self._frame(BROADCAST, EtherType.ARP, self._arp(ARP_REQUEST, UNKNOWN_MAC, self._peer.ip))]

    def _hear_arp(self, arp: Arp) -> Heard:
        # RFC 826: whoever asks tells its own address along with the question.
        if arp.sender_ip == self._peer.ip:
            self._peer_mac = arp.sender_mac
        if arp.operation != ARP_REQUEST or arp.target_ip != self._here.ip:
            return Heard()
        reply = self._arp(ARP_REPLY, arp.sender_mac, arp.sender_ip)
        return Heard(frames=(self._frame(arp.sender_mac, EtherType.ARP, reply),))

    def _hear_packet(self, packet: Ipv4) -> Heard:
        ends = (packet.source, packet.destination, packet.protocol)
        if ends != (self._peer.ip, self._here.ip, PROTOCOL_UDP):
            return Heard()
        datagram = Udp.decode(packet.payload, packet.source, packet.destination)
        if (datagram.source_port, datagram.destination_port) != (self._peer.port, self._here.port):
            return Heard()
        return Heard(payloads=(datagram.payload,))

    def _arp(self, operation: int, target_mac: bytes, target_ip: IPv4Address) -> bytes:
        return Arp(
            operation=operation,
            sender_mac=self._mac,
            sender_ip=self._here.ip,
            target_mac=target_mac,
            target_ip=target_ip,
        ).encode()

    def _frame(self, destination: bytes, ethertype: int, payload: bytes) -> bytes:
        return Frame(destination=destination, source=self._mac, ethertype=ethertype, payload=payload).encode()
