"""The end of a host, step by step: an error in one step does not prevent the others.

A control socket that cannot be removed is no reason to leave the record as it is, or a guest's process running. All
errors are reported together at the end.
"""

from collections.abc import Callable

from ftvm.errors import BrokenError, FtvmError, InternalError

__all__ = ["Closing", "close_behind"]


class Closing:
    """The steps of one end. Do them in order, then `finish`."""

    def __init__(self) -> None:
        self._reasons: list[str] = []
        self._errors: list[Exception] = []

    def do(self, failing: str, step: Callable[[], object]) -> None:
        """Do one step; if it raises, `failing` says what was not done."""
        try:
            step()
        except Exception as wrong:  # noqa: BLE001 - see the module's docstring; `finish` raises it
            told = str(wrong) if isinstance(wrong, FtvmError) else f"{type(wrong).__name__}: {wrong}"
            self._reasons.append(f"{failing}: {told}")
            self._errors.append(wrong)

    def finish(self) -> None:
        """Raise a BrokenError that names all that went wrong, an InternalError if that was our bug, if anything did."""
        if self._errors:
            kind = InternalError if any(isinstance(wrong, InternalError) for wrong in self._errors) else BrokenError
            raise kind(f"this host has ended, but {'; '.join(self._reasons)}") from self._errors[0]


def close_behind(close: Callable[[], None], error: BaseException | None) -> None:
    """Close at the end of a `with` block; an error that ended the block is still the one that is raised."""
    try:
        close()
    except FtvmError as wrong:
        if error is None:
            raise
        error.add_note(str(wrong))
