"""What ftvm and a monitor say to each other, as bytes and as values; no I/O.

Promises: whatever bytes come, they are a message or a BadFrame that says what is wrong with them; nothing larger than
its limit is kept. Bulk (devices, bitmaps, frames) travels behind the header, so that only small headers are unpacked.
Source: docs/handover.md, "Messages".
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from ftvm.checkpoint import END_CHANNEL, PAGE_COUNT_MAX, Bitmap, bitmap_bytes
from ftvm.config import Limits
from ftvm.encode.fields import read_fields, read_flag, read_list, read_number, read_text
from ftvm.errors import BadFrame

__all__ = [
    "CHANNEL",
    "DEVICES_BYTES_MAX",
    "HEADER_BYTES_MAX",
    "OUTPUT_BYTES_MAX",
    "REGIONS_MAX",
    "VERSION",
    "Ended",
    "Failed",
    "FrameReader",
    "HandedRegion",
    "Hello",
    "MonitorAnswer",
    "MonitorMessage",
    "MonitorOutput",
    "decode",
    "decode_hello",
    "frame",
    "read_bitmaps",
]

VERSION: Final = 1
REGIONS_MAX: Final = 16
HEADER_BYTES_MAX: Final = 64 << 10
DEVICES_BYTES_MAX: Final = Limits().devices_bytes
OUTPUT_BYTES_MAX: Final = Limits().output_bytes
MACHINE_CHARS_MAX: Final = 700
"""What fits the handshake of two hosts, beside the monitor's names."""
CHANNEL: Final = re.compile(r"[!-~]{1,64}")
"""What a channel may be called."""

_LENGTHS: Final = struct.Struct("<II")
_NAME: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_TRACKINGS: Final = ("compare", "bitmap", "userfault")
_ANSWERS: Final = ("paused", "saved", "loaded", "written")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedRegion:
    """A region of memory that a monitor hands over: its name and size, and where the monitor itself has it."""

    name: str
    page_count: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a monitor says of itself, and how the pages that it writes are found: compare, bitmap or userfault."""

    version: int
    kind: str
    software: str
    machine: str
    regions: tuple[HandedRegion, ...]
    tracking: str
    stops_at_outputs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorAnswer:
    """What a monitor says to request `number`. `refusal` is why it did not do it, or empty."""

    name: str
    number: int
    refusal: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOutput:
    """An output of the guest; `number` counts from 1 in each connection."""

    number: int
    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The guest came to its own end."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The guest can never run again."""

    reason: str


MonitorMessage = MonitorAnswer | MonitorOutput | Ended | Failed


def frame(header: Sequence[object], payload: bytes | memoryview = b"") -> bytes:
    """Return a message as bytes: two lengths, the packed header, the payload."""
    packed: bytes = msgpack.packb(header)
    return _LENGTHS.pack(len(packed), len(payload)) + packed + payload


