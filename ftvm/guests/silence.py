"""A process behind a guest that stands still: does it still answer? On a standby nobody else would ask it for days.

Who adapts a guest asks it each ASK_SECONDS for something that changes nothing, looks for the answer when it would ask
again, and notes here what it found. Looks are counted, no clock is read: a host that was stopped itself blames nobody.
"""

from collections.abc import Callable
from typing import Final

__all__ = ["ASK_SECONDS", "Silence"]

ASK_SECONDS: Final = 1.0
_LOOKS_APART: Final = 60
"""A process that is slow again and again is warned of once a minute."""


class Silence:
    """How long a process has owed an answer. Noted in one thread, read in any."""

    def __init__(self, named: str, means: str, warn: Callable[[str], None]) -> None:
        """Note who is asked.

        named  who has not answered what, e.g. "QEMU has not answered query-status"
        means  what that is to a takeover, for the operator, whom `warn` tells of it
        """
        self._named, self._means = named, means
        self._warn = warn
        self._looks = 0
        self._warns_in = 0

    @property
    def seconds(self) -> float:
        """For how long it owes an answer; 0 if it owes none."""
        return self._looks * ASK_SECONDS

    @property
    def reason(self) -> str | None:
        """Who has not answered what, and for how long; None if it owes no answer."""
        seconds = self.seconds
        return f"{self._named} for {seconds:g} s" if seconds else None

    def note(self, *, is_owed: bool) -> None:
        """Note what was found when it was to be asked again."""
        self._looks = self._looks + 1 if is_owed else 0
        self._warns_in = max(0, self._warns_in - 1)
        if is_owed and not self._warns_in:
            self._warns_in = _LOOKS_APART
            self._warn(f"{self.reason}: {self._means}")
