"""The tables of figures in the documents, made from the evidence that is kept: docs/evidence/*.json.

    python -m bench.tables [--write]

Tells which tables differ from their evidence, and fails if one does; with --write it makes them new. A table stands
between `<!-- table: NAME -->` and `<!-- end of table -->`. Where a part of .ci/full left no evidence, its table stays.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = Path("docs/evidence")
END = "<!-- end of table -->"

CASES = {
    "remus": "`remus`",
    "remus, 5 ms": "`remus --latency 5`",
    "kemari": "`kemari`",
    "lockstep": "`lockstep`",
    "hybrid": "`hybrid`",
}
ALONE = "kv, 1 client, direct"
CROWD = "kv, 16 clients"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The evidence of one part: its rows by name, and where they come from."""

    rows: dict[str, dict[str, Any]]
    evidence: dict[str, Any]

    def text(self, name: str, pattern: str, *, what: str = "value", scale: float = 1.0) -> str:
        """Return a figure of a row as text; a dash where it was not measured."""
        found = self.rows.get(name, {}).get(what)
        return "-" if found is None else pattern.format(found * scale)

    def spread(self, suffix: str, what: str, pattern: str) -> str:
        """Return the least and the greatest of a figure over all rows whose names end so."""
        found = [row[what] for name, row in self.rows.items() if name.endswith(suffix) and row[what] is not None]
        ends = dict.fromkeys(pattern.format(end) for end in (min(found), max(found))) if found else ["-"]
        return " to ".join(ends)

    @property
    def origin(self) -> str:
        """Say at which revision, and on how busy a machine, it was measured."""
        kept = self.evidence
        load = f"load average {kept['load_before']} before and {kept['load_after']} after"
        return (
            f"Measured by `{kept['command']}` at revision {kept['revision'][:10]} on {kept['date'][:10]}: "
            f"{kept['machine']['cores']} cores, {load}."
        )


def figures_of(evidence: dict[str, Any]) -> Figures:
    return Figures(rows={row["name"]: row for row in evidence["figures"]["table"]}, evidence=evidence)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(cells) + " |" for cells in (head, *lines)]
    return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])


# --- a stock QEMU ----------------------------------------------------------------------------------------------------


def qemu(found: Figures) -> str:
    pairs = dict.fromkeys(name.partition(":")[0] for name in found.rows if "/s: " in name)
    sizes = dict.fromkeys(pair.partition(", ")[0] for pair in pairs)
    peers = {
        "stop, migrate all of it to a file in memory, cont": "full migration to a file",
        "`savevm` into an image in memory": "savevm",
    }
    head = ["guest", "checkpoints", "pause p50 / p99", "bare", "dirty pages", "shipped", "takeover beyond noticing"]
    costs = table(head, [_pair(found, pair) for pair in pairs])
    instead = table(
        ["instead of a checkpoint, on the same guest", *sizes],
        [[told, *(_peer(found, size, peer) for size in sizes)] for told, peer in peers.items()],
    )
    return f"{costs}\n\n{instead}\n\n{found.origin} {_ratios(found)}"


def _ratios(found: Figures) -> str:
    pauses = found.spread("/s: pause p50", "ratio", "{:.1f}")
    fewer = found.spread(": bytes per checkpoint", "ratio", "{:.0f}")
    slowdown = found.spread(": guest slowdown", "value", "{:.0f} %")
    return (
        f"Where the machine has other work to do, trust the ratios: a pause {pauses} times the bare one (goal: at most "
        f"1.5), {fewer} times fewer bytes than the dirty pages have (goal: at least 20). What the guest lost of its "
        f"computing: {slowdown}."
    )


def _pair(found: Figures, pair: str) -> list[str]:
    size, _, rate = pair.partition(", ")
    p50, p99 = (found.text(f"{pair}: pause {rank}", "{:.1f}") for rank in ("p50", "p99"))
    return [
        size,
        rate.replace("/s", " /s"),
        f"{p50} / {p99} ms",
        found.text(f"{pair}: pause p50", "{:.1f} ms", what="peer_value"),
        found.text(f"{pair}: bytes per checkpoint", "{:,.0f} KiB"),
        found.text(f"{pair}: bytes per checkpoint", "{:,.0f} KiB", what="peer_value"),
        found.text(f"{pair}: takeover beyond detection", "{:.0f} ms"),
    ]


def _peer(found: Figures, size: str, peer: str) -> str:
    pause = found.text(f"{size}, {peer}: pause p50", "{:.0f} ms")
    written = found.text(f"{size}, {peer}: written", "{:.0f} MiB")
    return f"{pause}, {written}"


# --- a guest on the processor ----------------------------------------------------------------------------------------


