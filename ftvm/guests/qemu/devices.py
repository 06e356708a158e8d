"""QEMU's device state: out of a paused machine, and into one that waits.

`xen-save-devices-state` gives the devices alone, in a millisecond and without a thread: all that changes from epoch to
epoch. What it leaves out, the configuration and the contents of ROMs, is the head of a real migration; that is taken
once and again after each reset, and kept in guest memory, where it travels like any page. A takeover puts the two
together, and what comes out is a migration stream like any other. Neither holds RAM: that is shared. A QEMU without
the command is migrated at each save, and its head stays empty.

Source: QEMU, docs/devel/migration.rst (the stream), migration/savevm.c (its section marks).
"""

import os
import struct
import threading
from typing import Any, Final

import lz4.block
import xxhash

from ftvm.errors import ConfigError, GuestError, LimitExceeded
from ftvm.guests.qemu.machine import RAM_ID
from ftvm.guests.qemu.memory import SharedMemory
from ftvm.guests.qemu.qmp import ANSWER_SECONDS, Qmp

__all__ = [
    "Firmware",
    "can_save_apart",
    "count_flushes",
    "head_of",
    "join_parts",
    "load_state",
    "pack_devices",
    "prepare_migration",
    "refuse_blockers",
    "refuse_unshared_memory",
    "save_apart",
    "save_whole",
    "unpack_devices",
]

FIRMWARE_BYTES: Final = 2 << 20
"""Room for the head of a migration: configuration and ROMs, some 200 KiB on a `pc`."""

STATE_BYTES_MAX: Final = 16 << 20
_SAVE_COMMAND: Final = "xen-save-devices-state"
_STREAM_MARK: Final = b"QEVM\x00\x00\x00\x03"
_SECTION_FULL: Final = 4
_SECTION_HEAD: Final = struct.Struct(">BIB")
_PACKED_HEAD: Final = struct.Struct("<4sI16s")
"""A mark, the length unpacked, and the XXH3-128 of what is packed: a state that was altered is never given to QEMU."""
_PACKED_MARK: Final = b"qdv1"
_FIRMWARE_HEAD: Final = struct.Struct("<QQ")
_LOOKS_MAX: Final = 2_000
_LOOK_SECONDS: Final = 0.002
_LOAD_SECONDS: Final = ANSWER_SECONDS  # to give up a load loses a takeover


def prepare_migration(qmp: Qmp) -> None:
    """Have migrations leave shared memory out, go as fast as they can, and announce nothing by themselves."""
    capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
    qmp.execute("migrate-set-capabilities", capabilities=capabilities)
    qmp.execute("migrate-set-parameters", max_bandwidth=1 << 40, announce_rounds=0)


def refuse_blockers(qmp: Qmp) -> None:
    """Raise ConfigError, in QEMU's words, if it says that this machine cannot be saved. Before 6.0 it does not say."""
    reasons = qmp.execute("query-migrate").get("blocked-reasons", ())
    if reasons:
        raise ConfigError(
            f"QEMU cannot save this machine, so it cannot be protected: {'; '.join(map(str, reasons))}; "
            "remove the cause from the QEMU arguments"
        )


def count_flushes(qmp: Qmp) -> int:
    """Return how many flushes the guest has made of its disks: those that QEMU makes itself, e.g. when it stops the
    machine, do not count."""
    return sum(int(disk["stats"]["flush_operations"]) for disk in qmp.execute("query-blockstats"))


def can_save_apart(qmp: Qmp) -> bool:
    """Tell whether this QEMU can save its devices by themselves; else each save is a migration, some ms slower."""
    return any(command["name"] == _SAVE_COMMAND for command in qmp.execute("query-commands"))


def save_apart(qmp: Qmp, state: int) -> bytes:
    """Return the devices of a paused machine. `state` is the file that QEMU inherited for it."""
    qmp.execute(_SAVE_COMMAND, filename=f"/proc/self/fd/{state}", live=False)
    return _content(state)


def save_whole(qmp: Qmp) -> bytes:
    """Migrate a paused machine into nothing; return the stream: configuration, ROMs and devices.

    QEMU does it once only before the machine runs again.
    """
    descriptor = os.memfd_create("ftvm-migrate", os.MFD_CLOEXEC)
    try:
        qmp.give_file("ftvm-migrate", descriptor)
        qmp.execute("migrate", uri="fd:ftvm-migrate")
        _wait_migrated(qmp, "save its configuration", _LOAD_SECONDS)
        for _ in range(_LOOKS_MAX):  # "completed" comes a moment before the machine can go on
            if qmp.execute("query-status")["status"] == "postmigrate":
                return _content(descriptor)
        raise GuestError("QEMU's migration is complete, but the machine does not become ready to go on")
    finally:
        os.close(descriptor)


def pack_devices(stream: bytes) -> bytes:
    """Pack device state: most of it is zeros."""
    packed = bytes(lz4.block.compress(stream, store_size=False))
    return _PACKED_HEAD.pack(_PACKED_MARK, len(stream), xxhash.xxh3_128_digest(packed)) + packed


