"""One checker per invariant (docs/protocol.md, "Invariants"), which sees all, and raises InvariantViolated."""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from dataclasses import dataclass, field

from ftvm.checkpoint import Output, Watermarks
from ftvm.config import Limits
from ftvm.errors import FtvmError
from ftvm.interfaces import Record
from ftvm.protocol.view import ActiveView, StandbyView

__all__ = [
    "ActiveChecker",
    "Checkers",
    "FlushChecker",
    "InvariantViolated",
    "OutputChecker",
    "PositionChecker",
    "RecordChecker",
    "StateChecker",
    "check_limits",
]


class InvariantViolated(FtvmError):
    """An invariant does not hold. `invariant` is its name in docs/protocol.md."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclass(slots=True)
class ActiveChecker:
    """I1: at most one replica is active per generation."""

    active: dict[int, str] = field(default_factory=dict)

    def became_active(self, known: Record, replica: str) -> None:
        """Note that a replica runs the guest by the record that it knows."""
        if known.active != replica:
            what = f"{replica} is active, but generation {known.generation} names {known.active}"
            raise InvariantViolated("I1", what)
        first = self.active.setdefault(known.generation, replica)
        if first != replica:
            raise InvariantViolated("I1", f"{first} and {replica} are both active in generation {known.generation}")


@dataclass(slots=True)
class OutputChecker:
    """I2 and I7: no released output is ever contradicted; first appearances come in order, without gaps."""

    released: dict[int, bytes] = field(default_factory=dict)
    repeats: int = 0
    _last_of: dict[str, int] = field(default_factory=dict)

    def was_released(self, replica: str, output: Output) -> None:
        """Note that an output left a host."""
        known = self.released.get(output.number)
        if known is None and output.number != len(self.released) + 1:
            what = f"output {output.number} appeared first after {len(self.released)} were known"
            raise InvariantViolated("I7", what)
        if known is not None and known != output.payload:
            raise InvariantViolated("I2", f"output {output.number} was released before with another content")
        last = self._last_of.get(replica)
        if last is not None and output.number != last + 1:
            raise InvariantViolated("I7", f"{replica} released output {output.number} after {last}")
        self._last_of[replica] = output.number
        self.repeats += known is not None
        self.released[output.number] = output.payload


@dataclass(slots=True)
class StateChecker:
    """I3, I4, I5: a backup runs from exactly the state that a primary had at that epoch, and has every epoch that it
    acknowledged."""

    cuts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    acked: dict[str, Watermarks] = field(default_factory=dict)
    compared: int = 0

    def was_cut(self, active: str, epoch: int, fingerprint: bytes) -> None:
        """Note the state of the guest when `active` cut an epoch."""
        self.cuts[active, epoch] = fingerprint

    def was_acknowledged(self, standby: str, safe: Watermarks) -> None:
        """Note what an active counts as safe on its standby."""
        self.acked[standby] = safe

    def took_over(self, standby: str, has: Watermarks) -> None:
        """Note what a standby has as it becomes active."""
        safe = self.acked.get(standby)
        if safe is not None and not has.cover(safe):
            raise InvariantViolated("I5", f"{standby} has {has}, but acknowledged {safe}")

    def was_copied(self, active: str, epoch: int, memory: bytes) -> None:
        """Note what a first copy has made of the memory of a host, whatever was there before."""
        self.compared += 1
        if not self.cuts.get((active, epoch), b"").startswith(memory):
            raise InvariantViolated("I3", f"a first copy is whole, and is not what {active} was at epoch {epoch}")

    def runs_from(self, active: str, epoch: int, fingerprint: bytes) -> None:
        """Note that a takeover runs from what `active` cut as `epoch`."""
        self.compared += 1
        if self.cuts.get((active, epoch)) != fingerprint:
            raise InvariantViolated("I3", f"the state that runs on is not what {active} was at epoch {epoch}")


@dataclass(slots=True)
class FlushChecker:
    """I9: what a guest flushed is on the disk of each host that has acknowledged it, of who lets out what came of it
    alone, and of the standby that the record names then.

    flushed  the epochs with a flush that each active has cut
    cuts     where the guest of each active stood at each cut, in steps, and that cut's epoch; first, what it took over
    durable  the last epoch that is on the disk of each replica
    told     the last step that flushed of which each active has told beside a standby
    settled  the last step up to which each active's own disk has what its guest flushed
    """

    flushed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    durable: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cuts: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    settled: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    compared: int = 0

    def was_cut(self, active: str, epoch: int, steps: int, *, has_flush: bool) -> None:
        """Note that an active cut an epoch when its guest had done so many steps, and whether that flushed in it."""
        insort(self.cuts[active], (steps, epoch))
        if has_flush:
            self.flushed[active].append(epoch)

    def is_durable(self, replica: str, epoch: int) -> None:
        """Note that the disk of a replica has an epoch on its device."""
        self.durable[replica] = max(self.durable[replica], epoch)

    def is_settled(self, active: str, step: int) -> None:
        """Note that the disk of an active has what its guest flushed up to a step."""
        self.settled[active] = max(self.settled[active], step)

    def look(self, active: str, epoch: int, replica: str, what: str) -> None:
        """Check that a replica has on its disk what was flushed up to an epoch of an active."""
        flushed = self.flushed[active]
        behind = bisect_right(flushed, epoch)
        last = flushed[behind - 1] if behind else 0
        self.compared += 1
        if self.durable[replica] < last:
            has = self.durable[replica]
            raise InvariantViolated("I9", f"{replica} has {what}: epoch {last} holds a flush, and its disk has {has}")

    def goes_on(self, active: str, epoch: int, steps: int) -> None:
        """Note that a replica has become active with an epoch, at which its guest had done so many steps."""
        insort(self.cuts[active], (steps, epoch))

    def lets_out(self, active: str, flushed_at: int, standby: str | None, what: str) -> None:
        """Check that the standby of an active has on its disk what its guest flushed in step `flushed_at`; without one,
        that the active has that, and what it told of beside one."""
        if standby is None:
            self.keeps_what_it_told(active, what)
            if (has := self.settled[active]) < flushed_at:
                raise InvariantViolated("I9", f"{what}: step {flushed_at} flushed, and its own disk has step {has}")
        elif flushed_at:
            self.told[active] = max(self.told[active], flushed_at)
            self._has_flush(active, flushed_at, standby, what)

    def keeps_what_it_told(self, active: str, what: str) -> None:
        """Check that an active has on its disk what it told of beside a standby."""
        if told := self.told[active]:
            self._has_flush(active, told, active, what)

    def _has_flush(self, active: str, flushed_at: int, replica: str, what: str) -> None:
        cuts, has = self.cuts[active], self.durable[replica]
        behind = bisect_left(cuts, (flushed_at, 0))
        self.compared += 1
        if behind == len(cuts) or has < cuts[behind][1]:
            raise InvariantViolated("I9", f"{what}: step {flushed_at} flushed, and the disk of {replica} has {has}")


@dataclass(slots=True)
class PositionChecker:
    """I6: under one name, the epoch only grows, and the generation known."""

    _last: dict[str, tuple[int, int]] = field(default_factory=dict)

    def stands(self, replica: str, generation: int, epoch: int) -> None:
        """Note where a replica stands after a step."""
        before = self._last.get(replica, (0, 0))
        if generation < before[0] or epoch < before[1]:
            raise InvariantViolated("I6", f"{replica} went from generation, epoch {before} to {(generation, epoch)}")
        self._last[replica] = (generation, epoch)


def check_limits(keeps: ActiveView | StandbyView | None, limits: Limits) -> None:
    """I8: nothing that a role keeps has passed its limit."""
    sizes: tuple[tuple[str, int, int], ...] = ()
    if isinstance(keeps, ActiveView):
        in_flight = len(keeps.session.in_flight) if keeps.session is not None else 0
        sizes = (
            ("outputs held", keeps.held_count, limits.outputs_held),
            ("bytes of outputs held", keeps.held_bytes, limits.outputs_held_bytes),
            ("epochs in flight", in_flight, limits.epochs_in_flight),
        )
    elif keeps is not None:
        sizes = (
            ("outputs kept", len(keeps.outputs), limits.outputs_held),
            ("log records kept", len(keeps.log), limits.log_records),
            ("bytes of log kept", keeps.log_bytes, limits.log_bytes),
            ("bytes staged", keeps.staged_bytes, keeps.staging_limit_bytes),
        )
    for what, size, limit in sizes:
        if size > limit:
            raise InvariantViolated("I8", f"{size} {what}, {limit} allowed")


@dataclass(slots=True)
class RecordChecker:
    """I6: generations grow by one; a replica that left the record never returns."""

    gone: set[str] = field(default_factory=set)
    takeovers: int = 0
    switchovers: int = 0

    def changed(self, before: Record, after: Record) -> None:
        """Note a change of the record."""
        if after.generation != before.generation + 1:
            raise InvariantViolated("I6", f"generation {after.generation} follows {before.generation}")
        named = {replica for replica in (after.active, after.standby) if replica is not None}
        if named & self.gone:
            raise InvariantViolated("I6", f"{named & self.gone} had left the record")
        self.gone |= {replica for replica in (before.active, before.standby) if replica is not None} - named
        if before.standby is not None and after.active == before.standby:
            self.takeovers += after.standby is None
            self.switchovers += after.standby is not None


@dataclass(frozen=True, slots=True)
class Checkers:
    """One of each, for all hosts of a world together."""

    actives: ActiveChecker = field(default_factory=ActiveChecker)
    outputs: OutputChecker = field(default_factory=OutputChecker)
    states: StateChecker = field(default_factory=StateChecker)
    flushes: FlushChecker = field(default_factory=FlushChecker)
    positions: PositionChecker = field(default_factory=PositionChecker)
    records: RecordChecker = field(default_factory=RecordChecker)
    strays: set[str] = field(default_factory=set)
    """Replicas whose hosts read the record in another place."""

    def check_place(self, joiner: str) -> None:
        """Check that nobody is in session who reads another record."""
        if joiner in self.strays:
            raise InvariantViolated("place", f"{joiner} reads another record, and is copied to")
