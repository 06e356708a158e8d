"""The built-in machine as a `Guest`: its own thread runs it, gives it inputs between runs, and emits its outputs.

It promises that `pause` returns with the machine between two instructions and all outputs made so far emitted, in
order; that an input given while the machine waits is taken at once; and that while the hart waits, the machine's time
goes as the clock does (while it computes, time is counted in instructions). Frames and keys that were delivered but not
yet taken by the machine are not part of its state: they may be lost at a takeover, as on any network.
"""

import threading
from collections import deque
from collections.abc import Callable
from os import urandom
from pathlib import Path
from typing import Final

from ftvm.checkpoint import END_CHANNEL, Bitmap, Geometry, GuestPosition, LogKind, LogRecord, RegionShape
from ftvm.errors import ClosedError, ConfigError, GuestError, LocalProtocolError
from ftvm.guests.elf import parse_elf
from ftvm.guests.files import disk_bytes, fill_disk, read_program_file
from ftvm.guests.riscv.machine import RAM_BASE, EndedBy, FlaggedMemory, Machine, MachineShape, StopReason
from ftvm.interfaces import Capability, Clock, OutputSink, Region

__all__ = ["DEFAULT_MAC", "RiscvGuest"]

DEFAULT_MAC: Final = bytes.fromhex("525400123456")
_RUN_INSTRUCTIONS: Final = 1_000_000
"""One run; outputs, inputs and `pause` end it sooner."""
_RUN_INSTRUCTIONS_FED: Final = 20_000
"""One run while inputs wait that the machine had no room for."""
_FRAMES_WAITING_MAX: Final = 1_024
_CONSOLE_WAITING_MAX: Final = 65_536
_ENTROPY_BYTES_MAX: Final = 4_096
_NANOS: Final = 1_000_000_000


