"""A recording of a built-in machine that runs alone: the state it began with, and all that it was given since.

That is enough to lead another machine the same way, to any instruction. It may lie in a file: a header, then one packed
map, whose digest stands in the header. Reading is safe on any bytes. Knows no store and no clock.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lz4.frame
import msgpack
import xxhash

from ftvm._native.memory import DigestTable, NativeMemory, digest_to_int
from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.errors import ConfigError, FtvmError, GuestError
from ftvm.guests.riscv.machine import FRAME_BYTES_MAX, Machine, MachineShape
from ftvm.units import PAGE_BYTES

__all__ = ["RecordedMachine", "Recording", "memory_digest", "read_recording", "write_recording"]

_MAGIC: Final = b"FTVMREC\0"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIQ16s")
"""Magic, version, zero, length of the unpacked map in bytes, XXH3-128 of the packed one."""

_UNPACKED_BYTES_MAX: Final = 64 << 30
_INPUTS_MAX: Final = 1 << 26
_BLANK: Final = bytes(PAGE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A stretch of a machine's life.

    shape    what the machine is made of
    state    everything outside memory and disk at its beginning (`Machine.save`)
    pages    the pages of memory, then of the disk, that were not blank then: number -> content
    inputs   what it was given since, in order
    end      how far it came
    digest   of the memory, then of the disk, at the end; None: not known, as in files of earlier versions
    """

    shape: MachineShape
    state: bytes
    pages: Mapping[int, bytes]
    inputs: tuple[LogRecord, ...]
    end: GuestPosition
    digest: int | None = None

    def restore(self, machine: Machine) -> None:
        """Bring a blank machine to the beginning."""
        memories = [machine.ram] if machine.disk is None else [machine.ram, machine.disk]
        for number, content in self.pages.items():
            memory, page = memories[0], number
            if page >= memory.page_count:
                memory, page = memories[1], page - memory.page_count
            memory.write(page * PAGE_BYTES, content)
        machine.load(self.state)


class RecordedMachine(Machine):
    """A machine that keeps its beginning, and notes what it is given. Call `begin` once it is booted."""

    _recorded: list[LogRecord] | None = None

    def begin(self) -> None:
        """Start the recording here. Raises LocalProtocolError if outputs were not taken."""
        self.settle()
        self._beginning = self.save()
        self._pages = _pages_of(self)
        self._recorded = []

    def recording(self) -> Recording:
        """Return the recording up to here."""
        here = self.position
        return Recording(
            shape=self.shape,
            state=self._beginning,
            pages=self._pages,
            inputs=tuple(self._recorded or ()),
            end=GuestPosition(here.retired, here.idled),
            digest=memory_digest(self),
        )

    def idle(self, ticks: int) -> None:
        """Let time pass, and note it."""
        self._note(LogKind.CLOCK, amount=ticks)
        super().idle(ticks)

    def receive_frame(self, frame: bytes) -> bool:
        """Give it a frame, and note it if the device took it."""
        is_possible = self.shape.mac is not None and len(frame) <= FRAME_BYTES_MAX
        is_taken = super().receive_frame(frame)
        if is_taken and is_possible:
            self._note(LogKind.INPUT, channel="net0", payload=frame)
        return is_taken

    def receive_console(self, content: bytes) -> int:
        """Give it keys, and note those that it had room for."""
        return self._noted("console", content, super().receive_console(content))

    def receive_entropy(self, content: bytes) -> int:
        """Give it random bytes, and note what it took."""
        return self._noted("entropy", content, super().receive_entropy(content))

    def _noted(self, channel: str, content: bytes, count: int) -> int:
        if count:
            self._note(LogKind.INPUT, channel=channel, payload=content[:count])
        return count

    def _note(self, kind: LogKind, *, amount: int = 0, channel: str = "", payload: bytes = b"") -> None:
        if self._recorded is None:
            return
        here = self.position
        record = LogRecord(
            index=len(self._recorded) + 1,
            kind=kind,
            position=GuestPosition(here.retired, here.idled),
            amount=amount,
            channel=channel,
            payload=payload,
        )
        self._recorded.append(record)


def memory_digest(machine: Machine) -> int:
    """Return the digest of a machine's memory, then of its disk: the one that checkpoints carry."""
    memories = [machine.ram] if machine.disk is None else [machine.ram, machine.disk]
    table = DigestTable(sum(memory.page_count for memory in memories))
    table.measure(NativeMemory([memory.buffer for memory in memories]))
    return digest_to_int(table.sum[0])