def unpack_devices(packed: bytes) -> bytes:
    """Return the device state; raises GuestError if these bytes are not one."""
    if len(packed) < _PACKED_HEAD.size:
        raise GuestError(f"device state of {len(packed)} bytes is too short")
    mark, stream_bytes, digest = _PACKED_HEAD.unpack_from(packed)
    content = packed[_PACKED_HEAD.size :]
    if mark != _PACKED_MARK or stream_bytes > STATE_BYTES_MAX or xxhash.xxh3_128_digest(content) != digest:
        raise GuestError("the device state is not one of QEMU's, as this ftvm packs it")
    try:
        stream = lz4.block.decompress(content, uncompressed_size=stream_bytes)
    except (lz4.block.LZ4BlockError, ValueError) as wrong:
        raise GuestError(f"the device state does not unpack: {wrong}") from wrong
    if len(stream) != stream_bytes or not stream.startswith(_STREAM_MARK):
        raise GuestError("the device state is not a QEMU stream")
    return bytes(stream)


def head_of(stream: bytes, devices: bytes) -> bytes:
    """Return what of a whole stream comes before its devices. Raises GuestError."""
    first_section = _first_section(devices)
    at = stream.find(first_section)
    if at < 0:
        raise GuestError(f"QEMU's migration has no section {first_section!r}, with which its device state begins")
    return stream[:at]


class Firmware:
    """A region of guest memory that holds the head of the stream."""

    def __init__(self) -> None:
        self.memory = SharedMemory("firmware", FIRMWARE_BYTES)

    def put(self, head: bytes) -> None:
        """Replace what is there. Raises LimitExceeded if there is no room."""
        room = FIRMWARE_BYTES - _FIRMWARE_HEAD.size
        if len(head) > room:
            raise LimitExceeded("bytes of configuration and ROMs", limit=room, wanted=len(head))
        content = _FIRMWARE_HEAD.pack(len(head), 0) + head
        self.memory.buffer[:] = content.ljust(FIRMWARE_BYTES, b"\0")

    def get(self) -> bytes:
        """Return what is there: nothing, where devices are not saved apart. Raises GuestError if it cannot be."""
        head_bytes, _ = _FIRMWARE_HEAD.unpack_from(self.memory.buffer)
        if not head_bytes <= FIRMWARE_BYTES - _FIRMWARE_HEAD.size:
            raise GuestError("what came with the memory is not a QEMU configuration")
        return bytes(self.memory.buffer[_FIRMWARE_HEAD.size : _FIRMWARE_HEAD.size + head_bytes])


def join_parts(head: bytes, devices: bytes) -> bytes:
    """Return the stream that loads, of a head and devices that were saved apart."""
    return head + devices[len(_STREAM_MARK) :]


def load_state(qmp: Qmp, stream: bytes) -> None:
    """Give a waiting machine its state; it is paused afterwards.

    Raises GuestError; QEMU has ended then, or must be.
    """
    descriptor = os.memfd_create("ftvm-load", os.MFD_CLOEXEC)
    try:
        _write_all(descriptor, stream)
        os.lseek(descriptor, 0, os.SEEK_SET)
        qmp.give_file("ftvm-load", descriptor)
    finally:
        os.close(descriptor)
    qmp.execute("migrate-incoming", uri="fd:ftvm-load")
    _wait_migrated(qmp, "load the device state", _LOAD_SECONDS)


def _wait_migrated(qmp: Qmp, what: str, seconds: float) -> None:
    nap = threading.Event()
    for _ in range(round(seconds / _LOOK_SECONDS)):
        answer: dict[str, Any] = qmp.execute("query-migrate")
        status = answer.get("status", "none")
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise GuestError(f"QEMU could not {what}: {answer.get('error-desc', status)}")
        nap.wait(_LOOK_SECONDS)
    raise GuestError(f"QEMU took more than {seconds:g} s to {what}")


def _first_section(devices: bytes) -> bytes:
    """Return the header of the stream's first section, up to its name: the same in each stream of one machine."""
    start = len(_STREAM_MARK)
    if len(devices) >= start + _SECTION_HEAD.size:
        kind, _, name_bytes = _SECTION_HEAD.unpack_from(devices, start)
        if kind == _SECTION_FULL:
            return devices[start : start + _SECTION_HEAD.size + name_bytes]
    raise GuestError("QEMU's device state does not begin with a section")


def _content(descriptor: int) -> bytes:
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes > STATE_BYTES_MAX:
        raise LimitExceeded("bytes of device state", limit=STATE_BYTES_MAX, wanted=size_bytes)
    content = os.pread(descriptor, size_bytes, 0)
    if len(content) != size_bytes:
        raise GuestError(f"of {size_bytes} bytes of device state only {len(content)} can be read")
    return content


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def refuse_unshared_memory(qmp: Qmp) -> None:
    """Raise ConfigError if the machine has memory that is neither shared nor ROM: its writes would be missed."""
    listing: Any = qmp.execute("human-monitor-command", command_line="info ramblock")
    names = [line.split()[0] for line in str(listing).splitlines()[1:] if line.strip()]
    strange = [name for name in names if name not in (RAM_ID, "pc.bios", "pc.rom") and not _is_rom(name)]
    if strange:
        raise ConfigError(
            f"this QEMU has memory that cannot be protected ({', '.join(strange)}): leave out the display, pflash, or "
            "whatever device has its own memory"
        )


def _is_rom(name: str) -> bool:
    """Tell whether a block of memory is a ROM, by QEMU's name for it."""
    return name.startswith("/rom@") or name.endswith(".rom")
