"""The time machine: goes to any instruction of a recorded past, steps backwards, finds the last write of an address.

It leads a separate machine by the recorded inputs, keeps waypoints on the way (waypoints.py), and goes back by
restoring the nearest one and executing again: to the same state each time, as the machine is deterministic.

A place is a `Moment`. `go(n)` stands before instruction n and before the inputs that came there, but at the end behind
them all; a breakpoint that was reached stands behind them, with an interrupt taken if one was due. The past is
read-only: nothing here changes it.

Two spacings: coarse waypoints are laid by whoever comes by first, so a first look at the end executes everything
once; fine ones are laid where somebody steps backwards, so that the next step back executes little.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

from ftvm.checkpoint import GuestPosition, LogRecord
from ftvm.errors import ConfigError, GuestError
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason
from ftvm.history.hooks import Hit, HitKind, Hooks, InputLog, marks_of
from ftvm.history.recording import memory_digest
from ftvm.history.waypoints import Moment, Waypoint, Waypoints

if TYPE_CHECKING:
    from ftvm.history.coverage import Coverage

__all__ = ["Arrival", "Past", "TimeMachine"]

Arrival = Literal["there", "hit", "begin", "end", "interrupted"]
"""Why it stands where it stands: it was sent there; at a hit; at either end of the past; or it was told to stop."""

_SPACING: Final = 1_000_000
"""Instructions between coarse waypoints: a few milliseconds of execution."""
_FINE_SPACING: Final = 20_000
_WAYPOINT_BYTES_MAX: Final = 1 << 30


class Past(Protocol):
    """What a time machine needs: a state that can be restored, and the inputs' log from there on. `Recording` is one.

    A standby's store gives another: the state of an epoch, and the log up to the last one.
    """

    @property
    def shape(self) -> MachineShape:
        """What the machine is made of."""
        ...

    @property
    def inputs(self) -> Sequence[LogRecord]:
        """What the machine was given since, in order; outputs among the records are left out."""
        ...

    @property
    def end(self) -> GuestPosition:
        """How far the past reaches."""
        ...

    @property
    def digest(self) -> int | None:
        """The digest of the memory, then of the disk, at the end; None if it is not known."""
        ...

    def restore(self, machine: Machine) -> None:
        """Bring a blank machine to the first state. Raises GuestError."""
        ...


class TimeMachine:
    """A machine that can be anywhere in its past. Use it as a context manager, or close it.

    past        what was recorded
    program     the ELF file that ran, with its symbols and line numbers; for `cover` and for a debugger
    spacing     instructions between coarse waypoints
    bytes_max   how much memory waypoints may take; beyond it they move apart

    Each method that moves raises GuestError if the past does not go the way that its log says.
    """

    def __init__(
        self,
        past: Past,
        *,
        program: str | Path | None = None,
        spacing: int = _SPACING,
        bytes_max: int = _WAYPOINT_BYTES_MAX,
    ) -> None:
        if spacing < 1:
            raise ConfigError(f"waypoints must lie at least one instruction apart, not {spacing}")
        self.program = Path(program) if program is not None else None
        self._machine = Machine(past.shape)
        past.restore(self._machine)
        self._log = InputLog(past.inputs)
        self._places = [record.position.retired for record in self._log.records]
        self._hooks = Hooks(self._machine)
        self._start = self._machine.position.retired
        self._end = past.end.retired
        self._past = past
        self._is_end_checked = False
        self._spacing = spacing
        self._breaks: set[int] = set()
        self._watches: set[tuple[int, int]] = set()
        self._taken = 0
        self._midway = False
        self._waypoints = Waypoints(self._machine, self._hooks, Moment(self._start, 0), bytes_max=bytes_max)
        self.interrupted: Callable[[], bool] = lambda: False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks back. Idempotent."""
        self._hooks.close()

    # --- where it is, and what can be seen there ---

    @property
    def start(self) -> int:
        """The first instruction that can be gone to."""
        return self._start

    @property
    def end(self) -> int:
        """The last position: as many instructions were begun when the recording ended."""
        return self._end

    @property
    def moment(self) -> Moment:
        """Where it stands."""
        return Moment(self._machine.position.retired, self._taken)

    @property
    def position(self) -> GuestPosition:
        """Where it stands, with the time that the machine spent waiting."""
        here = self._machine.position
        return GuestPosition(here.retired, here.idled)

    @property
    def inputs(self) -> Sequence[LogRecord]:
        """The log: what the machine was given, in order."""
        return self._log.records

    @property
    def hooks(self) -> Hooks:
        """The hold on the machine, to count and to trace."""
        return self._hooks

    @property
    def shape(self) -> MachineShape:
        """What the machine is made of."""
        return self._machine.shape

    def register(self, number: int) -> int:
        """Return x0 to x31, or pc as number 32."""
        return self._machine.register(number)

    def csr(self, number: int) -> int | None:
        """Return a control and status register, None if that number has none."""
        return self._machine.csr(number)

    def read(self, address: int, size_bytes: int) -> bytes | None:
        """Return what lies in memory, None if that is not all in it."""
        offset = address - RAM_BASE
        if size_bytes < 0 or not 0 <= offset <= self.shape.ram_bytes - size_bytes:
            return None
        return bytes(self._machine.ram.buffer[offset : offset + size_bytes])

    # --- going somewhere ---

    def go(self, instruction: int) -> None:
        """Go to right before an instruction. Raises ConfigError, and stays, if it is not in the past."""
        if not self._start <= instruction <= self._end:
            raise ConfigError(
                f"instruction {instruction} is not in the past, which goes from {self._start} to {self._end}"
            )
        self._go(self._first_moment(instruction))

    def execute(self, instruction: int) -> None:
        """Run on to right before an instruction, as `go` does, but by executing all that lies between."""
        self._replay(min(instruction, self._end))

    def step(self) -> tuple[Arrival, Hit | None]:
        """Execute one instruction, with what comes before it; return the watched write that it made, if any."""
        if self._is_at_end():
            return "end", None
        self._hooks.take_hit()
        self._hooks.pass_break()
        self._replay(self.moment.retired + 1, on_hits="note")
        hit = self._hooks.take_hit()
        return "there", hit if hit is not None and hit.kind is HitKind.WATCH else None

    def step_back(self) -> tuple[Arrival, Hit | None]:
        """Go back by one instruction; return the watched write that is undone by that, if any."""
        target = self.moment.retired - 1
        if target < self._start:
            self._go(Moment(self._start, 0))
            return "begin", None
        self._lay_fine(target)
        self._go(self._first_moment(target))
        if not self._watches:
            return "there", None
        _, hit = self.step()
        self._go(self._first_moment(target))
        return "there", hit

    def run_on(self, *, passes_break: bool = True) -> tuple[Arrival, Hit | None]:
        """Go on to the next hit: before the instruction with a breakpoint, or behind the one that wrote.

        passes_break    whether a breakpoint at this very place does not count
        """
        self._hooks.take_hit()
        if passes_break:
            self._hooks.pass_break()
        while not self._is_at_end():
            if self.interrupted():
                return "interrupted", None
            if self._advance(self._end, on_hits="stop") is StopReason.HIT:
                return "hit", self._hooks.take_hit()
        return "end", None

    def last_hit(self) -> tuple[Arrival, Hit | None]:
        """Go back to the last hit before this place: right before the instruction, or the input, that made it.

        Without one, goes to the begin. Executes the past interval by interval, the nearest first; those in which
        nothing near a watched byte was written are left out.
        """
        limit = self.moment
        waypoint: Waypoint | None = self._waypoints.before(limit.retired)
        if waypoint is not None and waypoint.moment >= limit:
            waypoint = self._waypoints.preceding(waypoint)
        while waypoint is not None:
            if self.interrupted():
                self._go(limit)
                return "interrupted", None
            if self._may_hit_in(waypoint) and (hit := self._last_in(waypoint, limit)) is not None:
                self._go_to_hit(hit)
                return "hit", hit
            limit = waypoint.moment
            waypoint = self._waypoints.preceding(waypoint)
        self._go(Moment(self._start, 0))
        return "begin", None

    def last_write(self, address: int, size_bytes: int = 8) -> Moment | None:
        """Go to right before the last write that touched a range, and return that moment.

        Returns None if nothing wrote there; it stays where it is then. Raises ConfigError if the range is not in
        memory.
        """
        here = self.moment
        breaks, watches = tuple(self._breaks), tuple(self._watches)
        self.clear_hooks()
        try:
            if not self.set_watch(address, size_bytes):
                raise ConfigError(f"{size_bytes} bytes at {address:#x} are not in the machine's memory")
            _, hit = self.last_hit()
        finally:
            self.clear_hooks()
            for place in breaks:
                self.set_break(place)
            for place, size in watches:
                self.set_watch(place, size)
        if hit is None:
            self._go(here)
        return self.moment if hit is not None else None

    # --- showing it ---

    def serve_gdb(self, where: str) -> None:
        """Serve one gdb at `unix:PATH` or `tcp:HOST:PORT`, from this place on, until it leaves. Raises ConfigError."""
        from ftvm.history.gdbserver import GdbServer

        server = GdbServer(self, where)
        try:
            server.serve()
        finally:
            server.close()

    def cover(self, first: int, last: int) -> "Coverage":
        """Execute from instruction `first` to `last` once more, and return what ran; `save` draws it.

        Raises ConfigError if no program was given, or nothing lies between the two; ImageError if it has no symbols.
        """
        from ftvm.history.coverage import cover

        return cover(self, first, last)

    # --- what to look for ---

    def set_break(self, address: int, is_wanted: bool = True) -> bool:
        """Set or clear a breakpoint; return False if no instruction can be there."""
        if not self._hooks.set_break(address, is_wanted):
            return False
        (self._breaks.add if is_wanted else self._breaks.discard)(address)
        return True

    def set_watch(self, address: int, size_bytes: int, is_wanted: bool = True) -> bool:
        """Watch the writes to a range, or no longer; return False if it is not in memory, or there are too many."""
        watch = (address, size_bytes)
        if (watch in self._watches) == is_wanted:
            return True
        if not self._hooks.set_watch(address, size_bytes, is_wanted):
            return False
        (self._watches.add if is_wanted else self._watches.discard)(watch)
        return True

    def clear_hooks(self) -> None:
        """Forget all breakpoints and watches."""
        for address in tuple(self._breaks):
            self.set_break(address, False)
        for address, size_bytes in tuple(self._watches):
            self.set_watch(address, size_bytes, False)

    # --- how ---

    def _first_moment(self, retired: int) -> Moment:
        """Return the moment before an instruction and before the inputs that came there."""
        return Moment(retired, self._inputs_before(retired))

    def _inputs_before(self, retired: int) -> int:
        """Return how many inputs came before an instruction and not at its position; at the end, all."""
        return len(self._log) if retired >= self._end else bisect_left(self._places, retired)

    def _is_at_end(self) -> bool:
        return self._machine.position.retired >= self._end

    def _go(self, moment: Moment) -> None:
        here = self.moment
        nearest = self._waypoints.before(moment.retired)
        if self._midway or here > moment or here < nearest.moment:
            self._restore(nearest)
        while self.moment.retired < moment.retired:
            self._advance(moment.retired, on_hits="ignore")
        self._replay(moment.retired, inputs=moment.inputs)

    def _restore(self, waypoint: Waypoint) -> None:
        self._waypoints.restore(waypoint)
        self._taken = waypoint.moment.inputs
        self._midway = False

    def _advance(self, until: int, *, on_hits: Literal["ignore", "stop"]) -> StopReason:
        """Run towards `until`, at most to where the next coarse waypoint is due; lay it there."""
        last = self._waypoints.coarse_last.moment.retired
        here = self.moment.retired
        due = max(last + self._spacing, here + 1) if here >= last else here + self._spacing
        why = self._replay(min(until, due), on_hits=on_hits)
        now = self._machine.position.retired
        if why is not StopReason.HIT and now == due and here >= last and not self._waypoints.is_at(now):
            self._waypoints.add(self._first_moment(now))
        return why

    def _replay(
        self, until: int, *, inputs: int | None = None, on_hits: Literal["ignore", "note", "stop"] = "ignore"
    ) -> StopReason:
        """Execute up to before instruction `until`, and take no inputs there beyond number `inputs`."""
        if inputs is None:
            inputs = max(self._inputs_before(until), self._taken)
        why, self._taken = self._hooks.replay(self._log, self._taken, until=until, inputs=inputs, on_hits=on_hits)
        self._midway = why is StopReason.HIT
        here = self._machine.position.retired
        if why is not StopReason.HIT and here < until:
            raise GuestError(
                f"the machine stopped at instruction {here} ({why.name.lower()}), and its recording goes on to "
                f"{self._end}: the recording does not belong to this state"
            )
        if not self._is_end_checked and not self._midway and self.moment == Moment(self._end, len(self._log)):
            self._check_end()
        return why

    def _check_end(self) -> None:
        """Compare the machine, which stands at the end, with what was recorded there; once is enough."""
        if self.position != self._past.end:
            raise GuestError(f"the machine stands at {self.position}, and its recording ends at {self._past.end}")
        if self._past.digest not in (None, memory_digest(self._machine)):
            raise GuestError(
                f"at instruction {self._end} the machine's memory is not the one of the recording's end: inputs are "
                "missing from the recording, or do not belong to this state"
            )
        self._is_end_checked = True

    def _may_hit_in(self, waypoint: Waypoint) -> bool:
        if self._breaks or not self._watches:
            return bool(self._breaks)
        ranges = (marks_of(address - RAM_BASE, size_bytes) for address, size_bytes in self._watches)
        return any(self._waypoints.wrote_in(waypoint, marks) for marks in ranges)

    def _last_in(self, waypoint: Waypoint, limit: Moment) -> Hit | None:
        self._restore(waypoint)
        self._hooks.take_hit()
        self._replay(limit.retired, inputs=limit.inputs, on_hits="note")
        return self._hooks.take_hit()

    def _go_to_hit(self, hit: Hit) -> None:
        self._go(Moment(hit.retired, hit.inputs))
        if hit.kind is HitKind.BREAK:  # an interrupt that was due comes before the breakpoint is reached
            self._replay(hit.retired + 1, on_hits="stop")
            self._hooks.take_hit()

    def _lay_fine(self, target: int) -> None:
        """Lay fine waypoints up to `target`, unless it is near one."""
        nearest = self._waypoints.before(target)
        if target - nearest.moment.retired <= 2 * _FINE_SPACING:
            return
        self._waypoints.drop_fine()
        self._restore(self._waypoints.before(target))
        while (here := self.moment.retired) + _FINE_SPACING < target:
            self._replay(here + _FINE_SPACING)
            self._waypoints.add(self.moment, is_fine=True)
