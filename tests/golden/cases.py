"""What the golden bytes are of: fixed values, each with how it is written and how it is read.

Every number is one whose bytes differ from each other, so that a table in another byte order is seen.
"""

import os
import tempfile
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import lz4.block

from ftvm.arbiters.recordtext import decode_record, encode_record
from ftvm.checkpoint import (
    PAGE_DIGEST_ROW,
    Checkpoint,
    Geometry,
    GuestPosition,
    LogKind,
    LogRecord,
    Output,
    PageBatch,
    RegionShape,
)
from ftvm.config import Limits
from ftvm.encode.messages import (
    Ack,
    CacheDigests,
    CacheKept,
    Copy,
    Envelope,
    EpochPart,
    Greeting,
    Join,
    Leave,
    Log,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Refuse,
    SessionId,
    Welcome,
)
from ftvm.encode.versions import FIRST, FLAT_SINCE, SPOKEN, Versions
from ftvm.encode.wire import FLAT_BYTES_MAX, decode, encode
from ftvm.guests.disk import label
from ftvm.guests.disk.journal import read_journal, write_journal
from ftvm.guests.elf import Program, Segment
from ftvm.guests.qemu.devices import pack_devices, unpack_devices
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape
from ftvm.interfaces import Record
from ftvm.logtable import LogTable
from ftvm.units import PAGE_BYTES, PageCount

from ..capture.world import World
from ..guests.riscv.assembly import CLINT, MSCRATCH, MTVEC, csrrw, li, store
from ..native.hashes import page_hash64, page_hash128

__all__ = ["FOLDER", "STORED", "WIRE", "Case"]

FOLDER: Final = Path(__file__).parent
LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One golden.

    value   what it says
    write   gives its bytes, in as many pieces as there are frames
    read    takes the bytes back; it must give `value`
    is_stable   whether `write` gives the same bytes with every release of the libraries that it uses
    """

    value: Any
    write: Callable[[], list[bytes]]
    read: Callable[[list[bytes]], Any]
    is_stable: bool = True


# --- pages ------------------------------------------------------------------------------------------------------------


def captured() -> tuple[PageBatch, bytes]:
    """Return a batch as a capture makes it, of pages 1 and 0x102, and the memory's digest."""
    world = World((0x103,))
    for page, content in PAGES.items():
        for offset, run in content.items():
            world.write(page, offset, run)
    (batch,) = world.capture(array("I", sorted(PAGES)))
    frames = (bytes(batch.indices), bytes(batch.lengths), bytes(batch.payload))
    plain = PageBatch(count=batch.count, indices=frames[0], lengths=frames[1], payload=frames[2], digest=batch.digest)
    world.free((batch,))
    return plain, world.shadow.memory_digest.to_bytes(16, "little")


PAGES: Final = {
    1: {0: b"first", 0x0708: bytes(range(1, 41))},
    0x102: {offset: bytes([offset >> 6 | 1]) * 6 for offset in range(0, PAGE_BYTES, 64)},
}


