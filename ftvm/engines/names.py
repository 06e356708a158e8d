"""The engines by name, for the command line and the handshake."""

from dataclasses import replace
from typing import Final, TypeAlias, get_args

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import Capability, Engine

__all__ = ["ENGINES", "BuiltIn", "engine_changed", "engine_named", "engines_for", "require"]

BuiltIn: TypeAlias = Remus | Kemari | Lockstep | Hybrid
"""The engines that come with ftvm; all else that names them takes them from here."""

ENGINES: Final[dict[str, type[BuiltIn]]] = {engine.name: engine for engine in get_args(BuiltIn)}


def engines_for(can: frozenset[Capability], given: Engine) -> dict[str, Engine]:
    """Return the engines that a guest of these capabilities can be protected with, by name.

    `given` is as it was given, the others have their defaults.
    """
    known = (*(make() for make in ENGINES.values()), given)
    return {engine.name: engine for engine in known if engine.needs <= can}


def require(engine: Engine, can: frozenset[Capability]) -> None:
    """Raise ConfigError, naming what is missing, unless a guest of these capabilities can be protected with it."""
    if isinstance(engine, type) or not hasattr(engine, "needs"):
        raise ConfigError(f"engine {engine!r} is no Engine: give one, e.g. ftvm.Remus(interval=0.025)")
    missing = ", ".join(sorted(capability.value for capability in engine.needs - can))
    if missing:
        left = ", ".join(engines_for(can, Remus()))
        raise ConfigError(f"engine {engine.name} needs a guest that supports: {missing}; this one can have {left}")


def engine_named(
    name: str, interval: float = 0.025, latency: float | None = None, group: float | None = None
) -> Engine:
    """Return an engine that cuts every `interval` seconds; ConfigError lists the names for one that is unknown.

    latency     seconds; for the one engine that takes a latency target (Remus), refused with any other
    group       seconds; for the one engine whose outputs can share a cut (Kemari), refused with any other
    """
    make = ENGINES.get(name)
    if make is None:
        raise ConfigError(f"unknown engine {name!r}; choose one of: {', '.join(ENGINES)}")
    if group is not None and name != Kemari.name:
        raise ConfigError(f"engine {name} has no group commit; only under {Kemari.name} does each output make a cut")
    if latency is None:
        return make(interval) if group is None else Kemari(interval, group)
    if name != Remus.name:
        raise ConfigError(f"engine {name} takes no latency target; only {Remus.name} adapts its interval to one")
    return Remus(interval, latency)


def engine_changed(
    present: Engine,
    *,
    name: str | None = None,
    interval: float | None = None,
    latency: float | None = None,
    group: float | None = None,
) -> Engine:
    """Return `present` with what is given changed, if no engine is named; one that is named takes the interval over,
    and all else that is not given has its default: remus has no latency target then, and kemari no group.

    Raises ConfigError if that cannot be, or if `present` is not one of ours: set such a one with Protection.set_engine.
    """
    if not isinstance(present, BuiltIn):
        raise ConfigError(f"engine {present.name} is not one of {', '.join(ENGINES)}: its host must change it itself")
    interval = present.interval if interval is None else interval
    if name is None and latency is None and group is None:
        return replace(present, interval=interval)
    return engine_named(present.name if name is None else name, interval, latency, group)
