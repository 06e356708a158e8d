"""The bounds of a checkpoint interval, for all engines."""

from typing import Final

from ftvm.errors import ConfigError

__all__ = ["check_interval"]

INTERVAL_MIN: Final = 0.0005
INTERVAL_MAX: Final = 10


def check_interval(engine: str, interval: float) -> None:
    """Raise ConfigError unless `interval` (seconds) is one that an engine can keep."""
    if not INTERVAL_MIN <= interval <= INTERVAL_MAX:
        raise ConfigError(f"{engine}: an interval of {interval} s is not from {INTERVAL_MIN} to {INTERVAL_MAX} s")
