"""The bounds of a checkpoint interval, for all engines."""

from typing import Final

from ftvm.errors import ConfigError

__all__ = ["check_interval", "millis"]

INTERVAL_MIN: Final = 0.0005
INTERVAL_MAX: Final = 10


def millis(seconds: float) -> str:
    """Return a duration as people write it for an engine."""
    return f"{seconds * 1000:.15g} ms"


def check_interval(engine: str, interval: float) -> None:
    """Raise ConfigError unless `interval` (seconds) is one that an engine can keep."""
    if not INTERVAL_MIN <= interval <= INTERVAL_MAX:
        raise ConfigError(
            f"{engine}: an interval of {millis(interval)} is not from {millis(INTERVAL_MIN)} to {millis(INTERVAL_MAX)}"
        )
