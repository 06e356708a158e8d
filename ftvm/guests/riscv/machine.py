"""The built-in machine as the C core offers it: memory, runs, inputs, outputs, state. No threads, no clock.

The only wrapper of the native noun `riscv` (ftvm/_native/riscv.h is the manual). It promises that the machine's future
depends on its memory, its saved state and its inputs alone.
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm.errors import ConfigError, GuestError, ImageError, LocalProtocolError
from ftvm.guests.elf import Program
from ftvm.guests.flagged import FlaggedMemory
from ftvm.guests.riscv.fdt import build_fdt, machine_tree
from ftvm.units import PAGE_BYTES

__all__ = [
    "RAM_BASE",
    "TICKS_PER_MTIME",
    "EndedBy",
    "Machine",
    "MachineOutput",
    "MachineShape",
    "Position",
    "StopReason",
]

RAM_BASE: Final = int(lib.FTVM_RISCV_RAM_BASE)
TICKS_PER_MTIME: Final = int(lib.FTVM_RISCV_TICKS_PER_MTIME)
FRAME_BYTES_MAX: Final = int(lib.FTVM_RISCV_FRAME_BYTES_MAX)

_CHANNELS: Final = {lib.FTVM_RISCV_CHANNEL_CONSOLE: "console", lib.FTVM_RISCV_CHANNEL_NET: "net0"}
_OUTPUT_HEADER: Final = struct.Struct("<II")
_STATE_BYTES_MAX: Final = 4096
_DISK_BYTES_MAX: Final = 64 << 30
"""As for RAM: it lies in memory, too."""
_NEVER: Final = (1 << 64) - 1
_NOT_ENDED: Final = int(lib.FTVM_RISCV_NOT_ENDED)


class StopReason(Enum):
    """Why a run ended; see riscv.h."""

    LIMIT = lib.FTVM_RISCV_LIMIT
    IDLE = lib.FTVM_RISCV_IDLE
    OUTPUT = lib.FTVM_RISCV_OUTPUT
    FINISHED = lib.FTVM_RISCV_FINISHED
    STOPPED = lib.FTVM_RISCV_STOPPED
    STUCK = lib.FTVM_RISCV_STUCK
    HIT = lib.FTVM_RISCV_HIT


class EndedBy(Enum):
    """Who ended a machine: nobody yet, the program by the finisher, or by its HTIF word."""

    NOBODY = lib.FTVM_RISCV_NOT_ENDED
    FINISHER = lib.FTVM_RISCV_BY_FINISHER
    TOHOST = lib.FTVM_RISCV_BY_TOHOST


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """How far a machine has come: instructions begun, and ticks spent waiting."""

    retired: int
    idled: int

    @property
    def ticks(self) -> int:
        """Both together: the machine's own time, TICKS_PER_MTIME to one count of mtime."""
        return self.retired + self.idled


@dataclass(frozen=True, slots=True)
class MachineOutput:
    """One output, in the order in which the program made them."""

    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineShape:
    """What a machine is made of; both hosts' must be equal. `mac` None means no network, `disk_bytes` 0 no disk."""

    ram_bytes: int = 64 << 20
    mac: bytes | None = None
    disk_bytes: int = 0
    has_entropy: bool = False

    def __post_init__(self) -> None:
        if self.ram_bytes % PAGE_BYTES or not lib.ftvm_riscv_bytes(self.ram_bytes):
            raise ConfigError(f"memory must be a multiple of {PAGE_BYTES} bytes, at most 64 GiB, not {self.ram_bytes}")
        if self.mac is not None and (len(self.mac) != 6 or self.mac[0] & 1):
            raise ConfigError(f"a machine's MAC address is 6 bytes, the first one even, not {self.mac.hex(':')!r}")
        if self.disk_bytes % PAGE_BYTES or not 0 <= self.disk_bytes <= _DISK_BYTES_MAX:
            raise ConfigError(f"a disk must be a multiple of {PAGE_BYTES} bytes, at most 64 GiB, not {self.disk_bytes}")

    def __str__(self) -> str:
        # With a disk it is another machine than in v0.1.0: when requests are served, and which, shows in a replay.
        version = 2 if self.disk_bytes else 1
        net = self.mac.hex(":") if self.mac is not None else "none"
        entropy = "yes" if self.has_entropy else "no"
        sizes = f"ram={self.ram_bytes // 1024}KiB net={net} disk={self.disk_bytes // 1024}KiB"
        return f"riscv/{version} {sizes} entropy={entropy}"

    @property
    def devices(self) -> int:
        """The set of optional devices, as riscv.h numbers them."""
        net = lib.FTVM_RISCV_NET if self.mac is not None else 0
        block = lib.FTVM_RISCV_BLOCK if self.disk_bytes else 0
        return int(net | block | (lib.FTVM_RISCV_ENTROPY if self.has_entropy else 0))

    @property
    def virtio_slots(self) -> tuple[int, ...]:
        """The virtio slots that are in use."""
        return tuple(slot for slot in range(3) if self.devices >> slot & 1)


