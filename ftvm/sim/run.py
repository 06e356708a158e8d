"""One run played to its end, as a value that can go from process to process, and the figures of many."""

import reprlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ftvm.engines.names import engine_named
from ftvm.errors import ConfigError, FtvmError
from ftvm.sim.checkers import InvariantViolated
from ftvm.sim.faultlog import FaultId
from ftvm.sim.simulation import Simulation

__all__ = ["NO_FAULTS", "Figures", "Run", "parse_faults", "play"]

NO_FAULTS = "none"
"""What `--only` takes for no fault at all."""

INTERVAL_S = 0.04
"""Of an engine that was named, not drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of one seed.

    invariant  the name of the one that was violated, None if all held; `what` says how
    step       how many steps all hosts together had done at the end, or at the violation
    faults     all that happened, in order
    told       how often each event of the production code was told
    is_lost    the guest was lost by two failures at once (losses.py)
    """

    seed: int
    engine: str
    invariant: str | None
    what: str
    step: int
    events: int
    virtual_ns: int
    takeovers: int
    switchovers: int
    faults: tuple[FaultId, ...]
    told: dict[str, int]
    is_lost: bool
    lines: tuple[str, ...]


def play(seed: int, *, engine: str | None = None, only: Collection[FaultId] | None = None, traces: bool = False) -> Run:
    """Play a seed. An error of any kind that gets out of the production code counts as a violation, by its name."""
    named = engine_named(engine, INTERVAL_S) if engine is not None else None
    world = Simulation(seed, engine=named, only=only, traces=traces)
    invariant, what = None, ""
    try:
        world.run()
    except InvariantViolated as wrong:
        invariant, what = wrong.invariant, str(wrong)
    except (FtvmError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as wrong:
        invariant, what = type(wrong).__name__, reprlib.repr(wrong)
    return Run(
        seed=seed,
        engine=world.plan.engine.name,
        invariant=invariant,
        what=what,
        step=world.steps,
        events=world.schedule.events,
        virtual_ns=world.schedule.now,
        takeovers=world.checkers.records.takeovers,
        switchovers=world.checkers.records.switchovers,
        faults=tuple(world.faults.happened),
        told=dict(world.trace_log.told),
        is_lost=world.is_lost,
        lines=tuple(world.trace_log.lines),
    )


@dataclass(slots=True)
class Figures:
    """The sum of many runs."""

    seeds: int = 0
    steps: int = 0
    events: int = 0
    virtual_ns: int = 0
    takeovers: int = 0
    switchovers: int = 0
    lost: int = 0
    engines: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    violations: list[Run] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Count one more."""
        self.seeds += 1
        self.steps += run.step
        self.events += run.events
        self.virtual_ns += run.virtual_ns
        self.takeovers += run.takeovers
        self.switchovers += run.switchovers
        self.lost += run.is_lost
        self.engines[run.engine] += 1
        self.faults.update(fault.kind for fault in run.faults)
        self.told.update(run.told)
        if run.invariant is not None:
            self.violations.append(run)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures under stable names; counts are over all runs."""
        return {
            "seeds": self.seeds,
            "steps": self.steps,
            "events": self.events,
            "virtual_seconds": round(self.virtual_ns / 1e9, 1),
            "faults": dict(sorted(self.faults.items())),
            "takeovers": self.takeovers,
            "switchovers": self.switchovers,
            "guests_lost_to_two_failures": self.lost,
            "engines": dict(sorted(self.engines.items())),
            "told": dict(sorted(self.told.items())),
            "violations": [
                {"seed": one.seed, "engine": one.engine, "invariant": one.invariant, "step": one.step, "what": one.what}
                for one in self.violations
            ],
        }


def parse_faults(text: str) -> tuple[FaultId, ...]:
    """Read faults as `--only` takes them: kind:number, separated by commas; or `none`."""
    if text == NO_FAULTS:
        return ()
    faults = tuple(FaultId.parse(word) for word in text.split(",") if word)
    if len(set(faults)) != len(faults):
        raise ConfigError(f"{text!r} names a fault twice")
    return faults
