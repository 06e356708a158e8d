"""Notes which functions of ftvm/ are called, in order: what a walk is made of.

Counted is a function that is entered, by a frame whose file lies in ftvm/. Comprehensions and generator expressions
are no functions: some interpreters give them a frame, others do not.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import ftvm

ROOT: Final = f"{Path(ftvm.__file__).parent}/"

NO_FUNCTIONS: Final = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


@dataclass(frozen=True, slots=True)
class Call:
    """One function that was entered. `file` counts from ftvm/."""

    side: str
    file: str
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place that was passed.

    index   how many calls had been noted then, that of the place itself included
    values  the arguments that were given there
    caller  the function that called, if it is ftvm's
    """

    name: str
    side: str
    index: int
    values: dict[str, object]
    caller: Call | None


class Tracer:
    """Notes calls in `calls` and places passed in `marks`, as long as it is `on`."""

    def __init__(self, places: dict[CodeType, str]) -> None:
        """Set a mark of this name whenever one of the functions of `places` is entered; they need not be ftvm's."""
        self.calls: list[Call] = []
        self.marks: list[Mark] = []
        self._places = places
        self._side = ""

    @contextmanager
    def on(self, side: str) -> Iterator[None]:
        """Note what is called until the block ends, as of this side."""
        self._side = side
        before = sys.getprofile()
        sys.setprofile(self._take)
        try:
            yield
        finally:
            sys.setprofile(before)

    def named(self, name: str, side: str, start: int = 0) -> list[Mark]:
        """Return the marks of a name and side from the call `start` on, in order."""
        return [mark for mark in self.marks if (mark.name, mark.side) == (name, side) and mark.index >= start]

    def _take(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        call = self._call_of(frame)
        if call is not None:
            self.calls.append(call)
        name = self._places.get(frame.f_code)
        if name is not None:
            caller = self._call_of(frame.f_back) if frame.f_back is not None else None
            values = dict(frame.f_locals)
            self.marks.append(Mark(name=name, side=self._side, index=len(self.calls), values=values, caller=caller))

    def _call_of(self, frame: FrameType) -> Call | None:
        code = frame.f_code
        name = code.co_qualname
        if not code.co_filename.startswith(ROOT) or name.endswith(NO_FUNCTIONS):
            return None
        return Call(self._side, code.co_filename.removeprefix(ROOT), name)


def place(function: Callable[..., object]) -> CodeType:
    """Return the code of a function or method, by which a frame of it is known."""
    return function.__code__
