"""One entry of a history to bytes and back. Pure.

    u32 length of the header | header | pages | devices | rest

The header is a msgpack array. `pages` holds page indices, lengths and deltas of one batch: indices, each as its
distance to the one before, and lengths, byte by byte of their numbers (all lowest bytes first, then the next). These
two together, and the deltas, are packed by zlib, which makes a third less of it than LZ4 at ten times the CPU; all by
LZ4 where that would be too much (`_packer_of`). `devices` is the device state, packed by LZ4 with another entry's as
dictionary if the header names one: that takes 13 kB to 0.2 kB. `rest` holds outputs and the log in the tables of the
wire (ftvm/encode/stream.py).

`decode_entry` is safe on any bytes: it raises HistoryError, and takes no more room than 1,032 times what it was given.
"""

import struct
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from operator import sub
from typing import Any, Final, Never

import lz4.block
import msgpack

from ftvm._native.memory import batch_digest
from ftvm.checkpoint import PAGE_COUNT_MAX, Buffer, GuestPosition, LogRecord, Output, PageBatch
from ftvm.config import Limits
from ftvm.encode.fields import (
    NAMES_MAX,
    TEXT_CHARS_MAX,
    read_digest,
    read_fields,
    read_identity,
    read_list,
    read_number,
    read_numbers,
    read_text,
)
from ftvm.encode.stream import pack_outputs, unpack_outputs, unpack_records
from ftvm.errors import BadFrame, HistoryError
from ftvm.logtable import LogTable

__all__ = [
    "EMPTY_BATCH",
    "FORMAT",
    "Entry",
    "EntryLevel",
    "decode_entry",
    "devices_like",
    "encode_entry",
    "unbroken_log",
    "unbroken_outputs",
]

FORMAT: Final = 2
"""The version of entries, segments and catalogue; a store of another one is refused by name."""

_HEAD: Final = struct.Struct("<I")
_HEADER_BYTES_MAX: Final = 64 << 10


class _Packer(IntEnum):
    """What a block is packed with."""

    LZ4 = 0
    PARTED = 1
    """Of pages alone: u32 length of the packed indices and lengths | these | the packed deltas, both by zlib."""


_ZLIB_BYTES_MAX: Final = 40_000
_GOOD_SHARE: Final = 0.6
"""What deltas take that are packed well."""
_LZ4_RATIO_MAX: Final = 255
_ZLIB_RATIO_MAX: Final = 1032
"""Neither packs tighter: who claims more is damaged."""
_LIMITS: Final = Limits(
    outputs_held=1 << 24, output_bytes=1 << 30, log_records=1 << 24, log_bytes=1 << 30, devices_bytes=1 << 30
)
"""What a host let through is kept: these only bound nonsense."""

_WRONG: Final = (BadFrame, ValueError, TypeError, OverflowError, lz4.block.LZ4BlockError, zlib.error)
"""What bytes from a file may provoke."""


class EntryLevel(IntEnum):
    """What an entry covers. Each but BASE and FINE is merged of entries of a lower one."""

    BASE = 0
    """A portion of a base: pages as they were at some time between two epochs."""
    FINE = 1
    SECOND = 2
    MINUTE = 3
    TEN_MINUTES = 4
    HOUR = 5

    @classmethod
    def _missing_(cls, value: object) -> Never:
        """Refuse a level of a damaged catalogue, or of another format, whichever query met it."""
        raise HistoryError(f"the history is damaged: its catalogue has {value!r:.80} as the level of an entry")


