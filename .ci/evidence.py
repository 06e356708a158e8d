#!/usr/bin/env python3
"""What the parts of .ci/full have shown: kept as JSON, and told beside the tree that is here.

    evidence.py chunk STATE GROUP NAME -- COMMAND...    run a command, unless STATE says that it was done
    evidence.py write STATE PART REVISION COMMAND FILE  the evidence of a part whose chunks are all done
    evidence.py list                                    each part, its time bound, and its last evidence

A chunk's figures are what its command printed: a JSON object at the end, a list of rows, the last line of pytest, or
the statistics of libFuzzer. Those of a group of chunks are added up; of a percentile or a maximum the greatest is kept.
Standard library alone, as it runs before anything is installed.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / ".ci" / "parts"
EVIDENCE = ROOT / "docs" / "evidence"
NOT_MEASURED = ("docs/evidence", "*.md", "docs/*.svg")
"""What may change without making evidence old: evidence itself, and what is written from it."""

GREATEST = re.compile(r"p\d+|max")
NOT_ADDED = {"seed", "jobs", "interval_ms", "start", "folder", "trouble", "load", "load_average"}
"""Settings of a chunk and what else was so while it ran: they mean nothing when added up."""

ASKED = "asked"
"""The file that lists the chunks of this run: others may be done that an earlier run, with other counts, asked for."""

SPREAD_FROM = 8
"""A longer list of measurements is kept as its count, middle and greatest."""

PYTEST = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed)")
FUZZED = re.compile(r"^(?:stat::number_of_executed_units: +|Done )(\d+)", re.MULTILINE)


# --- the figures of a chunk -----------------------------------------------------------------------------------------


def figures_of(text: str) -> Any:
    """Return what a command's output says in figures: a dict, a list of rows, or an empty dict."""
    for piece in (text, text.rstrip().rpartition("\n")[2]):
        try:
            found = json.loads(piece)
        except ValueError:
            continue
        if isinstance(found, dict | list):
            return found
    if units := FUZZED.findall(text):
        return {"inputs": sum(map(int, units))}
    last = text.rstrip().rpartition("\n")[2]
    return {word: int(count) for count, word in PYTEST.findall(last)}


