"""The engines by name, for the command line and the handshake."""

from collections.abc import Callable
from typing import Final

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import Engine

__all__ = ["ENGINES", "engine_named"]

ENGINES: Final[dict[str, Callable[[float], Engine]]] = {
    Remus.name: Remus,
    Kemari.name: Kemari,
    Hybrid.name: Hybrid,
}


def engine_named(name: str, interval: float, latency: float | None = None) -> Engine:
    """Return an engine that cuts every `interval` seconds; ConfigError lists the names for one that is unknown.

    latency     seconds; for the one engine that takes a latency target (Remus), refused with any other
    """
    make = ENGINES.get(name)
    if make is None:
        raise ConfigError(f"there is no engine {name!r}; choose one of: {', '.join(ENGINES)}")
    if latency is None:
        return make(interval)
    if name != Remus.name:
        raise ConfigError(f"engine {name} takes no latency target; only {Remus.name} adapts its interval to one")
    return Remus(interval, latency)
