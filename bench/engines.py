"""The engines side by side: what each costs the guest, what it makes outputs wait, how fast a standby takes over.

For each load and engine, real host processes on this machine, with CURVE: the guest alone, the same guest protected,
then its host killed (enginerun.py). A client in C hangs on the guest's cable, and counts what it has to ask twice. A
relay adds delay or takes bandwidth for the runs over a slow link.

    python bench/engines.py [--quick] [--json] [--chart FILE.svg] [--beside REVISION]

A full run takes about ten minutes, --quick about one; --beside measures an ftvm of before in turn with this one, which
is built first, in a cache folder. What all figures depend on stands above the table: which processor each process had,
and how busy the machine was. Throughput is compared with the same guest alone, with nothing of ftvm in its way; output
delay, which counts from the emission until the output has left, with a round trip of TCP in C.
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from bare import Bare, bare_figures
from beside import NotPreparedError, python_of
from chart import Panel, write_chart
from common import Row
from enginerows import Failed, Result, alone_rows, bare_rows, load_row, move_rows, replay_row, rows_of, summary_rows
from enginerun import (
    Bench,
    EngineCase,
    Figures,
    Link,
    Load,
    Windows,
    measure_alone,
    measure_moves,
    measure_replay,
    measure_run,
)
from enginewindow import Window
from placement import load_average, placement_named, usable_cores

from ftvm.engines.names import ENGINES
from ftvm.errors import FtvmError
from ftvm.lab.stage import free_ports

T = TypeVar("T")

KV = Load(name="kv, 16 clients", program="kv", counts="requests")
KV_ALONE = Load(name="kv, 1 client", program="kv", counts="requests", clients=1)
DIRTY = [
    Load(name=f"dirty {pages:,} pages", program="dirty", arguments=f"pages={pages} rate=0")
    for pages in (200, 2000, 8000)
]
CONSOLE = Load(name="console", program="console", arguments="lines=1000000000 listen=0", counts="lines")
IDLE = Load(name="idle", program="ticks", arguments="ms=100 beats=0", counts="none", line_seconds=0.5)
JOURNAL = Load(
    name="journal on a disk",
    program="journal",
    arguments="records=200000 batch=8 ms=1",
    counts="lines",
    disk_mib=128,
)
LOADS = [KV, KV_ALONE, *DIRTY, CONSOLE, JOURNAL, IDLE]
BESIDE = [KV, KV_ALONE, CONSOLE]
"""Where an ftvm of before is measured, too: where outputs are what it is about."""
LARGE = Load(name="dirty 32,768 pages", program="dirty", arguments="pages=32768 rate=20000", memory_mib=1024)
"""The most that the program writes; the rest of the memory is zeros."""
FULL_MEMORY = replace(LARGE, name="dirty 32,768 pages, memory full", fills=True)
"""Three quarters of the memory that the program does not use have content as well."""

DIRECT = Link()
NEAR = Link(name="4 ms", delay_ms=4)
FAR = Link(name="40 ms", delay_ms=40, stretch=4)
THIN = Link(name="4 ms, 5 MB/s", delay_ms=4, rate=5_000_000, stretch=4)
"""One way each; 4 ms is some 350 km of fibre, switches and all. A thin link shows back-pressure."""

SCENES = [*((load, DIRECT) for load in LOADS), (KV, NEAR), (KV, FAR), (KV, THIN), (DIRTY[1], THIN)]
SCENES_QUICK = [(KV, DIRECT), (KV_ALONE, DIRECT), (DIRTY[0], DIRECT)]

CASES = [EngineCase(name=name, engine=name) for name in ENGINES]
CASES.insert(1, EngineCase(name="remus, 5 ms", engine="remus", latency_ms=5))
"""At one interval, 25 ms, so that they differ in nothing else; adaptive Remus beside the fixed one."""
GROUPED = EngineCase(name="kemari, grouped", engine="kemari", group_ms=0.2)
CASES.insert(CASES.index(EngineCase(name="kemari", engine="kemari")) + 1, GROUPED)
PENDING = EngineCase(name="remus, 250 ms", engine="remus", interval_ms=250)
"""For a takeover with 10,000 outputs pending and more: a console writes 80,000 lines a second."""
CASES_QUICK = [case for case in CASES if case.latency_ms is None]

FULL = Windows(solo=0.7, settle=0.3, protected=2.0)
QUICK = Windows(solo=0.4, settle=0.2, protected=0.8)
REPLAY_SECONDS = 2.0


def cases_of(load: Load) -> list[EngineCase]:
    """Return the engines of a load: of that with a disk a few, as only its takeovers are of interest."""
    if load is JOURNAL:
        return [case for case in CASES if case.name in ("remus", "kemari")]
    return [*CASES, PENDING] if load is CONSOLE else CASES


class Runs:
    """Runs everything; what fails is a result, too."""

    def __init__(self, bench: Bench, *, is_quick: bool, beside: str, before: Bench | None) -> None:
        self._bench = bench
        self._is_quick = is_quick
        self._beside = beside
        self._before = before
        self._alone = cache(lambda load: _try(measure_alone, bench, load))
        self._before_alone = cache(lambda load: _try(measure_alone, before, load) if before else None)
        self.loads: list[Load] = []

    def results(self) -> Iterator[Result]:
        """Measure each engine under each load, an ftvm of before in turn with this one."""
        for load, link in SCENES_QUICK if self._is_quick else SCENES:
            alone = self._alone(load)
            if load not in self.loads:
                self.loads.append(load)
            is_beside = self._before is not None and load in BESIDE and link is DIRECT
            before_alone = self._before_alone(load) if is_beside else None
            for case in CASES_QUICK if self._is_quick else cases_of(load):
                found = _try(measure_run, self._bench, load, case, link)
                before = self._run_before(load, case, link) if is_beside and case is not GROUPED else None
                yield Result(
                    load=load,
                    case=case,
                    link=link,
                    found=found,
                    alone=alone,
                    beside=self._beside,
                    before=before,
                    before_alone=before_alone,
                )

    def _run_before(self, load: Load, case: EngineCase, link: Link) -> Figures | Failed | None:
        before = self._before
        return None if before is None else _try(measure_run, before, load, case, link)

    def rows_of_rest(self, bare: Bare) -> Iterator[Row]:
        """Measure what needs no engine, or only some: moves, and the replay of a log."""
        for load in self.loads:
            before = self._before_alone(load) if load in BESIDE else None
            yield from alone_rows(load, self._alone(load), self._beside, before, bare)
        cases = [case for case in CASES if case.engine == "hybrid" or not self._is_quick]
        moved = [(KV, case) for case in cases if case is not GROUPED]
        moved += [] if self._is_quick else [(LARGE, CASES[0]), (FULL_MEMORY, CASES[0])]
        for load, case in moved:
            found = _try(measure_moves, self._bench, load, case)
            yield from move_rows(load, case, found, bare)
        seconds = self._bench.windows.solo if self._is_quick else REPLAY_SECONDS
        for load in (KV, DIRTY[0]):
            yield replay_row(load, _try(measure_replay, self._bench, load, seconds))


def _try(measure: Callable[..., T], *what: object) -> T | Failed:
    """Return what a measurement found, or why it did not come about."""
    try:
        return measure(*what)
    except FtvmError as wrong:
        first, *others = str(wrong).splitlines()
        return Failed(reason=f"{first} {others[-1].strip()}" if others else first)


# --- the table and the chart ---------------------------------------------------------------------------------------

HEAD = (
    f"{'engine':<14}{'throughput':>11}{'delay p50':>11}{'p99 ms':>9}{'pause p50':>11}{'p99 ms':>9}"
    f"{'shipped':>11}{'cuts/s':>8}{'CPU an output':>16}{'again':>7}{'takeover':>10}"
)


def table_line(result: Result) -> str:
    """Return one line of the table, and one for an ftvm of before."""
    line = _line(result.case.name, result.found, result.ratio)
    if result.before is None:
        return line
    before = replace(result, found=result.before, alone=result.before_alone or result.alone)
    return f"{line}\n{_line('  ' + result.beside, result.before, before.ratio)}"


def _line(name: str, found: Figures | Failed, ratio: float | None) -> str:
    if isinstance(found, Failed):
        return f"{name:<14}  not measured: {found.reason}"
    window = found.protected
    cpu = f"{_text(window.cpu_us, '.0f')} + {_text(window.standby_cpu_us, '.0f')} us"
    pauses = f"{_text(window.pause_us_p50, '.2f', 1e-3):>11}{_text(window.pause_us_p99, '.1f', 1e-3):>9}"
    delays = f"{_text(window.delay_us_p50, '.2f', 1e-3):>11}{_text(window.delay_us_p99, '.2f', 1e-3):>9}"
    return (
        f"{name:<14}{_text(ratio, '.2f') + 'x':>11}{delays}{pauses}"
        f"{_text(window.bytes_per_second, '.2f', 1e-6):>6} MB/s{_text(window.checkpoints_per_second, '.0f'):>8}"
        f"{cpu:>16}{_text(window.repeated, '.0%'):>7}{found.takeover_ms:>7.1f} ms"
    )


def _text(value: float | None, pattern: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, pattern)


def print_table(results: Iterator[Result]) -> list[Result]:
    """Print each run as it comes."""
    all_results: list[Result] = []
    scene = ""
    for result in results:
        here = f"{result.load.name}, link: {result.link.name}"
        if here != scene:
            print(f"\n{here}: {_alone_text(result)}\n{HEAD}", flush=True)
            scene = here
        print(table_line(result), flush=True)
        all_results.append(result)
    return all_results


def _alone_text(result: Result) -> str:
    told = []
    for whose, alone in (("alone", result.alone), (f"alone with {result.beside}", result.before_alone)):
        if isinstance(alone, Window) and alone.work is not None:
            second = "CPU second" if result.load.counts == "instructions" else "second"
            told.append(f"{whose} {alone.work:,.0f} {result.load.counts} a {second}")
    return "; ".join(told) or "nothing to count"


def panels(results: list[Result]) -> list[Panel]:
    """Return what the chart shows: throughput by load, and delay by link."""
    measured = [(result, result.found.protected) for result in results if isinstance(result.found, Figures)]
    ratios = [
        (result.load.name, result.case.name, result.ratio)
        for result, _ in measured
        if result.is_direct and result.ratio is not None
    ]
    delays = [
        (result.link.name, result.case.name, window.delay_us_p50 / 1e3)
        for result, window in measured
        if result.load is KV and window.delay_us_p50 is not None
    ]
    return [
        Panel(title="guest throughput, protected / alone", bars=ratios, is_logarithmic=False, unit="x"),
        Panel(title="kv: median output delay by link", bars=delays, is_logarithmic=True, unit=" ms"),
    ]


def print_rows(rows: list[Row]) -> None:
    for row in rows:
        value = "-" if row.value is None else f"{row.value:,.2f} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x of {row.peer}"
        verdict = {True: f"{row.goal}: met", False: f"{row.goal}: MISSED", None: ""}[row.met]
        print(f"{row.name:62} {value:>20}  {ratio:<62} {verdict} {row.note}".rstrip(), flush=True)


# --- the run -------------------------------------------------------------------------------------------------------


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The engines side by side")
    parser.add_argument("--json", action="store_true", help="print a list of {name, value, unit, peer, ...}")
    parser.add_argument("--quick", action="store_true", help="three loads, no slow link; about a minute")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw a chart, too")
    parser.add_argument("--beside", metavar="REVISION", help="measure an older ftvm, too, such as v0.1.0")
    where = "split: a processor for each host (default); one: all share one; free: as the kernel likes"
    parser.add_argument("--placement", choices=("split", "one", "free"), default="split", help=where)
    parser.add_argument("--realtime", action="store_true", help="all processes before any other, by SCHED_RR (root)")
    return parser.parse_args(words)


def conditions(bench: Bench, bare: Bare, load_before: float) -> str:
    """Say what all figures depend on."""
    trouble = f"\nthe client is the lab's, in Python: {bare.trouble}" if bare.trouble else ""
    return (
        f"{os.cpu_count()} processors, load average {load_before:.1f}; {bench.placement}\n"
        f"there and back: TCP in C {_text(bare.tcp_us, '.0f')} us, ZeroMQ {bare.zeromq_us:.0f} us, with CURVE "
        f"{bare.curve_us:.0f} us; it carries {bare.link_rate / 1e6:.0f} MB/s{trouble}"
    )


def main() -> None:
    arguments = parse(sys.argv[1:])
    load_before = load_average()
    placement = placement_named(arguments.placement, usable_cores(), is_realtime=arguments.realtime)
    bench = Bench(placement=placement, windows=QUICK if arguments.quick else FULL)
    before = None
    if arguments.beside is not None:
        try:
            before = replace(bench, python=python_of(arguments.beside))
        except NotPreparedError as wrong:
            sys.exit(f"--beside {arguments.beside}: {wrong}")
    bare = bare_figures(placement, free_ports(socket.SOCK_DGRAM, 2))
    runs = Runs(bench, is_quick=arguments.quick, beside=arguments.beside or "", before=before)
    said = conditions(bench, bare, load_before)
    if arguments.json:
        results = list(runs.results())
    else:
        print(f"Engines side by side: {said}")
        results = print_table(runs.results())
    rest = [*bare_rows(bare), *runs.rows_of_rest(bare), *summary_rows(results, bare)]
    rows = [*(row for result in results for row in rows_of(result, bare)), *rest]
    rows.append(load_row(load_before, load_average(), said))
    if arguments.json:
        json.dump([asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows], sys.stdout, indent=1)
        print()
    else:
        print("\nBeside the engines")
        print_rows([*rest, replace(rows[-1], note="")])
        print("\nGoals")
        print_rows([row for row in rows if row.met is not None])
    if arguments.chart is not None:
        write_chart(arguments.chart, panels(results))


if __name__ == "__main__":
    main()
