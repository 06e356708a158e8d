"""The KVM machine as the C core offers it: memory, runs, inputs, outputs, state. Its thread is C; none is started here.

The only wrapper of the native noun `kvm` (ftvm/_native/kvm.h is the manual).
"""

import errno
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, Flag
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm.errors import ClosedError, ConfigError, GuestError, TrackingLost
from ftvm.guests.elf import Program
from ftvm.guests.flagged import FlaggedMemory
from ftvm.guests.kvm.boot import PAGE_TABLE, STACK_TOP, place_program
from ftvm.guests.kvm.system import BOOT_PARAMETERS, SEGMENTS, KvmSystem, place_system
from ftvm.units import PAGE_BYTES, PageCount, bytes_to_pages

__all__ = ["DEVICE", "Ending", "KvmEndedBy", "KvmMachine", "KvmMemory", "KvmOutput", "KvmShape", "News", "check_device"]

DEVICE: Final = "/dev/kvm"
GAP_NS_MAX: Final = int(lib.FTVM_KVM_GAP_NS_MAX)
_RAM_BYTES_MAX: Final = int(lib.FTVM_KVM_RAM_BYTES_MAX)
_DISK_BYTES_MAX: Final = 64 << 30
PROCESSORS_MAX: Final = int(lib.FTVM_KVM_PROCESSORS_MAX)
_CHANNELS: Final = {lib.FTVM_KVM_CHANNEL_CONSOLE: "console", lib.FTVM_KVM_CHANNEL_NET: "net0"}
_OUTPUT_HEADER: Final = struct.Struct("<II")


class KvmEndedBy(Enum):
    """Why a machine can run no more; see kvm.h."""

    NOBODY = lib.FTVM_KVM_NOT_ENDED
    PROGRAM = lib.FTVM_KVM_BY_PROGRAM
    SHUTDOWN = lib.FTVM_KVM_BY_SHUTDOWN
    HALT = lib.FTVM_KVM_BY_HALT
    INTERNAL = lib.FTVM_KVM_BY_INTERNAL
    ENTRY = lib.FTVM_KVM_BY_ENTRY
    EXIT = lib.FTVM_KVM_BY_EXIT
    ERRNO = lib.FTVM_KVM_BY_ERRNO
    RESET = lib.FTVM_KVM_BY_RESET


class News(Flag):
    """What the attendant of a machine is to look at; see kvm.h."""

    OUTPUTS = lib.FTVM_KVM_HAS_OUTPUTS
    ENDED = lib.FTVM_KVM_HAS_ENDED
    CLOSING = lib.FTVM_KVM_IS_CLOSING


