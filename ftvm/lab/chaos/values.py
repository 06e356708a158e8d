"""What a user may choose of a chaos run, what a round came to, and what all of them came to. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ftvm.engines.names import ENGINES
from ftvm.errors import ConfigError
from ftvm.runtime.status import percentile

__all__ = ["ARBITERS", "CampaignOutcome", "ChaosOptions", "Round", "Violation"]

ARBITERS: Final = ("file", "etcd")
JOBS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What a user may choose.

    engines  each host that starts is given the next of them, to protect with once it is active
    keep     whether the folders of runs without a violation stay, too
    """

    rounds: int = 50
    seed: int = 1
    engines: tuple[str, ...] = tuple(ENGINES)
    jobs: int = 2
    arbiter: str = "file"
    keep: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError("chaos needs at least one round")
        if not 1 <= self.jobs <= JOBS_MAX:
            raise ConfigError(f"chaos runs 1 to {JOBS_MAX} pairs side by side, not {self.jobs}")
        if self.arbiter not in ARBITERS:
            raise ConfigError(f"arbiter {self.arbiter!r} is unknown; choose one of: {', '.join(ARBITERS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One fault and how the pair came through it.

    gap_ms      the longest time without an answer, from the fault on; None where the guest was lost
    healed_ms   from the end of the fault until the guest was protected and answered again
    loss        why an operator's word had to start the guest again; None if it lived on
    """

    job: int
    number: int
    fault: str
    engine: str
    takeovers: int
    switchovers: int
    gap_ms: float | None
    healed_ms: float
    loss: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that must not happen, the round in which it was noticed, and where the logs of it are.

    is_late  it is only that something took longer than a run waits: nothing is known to be lost or contradicted
    """

    job: int
    round: int
    fault: str
    engine: str
    what: str
    folder: str
    is_late: bool = False


@dataclass(slots=True, kw_only=True)
class CampaignOutcome:
    """What all rounds came to, added up as they end. `trouble` says why the run could not go on, None if it could."""

    options: ChaosOptions
    rounds: list[Round] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    generations: int = 0
    isolation: str = ""
    folder: str | None = None
    seconds: float = 0.0
    trouble: str | None = None

    @property
    def is_good(self) -> bool:
        """Tell whether all rounds were played and nothing was violated."""
        return self.trouble is None and not self.violations and len(self.rounds) == self.options.rounds

    @property
    def verdict(self) -> str:
        """Return what the rounds say about the guest, in words."""
        if self.is_good:
            return "nothing was lost"
        if self.trouble is not None or any(not violation.is_late for violation in self.violations):
            return "FAILED"
        return (
            "NOT JUDGED: something took too long, and nothing is known to be lost; "
            "run it again with the same seed, with fewer --jobs or on a less busy machine"
        )

    @property
    def takeovers(self) -> int:
        """How often a standby took over."""
        return sum(each.takeovers for each in self.rounds)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        lived = [each for each in self.rounds if each.gap_ms is not None]
        return {
            "rounds": len(self.rounds),
            "seed": self.options.seed,
            "jobs": self.options.jobs,
            "arbiter": self.options.arbiter,
            "isolation": self.isolation,
            "engines": _count(each.engine for each in self.rounds),
            "faults": _count(each.fault for each in self.rounds),
            "takeovers": self.takeovers,
            "switchovers": sum(each.switchovers for each in self.rounds),
            "generations": self.generations,
            "guests_lost": _count(each.loss for each in self.rounds if each.loss is not None),
            "gap_ms": _spread([each.gap_ms or 0.0 for each in lived]),
            "healed_ms": _spread([each.healed_ms for each in lived]),
            "gap_ms_by_fault": {
                fault: _spread([each.gap_ms or 0.0 for each in lived if each.fault == fault])
                for fault in sorted({each.fault for each in lived})
            },
            "requests": self.requests,
            "violations": [asdict(violation) for violation in self.violations],
            "skipped": self.skipped,
            "folder": self.folder,
            "seconds": round(self.seconds, 1),
            "trouble": self.trouble,
        }


def _spread(samples: Sequence[float]) -> dict[str, float]:
    figures = {"p50": percentile(samples, 50), "p90": percentile(samples, 90), "max": max(samples, default=0.0)}
    return {name: round(ms, 1) for name, ms in figures.items()}


def _count(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
