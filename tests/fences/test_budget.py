"""How large the code may be, and how long the way of a checkpoint and of an output: counts, never time.

The tables are the budget. A change that needs more says why in its commit, next to the number that it raises; one that
needs less lowers the number, so that nobody spends what was saved.
"""

import ast
import tokenize
from collections import Counter
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest

import ftvm

from ..walk.routes import walk_burst, walk_checkpoint, walk_output
from ..walk.turns import calls_of_a_request

ROOT: Final = Path(ftvm.__file__).parent

LINES: Final = {
    "": 922,
    "_native": 538,
    "arbiters": 775,
    "capture": 495,
    "cli": 3962,
    "encode": 1392,
    "engines": 203,
    "guests": 3274,
    "guests/cards": 258,
    "guests/disk": 1701,
    "guests/kvm": 1500,
    "guests/vmm": 867,
    "history": 2871,
    "lab": 3484,
    "lab/rig": 603,
    "protocol": 4084,
    "runtime": 3327,
    "service": 1822,
    "sim": 2633,
    "store": 1438,
    "testing": 2165,
    "transport": 1264,
}
"""Lines with code of each package: no docstring, comment or blank line counts. "" is the modules of ftvm/ itself; a
room within a package that has its own budget does not count for the package."""

C_LINES: Final = {"kvm": 4000}
"""Lines of C of a noun in ftvm/_native/, with all that is in its folder."""

MODULE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 60

PROTOCOL_FILES_MAX: Final = 26

LONG_MODULES: Final[dict[str, int]] = {}
LONG_FUNCTIONS: Final[dict[str, int]] = {}
"""What is longer nevertheless, as {"file" or "file:function": lines}: each a debt. There is no debt today."""

CHECKPOINT_FILES: Final = {"remus": 25, "kemari": 25}
"""Distinct files that one checkpoint crosses, both hosts together. The design says 25 at most."""

OUTPUT_CALLS: Final = {"kemari": (96, 24), "hybrid": (66, 12)}
"""Calls of ftvm's functions on the primary from the emission of an output until it has left: those of production code,
for which the target is 60, and apart those of what stands in for the real guest, clock and transport (tests/walk)."""

BURST_CALLS: Final = {
    ("hybrid", "primary"): 64,
    ("hybrid", "backup"): 36,
    ("lockstep", "primary"): 64,
    ("lockstep", "backup"): 62,
}
"""Calls of ftvm's functions on each host for the answers to 16 requests of one turn, those of stand-ins apart. Under
lockstep the backup's guest gives the same answers."""

GUEST_CALLS: Final = 6
"""Calls of ftvm's functions and of the C core in the built-in machine's own thread to answer one request."""

_NO_CODE: Final = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True, slots=True)
class Module:
    """One file of ftvm/. `functions` gives the lines that each takes, its docstring included."""

    name: str
    lines: int
    lines_with_code: int
    functions: dict[str, int]