class RiscvGuest:
    """A built-in machine under protection. See `Guest` for the contract of each member.

    program                 an ELF executable, or its path; None for a standby, whose memory comes by the first copy
    memory_bytes            size of RAM
    mac                     address of the network card; None for no card
    disk                    the virtio block device: the path of a raw image, the content itself, or a size in bytes for
                            a blank one; 0 for no disk. The disk is memory: a file is read once, here, and never
                            written. A standby needs only the size, and reads no more of a file
    entropy                 where the random bytes come from that the program asks for, a function of how many; each
                            draw is an input, logged for replay. None for no entropy device
    command_line            given to the program in the device tree (/chosen, bootargs)
    instructions_per_second how fast the machine's time goes while the hart waits; the default keeps mtime at 10 MHz

    Memory, card, size of the disk and presence of the entropy device must be equal on both hosts. Raises ConfigError or
    ImageError, before a thread is started.
    """

    def __init__(
        self,
        program: bytes | str | Path | None,
        *,
        clock: Clock,
        memory_bytes: int = 64 << 20,
        mac: bytes | None = DEFAULT_MAC,
        disk: bytes | int | str | Path = 0,
        entropy: Callable[[int], bytes] | None = urandom,
        command_line: str = "",
        instructions_per_second: int = 100_000_000,
    ) -> None:
        if instructions_per_second <= 0:
            raise ConfigError("instructions_per_second must be more than 0")
        shape = MachineShape(
            ram_bytes=memory_bytes, mac=mac, disk_bytes=disk_bytes(disk), has_entropy=entropy is not None
        )
        self._machine = Machine(shape)
        if program is not None:
            image = program if isinstance(program, bytes) else read_program_file(Path(program))
            self._machine.boot(parse_elf(image, ram_base=RAM_BASE, ram_bytes=memory_bytes), command_line=command_line)
            fill_disk(disk, self._machine.disk)
        self._clock = clock
        self._entropy = entropy
        self._ticks_per_second = instructions_per_second
        self._sink: OutputSink | None = None
        self._failure: str | None = None
        self._has_told_end = False
        self._stops_at_output = False
        # guarded by _changed: what the thread shall do, what it does, and what waits for the machine
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_closing = False
        self._is_running = False
        self._is_fresh = False
        self._frames: deque[bytes] = deque()
        self._console = bytearray()
        # the thread's own: the clock's time at which the machine's time was so many ticks
        self._anchor_ns = 0
        self._anchor_ticks = 0
        self._thread = threading.Thread(target=self._main, name="riscv-guest", daemon=True)
        self._thread.start()

    # --- what it is ---

    @property
    def geometry(self) -> Geometry:
        """Shape of memory and kind of machine."""
        regions = tuple(RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        return Geometry(machine=str(self._machine.shape), regions=regions)

    @property
    def memory(self) -> tuple[Region, ...]:
        """RAM, and the disk if there is one."""
        ram, disk = self._machine.ram, self._machine.disk
        regions = [Region(name="ram", buffer=ram.buffer, page_count=ram.page_count)]
        if disk is not None:
            regions.append(Region(name="disk", buffer=disk.buffer, page_count=disk.page_count))
        return tuple(regions)

    @property
    def can(self) -> frozenset[Capability]:
        """What it can do beyond the least."""
        return frozenset({Capability.EXACT_OUTPUT_STOP, Capability.REPLAY})

    @property
    def position(self) -> GuestPosition:
        """How far the machine has come. Exact while paused."""
        here = self._machine.position
        return GuestPosition(here.retired, here.idled)

    def run_until(self, position: GuestPosition, limit: int | None = None) -> bool:
        """Run towards `position`, for at most `limit` instructions, emitting outputs, taking no input."""
        self._require_paused("run_until")
        while (left := position.retired - self._machine.position.retired) > 0:
            if limit is not None and limit <= 0:
                return False
            before = self._machine.position.retired
            stop = self._machine.run(left if limit is None else min(left, limit), stop_at_output=True)
            self._emit()
            done = self._machine.position.retired - before
            if stop in (StopReason.FINISHED, StopReason.STUCK) or (stop is StopReason.IDLE and done < left):
                break
            limit = None if limit is None else limit - done
        if self.position != position:
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
        """Return why it can never run again, or None while it can."""
        return self._failure

    # --- what the host asks of it ---

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink for its outputs; before the first run."""
        self._sink = sink

    def stop_at_output(self, is_wanted: bool) -> None:
        """Pause by itself behind each instruction that makes an output, once that is emitted. Only while paused."""
        self._require_paused("stop_at_output")
        self._stops_at_output = is_wanted

    def resume(self) -> None:
        """Let it run. Idempotent."""
        with self._changed:
            if self._is_closing:
                raise ClosedError("the guest is closed")
            self._attached()
            if self._is_wanted or self._failure is not None:
                return
            self._is_wanted = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Return when the machine stands between two instructions and all its outputs are emitted. Idempotent."""
        with self._changed:
            self._is_wanted = False
            self._machine.stop()
            self._changed.notify_all()
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: not self._is_running)

    def close(self) -> None:
        """StopReason it and join its thread. Idempotent."""
        self.pause()
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def deliver(self, channel: str, payload: bytes) -> None:
        """Give it a frame ("net0") or keys ("console"); dropped when too much waits already, or nobody knows the
        channel."""
        with self._changed:
            if channel == "net0" and len(self._frames) < _FRAMES_WAITING_MAX:
                self._frames.append(bytes(payload))
            elif channel == "console" and len(self._console) + len(payload) <= _CONSOLE_WAITING_MAX:
                self._console += payload
            else:
                return
            self._is_fresh = True
            if self._is_running:
                self._machine.stop()
            self._changed.notify_all()

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call."""
        self._require_paused("collect_dirty")
        memories = self._memories()
        return Bitmap(
            tuple(memory.page_count for memory in memories), tuple(memory.take_dirty() for memory in memories)
        )

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
        if self._thread.is_alive():
            self._failure = None

    def _memories(self) -> tuple[FlaggedMemory, ...]:
        disk = self._machine.disk
        return (self._machine.ram,) if disk is None else (self._machine.ram, disk)

    def _require_paused(self, what: str) -> None:
        if (self._is_wanted or self._is_running) and threading.current_thread() is not self._thread:
            raise LocalProtocolError(f"{what} needs the guest paused")

    # --- its thread ---

    def _main(self) -> None:
        try:
            while self._wait_until_wanted():
                self._run_once()
        finally:
            with self._changed:
                if not self._is_closing:
                    self._failure = self._failure or "the guest's thread ended by an error"
                self._is_running = False
                self._changed.notify_all()

    def _wait_until_wanted(self) -> bool:
        """Stand still while the guest is paused; return False when it is closed."""
        with self._changed:
            if self._is_wanted and not self._is_closing:
                return True
            self._is_running = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_wanted or self._is_closing)
            if self._is_closing:
                return False
            self._is_running = True
        self._anchor()
        return True

    def _anchor(self) -> None:
        self._anchor_ns = self._clock.now()
        self._anchor_ticks = self._machine.position.ticks

    def _run_once(self) -> None:
        self._feed()
        instructions = _RUN_INSTRUCTIONS_FED if self._frames or self._console else _RUN_INSTRUCTIONS
        stop = self._machine.run(instructions, stop_at_output=True)
        has_spoken = self._emit()
        if stop is StopReason.FINISHED:
            self._failure = f"the program ended with code {self._machine.exit_code}"
        elif stop is StopReason.STUCK:
            self._failure = f"the program has no trap handler where it says, at {self._machine.register(32):#x}"
        if self._failure is not None or (has_spoken and self._stops_at_output):
            with self._changed:
                self._is_wanted = False
        elif stop is StopReason.IDLE and not self._feed():
            self._wait_idle()

    def _feed(self) -> bool:
        """Give the machine as much of what waits as it can take now, and tell the sink. Return whether it took any."""
        here, sink = self.position, self._attached()
        taken = self._feed_entropy(here)
        with self._changed:
            self._is_fresh = False
            while self._frames and self._machine.receive_frame(self._frames[0]):
                sink.took_input(here, "net0", self._frames.popleft())
                taken = True
            keys = self._machine.receive_console(bytes(self._console)) if self._console else 0
            if keys:
                sink.took_input(here, "console", bytes(self._console[:keys]))
                del self._console[:keys]
                taken = True
        return taken

    def _feed_entropy(self, here: GuestPosition) -> bool:
        wanted = min(self._machine.entropy_wanted(), _ENTROPY_BYTES_MAX)
        if not wanted or self._entropy is None:
            return False
        content = self._entropy(wanted)
        taken = self._machine.receive_entropy(content)
        if taken:
            self._attached().took_input(here, "entropy", content[:taken])
        return taken > 0

    def _emit(self) -> bool:
        """Emit what the run said, its own end too; return whether it said anything."""
        outputs = self._machine.take_outputs()
        for output in outputs:
            self._attached().emit(output.channel, output.payload, self.position)
        ends_now = self._has_ended_well() and not self._has_told_end
        if ends_now:
            self._has_told_end = True
            self._attached().emit(END_CHANNEL, b"the program ended with code 0", self.position)
        return bool(outputs) or ends_now

    def _has_ended_well(self) -> bool:
        return self._machine.ended_by is not EndedBy.NOBODY and self._machine.exit_code == 0

    def _attached(self) -> OutputSink:
        if self._sink is None:
            raise LocalProtocolError("attach a sink for the guest's outputs before it runs")
        return self._sink

    def _wait_idle(self) -> None:
        """Wait for an input or the timer, then let the machine's time catch up with the clock's."""
        ahead_ticks = -self._ticks_behind()
        if ahead_ticks > 0:
            self._anchor()  # it computed faster than its time goes: a wait still takes as long as it says
        ticks_max = self._machine.idle_max()
        with self._changed:
            if ticks_max is None:
                self._changed.wait_for(self._is_disturbed)
            else:
                ticks_left = ticks_max - self._ticks_behind()
                seconds_left = max(0, ticks_left) / self._ticks_per_second
                self._changed.wait_for(self._is_disturbed, min(seconds_left, threading.TIMEOUT_MAX))
        passed = max(0, self._ticks_behind())
        passed = passed if ticks_max is None else min(passed, ticks_max)
        if passed:
            self._attached().moved_clock(self.position, passed)
            self._machine.idle(passed)

    def _is_disturbed(self) -> bool:
        return self._is_fresh or not self._is_wanted or self._is_closing

    def _ticks_behind(self) -> int:
        """Return how many ticks the machine's time is behind the clock's, since they were last made equal."""
        elapsed = (self._clock.now() - self._anchor_ns) * self._ticks_per_second // _NANOS
        return elapsed - (self._machine.position.ticks - self._anchor_ticks)