def merged(one: Any, other: Any, name: str = "") -> Any:
    """Return two figures as one: counts are added, lists joined, of percentiles the greatest is kept."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return {key: merged(one.get(key), other.get(key), key) for key in keys if key not in NOT_ADDED}
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, bool) or isinstance(other, bool):
        return one and other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return max(one, other) if GREATEST.fullmatch(name) else round(one + other, 3)
    if isinstance(one, list) and isinstance(other, list):
        return one + other
    return one if one == other else "various"


def short(figures: Any) -> Any:
    """Return figures with long lists of measurements told by their count, middle and greatest."""
    if isinstance(figures, dict):
        return {key: short(value) for key, value in figures.items() if key not in NOT_ADDED}
    if not isinstance(figures, list) or len(figures) <= SPREAD_FROM:
        return figures
    if all(isinstance(each, dict) and all(_is_number(value) for value in each.values()) for each in figures):
        return {key: _spread([each[key] for each in figures if key in each]) for key in figures[0]}
    return _spread(figures) if all(map(_is_number, figures)) else figures


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"count": len(ordered), "p50": ordered[len(ordered) // 2], "max": ordered[-1]}


# --- running and writing --------------------------------------------------------------------------------------------


def run_chunk(state: Path, group: str, name: str, command: list[str]) -> int:
    """Run a command unless it was done; keep what it printed, and how long it took. Returns its exit status."""
    done = state / group / f"{name}.json"
    with (state / ASKED).open("a") as asked:
        asked.write(f"{group}/{name}\n")
    if done.exists():
        print(f"    {group} {name}: done before")
        return 0
    done.parent.mkdir(parents=True, exist_ok=True)
    print(f"--- {group} {name}: {' '.join(command)}", flush=True)
    before, began, output = _load(), time.time(), done.with_suffix(".out")
    with output.open("wb") as file, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read1(1 << 16):
            file.write(piece)
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
    if process.returncode != 0:
        print(f"FAILED with {process.returncode}: {group} {name}", file=sys.stderr)
        return process.returncode
    told = {"began": began, "ended": time.time(), "load_before": before, "load_after": _load()}
    fresh = done.with_suffix(".new")  # renamed when whole, so that a chunk cut off here is run again
    fresh.write_text(json.dumps(told | {"figures": figures_of(output.read_text(errors="replace"))}))
    fresh.rename(done)
    return 0


def as_text(kept: dict[str, Any]) -> str:
    """Return evidence as JSON for a repository: what holds nothing nested takes one line."""
    text = json.dumps(kept, indent=1, ensure_ascii=False)
    flat = re.compile(r"[\[{][^\[\]{}]*[\]}]")
    return flat.sub(lambda place: re.sub(r"\n *", " ", place[0]), text) + "\n"


def _load() -> float:
    return round(os.getloadavg()[0], 1)


def evidence_of(state: Path, part: str, revision: str, command: str) -> dict[str, Any]:
    """Return the evidence of a part from the chunks that it asked for. Raises ValueError if no chunk fits."""
    names = dict.fromkeys((state / ASKED).read_text().split()) if (state / ASKED).exists() else {}
    if not names:
        raise ValueError(f"{part}: no chunk of it has run")
    groups: dict[str, Any] = {}
    chunks: list[dict[str, Any]] = []
    for name in names:
        chunks.append(json.loads((state / f"{name}.json").read_text()))
        group = name.partition("/")[0]
        groups[group] = merged(groups.get(group), chunks[-1]["figures"])
    kernel = ".".join(platform.release().split(".")[:2])
    first, last = min(chunks, key=lambda each: each["began"]), max(chunks, key=lambda each: each["ended"])
    return {
        "part": part,
        "revision": revision,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last["ended"])),
        "command": command,
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "kernel": kernel},
        "load_before": first["load_before"],
        "load_after": last["load_after"],
        "load_max": max(chunk[when] for chunk in chunks for when in ("load_before", "load_after")),
        "minutes": round(sum(chunk["ended"] - chunk["began"] for chunk in chunks) / 60, 1),
        "chunks": list(names),
        "figures": short(groups),
    }


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


# --- listing --------------------------------------------------------------------------------------------------------


def parts() -> list[Path]:
    """Return the scripts of all parts."""
    return sorted(path for path in PARTS.iterdir() if path.is_file())


def minutes_of(part: Path) -> int:
    """Return how long one call of a part may take, from the line `# minutes: N` in it."""
    found = re.search(r"^# minutes: (\d+)$", part.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{part}: the line '# minutes: N' is missing")
    return int(found[1])


def purpose_of(part: Path) -> str:
    """Return the first sentence of a part's head."""
    return part.read_text().splitlines()[1].removeprefix("# ")


def age_of(revision: str) -> str:
    """Say whether what was measured at a revision is still what the tree is."""
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "cat-file", "-e", revision], capture_output=True, check=False).returncode != 0:
        return "OLD: its revision is not in this repository"
    but = [f":!{path}" for path in NOT_MEASURED]
    changed = subprocess.run([*git, "diff", "--name-only", revision, "--", ".", *but], capture_output=True, check=True)
    count = len(changed.stdout.splitlines())
    return "of this tree" if not count else f"OLD: {count} files have changed since"


def list_parts() -> None:
    """Print a line for each part, and one for its evidence."""
    for part in parts():
        print(f"{part.name:10} {minutes_of(part):3} min  {purpose_of(part)}")
        path = EVIDENCE / f"{part.name}.json"
        if not path.exists():
            print(f"{'':10}          no evidence")
            continue
        kept = json.loads(path.read_text())
        when = f"{kept['date'][:16]}, {kept['minutes']} min, load up to {kept['load_max']}"
        print(f"{'':10}          {kept['revision'][:10]}, {when}: {age_of(kept['revision'])}")


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (("chunk", "state group name"), ("write", "state part revision order file"), ("list", "")):
        added = commands.add_parser(name)
        for word in words.split():
            added.add_argument(word, type=Path if word in {"state", "file"} else str)
    commands.choices["chunk"].add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "chunk":
        words = options.words[1:] if options.words[:1] == ["--"] else options.words
        return run_chunk(options.state, options.group, options.name, words)
    if options.command == "write":
        kept = evidence_of(options.state, options.part, options.revision, options.order)
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(as_text(kept))
        return 0
    list_parts()
    return 0


if __name__ == "__main__":
    sys.exit(main())