def rebuilt(frames: Sequence[bytes], digest: bytes) -> dict[int, dict[int, bytes]]:
    """Return what a backup's memory holds after these frames of a batch, at the places where PAGES has something."""
    world = World((0x103,))
    indices, lengths, payload = frames
    batch = PageBatch(count=len(lengths) // 2, indices=indices, lengths=lengths, payload=payload, digest=digest[:16])
    world.committed.verify([batch], int.from_bytes(digest[16:], "little"))
    world.committed.commit([batch])
    memory = world.backup_regions[0]
    return {
        page: {offset: bytes(memory[page * PAGE_BYTES + offset :][: len(run)]) for offset, run in content.items()}
        for page, content in PAGES.items()
    }


BATCH, MEMORY_DIGEST = captured()


def packed(batch: PageBatch) -> PageBatch:
    """Return a batch with its payload packed."""
    content = lz4.block.compress(bytes(batch.payload), store_size=False)
    return replace(batch, payload=content, unpacked_bytes=len(batch.payload))


# --- messages ---------------------------------------------------------------------------------------------------------

SESSION: Final = SessionId(0x0102, "active-1", 0x0304)
MEETING: Final = Envelope(
    guest_id="vm1", sender="joiner-9", session=None, record=Record(0x0102030405, "active-1", None), released=0
)
IN_SESSION: Final = Envelope(
    guest_id="vm1",
    sender="active-1",
    session=SESSION,
    record=Record(0x0102030405, "active-1", "standby-2"),
    released=0x010203040506,
)
GEOMETRY: Final = Geometry(
    machine="riscv/1 ram=64KiB",
    regions=(
        RegionShape(name="ram", page_count=PageCount(0x1234)),
        RegionShape(name="disk", page_count=PageCount(0x5678)),
    ),
)
END: Final = Checkpoint(
    epoch=0x0203,
    base=0x0202,
    engine="hybrid",
    batches=(),
    devices=b"registers and the rest",
    outputs=(
        Output(number=0x0A00, channel="net0", payload=b"a frame" * 40),
        Output(number=0x0A01, channel="console", payload=b""),
        Output(number=0x0A02, channel="net0", payload=b"another"),
    ),
    output_next=0x0A03,
    log_index=0x0B0C,
    memory_digest=0x0102030405060708090A0B0C0D0E0F10,
    dirty_pages=0x0D0E,
    page_digests=PAGE_DIGEST_ROW.pack(0x01020304, bytes(range(16))) + PAGE_DIGEST_ROW.pack(0x05060708, bytes(16)),
    position=GuestPosition(0x1112131415161718, 0x2122232425262728),
)
RECORDS: Final = (
    LogRecord(
        index=0x0B0D,
        kind=LogKind.INPUT,
        position=GuestPosition(0x1112131415161718, 0x2122232425262728),
        channel="net0",
        payload=b"a request" * 50,
    ),
    LogRecord(index=0x0B0E, kind=LogKind.CLOCK, position=GuestPosition(0x1213, 0x1415), amount=0x3132333435363738),
    LogRecord(index=0x0B0F, kind=LogKind.OUTPUT, position=GuestPosition(0x1617, 0x1819), amount=0x0A03),
)
DIGEST: Final = 0xF0E0D0C0B0A090807060504030201000

MESSAGES: Final[dict[str, tuple[Envelope, Message]]] = {
    "join": (MEETING, Join(geometry=GEOMETRY, engines=("remus", "hybrid"), staging_bytes=0x10203040, versions=FIRST)),
    "join with an offer": (
        MEETING,
        Join(geometry=GEOMETRY, engines=("remus", "hybrid"), staging_bytes=0x10203040, versions=Versions(1, 2)),
    ),
    "join with disks": (
        MEETING,
        Join(
            geometry=GEOMETRY,
            engines=("remus", "hybrid"),
            staging_bytes=0x10203040,
            versions=Versions(1, 2),
            images=("0123456789abcdef", "fedcba9876543210"),
        ),
    ),
    "join with its place": (
        MEETING,
        Join(
            geometry=GEOMETRY,
            engines=("remus", "hybrid"),
            staging_bytes=0x10203040,
            versions=Versions(1, 2),
            place="0123456789abcdef" * 2,
        ),
    ),
    "join with a cache": (
        MEETING,
        Join(
            geometry=GEOMETRY,
            engines=("remus", "hybrid"),
            staging_bytes=0x10203040,
            versions=Versions(1, 2),
            has_cache=True,
        ),
    ),
    "hello": (MEETING, Greeting(place="0123456789abcdef" * 2, role="active")),
    "hello from where there is no record": (MEETING, Greeting(place="", role="empty")),
    "welcome": (IN_SESSION, Welcome(joiner="joiner-9", engines=("remus",), staging_bytes=0x10203040, versions=FIRST)),
    "welcome with an offer": (
        IN_SESSION,
        Welcome(joiner="joiner-9", engines=("remus",), staging_bytes=0x10203040, versions=Versions(1, 2)),
    ),
    "welcome with disks": (
        IN_SESSION,
        Welcome(
            joiner="joiner-9",
            engines=("remus",),
            staging_bytes=0x10203040,
            versions=Versions(1, 2),
            lineage="0123456789abcdef",
        ),
    ),
    "welcome that takes a cache": (
        IN_SESSION,
        Welcome(
            joiner="joiner-9",
            engines=("remus",),
            staging_bytes=0x10203040,
            versions=Versions(1, 2),
            takes_cache=True,
        ),
    ),
    "refuse": (MEETING, Refuse(joiner="joiner-9", reason="the guests differ", is_final=True)),
    "copy": (IN_SESSION, Copy(sequence=0x0405, round=3, batch=BATCH)),
    "copy, packed": (IN_SESSION, Copy(sequence=0x0405, round=3, batch=packed(BATCH))),
    "epoch's pages": (IN_SESSION, EpochPart(sequence=0x0506, epoch=0x0203, part=1, batch=BATCH, checkpoint=None)),
    "epoch's end": (IN_SESSION, EpochPart(sequence=0x0607, epoch=0x0203, part=2, batch=None, checkpoint=END)),
    "epoch's end without a position": (
        IN_SESSION,
        EpochPart(
            sequence=0x0607, epoch=0x0203, part=2, batch=None, checkpoint=replace(END, position=None, outputs=())
        ),
    ),
    "log": (IN_SESSION, Log(sequence=0x0708, records=LogTable.of(RECORDS))),
    "ack": (IN_SESSION, Ack(received=0x0809, epoch=0x0203, log_index=0x0B0C, memory_digest=DIGEST)),
    "ping": (IN_SESSION, Ping(number=0x010203)),
    "pong": (IN_SESSION, Pong(number=0x010203)),
    "prepare": (IN_SESSION, Prepare(epoch=0x0203)),
    "prepared": (IN_SESSION, Prepared(epoch=0x0203, error="it does not load")),
    "leave": (IN_SESSION, Leave(reason="an operator asked", is_end=False)),
    "leave at the guest's end": (IN_SESSION, Leave(reason="it came to its end", is_end=True)),
}


JOINED: Final[dict[str, tuple[Envelope, Message]]] = {
    "digests of what a joiner still has": (
        IN_SESSION,
        CacheDigests(sequence=0x0102, first=0x0304, digests=bytes(range(48)), is_last=False),
    ),
    "the last of these, of no pages": (
        IN_SESSION,
        CacheDigests(sequence=0x0103, first=0, digests=b"", is_last=True),
    ),
    "what of it is kept": (IN_SESSION, CacheKept(sequence=0x0405, first=0x0304, pages=67, kept=bytes(range(1, 17)))),
    "epoch in one part": (IN_SESSION, EpochPart(sequence=0x0607, epoch=0x0203, part=0, batch=BATCH, checkpoint=END)),
    "epoch in one part, too large for one frame": (
        IN_SESSION,
        EpochPart(
            sequence=0x0607,
            epoch=0x0203,
            part=0,
            batch=BATCH,
            checkpoint=replace(END, devices=bytes(FLAT_BYTES_MAX)),
        ),
    ),
    "epoch's end, too large for one frame": (
        IN_SESSION,
        EpochPart(
            sequence=0x0607,
            epoch=0x0203,
            part=2,
            batch=None,
            checkpoint=replace(END, devices=bytes(FLAT_BYTES_MAX)),
        ),
    ),
    "epoch's end without a flush": (
        IN_SESSION,
        EpochPart(sequence=0x0607, epoch=0x0203, part=2, batch=None, checkpoint=replace(END, has_flush=False)),
    ),
    "epoch's end without a flush, too large for one frame": (
        IN_SESSION,
        EpochPart(
            sequence=0x0607,
            epoch=0x0203,
            part=2,
            batch=None,
            checkpoint=replace(END, devices=bytes(FLAT_BYTES_MAX), has_flush=False),
        ),
    ),
    "log, too large for one frame": (
        IN_SESSION,
        Log(sequence=0x0708, records=LogTable.of((replace(RECORDS[0], payload=bytes(FLAT_BYTES_MAX)), *RECORDS[1:]))),
    ),
}
"""What version 1 cannot say, or says in no other way than what is small."""


def in_version(envelope: Envelope, version: int) -> Envelope:
    session = envelope.session
    return envelope if session is None else replace(envelope, session=replace(session, version=version))


def message_case(name: str, version: int) -> Case:
    envelope, message = (MESSAGES | JOINED)[name]
    told = in_version(envelope, version)
    return Case(
        value=(told, message),
        write=lambda: [bytes(frame) for frame in encode(told, message)],
        read=lambda frames: decode(frames, LIMITS),
        is_stable="packed" not in name,
    )


WIRE: Final = {
    version: {name: message_case(name, version) for name in (MESSAGES | JOINED if version >= FLAT_SINCE else MESSAGES)}
    for version in range(SPOKEN.lowest, SPOKEN.highest + 1)
}
"""Each message in each version that is spoken."""

# --- what is kept, and what a guest's state is told in ----------------------------------------------------------------

JOURNAL: Final = {
    0x0203: bytes(range(256)) * (PAGE_BYTES // 256),
    0x01: bytes(PAGE_BYTES - 3) + b"end",
}


def journal() -> list[bytes]:
    with tempfile.TemporaryFile() as file:
        write_journal(file.fileno(), JOURNAL)
        return [os.pread(file.fileno(), 1 << 20, 0)]


SHAPE: Final = MachineShape(
    ram_bytes=1 << 16, mac=bytes.fromhex("020304050607"), disk_bytes=PAGE_BYTES, has_entropy=True
)
VIRTIO_NET: Final = 0x10001000


def machine_that_ran() -> Machine:
    """Return a machine with something in its registers, its timer and its devices."""
    code = [word for number in range(8, 32) for word in li(number, 0x0101010101010101 * number + 0x1F2E3D4C)]
    code += [csrrw(0, MSCRATCH, 9), csrrw(0, MTVEC, 12)]
    for address, value, size in (
        (CLINT + 0x4000, 0x0123456789ABCDEF, 8),
        (VIRTIO_NET + 0x070, 3, 4),
        (VIRTIO_NET + 0x030, 1, 4),
        (VIRTIO_NET + 0x038, 128, 4),
        (VIRTIO_NET + 0x080, 0x80001230, 4),
        (VIRTIO_NET + 0x090, 0x80002344, 4),
        (VIRTIO_NET + 0x0A0, 0x80003458, 4),
    ):
        code += [*li(5, address), *li(6, value), store(6, 5, size=size)]
    content = b"".join(word.to_bytes(4, "little") for word in code)
    segment = Segment(address=RAM_BASE, content=content, memory_bytes=len(content))
    machine = Machine(SHAPE)
    machine.boot(Program(entry=RAM_BASE, segments=(segment,), tohost=RAM_BASE + 0x8000))
    machine.run(len(code))
    machine.receive_console(b"typed")
    machine.settle()
    machine.take_outputs()
    return machine


def facts(machine: Machine) -> object:
    csrs = [machine.csr(number) for number in (MSCRATCH, MTVEC)]
    return machine.position, [machine.register(number) for number in range(33)], csrs


def loaded(pieces: list[bytes]) -> object:
    machine = Machine(SHAPE)
    machine.load(pieces[0])
    if machine.save() != pieces[0]:
        raise AssertionError("what was loaded is saved as something else")
    return facts(machine)


STREAM: Final = b"QEVM\x00\x00\x00\x03" + b"\x04\x00\x00\x00\x01\x05timer" + bytes(100) + b"the devices"
PAGE: Final = bytes(range(256)) * (PAGE_BYTES // 256)

LABEL: Final = label._Written(
    "12-1700000000000000000",
    3,
    label.Label(
        image="0123456789abcdef",
        lineage="fedcba9876543210",
        parents=(("00112233445566ff", 0x0203),),
        generation=0x0204,
        epoch=0x0506,
        is_clean=True,
    ),
)


def ended(record: Record) -> tuple[Record, bool]:
    """Return a record with its remark, which is not compared."""
    return record, record.is_ended


STORED: Final = {
    "arbiter's record": Case(
        value=Record(0x0102030405, "active-1", "standby-2"),
        write=lambda: [encode_record("vm1", Record(0x0102030405, "active-1", "standby-2"))],
        read=lambda pieces: decode_record(pieces[0], guest_id="vm1", generation=0x0102030405),
    ),
    "arbiter's record of a guest that has ended": Case(
        value=(Record(9, None, None), True),
        write=lambda: [encode_record("vm1", Record(9, None, None, is_ended=True))],
        read=lambda pieces: ended(decode_record(pieces[0], guest_id="vm1", generation=9)),
    ),
    "arbiter's record without a standby": Case(
        value=Record(7, "active-1", None),
        write=lambda: [encode_record("vm1", Record(7, "active-1", None))],
        read=lambda pieces: decode_record(pieces[0], guest_id="vm1", generation=7),
    ),
    "image's label": Case(
        value=LABEL, write=lambda: [label._pack(LABEL)], read=lambda pieces: label._unpack(pieces[0])
    ),
    "image's journal": Case(
        value=JOURNAL, write=journal, read=lambda pieces: read_journal(pieces[0], page_count=0x0204)
    ),
    "pages of a batch": Case(
        value=PAGES,
        write=lambda: [
            bytes(BATCH.indices),
            bytes(BATCH.lengths),
            bytes(BATCH.payload),
            bytes(BATCH.digest) + MEMORY_DIGEST,
        ],
        read=lambda pieces: rebuilt(pieces[:3], pieces[3]),
    ),
    "digest of a page": Case(
        value=None,
        write=lambda: [
            page_hash128(PAGE, 0x01020304).to_bytes(16, "little"),
            page_hash64(PAGE, 5).to_bytes(8, "little"),
        ],
        read=lambda _: None,
    ),
    "state of the built-in machine": Case(
        value=facts(machine_that_ran()), write=lambda: [machine_that_ran().save()], read=loaded
    ),
    "state of QEMU's devices": Case(
        value=STREAM,
        write=lambda: [pack_devices(STREAM)],
        read=lambda pieces: unpack_devices(pieces[0]),
        is_stable=False,
    ),
}
"""What stands outside the messages: in files, at the arbiter, and in what a message carries without looking at it."""