@dataclass(frozen=True, slots=True)
class Ending:
    """How a machine ended: by what, with which detail (an exit code, a number of KVM's), where its program stood."""

    by: KvmEndedBy
    detail: int
    pc: int

    def __str__(self) -> str:
        match self.by:
            case KvmEndedBy.PROGRAM:
                return f"the program ended with code {self.detail}"
            case KvmEndedBy.SHUTDOWN:
                return f"the guest's processor shut down by a triple fault at {self.pc:#x}"
            case KvmEndedBy.HALT:
                return f"the guest halted at {self.pc:#x}, and this machine has no interrupt that could wake it"
            case KvmEndedBy.INTERNAL:
                return f"KVM could not go on at {self.pc:#x} (KVM_EXIT_INTERNAL_ERROR, suberror {self.detail})"
            case KvmEndedBy.ENTRY:
                return f"the processor refused to run the guest at {self.pc:#x} (hardware reason {self.detail:#x})"
            case KvmEndedBy.EXIT:
                return f"KVM left the guest at {self.pc:#x} by exit {self.detail}, which this machine does not know"
            case KvmEndedBy.ERRNO:
                return f"KVM_RUN failed: {os.strerror(self.detail)}"
            case KvmEndedBy.RESET:
                return f"the guest asked for a reset at {self.pc:#x}: this machine is switched off, not started again"
            case _:
                return "it can run"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmOutput:
    """One output, in the order in which the program made them."""

    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmShape:
    """What a machine is made of; both hosts' must be equal. `mac` None means no network, `disk_bytes` 0 no disk,
    `processors` 0 a program's machine, without interrupts: with 1 to 4 it runs a system."""

    ram_bytes: int = 64 << 20
    mac: bytes | None = None
    disk_bytes: int = 0
    has_entropy: bool = False
    processors: int = 0

    def __post_init__(self) -> None:
        if self.ram_bytes % PAGE_BYTES or not 0 < self.ram_bytes <= _RAM_BYTES_MAX:
            raise ConfigError(f"memory must be a multiple of {PAGE_BYTES} bytes, at most 3 GiB, not {self.ram_bytes}")
        if self.mac is not None and (len(self.mac) != 6 or self.mac[0] & 1):
            raise ConfigError(f"a machine's MAC address is 6 bytes, the first one even, not {self.mac.hex(':')!r}")
        if self.disk_bytes % PAGE_BYTES or not 0 <= self.disk_bytes <= _DISK_BYTES_MAX:
            raise ConfigError(f"a disk must be a multiple of {PAGE_BYTES} bytes, at most 64 GiB, not {self.disk_bytes}")
        if not 0 <= self.processors <= PROCESSORS_MAX:
            raise ConfigError(f"a system's machine has 1 to {PROCESSORS_MAX} processors, not {self.processors}")

    def __str__(self) -> str:
        net = self.mac.hex(":") if self.mac is not None else "none"
        entropy = "yes" if self.has_entropy else "no"
        shape = f"ram={self.ram_bytes // 1024}KiB net={net} disk={self.disk_bytes // 1024}KiB entropy={entropy}"
        return f"{shape} processors={self.processors}" if self.processors else shape

    @property
    def devices(self) -> int:
        """The set of optional devices, as kvm.h numbers them."""
        net = lib.FTVM_KVM_NET if self.mac is not None else 0
        block = lib.FTVM_KVM_BLOCK if self.disk_bytes else 0
        return int(net | block | (lib.FTVM_KVM_ENTROPY if self.has_entropy else 0))

    @property
    def slots(self) -> tuple[int, ...]:
        """The places of virtio devices where there is one."""
        return tuple(slot for slot in range(self.devices.bit_length()) if self.devices >> slot & 1)


class KvmMemory:
    """Page-aligned zeroed memory that KVM writes: shared, as large pages would slow the tracking."""

    def __init__(self, size_bytes: int) -> None:
        self.page_count: PageCount = bytes_to_pages(size_bytes)
        self.pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self.buffer = memoryview(self.pages)