class FrameReader:
    """Puts frames together from the pieces in which they come. Keeps less than one frame and one piece."""

    def __init__(self, payload_bytes_max: int) -> None:
        """Allow so much behind a header."""
        self._payload_bytes_max = payload_bytes_max
        self._held = bytearray()

    def take(self, piece: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take what has come; yield each whole frame, as header and payload. Raises BadFrame for one too long."""
        self._held += piece
        at = 0
        try:
            while (end := self._end_of_frame(at)) is not None:
                begin, split = at + _LENGTHS.size, at + _LENGTHS.size + _LENGTHS.unpack_from(self._held, at)[0]
                at = end
                yield bytes(self._held[begin:split]), bytes(self._held[split:end])
        finally:
            del self._held[:at]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held of a frame that has not come whole."""
        return not self._held

    def _end_of_frame(self, at: int) -> int | None:
        if len(self._held) - at < _LENGTHS.size:
            return None
        header_bytes, payload_bytes = _LENGTHS.unpack_from(self._held, at)
        if header_bytes > HEADER_BYTES_MAX:
            raise BadFrame(f"a header of {header_bytes} bytes is more than the limit of {HEADER_BYTES_MAX}")
        if payload_bytes > self._payload_bytes_max:
            raise BadFrame(
                f"{payload_bytes} bytes behind a header are more than the limit of {self._payload_bytes_max}"
            )
        end = at + _LENGTHS.size + int(header_bytes) + int(payload_bytes)
        return end if end <= len(self._held) else None


def decode_hello(header: bytes, payload: bytes) -> Hello:
    """Return the first message of a monitor; raises BadFrame."""
    name, fields = _unpack(header)
    if name != "hello" or payload:
        raise BadFrame(f"the first message is {name!r}, not a hello with nothing behind it")
    if not fields or read_number(fields[0], "protocol version") != VERSION:
        raise BadFrame(f"the monitor speaks version {fields[:1]} of the protocol, this ftvm version {VERSION}")
    version, kind, software, machine, regions, tracking, stops_at_outputs = read_fields(fields, 7, "hello")
    described = _read_words(machine, "machine")
    if len(described) > MACHINE_CHARS_MAX:
        raise BadFrame(
            f"the machine is described in {len(described)} characters, at most {MACHINE_CHARS_MAX} are allowed"
        )
    told = read_list(_read_region, regions, "regions")
    if not 0 < len(told) <= REGIONS_MAX or len({region.name for region in told}) < len(told):
        raise BadFrame(f"a guest has 1 to {REGIONS_MAX} regions of different names, not {len(told)}")
    if tracking not in _TRACKINGS:
        raise BadFrame(f"tracking is {tracking!r:.80}, not one of {', '.join(_TRACKINGS)}")
    return Hello(
        version=version,
        kind=_read_name(kind, "kind"),
        software=_read_name(software, "software"),
        machine=described,
        regions=told,
        tracking=tracking,
        stops_at_outputs=read_flag(stops_at_outputs, "stops at outputs"),
    )


def decode(header: bytes, payload: bytes) -> MonitorMessage:
    """Return a later message of a monitor; raises BadFrame. Whether an answer was asked for is not known here."""
    name, fields = _unpack(header)
    if name == "output":
        number, channel = read_fields(fields, 2, name)
        if type(channel) is not str or not CHANNEL.fullmatch(channel) or channel == END_CHANNEL:
            raise BadFrame(f"{channel!r:.80} is no channel of an output")
        _require_short(name, payload, OUTPUT_BYTES_MAX)
        return MonitorOutput(number=read_number(number, "output number"), channel=channel, payload=payload)
    if name in _ANSWERS:
        number, refusal = read_fields(fields, 2, name)
        told = _read_words(refusal, "refusal")
        if told and name != "loaded":
            raise BadFrame(f"{name} cannot be refused, and is: {told}")
        if name in ("paused", "loaded"):
            _require_short(name, payload, 0)
        if name == "saved":
            _require_short(name, payload, DEVICES_BYTES_MAX)
        return MonitorAnswer(name=name, number=read_number(number, "request number"), refusal=told, payload=payload)
    if name in ("ended", "failed"):
        (reason,) = read_fields(fields, 1, name)
        _require_short(name, payload, 0)
        told = _read_words(reason, "reason") or "no reason was given"
        return Ended(reason=told) if name == "ended" else Failed(reason=told)
    raise BadFrame(f"a monitor says nothing called {name!r:.80}")


def read_bitmaps(payload: bytes, page_counts: Sequence[int]) -> Bitmap:
    """Return the set of pages that a monitor says were written; raises BadFrame."""
    wanted = sum(map(bitmap_bytes, page_counts))
    if len(payload) != wanted:
        raise BadFrame(f"bitmaps of {len(payload)} bytes, the guest's pages take {wanted}")
    words: list[bytearray] = []
    at = 0
    for count in page_counts:
        words.append(bytearray(payload[at : at + bitmap_bytes(count)]))
        at += bitmap_bytes(count)
        if count % 64 and int.from_bytes(words[-1][-8:], "little") >> count % 64:
            raise BadFrame(f"a bitmap names a page behind the region's {count}")
    return Bitmap(tuple(page_counts), tuple(words))


def _unpack(header: bytes) -> tuple[str, list[Any]]:
    try:
        told = msgpack.unpackb(header, max_array_len=64, max_map_len=0, max_str_len=8192, max_bin_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as wrong:
        raise BadFrame(f"a header is not what this protocol packs: {wrong or type(wrong).__name__}") from wrong
    if type(told) is not list or not told or type(told[0]) is not str:
        raise BadFrame("a header is not a list that begins with a name")
    return told[0], told[1:]


def _read_region(value: object, name: str) -> HandedRegion:
    region, pages, start = read_fields(value, 3, name)
    page_count = read_number(pages, "page count", PAGE_COUNT_MAX)
    if page_count == 0:
        raise BadFrame("a region has no pages")
    place = read_number(start, "start of a region", (1 << 63) - 1 - page_count * 4096)
    if place % 4096:
        raise BadFrame(f"a region starts at {place:#x}, which is not a page's first byte")
    return HandedRegion(name=_read_name(region, "region name"), page_count=page_count, start=place)


def _read_name(value: object, name: str) -> str:
    if type(value) is not str or not _NAME.fullmatch(value):
        raise BadFrame(f"{name} is {value!r:.80}, not 1 to 64 letters, digits, or any of . _ + -")
    return value


def _read_words(value: object, name: str) -> str:
    """Take a text for people: what a terminal could take for a command is replaced."""
    return "".join(each if each.isprintable() else "?" for each in read_text(value, name))


def _require_short(name: str, payload: bytes, most: int) -> None:
    if len(payload) > most:
        raise BadFrame(f"{len(payload)} bytes behind {name}, at most {most} are allowed")