EMPTY_BATCH: Final = PageBatch(count=0, indices=b"", lengths=b"", payload=b"", digest=batch_digest(b"", b"", b""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What turns the state of epoch `base` into that of `epoch`.

    time_ns        when it was recorded, in nanoseconds since 1970; never goes back within a history
    pages          one batch, unpacked
    outputs        those that no earlier entry has, up to `output_next`; none above level SECOND
    log            what the guest took, ending with `log_index`, where that was shipped
    memory_digest  of the whole memory at `epoch`; 0 for a portion of a base
    """

    level: EntryLevel
    base: int
    epoch: int
    time_ns: int
    engine: str = "none"
    position: GuestPosition | None = None
    output_next: int = 1
    log_index: int = 0
    memory_digest: int = 0
    dirty_pages: int = 0
    pages: PageBatch = field(default=EMPTY_BATCH, repr=False)
    devices: bytes = field(default=b"", repr=False)
    outputs: Sequence[Output] = field(default=(), repr=False)
    log: tuple[LogRecord, ...] = field(default=(), repr=False)


def unbroken_outputs(outputs: Iterable[Output], output_next: int) -> tuple[Output, ...]:
    """Return outputs whose numbers rise by one up to `output_next`; none at all if some are missing."""
    found = tuple(outputs)
    first = output_next - len(found)
    return found if all(output.number == first + place for place, output in enumerate(found)) else ()


def unbroken_log(records: Iterable[LogRecord]) -> tuple[LogRecord, ...]:
    """Return log records whose numbers rise by one; none at all if some are missing: they lead nowhere."""
    found = tuple(records)
    return found if all(record.index == found[0].index + place for place, record in enumerate(found)) else ()


def encode_entry(entry: Entry, *, like: tuple[int, bytes] | None = None) -> bytes:
    """Return the bytes of an entry.

    like  an epoch and its device state, which this entry's resembles; who decodes needs the same again
    """
    pages, devices, where = entry.pages, entry.devices, entry.position
    channels, table, payloads = pack_outputs(entry.outputs)
    log = LogTable.of(entry.log)
    rest = b"".join((table, payloads, log.rows, log.payloads))
    packer, packed_pages = _pack_pages(pages, entry.level)
    packed = packed_pages, _pack(devices, b"" if like is None else like[1]), _pack(rest)
    header = msgpack.packb(
        [
            FORMAT,
            int(entry.level),
            [entry.base, entry.epoch, entry.time_ns, entry.output_next, entry.log_index, entry.dirty_pages],
            entry.engine,
            None if where is None else [where.retired, where.idled],
            entry.memory_digest.to_bytes(16, "little"),
            [pages.count, len(pages.payload), int(packer)],
            None if like is None else like[0],
            [channels, len(table), len(payloads)],
            [log.first, log.channels, len(log.rows), len(log.payloads)],
            len(devices),
            [len(block) for block in packed],
        ]
    )
    return b"".join((_HEAD.pack(len(header)), header, *packed))


def devices_like(content: Buffer) -> int | None:
    """Return the epoch whose device state is needed to decode these bytes, None if none is. Raises HistoryError."""
    try:
        like = _read_header(memoryview(content))[0][7]
        return None if like is None else read_number(like, "epoch of the device state")
    except _WRONG as wrong:
        raise HistoryError(f"an entry is damaged: {wrong}") from wrong


def decode_entry(content: Buffer, *, like: bytes = b"") -> Entry:
    """Return the entry. Raises HistoryError if the bytes are not what `encode_entry` makes.

    like  the device state that `devices_like` asks for
    """
    try:
        return _decoded(memoryview(content), like)
    except _WRONG as wrong:
        raise HistoryError(f"an entry is damaged: {wrong}") from wrong


def _decoded(content: memoryview, like: bytes) -> Entry:
    header, body = _read_header(content)
    _, level, numbers, engine, where, digest, shape, _, outputs, log, devices_bytes, sizes = header
    numbers = read_fields(numbers, 6, "numbers")
    read_numbers(numbers, "base, epoch, time, next output, log index, dirty pages")
    base, epoch, time_ns, output_next, log_index, dirty_pages = numbers
    count, payload_bytes, packer = read_fields(shape, 3, "shape of the pages")
    count = read_number(count, "page count", PAGE_COUNT_MAX)
    payload_bytes = read_number(payload_bytes, "bytes of deltas")
    blocks = _split(body, read_fields(sizes, 3, "sizes of the blocks"))
    pages = _unpacked_pages(blocks[0], count, payload_bytes, _Packer(read_number(packer, "packer", max(_Packer))))
    devices = _unpack(blocks[1], read_number(devices_bytes, "bytes of device state"), like)
    channels, *output_sizes = read_fields(outputs, 3, "outputs")
    first, names, *log_sizes = read_fields(log, 4, "log")
    sizes_of_rest = [read_number(size, "size of a table") for size in (*output_sizes, *log_sizes)]
    rest = _split(memoryview(_unpack(blocks[2], sum(sizes_of_rest))), sizes_of_rest)
    texts = read_list(read_text, names, "input channels")
    first = read_number(first, "first log index")
    return Entry(
        level=EntryLevel(read_number(level, "level", max(EntryLevel))),
        base=base,
        epoch=epoch,
        time_ns=time_ns,
        engine=read_identity(engine, "engine"),
        position=None if where is None else _position(where),
        output_next=output_next,
        log_index=log_index,
        memory_digest=int.from_bytes(read_digest(digest, "memory digest"), "little"),
        dirty_pages=dirty_pages,
        pages=pages,
        devices=devices,
        outputs=unpack_outputs(
            read_list(read_identity, channels, "output channels"), output_next, rest[0], rest[1], _LIMITS
        ),
        log=tuple(unpack_records(first, texts, rest[2], rest[3], _LIMITS)) if len(rest[2]) else (),
    )


def _read_header(content: memoryview) -> tuple[list[Any], memoryview]:
    if len(content) < _HEAD.size:
        raise BadFrame(f"it has {len(content)} bytes")
    (length,) = _HEAD.unpack_from(content)
    if not 0 < length <= min(_HEADER_BYTES_MAX, len(content) - _HEAD.size):
        raise BadFrame(f"its header claims {length} bytes")
    try:
        header = msgpack.unpackb(
            content[_HEAD.size : _HEAD.size + length],
            max_array_len=NAMES_MAX,
            max_map_len=0,
            max_str_len=4 * TEXT_CHARS_MAX,
            max_bin_len=16,
            max_ext_len=0,
        )
    except msgpack.UnpackException as wrong:
        raise BadFrame(f"its header does not unpack: {wrong or type(wrong).__name__}") from wrong
    if type(header) is not list or not header or header[0] != FORMAT:
        raise BadFrame("its header is not one of this version")
    return read_fields(header, 12, "header"), content[_HEAD.size + length :]


def _position(value: object) -> GuestPosition:
    retired, idled = read_fields(value, 2, "position")
    read_numbers((retired, idled), "retired, idled")
    return GuestPosition(retired, idled)


def _split(body: memoryview, sizes: list[Any]) -> list[memoryview]:
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + read_number(size, "size of a block", len(body) - at)])
        at += size
    if at != len(body):
        raise BadFrame(f"{len(body) - at} bytes are left over")
    return parts


def _planes(numbers: Buffer, width: int) -> bytes:
    content = bytes(numbers)
    return b"".join(content[plane::width] for plane in range(width))


def _from_planes(content: bytes, width: int) -> bytes:
    numbers, count = bytearray(len(content)), len(content) // width
    for plane in range(width):
        numbers[plane::width] = content[plane * count : (plane + 1) * count]
    return bytes(numbers)


def _apart(indices: Buffer) -> bytes:
    """Return page indices, each as the distance to the one before."""
    numbers = array("I", bytes(indices))
    return array("I", map(sub, numbers, [0, *numbers[:-1]])).tobytes()


def _from_apart(distances: bytes) -> bytes:
    return array("I", accumulate(array("I", distances))).tobytes()


def _pack_pages(pages: PageBatch, level: EntryLevel) -> tuple[_Packer, bytes]:
    head = _planes(_apart(pages.indices), 4) + _planes(pages.lengths, 2)
    if _packer_of(level, pages.size_bytes) is _Packer.PARTED:
        packed_head, deltas = zlib.compress(head, 1), _pack_deltas(pages.payload, level)
        if _HEAD.size + len(packed_head) + len(deltas) < pages.size_bytes:
            return _Packer.PARTED, b"".join((_HEAD.pack(len(packed_head)), packed_head, deltas))
    return _Packer.LZ4, _pack(head + bytes(pages.payload))


def _pack_deltas(content: Buffer, level: EntryLevel) -> bytes:
    """Pack deltas. Of many, as numbers that count up, what came before is found by chance alone: to look for it then
    costs twice the time, and makes it longer."""
    packed = b""
    if level is not EntryLevel.FINE:
        packing = zlib.compressobj(1, strategy=zlib.Z_RLE)
        packed = packing.compress(content) + packing.flush()
        if len(packed) < _GOOD_SHARE * len(content):
            return packed
    found = zlib.compress(content, 1)
    return min(packed or found, found, key=len)


def _unpacked_pages(block: memoryview, count: int, payload_bytes: int, packer: _Packer) -> PageBatch:
    if packer is _Packer.PARTED:
        (length,) = _HEAD.unpack_from(block) if len(block) >= _HEAD.size else (1 << 32,)
        parts = _split(block[_HEAD.size :], [length, len(block) - _HEAD.size - length])
        head, payload = _inflate(parts[0], 6 * count), _inflate(parts[1], payload_bytes)
    else:
        plain = _unpack(block, 6 * count + payload_bytes)
        head, payload = plain[: 6 * count], plain[6 * count :]
    indices = _from_apart(_from_planes(head[: 4 * count], 4))
    lengths = _from_planes(head[4 * count :], 2)
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=count, indices=indices, lengths=lengths, payload=payload, digest=digest)


def _packer_of(level: EntryLevel, size_bytes: int) -> _Packer:
    """Return what to pack pages with: 40 fine entries a second may take 2 % of a core, and a base is large."""
    if level is EntryLevel.BASE or (level is EntryLevel.FINE and size_bytes > _ZLIB_BYTES_MAX):
        return _Packer.LZ4
    return _Packer.PARTED


def _pack(content: bytes, dictionary: bytes = b"") -> bytes:
    """Pack if that is shorter: a block as long as its content is not packed."""
    if not content:
        return b""
    packed = bytes(lz4.block.compress(content, mode="fast", store_size=False, dict=dictionary))
    return packed if len(packed) < len(content) else content


def _unpack(block: memoryview, size: int, dictionary: bytes = b"") -> bytes:
    if len(block) == size:
        return bytes(block)
    if not len(block) < size <= _LZ4_RATIO_MAX * len(block) + 16:
        raise BadFrame(f"a block of {len(block)} bytes claims to unpack to {size}")
    content = bytes(lz4.block.decompress(block, uncompressed_size=size, dict=dictionary))
    return _sized(content, size)


def _inflate(block: memoryview, size: int) -> bytes:
    if size > _ZLIB_RATIO_MAX * len(block) + 16:
        raise BadFrame(f"a block of {len(block)} bytes claims to unpack to {size}")
    return _sized(zlib.decompressobj().decompress(block, size + 1), size)


def _sized(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise BadFrame(f"a block unpacks to {len(content)} bytes, not to the {size} that it claims")
    return content