def kvm(found: Figures) -> str:
    bare = [row for row in found.evidence["figures"]["table"] if row["peer"].startswith("bare: ")]
    pauses = [
        [row["name"].split()[1], f"{row['value']:.2f} ms", f"{row['peer_value']:.2f} ms", f"{row['ratio']:.1f}x"]
        for row in bare
    ]
    pairs = dict.fromkeys(name.partition(": ")[0] for name in found.rows if name.endswith(": checkpoints"))
    alone = table(["dirty pages", "pause p50", "bare loop on KVM", "ratio"], pauses)
    pair = table(
        ["pair", "lines of the guest, beside it alone", "checkpoints", "output delay p50 / p99", "pause p50 / p99"],
        [_kvm_pair(found, name) for name in pairs],
    )
    return f"{alone}\n\n{pair}\n\n{found.origin}"


def _kvm_pair(found: Figures, pair: str) -> list[str]:
    delay = " / ".join(found.text(f"{pair}: output delay {rank}", "{:.1f}") for rank in ("p50", "p99"))
    pause = " / ".join(found.text(f"{pair}: pause {rank}", "{:.1f}") for rank in ("p50", "p99"))
    return [
        pair,
        found.text(f"{pair}: lines", "{:.2f}x", what="ratio"),
        found.text(f"{pair}: checkpoints", "{:.0f} /s"),
        f"{delay} ms",
        f"{pause} ms",
    ]


# --- the engines -----------------------------------------------------------------------------------------------------


def engines(found: Figures) -> str:
    head = [
        "engine, 25 ms",
        "key-value throughput, 16 clients",
        "output delay p50 / p99, 1 client",
        "p50 if the backup is 4 ms away",
        "40 ms away",
        "busy guest, 200 pages per epoch",
        "2,000 pages",
        "pause p50",
        "shipped",
        "takeover",
    ]
    peers = {row["peer"] for name, row in found.rows.items() if name.endswith(": throughput") and row["peer"]}
    compared = f"Throughput is compared with {' and '.join(sorted(peers))}."
    return table(head, [_engine(found, case, name) for case, name in CASES.items()]) + f"\n\n{found.origin} {compared}"


def _engine(found: Figures, case: str, name: str) -> list[str]:
    p50, p99 = (found.text(f"{ALONE}: {case}: output delay {rank}", "{:.1f}", scale=1e-3) for rank in ("p50", "p99"))
    return [
        name,
        found.text(f"{CROWD}, direct: {case}: throughput", "{:.2f}x", what="ratio"),
        f"{p50} / {p99} ms",
        *(
            found.text(f"{CROWD}, {link}: {case}: output delay p50", "{:.0f} ms", scale=1e-3)
            for link in ("4 ms", "40 ms")
        ),
        *(
            found.text(f"dirty {pages} pages, direct: {case}: throughput", "{:.2f}x", what="ratio")
            for pages in ("200", "2,000")
        ),
        found.text(f"{ALONE}: {case}: pause p50", "{:.2f} ms", scale=1e-3),
        found.text(f"{ALONE}: {case}: shipped", "{:.0f} kB/s", scale=1e-3),
        found.text(f"{ALONE}: {case}: takeover beyond detection", "{:.1f} ms"),
    ]


def goals(found: Figures) -> str:
    lines = [
        [name, row["goal"] + "x", f"{row['ratio']:.2f}x", row["peer"], "met" if row["met"] else "missed"]
        for name, row in found.rows.items()
        if row["goal"] is not None and row["ratio"] is not None
    ]
    return table(["goal", "to reach", "measured", "compared with", ""], lines) + f"\n\n{found.origin}"


# --- the documents ---------------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[str, str, Callable[[Figures], str]]] = {
    "qemu": ("docs/performance.md", "qemu", qemu),
    "engines": ("docs/performance.md", "engines", engines),
    "kvm": ("docs/performance.md", "kvm", kvm),
    "qemu-goals": ("bench/README.md", "qemu", goals),
    "engines-goals": ("bench/README.md", "engines", goals),
}
"""Of each table: the document, the part of .ci/full whose evidence it tells, and how it is made."""


def renewed(document: str, name: str, content: str) -> str:
    """Return a document with one table made new. Raises ValueError if it has no place for it."""
    pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(\n{END})", re.DOTALL)
    if len(pattern.findall(document)) != 1:
        raise ValueError(f"the document has no one place marked '<!-- table: {name} -->'")
    return pattern.sub(lambda place: place[1] + content + place[2], document)


def renew_all(root: Path) -> dict[Path, str]:
    """Return the documents whose tables differ from their evidence, as they should be."""
    documents: dict[Path, str] = {}
    for name, (place, part, make) in TABLES.items():
        kept, path = root / EVIDENCE / f"{part}.json", root / place
        if kept.exists():
            content = make(figures_of(json.loads(kept.read_text())))
            documents[path] = renewed(documents.get(path) or path.read_text(), name, content)
    return {path: text for path, text in documents.items() if text != path.read_text()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the tables of figures from the evidence that is kept")
    parser.add_argument("--write", action="store_true", help="write them; else tell which documents differ")
    differing = renew_all(ROOT)
    if parser.parse_args().write:
        for path, text in differing.items():
            path.write_text(text)
        return 0
    for path in differing:
        print(f"{path.relative_to(ROOT)} differs from docs/evidence: run python -m bench.tables --write")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
