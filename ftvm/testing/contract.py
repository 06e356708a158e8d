"""What the conformance kits share: the error they raise, and a bound on how long a clause may hang.

A clause is a function whose docstring is the promise it checks; a broken one is named in the error.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ContractBroken", "patience", "require"]


class ContractBroken(AssertionError):
    """An implementation does not keep a promise of its interface. `clause` is the promise, `detail` what was seen."""

    def __init__(self, clause: str, detail: str) -> None:
        super().__init__(f"{clause}: {detail}")
        self.clause = clause
        self.detail = detail


def require(is_kept: bool, clause: str, detail: str) -> None:
    """Raise ContractBroken unless the promise is kept."""
    if not is_kept:
        raise ContractBroken(clause, detail)


@contextmanager
def patience(clause: str, seconds: float, *, soon: Callable[[], None] | None = None) -> Iterator[None]:
    """Break a block that hangs for `seconds`; `soon`, if given, is called once while the block runs.

    Uses SIGALRM, so that a call into C that blocks is interrupted as well. Outside the main thread there are no
    signals: a hang is then not broken, and `soon` is called at once.
    """
    actions = [soon] if soon is not None else []

    def ring(_number: int, _frame: FrameType | None) -> None:
        if not actions:
            raise ContractBroken(clause, f"still hung after {seconds} s")
        signal.setitimer(signal.ITIMER_REAL, seconds)
        actions.pop()()

    try:
        handler = signal.signal(signal.SIGALRM, ring)
    except ValueError:
        for action in actions:
            action()
        yield
        return
    timer = signal.setitimer(signal.ITIMER_REAL, 0.02 if actions else seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
