"""What docs/ says of the code is what the code is: tables of states, messages and limits, and every name in it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from ftvm.config import Limits
from ftvm.encode.headed import CODECS
from ftvm.protocol.active.link import LINKS
from ftvm.protocol.core import ROLES
from ftvm.protocol.standby.standby_state import CLAIMS
from ftvm.sim.mutants import MUTANTS

from ..model.test_model import BREAKS

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted((ROOT / "docs").glob("*.md"))
PROTOCOL: Final = ROOT / "docs" / "protocol.md"
WIRE: Final = ROOT / "docs" / "wire.md"

_PLACE: Final = re.compile(r"((?:[\w.-]+/)*[\w-]+\.(?:py|h|c|tla|json|toml))(?::([\w.]+))?")


def rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    (table, *_) = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def codes(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


@cache
def names_in(source: Path) -> set[str]:
    """Return the names of a module, and of its classes as Class.name."""

    def named(body: list[ast.stmt], before: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield before + node.name
            if isinstance(node, ast.ClassDef) and not before:
                yield from named(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (before + target.id for target in targets if isinstance(target, ast.Name))

    return set(named(ast.parse(source.read_text(encoding="utf-8")).body, ""))


@cache
def names_of_tests() -> set[str]:
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for source in sources for name in re.findall(r"^ *def (test_\w+)\(", source, re.MULTILINE)}


@pytest.mark.parametrize(
    ("heading", "table"),
    [("Roles", ROLES), ("The link's table", LINKS), ("The claim's table", CLAIMS)],
    ids=["roles", "link", "claim"],
)
def test_a_table_of_states_is_that_of_the_code(heading: str, table: dict) -> None:  # type: ignore[type-arg]
    said = [tuple(row[:3]) for row in table_below(heading)]

    assert sorted(said) == sorted((state.value, event.value, after.value) for (state, event), after in table.items())


def table_below(heading: str) -> list[list[str]]:
    if heading != "Roles":
        return rows(PROTOCOL, heading)
    section = PROTOCOL.read_text(encoding="utf-8").split("## Roles\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.split("| role | event | becomes |\n")[1].splitlines()[1:]
        if line.startswith("|")
    ]


def test_the_table_of_messages_is_that_of_the_code() -> None:
    said = [(int(kind), name.strip("`"), int(count)) for kind, _, name, count, *_ in rows(WIRE, "Messages")]

    assert said == sorted({(codec.kind, codec.type.__name__, codec.count) for codec in CODECS})


def test_the_limits_are_those_of_the_code() -> None:
    said = {name.strip("`"): int(default.replace(",", "")) for name, default, _ in rows(WIRE, "Limits")}
    defaults = {each.name: each.default for each in fields(Limits)}

    assert said.items() <= defaults.items()
    assert {name for name in defaults if name.endswith("_bytes")} <= said.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_in_the_code_that_is_named_exists(page: Path) -> None:
    missing = []
    for code in codes(page.read_text(encoding="utf-8")):
        place = _PLACE.fullmatch(code)
        folder = re.fullmatch(r"(?:[\w.-]+/)+", code)
        path = place[1] if place else code if folder else None
        if path is None or re.search(r"\b[A-Z]{4,}\b", path):  # in capitals: to be replaced by the reader
            continue
        found = [base / path for base in (ROOT / "ftvm", ROOT) if (base / path).exists()]
        if not found or (place is not None and place[2] and place[2] not in names_in(found[0])):
            missing.append(code)

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = [code for code in codes(page.read_text(encoding="utf-8")) if re.fullmatch(r"test_\w+", code)]

    assert set(named) - names_of_tests() == set()


def test_every_rule_names_its_code_and_its_test_and_breaks_that_exist() -> None:
    table = rows(PROTOCOL, "Where each rule is")
    breaks = [cell for *_, cell in table]

    assert len(table) > 40
    assert [rule for rule, code, test, _ in table if not _PLACE.search(code) or "`test_" not in test] == []
    assert {name for cell in breaks for name in re.findall(r"`(\w+)`", cell)} == set(MUTANTS)
    assert {name for cell in breaks for name in re.findall(r'"([^"]+)"', cell)} == set(BREAKS)