class Machine:
    """One machine, in reset and with blank memory. Not safe for several threads, but for `stop`."""

    def __init__(self, shape: MachineShape, disk: FlaggedMemory | None = None) -> None:
        """Make it; `disk` is the memory of its disk, of the shape's size, if another than blank memory."""
        self.shape = shape
        self.ram = FlaggedMemory(shape.ram_bytes)
        self.disk = disk if disk is not None or not shape.disk_bytes else FlaggedMemory(shape.disk_bytes)
        self._state = mmap.mmap(-1, lib.ftvm_riscv_bytes(shape.ram_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.kept: dict[str, Any] = {}  # alive as long as the machine: what else the C core was given to write to
        self._machine = self._init()
        self._length = ffi.new("size_t *")
        self._count = ffi.new("size_t *")

    def _init(self) -> Any:
        # from_buffer keeps each buffer alive as long as its pointer is: the pointers live as long as the machine. The
        # maps themselves are exported, not views of them: see _address in ftvm/_native/memory.py.
        self._pointers = [
            ffi.from_buffer("uint8_t[]", part, require_writable=True)
            for memory in (self.ram, self.disk)
            if memory is not None
            for part in (memory.pages, memory.flags, memory.flush)
        ]
        config = ffi.new("ftvm_riscv_config *")
        config.ram, config.flags, config.ram_bytes = self._pointers[0], self._pointers[1], self.shape.ram_bytes
        if self.disk is not None:
            config.disk, config.disk_flags, config.disk_flush = self._pointers[3:]
            config.disk_bytes = self.shape.disk_bytes
        config.devices = self.shape.devices
        config.mac = list(self.shape.mac or bytes(6))
        self._state_pointer = ffi.from_buffer("uint8_t[]", self._state, require_writable=True)
        machine = lib.ftvm_riscv_init(self._state_pointer, config)
        if machine == ffi.NULL:
            raise ConfigError(f"the machine cannot be made: {self.shape}")
        return machine

    def boot(self, program: Program, *, command_line: str = "") -> None:
        """Load a program and its device tree into memory, and let the hart begin there.

        `command_line` stands in the tree (/chosen, bootargs). Raises ConfigError if it is no text for a device tree,
        ImageError if program and tree do not both fit into memory; nothing is loaded then.
        """
        tree = self._device_tree(command_line)
        tree_at = (self.shape.ram_bytes - len(tree)) // PAGE_BYTES * PAGE_BYTES
        program_end = max(segment.address + segment.memory_bytes for segment in program.segments) - RAM_BASE
        if program_end > tree_at:
            raise ImageError(
                f"the program takes the first {program_end} bytes of memory, the device tree with the boot arguments "
                f"needs {len(tree)}: {self.shape.ram_bytes // 1024} KiB are too few; give the machine more memory"
            )
        for segment in program.segments:
            self.ram.write(segment.address - RAM_BASE, segment.content)
        self.ram.write(tree_at, tree)
        lib.ftvm_riscv_boot(self._machine, program.entry, RAM_BASE + tree_at, program.tohost)
        self.flush()

    def _device_tree(self, command_line: str) -> bytes:
        if not command_line.isprintable():
            raise ConfigError(f"boot arguments must be printable text, not {command_line!r}")
        return build_fdt(
            machine_tree(
                ram_base=RAM_BASE,
                ram_bytes=self.shape.ram_bytes,
                virtio_slots=self.shape.virtio_slots,
                command_line=command_line,
            )
        )

    @property
    def native(self) -> Any:
        """The machine of riscv.h, for the thread that runs it (turn.py), and for who looks in (debug.h)."""
        return self._machine

    def run(self, instructions: int, *, stop_at_output: bool = False, is_cached: bool = True) -> StopReason:
        """Run until so many more instructions are retired, or until something else ends it; releases the GIL."""
        options = lib.FTVM_RISCV_STOP_AT_OUTPUT if stop_at_output else 0
        options |= 0 if is_cached else lib.FTVM_RISCV_NO_CACHE
        return StopReason(lib.ftvm_riscv_run(self._machine, instructions, options))

    def stop(self) -> None:
        """End the present run soon, or the next one at once; safe from any thread."""
        lib.ftvm_riscv_stop(self._machine)

    @property
    def position(self) -> Position:
        """How far it has come."""
        return Position(self.retired, self.idled)

    @property
    def retired(self) -> int:
        """How many instructions it has begun."""
        return int(lib.ftvm_riscv_retired(self._machine))

    @property
    def idled(self) -> int:
        """How many ticks it has spent waiting."""
        return int(lib.ftvm_riscv_idled(self._machine))

    def settle(self) -> None:
        """Let interrupt lines follow their devices, as the start of a run does: what is saved then does not depend on
        whether a run of no instructions came after the last input."""
        self.run(0)

    def idle(self, ticks: int) -> None:
        """Let time pass while the hart waits, at most `idle_max` of it."""
        lib.ftvm_riscv_idle(self._machine, ticks)

    def idle_max(self) -> int | None:
        """Return how many ticks may pass before the timer wants to interrupt; None if it never will."""
        ticks = int(lib.ftvm_riscv_idle_max(self._machine))
        return None if ticks == _NEVER else ticks

    def receive_frame(self, frame: bytes) -> bool:
        """Give the network device a frame; return False if it has no buffer ready now. Drops what it can never take."""
        return bool(lib.ftvm_riscv_receive_frame(self._machine, frame, len(frame)) != 0)

    def receive_console(self, content: bytes) -> int:
        """Give the uart some bytes; return how many it had room for."""
        return int(lib.ftvm_riscv_receive_console(self._machine, content, len(content)))

    def entropy_wanted(self) -> int:
        """Return how many random bytes the program waits for."""
        return int(lib.ftvm_riscv_entropy_wanted(self._machine)) if self.shape.has_entropy else 0

    def receive_entropy(self, content: bytes) -> int:
        """Give the entropy device random bytes; return how many it took."""
        return int(lib.ftvm_riscv_receive_entropy(self._machine, content, len(content)))

    def take_outputs(self) -> Sequence[MachineOutput]:
        """Return the outputs made since the last call, in order."""
        start = lib.ftvm_riscv_outputs(self._machine, self._length, self._count)
        if self._count[0] == 0:
            return ()
        stream = bytes(ffi.buffer(start, self._length[0]))
        lib.ftvm_riscv_outputs_clear(self._machine)
        outputs = []
        at = 0
        while at < len(stream):
            channel, length = _OUTPUT_HEADER.unpack_from(stream, at)
            at += _OUTPUT_HEADER.size
            outputs.append(MachineOutput(_CHANNELS[channel], stream[at : at + length]))
            at += (length + 7) // 8 * 8
        return outputs

    @property
    def exit_code(self) -> int:
        """The code with which the program ended the machine; 0 is success."""
        return int(lib.ftvm_riscv_exit_code(self._machine))

    @property
    def has_ended(self) -> bool:
        """Whether somebody has ended it."""
        return bool(lib.ftvm_riscv_ended_by(self._machine) != _NOT_ENDED)

    @property
    def ended_by(self) -> EndedBy:
        """Who ended it."""
        return EndedBy(lib.ftvm_riscv_ended_by(self._machine))

    def save(self) -> bytes:
        """Return all state outside of memory and disk.

        Raises LocalProtocolError if outputs were not taken, or it stopped at a breakpoint (debug.h).
        """
        state = ffi.new("uint8_t[]", _STATE_BYTES_MAX)
        length = lib.ftvm_riscv_save(self._machine, state, _STATE_BYTES_MAX)
        if length == 0:
            raise LocalProtocolError("a machine is saved with its outputs taken, and not at a breakpoint")
        return bytes(ffi.buffer(state, length))

    def load(self, state: bytes) -> None:
        """Become the machine that `save` described, on memory as it is. Raises GuestError; it is then as before."""
        wrong = lib.ftvm_riscv_load(self._machine, ffi.from_buffer("uint8_t[]", state), len(state))
        if wrong != ffi.NULL:
            raise GuestError(f"the machine's state does not load: {ffi.string(wrong).decode()}")

    def flush(self) -> None:
        """Forget decoded code: after memory or flags were written from outside."""
        lib.ftvm_riscv_flush(self._machine)

    def register(self, number: int) -> int:
        """Return x0 to x31, or pc as number 32."""
        return int(lib.ftvm_riscv_peek_register(self._machine, number))

    def csr(self, number: int) -> int | None:
        """Return a control and status register, None if that number has none."""
        value = ffi.new("uint64_t *")
        return int(value[0]) if lib.ftvm_riscv_peek_csr(self._machine, number, value) else None
