"""How well the guests on a machine fare, as one verdict: for exit statuses and for monitoring plugins.

Pure: what the hosts told in, verdict out. Source: Monitoring Plugins Development Guidelines, "Plugin Output".
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from ftvm.runtime.standing import GOOD, State
from ftvm.runtime.status import Status

__all__ = ["Health", "health", "plugin_line"]


class Health(IntEnum):
    """The verdict, by the exit status of a plugin."""

    OK = 0
    """Each guest is protected, or has a standby here that could take over now."""
    WARNING = 1
    """Each guest may run, but one more failure could stop or lose one."""
    CRITICAL = 2
    """A guest stands still, or a host has failed or does not answer."""
    UNKNOWN = 3
    """There is nothing to judge."""


_CRITICAL: Final = frozenset({State.STANDING_STILL, State.FAILED})
_WARNING: Final = frozenset({State.NO_TAKEOVER, State.STANDBY_UNABLE})


def health(statuses: Sequence[Status], mute: int) -> Health:
    """Return the verdict on what the hosts here told; `mute` of them did not answer."""
    states = {status.state for status in statuses}
    if mute or states & _CRITICAL:
        return Health.CRITICAL
    if not statuses:
        return Health.UNKNOWN
    safe = {status.guest_id for status in statuses if status.state in GOOD}
    is_safe = all(status.guest_id in safe for status in statuses)
    return Health.OK if is_safe and not states & _WARNING else Health.WARNING


def plugin_line(verdict: Health, lines: Sequence[str], statuses: Sequence[Status] = ()) -> str:
    """Return the one line of a plugin: the verdict, what is behind it, and numbers of the guests that run here."""
    text = "; ".join(lines).replace("|", "/").replace("\n", " ")
    numbers = " ".join(_numbers(status) for status in statuses if status.role == "active")
    return f"FTVM {verdict.name} - {text}{f' | {numbers}' if numbers else ''}"


def _numbers(status: Status) -> str:
    guest = status.guest_id.replace("'", "").replace("=", "")
    return f"'{guest} lag'={status.lag_ms:.1f}ms '{guest} outputs held'={status.outputs_held}"
