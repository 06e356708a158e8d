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


def engine_named(name: str, interval: float) -> Engine:
    """Return an engine that cuts every `interval` seconds; ConfigError lists the names for one that is unknown."""
    make = ENGINES.get(name)
    if make is None:
        raise ConfigError(f"there is no engine {name!r}; choose one of: {', '.join(ENGINES)}")
    return make(interval)
