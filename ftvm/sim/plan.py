"""What a seed draws before its run begins: the engine, the guest, the times, and which faults there will be.

Every class of faults is off in a third of the seeds: with all on at once the rarer combinations never get far.
"""

from dataclasses import dataclass
from typing import Final

from ftvm.config import Timing
from ftvm.encode.versions import FIRST, SPOKEN, Versions
from ftvm.engines.kemari import Kemari
from ftvm.engines.names import ENGINES, engine_named
from ftvm.interfaces import Engine
from ftvm.sim.faults import FAULTS
from ftvm.sim.operator import ACTIONS
from ftvm.sim.rng import Rng, stream
from ftvm.units import Nanos

__all__ = ["MESSAGE_FAULTS", "Plan", "draw"]

_MS: Final = 1_000_000
_ON: Final = 0.67
_RECORDS: Final = 0.15
_KEEPS: Final = 0.3
_SPARE: Final = 0.4
"""How many of the worlds have a third host; such a run takes half as long again as one of two."""
_EXACT: Final = 0.5
_GROUPS_MS: Final = (0, 0, 0, 15, 60)
"""How long outputs wait to share a cut, where the engine is one that lets them: in two worlds of five."""

MESSAGE_FAULTS: Final[dict[str, tuple[float, ...]]] = {
    "loss": (0.002, 0.02, 0.1),
    "repeat": (0.05,),
    "late": (0.05,),
    "arbiter_request_lost": (0.1, 0.3),
    "arbiter_answer_lost": (0.1, 0.3),
    "arbiter_refusal": (0.1, 0.3),
    "arbiter_repeat": (0.2,),
    "arbiter_late": (0.2,),
    "corrupt": (0.005,),
    "load_failed": (0.3,),
    "process_death": (0.5,),
    "ambush": (0.2, 0.5),
}
"""Faults of single messages, loads and changes of the record, and how probable a seed may make each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Drawn once for a seed.

    rates           probability of each fault of single messages; absent: off
    fault_kinds     the kinds of faults and of an operator's acts that are on
    addresses       of the hosts: the first starts the guest, one joins, a third is spare
    stops_exactly   whether the guest can pause by itself right behind each output
    wake_ns         how long a host takes from being woken to its step
    release_ns_max  how long an output that was let out may take to leave its host, and die with it
    drift_ppm       no clock is faster or slower than the true time by more
    records         whether hosts record a history: the log of inputs is then shipped under each engine
    keeps           whether a host that comes back finds what it had of the guest, or most of it, as in a disk's image
    versions        of the wire that both hosts speak: in a quarter of the seeds the first one alone
    """

    addresses: tuple[str, ...]
    engine: Engine
    timing: Timing
    stops_exactly: bool
    page_count: int
    pages_per_step: int
    output_every: int
    guest_step_ns: int
    input_ns_max: int
    link_delay_ns: int
    link_jitter_ns: int
    wake_ns: int
    drift_ppm: int
    release_ns_max: int
    rates: dict[str, float]
    fault_kinds: frozenset[str]
    halts_alone: bool
    records: bool
    keeps: bool
    versions: Versions


def draw(seed: int, engine: Engine | None = None) -> Plan:
    """Draw the plan of a seed; `engine` is drawn with the rest if none is given."""
    rng = stream(seed, "plan")
    name = rng.choice(list(ENGINES))
    interval_ms = rng.choice([20, 40, 80])
    group_ms = stream(seed, "plan", "group").choice(list(_GROUPS_MS)) if name == Kemari.name else 0
    return Plan(
        addresses=("a", "b", "c") if stream(seed, "plan", "spare").random() < _SPARE else ("a", "b"),
        stops_exactly=stream(seed, "plan", "exact stop").random() < _EXACT,
        engine=engine or engine_named(name, interval_ms / 1000, group=group_ms / 1000 or None),
        timing=Timing(
            primary_limit_ns=Nanos(rng.choice([200, 350, 500]) * _MS),
            backup_limit_ns=Nanos(rng.choice([200, 300]) * _MS),
            join_interval_ns=Nanos(50 * _MS),
            read_interval_ns=Nanos(50 * _MS),
        ),
        page_count=rng.choice([4, 8, 16]),
        pages_per_step=rng.choice([1, 2, 4]),
        output_every=rng.choice([1, 2, 4]),
        guest_step_ns=rng.choice([10, 20, 40]) * _MS,
        input_ns_max=rng.choice([40, 100, 200]) * _MS,
        link_delay_ns=rng.choice([50_000, 200_000, 2 * _MS]),
        link_jitter_ns=rng.choice([50_000, 1 * _MS]),
        wake_ns=rng.choice([20_000, 500_000, 2 * _MS]),
        drift_ppm=rng.choice([0, 200, 20_000]),
        release_ns_max=stream(seed, "plan", "release").choice([2, 2, 20]) * _MS,
        rates={
            kind: rate
            for kind, rates in MESSAGE_FAULTS.items()
            if (rate := _maybe(stream(seed, "plan", kind), rates)) is not None
        },
        fault_kinds=frozenset(
            kind.kind for kind in (*FAULTS, *ACTIONS) if stream(seed, "plan", kind.kind).random() < kind.share
        ),
        halts_alone=stream(seed, "plan", "halts_alone").random() > _ON,
        records=stream(seed, "plan", "records").random() < _RECORDS,
        keeps=stream(seed, "plan", "keeps").random() < _KEEPS,
        versions=stream(seed, "plan", "speaks").choice([SPOKEN, SPOKEN, SPOKEN, FIRST]),
    )


def _maybe(rng: Rng, rates: tuple[float, ...]) -> float | None:
    return rng.choice(rates) if rng.random() < _ON else None
