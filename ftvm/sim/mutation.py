"""Breaks the production code on purpose, one line at a time, and repairs it again.

A mutant is a list of edits (mutants.py). To apply it, the edited module is compiled, and the code of each edited
function is put into the function that is running already: whoever imported it, by whatever name, runs the broken line
from then on. The files stay as they are; production code knows nothing of this, but for the marks on lines (marks.py).
"""

import ast
import builtins
import contextlib
import dis
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import CodeType, FunctionType
from typing import Final

from ftvm.errors import ConfigError, InternalError
from ftvm.sim import marks

__all__ = ["Change", "Edit", "Mutant", "broken", "mutate"]

_OLD: Final = re.compile(r"\{(it|left|right|value)\}")


@dataclass(frozen=True, slots=True)
class Change:
    """A marked line, and what somebody could have written in place of a part of it by mistake.

    mark  the name in the line's comment `rule: NAME`
    part  which part of it, as marks.part_of takes it
    new   what stands there instead; {it} is the part as it was, {left}, {right} and {value} what it was made of
    """

    mark: str
    part: str
    new: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A line of a function that bears no mark, and what could stand in its place: for code that only one test breaks.

    where  module:function, like ftvm.protocol.active.output:OutputBuffer.hold
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
    edits: tuple[Change | Edit, ...]


@dataclass(frozen=True, slots=True, order=True)
class _Patch:
    """New source for the bytes from the first to behind the last of the module that holds a function."""

    first: int
    behind: int
    where: str
    new: bytes


@contextlib.contextmanager
def mutate(name: str) -> Iterator[Mutant]:
    """Run with a mutant's lines, as long as the context lasts. Raises ConfigError if no mutant has that name."""
    from ftvm.sim.mutants import MUTANTS  # the table is made of this module's classes

    mutant = MUTANTS.get(name)
    if mutant is None:
        raise ConfigError(f"there is no mutant {name!r}; the names are: {', '.join(MUTANTS)}")
    with broken(mutant):
        yield mutant


@contextlib.contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Run with the lines of a mutant that need not be in the table, as long as the context lasts."""
    patches = sorted(_change(edit) if isinstance(edit, Change) else _edit(edit) for edit in mutant.edits)
    codes: list[tuple[FunctionType, CodeType, CodeType]] = []
    for where in dict.fromkeys(patch.where for patch in patches):
        function = _function_at(where)
        of_it = [patch for patch in patches if patch.where == where]
        codes.append((function, function.__code__, _compile(function, where, of_it)))
    try:
        for function, _, code in codes:
            function.__code__ = code
        yield
    finally:
        for function, whole, _ in codes:
            function.__code__ = whole


def _change(change: Change) -> _Patch:
    place = marks.find(change.mark)
    node = marks.part_of(place, change.part)
    source = _source_of(place.module)

    def old(name: str) -> bytes:
        compared = {"left": node.left, "right": node.comparators[0]} if isinstance(node, ast.Compare) else {}
        part = node if name == "it" else compared.get(name) or getattr(node, name, None)
        if not isinstance(part, marks.Node):
            raise InternalError(f"what is marked `rule: {change.mark}` has no {name}: write its change in another way")
        first, behind = _span(source, part)
        return source[first:behind]

    first, behind = _span(source, node)
    indent = b" " * (node.col_offset if isinstance(node, ast.stmt) else 0)
    lines = (_OLD.sub(lambda found: old(found[1]).decode(), line) for line in change.new.split("\n"))
    return _Patch(first, behind, f"{place.module}:{place.function}", (b"\n" + indent).join(map(str.encode, lines)))


def _edit(edit: Edit) -> _Patch:
    function = _function_at(edit.where)
    source, part = _source_of(function.__module__), inspect.getsource(function).encode()
    times = part.count(edit.old.encode())
    if times != 1 or source.count(part) != 1:
        raise InternalError(f"{edit.where} has {edit.old!r} {times} times now: write its mutant again")
    first = source.index(part) + part.index(edit.old.encode())
    return _Patch(first, first + len(edit.old.encode()), edit.where, edit.new.encode())


def _source_of(module: str) -> bytes:
    path = import_module(module).__file__
    if path is None:
        raise InternalError(f"{module} has no source")
    return Path(path).read_bytes()


def _span(source: bytes, node: marks.Node) -> tuple[int, int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return starts[node.lineno - 1] + node.col_offset, starts[end_line - 1] + end_column


def _function_at(where: str) -> FunctionType:
    module, _, name = where.partition(":")
    found = attrgetter(name)(import_module(module)) if name else None
    found = getattr(found, "fget", found)  # a property
    found = getattr(found, "__func__", found)  # a class method
    found = inspect.unwrap(found) if callable(found) else found
    if not isinstance(found, FunctionType):
        raise InternalError(f"{where} is {type(found).__name__}, not a function: name another place")
    return found


def _compile(function: FunctionType, where: str, patches: list[_Patch]) -> CodeType:
    written = _source_of(function.__module__)
    for later, patch in zip([*patches[1:], None], patches, strict=True):
        if later is not None and later.first < patch.behind:
            raise InternalError(f"two edits of {where} overlap: make one of them")
    for patch in reversed(patches):
        written = written[: patch.first] + patch.new + written[patch.behind :]
    found = _find(compile(written, function.__code__.co_filename, "exec"), function.__qualname__)
    if found is None:
        raise InternalError(f"{where} cannot be found in its own module")
    unknown = _globals_of(found) - function.__globals__.keys() - vars(builtins).keys()
    if unknown:
        raise InternalError(
            f"{where} has no name {sorted(unknown)}, which its mutant uses: write it with today's names"
        )
    return found


def _find(code: CodeType, name: str) -> CodeType | None:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found = inner if inner.co_qualname == name else _find(inner, name)
            if found is not None:
                return found
    return None


def _globals_of(code: CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    named = {step.argval for step in dis.get_instructions(code) if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}}
    return named.union(*map(_globals_of, inner))