class KvmMachine:
    """One machine, paused. Safe for several threads, as kvm.h says; `close` once nobody else uses it."""

    def __init__(self, shape: KvmShape, *, device: str = DEVICE, disk: FlaggedMemory | None = None) -> None:
        """Open it; `disk` is the memory of its disk, of the shape's size, if another than blank memory.

        Raises ConfigError that says what KVM, this user or the shape lacks.
        """
        self.shape = shape
        self.ram = KvmMemory(shape.ram_bytes)
        self.disk = disk if disk is not None or not shape.disk_bytes else FlaggedMemory(shape.disk_bytes)
        state = mmap.mmap(-1, lib.ftvm_kvm_bytes(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        disk_parts = (self.disk.pages, self.disk.flags, self.disk.flush) if self.disk is not None else ()
        # from_buffer keeps each buffer alive as long as its pointer is; the maps are exported, not views of them: see
        # _address in ftvm/_native/memory.py.
        self._pointers = [
            ffi.from_buffer("uint8_t[]", pages, require_writable=True) for pages in (state, self.ram.pages, *disk_parts)
        ]
        self._machine: Any = _open(self._pointers, shape, device)
        self._outputs = ffi.new("uint8_t[]", int(lib.FTVM_KVM_OUTPUT_BYTES))
        self._state = ffi.new("uint8_t[]", int(lib.FTVM_KVM_STATE_BYTES_MAX))
        self.cpu: str = ffi.string(lib.ftvm_kvm_cpu(self._machine)).decode("ascii", "replace")
        """What the processor is and can do; see kvm.h."""

    def boot(self, program: Program) -> None:
        """Load a program into blank memory, and let the processor begin there. Raises ImageError, GuestError."""
        place_program(program, self.ram.buffer)
        error = lib.ftvm_kvm_boot(self._native, program.entry, STACK_TOP, PAGE_TABLE)
        if error:
            raise GuestError(f"KVM does not start a program at privilege level 3: {os.strerror(-error)}")

    def boot_system(self, system: KvmSystem) -> None:
        """Load a system into blank memory, and let the first processor begin there. Raises ImageError, GuestError."""
        entry = place_system(system, self.ram.buffer, processors=self.shape.processors, slots=self.shape.slots)
        error = lib.ftvm_kvm_boot_system(self._native, entry, PAGE_TABLE, SEGMENTS, BOOT_PARAMETERS)
        if error:
            raise GuestError(f"KVM does not start a system: {os.strerror(-error)}")

    @property
    def _native(self) -> Any:
        if self._machine is None:
            raise ClosedError("the machine is closed")
        return self._machine

    def resume(self) -> None:
        """Let it run. Idempotent."""
        lib.ftvm_kvm_resume(self._native)

    def pause(self, *, is_attendant: bool = False) -> None:
        """Return when it stands still and all its outputs are emitted. Idempotent."""
        lib.ftvm_kvm_pause(self._native, is_attendant)

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return bool(lib.ftvm_kvm_is_paused(self._native))

    def stop_at_output(self, is_wanted: bool) -> None:
        """Have it pause by itself right behind each instruction that makes an output, or not."""
        lib.ftvm_kvm_stop_at_output(self._native, is_wanted)

    def wait_for_news(self) -> News:
        """Wait until there is something to do for the attendant, and return what."""
        return News(lib.ftvm_kvm_await(self._native))

    def take_outputs(self) -> Sequence[KvmOutput]:
        """Return the outputs that nobody has taken, in order."""
        stream = bytes(ffi.buffer(self._outputs, lib.ftvm_kvm_take(self._native, self._outputs)))
        outputs = []
        at = 0
        while at < len(stream):
            channel, length = _OUTPUT_HEADER.unpack_from(stream, at)
            at += _OUTPUT_HEADER.size
            outputs.append(KvmOutput(channel=_CHANNELS[channel], payload=stream[at : at + length]))
            at += (length + 7) // 8 * 8
        return outputs

    def leave(self) -> None:
        """Say that the attendant is gone."""
        lib.ftvm_kvm_leave(self._native)

    def dismiss(self) -> None:
        """Tell the attendant to end; pauses the machine."""
        lib.ftvm_kvm_dismiss(self._native)

    def receive_frame(self, frame: bytes) -> bool:
        """Put a frame in the network device's line; return False if it was dropped."""
        return bool(lib.ftvm_kvm_receive_frame(self._native, ffi.from_buffer("uint8_t[]", frame), len(frame)))

    def receive_console(self, content: bytes) -> bool:
        """Put bytes in the uart's line; return False if they were dropped."""
        return bool(lib.ftvm_kvm_receive_console(self._native, ffi.from_buffer("uint8_t[]", content), len(content)))

    @property
    def ending(self) -> Ending:
        """How it ended, by NOBODY while it can run."""
        detail, pc = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        by = KvmEndedBy(lib.ftvm_kvm_ended_by(self._native, detail, pc))
        return Ending(by, int(detail[0]), int(pc[0]))

    @property
    def clock_pages(self) -> Sequence[int]:
        """The pages that KVM writes unseen. Raises TrackingLost if KVM does not tell."""
        pages = [int(lib.ftvm_kvm_clock_page(self._native, number)) for number in range(max(1, self.shape.processors))]
        if -2 in pages:
            raise TrackingLost("KVM does not tell which page it writes the guest's clock to")
        return [page for page in pages if page >= 0]

    @property
    def has_log(self) -> bool:
        """Whether KVM itself can tell which pages were written."""
        return bool(lib.ftvm_kvm_has_log(self._native))

    def collect_written(self, words: bytearray) -> None:
        """Get and clear which pages of RAM were written, but for `clock_pages`, as a bitmap; only while paused.

        The first time these are all pages, later it may be more than were written. Raises TrackingLost.
        """
        error = lib.ftvm_kvm_collect(self._native, ffi.from_buffer("uint64_t[]", words, require_writable=True))
        if error:
            raise TrackingLost(f"KVM does not tell which pages were written: {os.strerror(-error)}")

    def save(self) -> bytes:
        """Return all state outside of memory and disk; only while paused. Raises GuestError."""
        length = lib.ftvm_kvm_save(self._native, self._state, len(self._state))
        if length <= 0:
            raise GuestError(f"KVM does not tell the processor's state: {os.strerror(-length)}")
        return bytes(ffi.buffer(self._state, length))

    def load(self, state: bytes) -> None:
        """Become the machine that `save` described; only while paused. Raises GuestError; it is then as before."""
        wrong = ffi.new("char[]", int(lib.FTVM_KVM_WRONG_BYTES))
        if lib.ftvm_kvm_load(self._native, ffi.from_buffer("uint8_t[]", state), len(state), wrong):
            raise GuestError(f"the machine's state does not load: {ffi.string(wrong).decode()}")

    def clocks(self) -> tuple[int, int]:
        """Return what the guest's clocks read now: its kvmclock in nanoseconds, and its time stamp counter."""
        clock_ns, ticks = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        error = lib.ftvm_kvm_clocks(self._native, clock_ns, ticks)
        if error:
            raise GuestError(f"KVM does not tell the guest's time: {os.strerror(-error)}")
        return int(clock_ns[0]), int(ticks[0])

    def close(self) -> None:
        """Stop it and give back what it holds. Idempotent."""
        machine, self._machine = self._machine, None
        if machine is not None:
            lib.ftvm_kvm_close(machine)


def _open(pointers: Sequence[Any], shape: KvmShape, device: str) -> Any:
    config = ffi.new("ftvm_kvm_config *")
    config.device = path = ffi.new("char[]", os.fsencode(device))
    config.ram, config.ram_bytes = pointers[1], shape.ram_bytes
    if shape.disk_bytes:
        config.disk, config.disk_flags, config.disk_flush = pointers[2:]
        config.disk_bytes = shape.disk_bytes
    config.devices = shape.devices
    config.processors = shape.processors
    config.mac = list(shape.mac or bytes(6))
    step = ffi.new("enum ftvm_kvm_step *")
    error = lib.ftvm_kvm_open(pointers[0], config, step)
    del path
    if error:
        raise ConfigError(_missing(device, step[0], -error))
    return ffi.cast("ftvm_kvm *", pointers[0])


def check_device(device: str = DEVICE, *, processors: int = 0) -> str:
    """Return what the processor is that KVM offers here; raises ConfigError if no such machine can be made."""
    machine = KvmMachine(KvmShape(ram_bytes=PAGE_BYTES, processors=processors), device=device)
    machine.close()
    return machine.cpu


def _missing(device: str, step: int, error: int) -> str:
    """Say why a machine cannot be made, and what helps."""
    why = os.strerror(error)
    match step, error:
        case lib.FTVM_KVM_DEVICE, (errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.ENOSYS):
            return (
                f"no KVM here: {device} cannot be opened ({why}). Load the module kvm_intel or kvm_amd, and see that "
                "virtualization is on in the firmware; in a virtual machine, nested virtualization must be allowed"
            )
        case lib.FTVM_KVM_DEVICE, (errno.EACCES | errno.EPERM):
            return f"no right to use {device} ({why}): add this user to its group, most often `kvm`"
        case lib.FTVM_KVM_DEVICE, _:
            return f"{device} cannot be opened: {why}"
        case lib.FTVM_KVM_VERSION, _:
            return f"{device} is not the KVM that ftvm knows (API version 12): {why}"
        case lib.FTVM_KVM_CAPABILITY, _:
            return (
                f"the KVM of this kernel lacks what saving and loading a processor needs ({why}), or what a system "
                "needs: interrupt controllers, a deadline timer; Linux 5.16 has them"
            )
        case lib.FTVM_KVM_MEMORY, _:
            return f"KVM does not take the machine's memory: {why}"
        case lib.FTVM_KVM_THREAD, _:
            return f"the machine's thread cannot be started: {why}"
        case _:
            return f"KVM does not make a virtual machine: {why}"
