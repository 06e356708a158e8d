"""Breaks the production code on purpose, one line at a time, and mends it again.

A mutant is a list of edits of source lines (mutants.py). To apply it, the edited module is compiled, and the code of
each edited function is put into the function that is running already: whoever imported it, by whatever name, runs the
broken line from then on. The files stay as they are, and the production code knows nothing of this.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from types import CodeType, FunctionType

from ftvm.errors import ConfigError, InternalError

__all__ = ["Edit", "Mutant", "broken", "mutate"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A line of a function, and what somebody could have written in its place by mistake.

    where  module:function, like ftvm.protocol.output:Gate.hold
    old    a piece of its source that occurs once; new what stands there instead
    """

    where: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A break of a safety rule. Where a second rule guards the first, an edit more takes that guard away, too."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]


@contextlib.contextmanager
def mutate(name: str) -> Iterator[Mutant]:
    """Run with a mutant's lines, as long as the context lasts. Raises ConfigError if there is none of that name."""
    from ftvm.sim.mutants import MUTANTS  # the table is made of this module's classes

    mutant = MUTANTS.get(name)
    if mutant is None:
        raise ConfigError(f"there is no mutant {name!r}; the names are: {', '.join(MUTANTS)}")
    with broken(mutant):
        yield mutant


@contextlib.contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Run with the lines of a mutant that need not be in the table, as long as the context lasts."""
    places = dict.fromkeys(edit.where for edit in mutant.edits)
    edited = [(_function_at(where), [edit for edit in mutant.edits if edit.where == where]) for where in places]
    codes = [(function, function.__code__, _compile(function, edits)) for function, edits in edited]
    try:
        for function, _, code in codes:
            function.__code__ = code
        yield
    finally:
        for function, whole, _ in codes:
            function.__code__ = whole


def _function_at(where: str) -> FunctionType:
    module, _, name = where.partition(":")
    found = attrgetter(name)(import_module(module))
    found = getattr(found, "fget", found)  # a property
    found = getattr(found, "__func__", found)  # a class method
    found = inspect.unwrap(found)
    if not isinstance(found, FunctionType):
        raise InternalError(f"{where} is {type(found).__name__}, not a function: name another place")
    return found


def _compile(function: FunctionType, edits: list[Edit]) -> CodeType:
    module = inspect.getmodule(function)
    if module is None:
        raise InternalError(f"{edits[0].where} belongs to no module")
    source, part = inspect.getsource(module), inspect.getsource(function)
    written = part
    for edit in edits:
        times = written.count(edit.old)
        if times != 1 or source.count(part) != 1:
            raise InternalError(f"{edit.where} has {edit.old!r} {times} times now: write its mutant anew")
        written = written.replace(edit.old, edit.new)
    code = compile(source.replace(part, written), function.__code__.co_filename, "exec")
    found = _find(code, function.__qualname__)
    if found is None:
        raise InternalError(f"{edits[0].where} cannot be found in its own module")
    return found


def _find(code: CodeType, name: str) -> CodeType | None:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found = inner if inner.co_qualname == name else _find(inner, name)
            if found is not None:
                return found
    return None