def read(path: Path, name: str) -> Module:
    text = path.read_bytes()
    tree = ast.parse(text)
    functions = {
        f"{name}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return Module(name, len(text.splitlines()), len(_lines_of_tokens(text) - _lines_of_docstrings(tree)), functions)


def _lines_of_tokens(text: bytes) -> set[int]:
    tokens = tokenize.tokenize(BytesIO(text).readline)
    return {line for token in tokens if token.type not in _NO_CODE for line in range(token.start[0], token.end[0] + 1)}


def _lines_of_docstrings(tree: ast.Module) -> set[int]:
    """Return the lines of strings that stand alone: of modules, classes and functions, of constants and fields."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


@cache
def modules() -> tuple[Module, ...]:
    return tuple(read(path, path.relative_to(ROOT).as_posix()) for path in sorted(ROOT.rglob("*.py")))


def lines_of_packages() -> Counter[str]:
    lines: Counter[str] = Counter()
    for module in modules():
        folder = module.name.rpartition("/")[0]
        room = "/".join(folder.split("/")[:2])
        lines[room if room in LINES else folder.partition("/")[0]] += module.lines_with_code
    return lines


def test_docstrings_comments_and_blank_lines_are_no_code(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text(
        '"""Says\nwhat."""\n\nX = """two\nlines"""  # why\n"""Of X."""\n\n# alone\ndef f():\n    return 1\n'
    )

    assert read(module, "m.py").lines_with_code == 4


@pytest.mark.parametrize("package", LINES)
def test_a_package_keeps_its_budget_of_lines(package: str) -> None:
    lines, allowed = lines_of_packages()[package], LINES[package]

    assert lines <= allowed, (
        f"ftvm/{package} has {lines} lines with code, {allowed} are allowed: delete or merge what the change made "
        f"unneeded, or raise LINES[{package!r}] here and say in the commit what the lines buy; never make lines denser"
    )


def test_every_package_has_a_budget_of_lines() -> None:
    unknown = {package: lines for package, lines in lines_of_packages().items() if package not in LINES}

    assert unknown == {}, f"new packages {unknown}: give each a line in LINES, its size rounded up a little"


def test_no_package_has_a_budget_and_is_gone() -> None:
    gone = LINES.keys() - lines_of_packages().keys()

    assert gone == set(), f"{sorted(gone)} are no packages any more: take them out of LINES"


@pytest.mark.parametrize("noun", C_LINES)
def test_a_noun_of_c_keeps_its_budget_of_lines(noun: str) -> None:
    files = [*(ROOT / "_native").glob(f"{noun}.[ch]"), *(ROOT / "_native" / noun).glob("*.[ch]")]
    lines = sum(len(file.read_text().splitlines()) for file in files)

    assert 0 < lines <= C_LINES[noun], f"{noun} has {lines} lines of C, {C_LINES[noun]} are allowed"


def test_no_module_is_longer_than_a_reader_bears() -> None:
    allowed = {module.name: LONG_MODULES.get(module.name, MODULE_LINES_MAX) for module in modules()}
    long = {module.name: module.lines for module in modules() if module.lines > allowed[module.name]}

    assert long == {}, f"over {MODULE_LINES_MAX} lines: {long}: split each by a noun into two modules"


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {name: lines for module in modules() for name, lines in module.functions.items()}
    long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTIONS.get(name, FUNCTION_LINES_MAX)}

    assert long == {}, (
        f"over {FUNCTION_LINES_MAX} lines: {long}: keep the decisions in the function, move what it computes to helpers"
    )


def test_what_is_listed_as_too_long_still_is() -> None:
    long_modules = {module.name for module in modules() if module.lines > MODULE_LINES_MAX}
    lengths = {name: lines for module in modules() for name, lines in module.functions.items()}
    long_functions = {name for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX}

    listed = (LONG_MODULES.keys() - long_modules) | (LONG_FUNCTIONS.keys() - long_functions)

    assert listed == set(), f"{sorted(listed)} are short now, or gone: take them out of LONG_MODULES and LONG_FUNCTIONS"


def test_the_protocol_has_no_more_files_than_a_reader_keeps_in_mind() -> None:
    files = [module.name for module in modules() if module.name.startswith("protocol/")]

    assert len(files) <= PROTOCOL_FILES_MAX, f"{len(files)} files in ftvm/protocol: merge those of one theme"


@pytest.mark.parametrize("engine", CHECKPOINT_FILES)
def test_a_checkpoint_crosses_no_more_files(engine: str) -> None:
    walk, allowed = walk_checkpoint(engine), CHECKPOINT_FILES[engine]

    assert len(walk.files) <= allowed, (
        f"a checkpoint under {engine} crosses {len(walk.files)} files, {allowed} are allowed: see which is new by "
        f"`python -m tests.walk checkpoint --engine {engine}` before and after, and move its part to where the way "
        f"already leads; or raise CHECKPOINT_FILES here and say why in the commit"
    )


@pytest.mark.parametrize("engine", OUTPUT_CALLS)
def test_an_output_costs_the_primary_no_more_calls(engine: str) -> None:
    calls, allowed = walk_output(engine).calls_on("primary"), OUTPUT_CALLS[engine]

    assert all(made <= most for made, most in zip(calls, allowed, strict=True)), (
        f"an output under {engine} costs the primary {calls} calls of production code and of stand-ins, {allowed} are "
        f"allowed: compare `python -m tests.walk output --engine {engine}` before and after, and take out what is "
        f"called for nothing; or raise OUTPUT_CALLS here and say why in the commit"
    )


@pytest.mark.parametrize(("engine", "side"), BURST_CALLS)
def test_a_burst_of_outputs_costs_each_host_no_more_calls(engine: str, side: str) -> None:
    calls, allowed = walk_burst(engine).calls_on(side)[0], BURST_CALLS[engine, side]

    assert 0 < calls <= allowed, (
        f"the answers to a burst under {engine} cost the {side} {calls} calls, {allowed} are allowed: compare "
        f"`python -m tests.walk burst --engine {engine}` before and after, and do once what is done for each output"
    )


def test_a_request_costs_the_guests_thread_no_more_calls() -> None:
    calls = calls_of_a_request()

    assert 0 < calls.total() <= GUEST_CALLS, (
        f"a request costs the guest's thread {calls.total()} calls, {GUEST_CALLS} are allowed: {dict(calls)}; "
        f"do in the C core what needs no Python (ftvm/_native/turn.c), or raise GUEST_CALLS and say why in the commit"
    )
