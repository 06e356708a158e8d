"""The built-in machine as a `Guest`: its own thread stays in the C core (turn.py), and comes back with what it did.
While it waits there, whoever gives inputs may do the turn that they lead to.

It promises that `pause` returns with the machine between two instructions and all outputs made so far emitted, in
order; that an input given while the machine waits is taken at once; and that while the hart waits, the machine's time
goes as the clock does (while it computes, time is counted in instructions). Frames and keys that were delivered but not
yet taken by the machine are not part of its state: they may be lost at a takeover, as on any network.
"""

from collections.abc import Callable, Sequence
from os import urandom
from pathlib import Path
from typing import Final

from ftvm.checkpoint import END_CHANNEL, Bitmap, Geometry, GuestPosition, LogKind, LogRecord, RegionShape
from ftvm.errors import GuestError, LocalProtocolError
from ftvm.guests.disk.kept import open_disk, regions_of
from ftvm.guests.elf import parse_elf
from ftvm.guests.files import read_program_file
from ftvm.guests.flagged import FlaggedMemory
from ftvm.guests.riscv.follow import Course
from ftvm.guests.riscv.machine import RAM_BASE, EndedBy, Machine, MachineShape, StopReason
from ftvm.guests.riscv.turn import CLOSED, ENDED, ENTROPY, ENTROPY_BYTES_MAX, INPUT, OUTPUT, Turn
from ftvm.guests.thread import GuestThread
from ftvm.interfaces import Capability, Clock, OutputSink, Region

__all__ = ["DEFAULT_MAC", "RiscvGuest"]

DEFAULT_MAC: Final = bytes.fromhex("525400123456")


