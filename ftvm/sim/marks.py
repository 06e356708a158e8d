"""Finds the lines that a safety rule hangs on by the marks in the code, and a part of one by its syntax.

A mark is a comment, `rule: NAME` behind a number sign: at the end of the line that it marks, or alone above it. It
moves with its line, whatever function, class or module that comes to be in, and whatever its names become. A mark that
is nowhere, or in two places, and a part that is not there exactly once, is an InternalError that says so.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

from ftvm.errors import InternalError

__all__ = ["MarkedLine", "Node", "find", "marks", "part_of"]

ROOT: Final = Path(__file__).parents[1]
_MARK: Final = re.compile(r"^(?P<before>.*)# rule: (?P<name>\w+)$")
_OPERATORS: Final[dict[str, type[ast.cmpop]]] = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    ">=": ast.GtE,
    "<=": ast.LtE,
    ">": ast.Gt,
    "<": ast.Lt,
    "in": ast.In,
    "is": ast.Is,
}
_BODIES: Final = frozenset({"body", "orelse", "handlers", "finalbody", "cases"})

Node = ast.stmt | ast.expr | ast.keyword
"""What has a place in the source."""
_N = TypeVar("_N", bound=ast.AST)


@dataclass(frozen=True, slots=True)
class MarkedLine:
    """A line that bears a mark.

    module, function  where it is: ftvm.checkpoint, Watermarks.cover
    node              what begins on that line: a statement, an argument on a separate line, or a case with its guard
    """

    module: str
    function: str
    node: Node | ast.match_case


@cache
def marks() -> dict[str, list[tuple[Path, int]]]:
    """Return the file and line that each mark of ftvm/ stands for."""
    found: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if "# rule: " in text else []
        for number, line in enumerate(lines, 1):
            match = _MARK.match(line)
            if match is not None:
                above = 0 if match["before"].strip() else next(_code_below(lines[number:]))
                found[match["name"]].append((path, number + above))
    return dict(found)


def _code_below(lines: list[str]) -> Iterator[int]:
    return (number for number, line in enumerate(lines, 1) if not line.lstrip().startswith("#"))


def find(mark: str) -> MarkedLine:
    """Return the one place that a mark names."""
    places = marks().get(mark, [])
    if len(places) != 1:
        where = ", ".join(f"{path.relative_to(ROOT)}:{line}" for path, line in places) or "nowhere"
        raise InternalError(f"the mark `rule: {mark}` must be on one line of ftvm/, and is: {where}")
    ((path, line),) = places
    tree = ast.parse(path.read_bytes())
    nodes = [node for node in ast.walk(tree) if _line_of(node) == line]
    if not nodes:
        raise InternalError(f"the mark `rule: {mark}` is on no statement or argument: {path.relative_to(ROOT)}:{line}")
    module = ".".join(("ftvm", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    node = nodes[0]  # the walk goes from the outside to the inside
    assert isinstance(node, ast.stmt | ast.expr | ast.keyword | ast.match_case)
    return MarkedLine(module, _function_around(tree, line), node)


def _line_of(node: ast.AST) -> int | None:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno
    return node.lineno if isinstance(node, ast.stmt | ast.expr | ast.keyword) else None


def _function_around(tree: ast.Module, line: int) -> str:
    def around(nodes: list[ast.stmt]) -> list[str]:
        for node in nodes:
            if node.lineno <= line <= (node.end_lineno or node.lineno) and isinstance(
                node, ast.ClassDef | ast.FunctionDef
            ):
                return [node.name, *around(node.body)]
        return []

    return ".".join(around(tree.body))


def part_of(place: MarkedLine, part: str) -> Node:
    """Return a part of what is marked.

    "" is all of it; "test" the condition of an if, a while or a case; "value" what is assigned, returned or given for
    an argument; "else" the last part of the one `x if y else z`; ">=" the one comparison by that operator and "right of
    >=" its right side; "and 2" the second operand of the one `and`; "argument 2" of the one outermost call; "keyword x"
    the value of the one argument x.
    """
    node = place.node
    if not part and not isinstance(node, ast.match_case):
        return node
    found = list(_parts(node, part))
    if len(found) != 1:
        raise InternalError(f"{place.module}:{place.function} has {part!r} {len(found)} times where it is marked")
    return found[0]


def _parts(node: Node | ast.match_case, part: str) -> Iterator[Node]:
    kind, _, which = part.rpartition(" ")
    match kind:
        case "left of" | "right of":
            yield from (each.left if kind == "left of" else each.comparators[0] for each in _compares(node, which))
        case "and":
            every = (each for each in _inner(node, ast.BoolOp) if isinstance(each.op, ast.And))
            yield from (operand for each in every for operand in each.values[int(which) - 1 : int(which)])
        case "argument":
            call = node if isinstance(node, ast.Call) else getattr(node, "value", None)
            yield from call.args[int(which) - 1 : int(which)] if isinstance(call, ast.Call) else []
        case "keyword":
            yield from (each.value for each in _inner(node, ast.keyword) if each.arg == which)
        case _ if part == "else":
            yield from (each.orelse for each in _inner(node, ast.IfExp))
        case _ if part in _OPERATORS:
            yield from _compares(node, part)
        case _:
            name = "guard" if isinstance(node, ast.match_case) and part == "test" else part
            inner = getattr(node, name, None)
            yield from [inner] if isinstance(inner, ast.expr) else []


def _compares(node: ast.AST, operator: str) -> Iterator[ast.Compare]:
    """Yield the comparisons of two by an operator."""
    return (each for each in _inner(node, ast.Compare) if [type(op) for op in each.ops] == [_OPERATORS[operator]])


def _inner(node: ast.AST, kind: type[_N]) -> Iterator[_N]:
    """Yield what is within a node, itself included, but not in the blocks under it."""
    if isinstance(node, kind):
        yield node
    for name, value in ast.iter_fields(node):
        if name not in _BODIES or isinstance(node, ast.expr):
            for child in value if isinstance(value, list) else [value]:
                yield from _inner(child, kind) if isinstance(child, ast.AST) else ()