def _pages_of(machine: Machine) -> dict[int, bytes]:
    pages: dict[int, bytes] = {}
    first = 0
    for memory in (machine.ram,) if machine.disk is None else (machine.ram, machine.disk):
        for page in range(memory.page_count):
            content = bytes(memory.buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
            if content != _BLANK:
                pages[first + page] = content
        first += memory.page_count
    return pages


# --- the file ---


def write_recording(path: Path, recording: Recording) -> None:
    """Write a recording to a file. Raises ConfigError if the file cannot be written."""
    shape = recording.shape
    body = msgpack.packb(
        {
            "shape": [shape.ram_bytes, shape.mac, shape.disk_bytes, shape.has_entropy],
            "state": recording.state,
            "pages": dict(recording.pages),
            "inputs": [
                [record.kind is LogKind.CLOCK, *_place(record.position), record.amount, record.channel, record.payload]
                for record in recording.inputs
            ],
            "end": _place(recording.end),
            "digest": None if recording.digest is None else recording.digest.to_bytes(16, "little"),
        }
    )
    packed = lz4.frame.compress(body)
    header = _HEADER.pack(_MAGIC, _VERSION, 0, len(body), xxhash.xxh3_128_digest(packed))
    try:
        with open(path, "wb", opener=_open_private) as file:
            file.write(header + packed)
    except OSError as wrong:
        raise ConfigError(f"the recording {path} cannot be written: {wrong.strerror}") from wrong


def _open_private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read, also one that was there: the guest's memory may hold secrets."""
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_recording(path: str | Path) -> Recording:
    """Read a recording. Raises ConfigError if the file cannot be read, is no recording, or was changed."""
    try:
        content = Path(path).read_bytes()
    except OSError as wrong:
        raise ConfigError(f"the recording {path} cannot be read: {wrong.strerror}") from wrong
    try:
        return _decode(content)
    except _NotOne as wrong:
        raise ConfigError(f"{path} {wrong}") from wrong
    except FtvmError as wrong:
        raise ConfigError(f"{path} is not a usable recording: {wrong}") from wrong


class _NotOne(Exception):
    """The bytes are not a recording; the text goes on behind the file's name."""


def _decode(content: bytes) -> Recording:
    if len(content) < _HEADER.size or content[: len(_MAGIC)] != _MAGIC:
        raise _NotOne("is not a recording of a built-in machine")
    _, version, _, length, digest = _HEADER.unpack_from(content)
    if version != _VERSION:
        raise _NotOne(f"is a recording of version {version}; this ftvm reads version {_VERSION}")
    packed = content[_HEADER.size :]
    if xxhash.xxh3_128_digest(packed) != digest or length > _UNPACKED_BYTES_MAX:
        raise _NotOne("is damaged: its digest does not match")
    try:
        body = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=length)
        if len(body) != length:
            raise _NotOne("is damaged: it is not as long as it says")
        fields = msgpack.unpackb(body, strict_map_key=False, max_array_len=_INPUTS_MAX, max_bin_len=1 << 20)
        return _checked(fields)
    except (RuntimeError, ValueError, TypeError, KeyError, OverflowError, msgpack.UnpackException) as wrong:
        raise _NotOne(f"is damaged: {type(wrong).__name__}: {wrong}") from wrong


def _checked(fields: dict[str, Any]) -> Recording:
    ram_bytes, mac, disk_bytes, has_entropy = fields["shape"]
    shape = MachineShape(ram_bytes=ram_bytes, mac=mac, disk_bytes=disk_bytes, has_entropy=bool(has_entropy))
    page_count = (shape.ram_bytes + shape.disk_bytes) // PAGE_BYTES
    pages, state = fields["pages"], fields["state"]
    if not isinstance(pages, dict) or not isinstance(state, bytes):
        raise _NotOne("is damaged: its pages or its state are something else")
    if not all(isinstance(page, int) and 0 <= page < page_count for page in pages):
        raise _NotOne("is damaged: it has a page beyond the machine's memory")
    if not all(isinstance(content, bytes) and len(content) == PAGE_BYTES for content in pages.values()):
        raise _NotOne("is damaged: it has a page of another size")
    inputs = tuple(_record(index, *row) for index, row in enumerate(fields["inputs"], start=1))
    places = [(record.position.retired, record.position.idled) for record in inputs]
    if places != sorted(places):
        raise _NotOne("is damaged: its inputs are not in order")
    digest = fields.get("digest")
    return Recording(
        shape=shape,
        state=state,
        pages=pages,
        inputs=inputs,
        end=_position(*fields["end"]),
        digest=None if digest is None else int.from_bytes(digest, "little"),
    )


def _is_number(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 64


def _position(retired: int, idled: int) -> GuestPosition:
    if not _is_number(retired) or not _is_number(idled):
        raise GuestError("a place in it is out of range")
    return GuestPosition(retired, idled)


def _place(position: GuestPosition) -> list[int]:
    return [position.retired, position.idled]


def _record(
    index: int, is_clock: bool, retired: int, idled: int, amount: int, channel: str, payload: bytes
) -> LogRecord:
    if not _is_number(amount) or not isinstance(payload, bytes):
        raise GuestError(f"input {index} makes no sense")
    return LogRecord(
        index=index,
        kind=LogKind.CLOCK if is_clock else LogKind.INPUT,
        position=_position(retired, idled),
        amount=amount,
        channel=str(channel),
        payload=payload,
    )