class RiscvGuest:
    """A built-in machine under protection. See `Guest` for the contract of each member.

    program                 an ELF executable, or its path; None for a standby, whose memory comes by the first copy
    memory_bytes            size of RAM
    mac                     address of the network card; None for no card
    disk                    the virtio block device: the path of a raw image, which is this guest's alone and is kept at
                            its last checkpoint, and at its end; or the content itself, or a size in bytes for a blank
                            one, in memory only; 0 for no disk. A standby's image is overwritten
    entropy                 where the random bytes come from that the program asks for, a function of how many; each
                            draw is an input, logged for replay. None for no entropy device
    command_line            given to the program in the device tree (/chosen, bootargs)
    instructions_per_second how fast the machine's time goes while the hart waits; the default keeps mtime at 10 MHz
    clock                   not used any more: the C core reads the host's monotonic clock

    Memory, card, size of the disk and presence of the entropy device must be equal on both hosts. Raises ConfigError or
    ImageError, before a thread is started.
    """

    def __init__(
        self,
        program: bytes | str | Path | None,
        *,
        clock: Clock | None = None,
        memory_bytes: int = 64 << 20,
        mac: bytes | None = DEFAULT_MAC,
        disk: bytes | int | str | Path = 0,
        entropy: Callable[[int], bytes] | None = urandom,
        command_line: str = "",
        instructions_per_second: int = 100_000_000,
    ) -> None:
        del clock
        image = program if isinstance(program, bytes) or program is None else read_program_file(Path(program))
        loaded = None if image is None else parse_elf(image, ram_base=RAM_BASE, ram_bytes=memory_bytes)
        size_bytes, self._kept = open_disk(disk, boots=program is not None)
        try:
            shape = MachineShape(
                ram_bytes=memory_bytes, mac=mac, disk_bytes=size_bytes, has_entropy=entropy is not None
            )
            self._machine = Machine(shape, self._kept.memory if self._kept is not None else None)
            if loaded is not None:
                self._machine.boot(loaded, command_line=command_line)
        except BaseException:
            if self._kept is not None:
                self._kept.close()
            raise
        if self._machine.disk is not None and isinstance(disk, bytes) and loaded is not None:
            self._machine.disk.write(0, disk)
        self._turn = Turn(self._machine, ticks_per_second=instructions_per_second)
        self._course = Course(self._machine)
        self._entropy = entropy
        self._has_told_end = False
        self._thread = GuestThread("riscv-guest", self._attend, self._turn.leave, kept=self._kept)

    # --- what it is ---

    @property
    def geometry(self) -> Geometry:
        """Shape of memory and kind of machine."""
        regions = tuple(RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        return Geometry(machine=str(self._machine.shape), regions=regions)

    @property
    def memory(self) -> tuple[Region, ...]:
        """RAM, and the disk if there is one."""
        return regions_of(self._machine.ram.buffer, self._machine.disk, self._kept)

    @property
    def can(self) -> frozenset[Capability]:
        """What it can do beyond the least."""
        able = {Capability.EXACT_OUTPUT_STOP, Capability.REPLAY, Capability.TELLS_WRITES, Capability.TELLS_IDLE}
        return frozenset({*able, Capability.TAKES_GROUPS, Capability.REPLAYS_GROUPS})

    @property
    def position(self) -> GuestPosition:
        """How far the machine has come. Exact while paused."""
        return GuestPosition(self._machine.retired, self._machine.idled)

    def run_until(self, position: GuestPosition, limit: int | None = None) -> bool:
        """Run towards `position`, for at most `limit` instructions, emitting outputs, taking no input."""
        self._require_paused("run_until")
        machine = self._machine
        retired = machine.retired  # alone: a takeover replays thousands of records, and a Position is half of its cost
        while (left := position.retired - retired) > 0:
            if limit is not None and limit <= 0:
                return False
            stop = machine.run(left if limit is None else min(left, limit), stop_at_output=True)
            self._emit()
            before, retired = retired, machine.retired
            is_over = stop is StopReason.FINISHED or stop is StopReason.STUCK
            if is_over or (stop is StopReason.IDLE and retired - before < left):
                break
            limit = None if limit is None else limit - (retired - before)
        if retired != position.retired or machine.idled != position.idled:
            raise GuestError(f"the machine stands at {self.position} and cannot come to {position} by itself")
        return True

    def inject(self, record: LogRecord) -> None:
        """Give it again what it took at its present position."""
        self._require_paused("inject")
        if record.position != self.position:
            raise GuestError(f"the machine stands at {self.position}, not at {record.position}")
        if record.kind is LogKind.CLOCK:
            self._machine.idle(record.amount)
        elif not self._take_again(record.channel, record.payload):
            raise GuestError(f"the machine does not take its {record.channel} input at {record.position} again")

    def lead_along(self, log: Sequence[LogRecord], made_here: range, limit: int | None = None) -> tuple[int, int]:
        """Do what `run_until` and `inject` do for each record, as long as each is as it should be; not at all for a
        sink that takes no outputs together."""
        self._require_paused("lead_along")
        if self._hand_on_all is None:
            return 0, made_here.start
        taken, first_here = self._course.lead(log, made_here, limit)
        if self._kept is not None:
            self._kept.require_readable()
        self._hand_on_all(self._course)
        self._tell_end()
        return taken, first_here

    def _take_again(self, channel: str, payload: bytes) -> bool:
        match channel:
            case "net0":
                return self._machine.receive_frame(payload)
            case "console":
                return self._machine.receive_console(payload) == len(payload)
            case "entropy":
                return self._machine.receive_entropy(payload) == len(payload)
            case _:
                return False

    def failure(self) -> str | None:
        """Return why it can never run again, or None while it can; warn of what becomes of its disk's image."""
        return self._thread.look()

    # --- what the host asks of it ---

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink for its outputs; before the first run."""
        self._thread.attach(sink)
        self._hand_on_all: Callable[[Turn | Course], None] | None = getattr(sink, "hand_on", None)

    def stop_at_output(self, is_wanted: bool) -> None:
        """Pause by itself behind each instruction that makes an output, once that is emitted. Only while paused."""
        self._require_paused("stop_at_output")
        self._turn.stop_at_output(is_wanted)

    def resume(self) -> None:
        """Let it run. Idempotent."""
        self._thread.start()
        if self._thread.failure is None:
            self._turn.resume()

    def pause(self) -> None:
        """Return when the machine stands between two instructions and all its outputs are emitted. Idempotent."""
        self._turn.pause(waits=not self._thread.is_current)

    def close(self) -> None:
        """Stop it and join its thread. Idempotent."""
        self.pause()
        if self._thread.close(self._turn.close) and self._kept is not None:
            self._kept.close()

    def deliver(self, channel: str, payload: bytes) -> None:
        """Give it a frame ("net0") or keys ("console"); dropped when too much waits already, or nobody knows the
        channel."""
        self._turn.deliver(channel, bytes(payload))

    def deliver_all(self, inputs: Sequence[tuple[str, bytes]]) -> None:
        """Give it what came together, as by `deliver` of one after the other: it takes all of that in one turn.

        The caller's thread does that turn if the machine waits, and hands on what it says, before this returns. It does
        not where the disk has an image, as who reads one may have to wait.
        """
        _, is_borrowed = self._turn.deliver_all(inputs, borrows=self._kept is None and self._hand_on_all is not None)
        if is_borrowed:
            try:
                self._hand_on()
            finally:
                self._turn.give_back()

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call."""
        self._require_paused("collect_dirty")
        kept, memories = self._kept, self._memories()
        counts = tuple(memory.page_count for memory in memories)
        if kept is None:
            return Bitmap(counts, tuple(memory.take_dirty() for memory in memories))
        disk_words = kept.take()  # first: if this raises, nothing was taken
        return Bitmap(counts, (self._machine.ram.take_dirty(), disk_words))

    def has_written(self) -> bool:
        """Tell whether a page was written since the last `collect_dirty`; also while the machine runs."""
        return any(memory.is_dirty() for memory in self._memories())

    def is_idle(self) -> bool:
        """Tell whether the hart waits and has taken all its inputs; also while the machine runs."""
        return self._turn.is_idle

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        self._require_paused("restore_dirty")
        memories = self._memories()
        if bitmap.page_counts != tuple(memory.page_count for memory in memories):
            raise LocalProtocolError("the bitmap is of another geometry")
        for memory, words in zip(memories, bitmap.words, strict=True):
            memory.put_dirty(words)
        self._machine.flush()

    def save_devices(self) -> bytes:
        """Return everything outside memory that the machine's future depends on."""
        self._require_paused("save_devices")
        self._machine.settle()
        return self._machine.save()

    def load_devices(self, devices: bytes) -> None:
        """Become the machine that `save_devices` described, on the memory as it is."""
        self._require_paused("load_devices")
        self._machine.load(devices)
        self._has_told_end = self._has_ended_well()
        self._thread.revive()

    def _memories(self) -> tuple[FlaggedMemory, ...]:
        disk = self._machine.disk
        return (self._machine.ram,) if disk is None else (self._machine.ram, disk)

    def _require_paused(self, what: str) -> None:
        if self._turn.is_busy and not self._thread.is_current:
            raise LocalProtocolError(f"{what} needs the guest paused")

    # --- its thread ---

    def _attend(self) -> None:
        while (why := self._turn.go()) != CLOSED:
            if self._kept is not None and self._thread.has_lost_its_disk():
                break
            if why == ENTROPY:
                self._draw()
            else:
                self._hand_on()
            if why == ENDED:
                self._end()

    def _draw(self) -> None:
        wanted = min(self._machine.entropy_wanted(), ENTROPY_BYTES_MAX)
        self._turn.draw(self._entropy(wanted) if self._entropy is not None else b"")

    def _hand_on(self) -> None:
        """Tell the sink what the machine took and said, and how its clock moved."""
        if self._hand_on_all is not None:
            self._hand_on_all(self._turn)
            return
        sink = self._thread.sink
        for kind, channel, position, ticks, payload in self._turn.rows():
            if kind is OUTPUT:
                sink.emit(channel, payload, position)
            elif kind is INPUT:
                sink.took_input(position, channel, payload)
            else:
                sink.moved_clock(position, ticks)

    def _end(self) -> None:
        """Say that the program has ended, and why it can never run again."""
        self._tell_end()
        if self._machine.ended_by is not EndedBy.NOBODY:
            self._thread.failure = f"the program ended with code {self._machine.exit_code}"
        else:
            self._thread.failure = f"the program has no trap handler where it says, at {self._machine.register(32):#x}"

    def _tell_end(self) -> None:
        if self._has_ended_well() and not self._has_told_end:
            self._has_told_end = True
            self._thread.sink.emit(END_CHANNEL, b"the program ended with code 0", self.position)

    def _has_ended_well(self) -> bool:
        return self._machine.has_ended and self._machine.exit_code == 0

    def _emit(self) -> None:
        """Emit what the paused machine said where it stands, and its own end."""
        if self._kept is not None:
            self._kept.require_readable()
        for output in self._machine.take_outputs():
            self._thread.sink.emit(output.channel, output.payload, self.position)
        self._tell_end()
