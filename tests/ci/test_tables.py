"""The tables of figures in the documents are those of the evidence that is kept, and say where they come from."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import ROOT


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "bench" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(name: str, value: float | None, peer: float | None = None, goal: str | None = None) -> dict[str, Any]:
    ratio = value / peer if value is not None and peer else None
    met = None if goal is None else True
    return {"name": name, "value": value, "peer": "x", "peer_value": peer, "ratio": ratio, "goal": goal, "met": met}


QEMU = [
    row("256 MiB, full migration to a file: pause p50", 153.2, 10),
    row("256 MiB, full migration to a file: written", 108.4),
    row("256 MiB, savevm: pause p50", 120, 10),
    row("256 MiB, savevm: written", 113),
    row("256 MiB, 10/s: pause p50", 6.7, 12.8, "<= 1.5"),
    row("256 MiB, 10/s: pause p99", 24.4),
    row("256 MiB, 10/s: bytes per checkpoint", 1330, 13, ">= 20"),
    row("256 MiB, 10/s: guest slowdown", -3),
    row("256 MiB, 10/s: takeover beyond detection", 13.2, 100, "<= 1"),
]
ENGINES = [
    row("kv, 16 clients, direct: remus: throughput", 23, 100),
    row("kv, 1 client, direct: remus: output delay p50", 24_300, 100),
    row("kv, 1 client, direct: remus: output delay p99", 30_300, 100),
    row("kv, 16 clients, 4 ms: remus: output delay p50", 22_000, 100),
    row("dirty 200 pages, direct: remus: throughput", 88, 100, ">= 0.97"),
    row("kv, 1 client, direct: remus: pause p50", 360),
    row("kv, 1 client, direct: remus: shipped", 80_000),
    row("kv, 1 client, direct: remus: takeover beyond detection", 7.5, 10),
    row("kv, 16 clients, direct: kemari", None),
]


def evidence(part: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "part": part,
        "revision": "0123456789abcdef",
        "date": "2030-01-02T03:04:05Z",
        "command": f".ci/full {part}",
        "machine": {"cores": 2},
        "load_before": 0.5,
        "load_after": 2.5,
        "figures": {"table": rows},
    }


def test_the_tables_are_those_of_the_evidence(tables: ModuleType) -> None:
    assert [str(path.relative_to(ROOT)) for path in tables.renew_all(ROOT)] == [], "python -m bench.tables --write"


def test_each_table_has_its_place(tables: ModuleType) -> None:
    for name, (document, part, _) in tables.TABLES.items():
        text = (ROOT / document).read_text()

        assert tables.renewed(text, name, "made again") != text
        assert (ROOT / ".ci" / "parts" / part).exists()
    told = {
        place
        for name in ("docs/performance.md", "bench/README.md")
        for place in re.findall("<!-- table: (.*) -->", (ROOT / name).read_text())
    }
    assert told == set(tables.TABLES)


def test_the_table_of_qemu_shows_its_rows(tables: ModuleType) -> None:
    made = tables.qemu(tables.figures_of(evidence("qemu", QEMU)))

    assert "| 256 MiB | 10 /s | 6.7 / 24.4 ms | 12.8 ms | 1,330 KiB | 13 KiB | 13 ms |" in made
    assert "| `savevm` into an image in memory | 120 ms, 113 MiB |" in made
    assert "a pause 0.5 times the bare one" in made


def test_the_table_of_kvm_shows_the_bare_loop_beside_the_pause_and_each_pair(tables: ModuleType) -> None:
    bare = {**row("pause, 200 dirty pages: p50", 0.34, 0.04), "peer": "bare: dirty log, copy, processor"}
    pair = "kemari, 1 pages a line"
    rows = [
        bare,
        row("pause, 200 dirty pages: p50", 0.34, 0.15),
        row(f"{pair}: lines", 600, 1600),
        row(f"{pair}: checkpoints", 600),
        row(f"{pair}: output delay p50", 0.68),
        row(f"{pair}: output delay p99", 9.57),
        row(f"{pair}: pause p50", 0.15),
        row(f"{pair}: pause p99", 0.49),
    ]

    made = tables.kvm(tables.figures_of(evidence("kvm", rows)))

    assert "| 200 | 0.34 ms | 0.04 ms | 8.5x |" in made
    assert "| kemari, 1 pages a line | 0.38x | 600 /s | 0.7 / 9.6 ms | 0.1 / 0.5 ms |" in made


def test_the_table_of_engines_shows_its_rows_and_a_dash_where_nothing_was_measured(tables: ModuleType) -> None:
    made = tables.engines(tables.figures_of(evidence("engines", ENGINES)))

    assert "| `remus` | 0.23x | 24.3 / 30.3 ms | 22 ms | - | 0.88x | - | 0.36 ms | 80 kB/s | 7.5 ms |" in made
    assert "| `kemari` | - | - / - ms | - |" in made


def test_the_table_of_goals_shows_those_that_were_measured(tables: ModuleType) -> None:
    made = tables.goals(tables.figures_of(evidence("qemu", QEMU)))

    assert made.count("| met |") == 3
    assert "| 256 MiB, 10/s: pause p50 | <= 1.5x | 0.52x | x | met |" in made


def test_each_table_says_where_its_figures_come_from(tables: ModuleType) -> None:
    for make, rows in ((tables.qemu, QEMU), (tables.engines, ENGINES), (tables.goals, ENGINES)):
        made = make(tables.figures_of(evidence("part", rows)))

        assert "`.ci/full part` at revision 0123456789 on 2030-01-02" in made
        assert "2 cores, load average 0.5 before and 2.5 after" in made


def test_a_table_is_renewed_when_its_evidence_changes(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "docs" / "evidence").mkdir(parents=True)
    for name in ("docs/performance.md", "bench/README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "docs" / "evidence" / "qemu.json").write_text(json.dumps(evidence("qemu", QEMU)))

    differing = tables.renew_all(tmp_path)

    assert set(differing) == {tmp_path / "docs" / "performance.md", tmp_path / "bench" / "README.md"}
    for path, text in differing.items():
        path.write_text(text)
    assert tables.renew_all(tmp_path) == {}


def test_a_document_without_the_place_is_refused(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="no one place"):
        tables.renewed("nothing here", "qemu", "a table")
