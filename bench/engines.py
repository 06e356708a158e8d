"""The engines side by side: what each costs the guest, what it makes outputs wait, how fast a standby takes over.

For each load and engine, real host processes on this machine: the guest alone, the same guest protected, then its host
killed (enginerun.py). A relay adds delay or takes bandwidth for the runs over a slow link.

    python bench/engines.py [--quick] [--json] [--chart FILE.svg]

A full run takes about five minutes, --quick somewhat over one. Throughput is compared with the same guest before a
standby joins, output delay with a bare ZeroMQ round trip measured in the same run (and the link's delay, there and
back). A guest that writes to its console unprotected wakes its host for each byte; held outputs leave many at a time,
so protection can even make it faster.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from chart import Panel, write_chart
from common import Row
from enginerun import EngineCase, Figures, Link, Load, Windows, measure_run
from link import Link as EchoLink

from ftvm.engines.names import ENGINES
from ftvm.errors import FtvmError

KV = Load(name="kv, 16 clients", program="kv", counts="requests")
KV_ALONE = Load(name="kv, 1 client", program="kv", counts="requests", clients=1)
DIRTY = [
    Load(name=f"dirty {pages:,} pages", program="dirty", arguments=f"pages={pages} rate=0")
    for pages in (200, 2000, 8000)
]
CONSOLE = Load(name="console", program="console", arguments="lines=1000000000 listen=0", counts="bytes")
IDLE = Load(name="idle", program="ticks", arguments="ms=100 beats=0", counts="none")
LOADS = [KV, KV_ALONE, *DIRTY, CONSOLE, IDLE]

DIRECT = Link()
NEAR = Link(name="4 ms", delay_ms=4)
FAR = Link(name="40 ms", delay_ms=40)
THIN = Link(name="4 ms, 5 MB/s", delay_ms=4, rate=5_000_000)
"""One way each; 4 ms is some 350 km of fibre, switches and all. A thin link shows back-pressure."""

SCENES = [*((load, DIRECT) for load in LOADS), (KV, NEAR), (KV, FAR), (DIRTY[1], THIN)]
SCENES_QUICK = [(KV, DIRECT), (DIRTY[0], DIRECT), (KV, NEAR)]

CASES = [EngineCase(name=name, engine=name) for name in ENGINES]
CASES.insert(1, EngineCase(name="remus, 5 ms", engine="remus", latency_ms=5))
"""At one interval, 25 ms, so that they differ in nothing else; adaptive Remus beside the fixed one."""

FULL = Windows(solo=0.9, settle=0.3, protected=2.0)
QUICK = Windows(solo=0.4, settle=0.2, protected=0.8)
PINGS = 2000

UNITS = {"instructions": "M/cpu s", "requests": "1/s", "bytes": "bytes/s"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run, or why it did not come about."""

    load: Load
    case: EngineCase
    link: Link
    figures: Figures | None
    trouble: str = ""

    @property
    def title(self) -> str:
        return f"{self.load.name}, {self.link.name}: {self.case.name}"


def runs(*, is_quick: bool) -> Iterator[Result]:
    """Run everything; one that fails is a result, too."""
    for load, link in SCENES_QUICK if is_quick else SCENES:
        for case in CASES:
            try:
                figures = measure_run(load, case, link, QUICK if is_quick else FULL)
            except FtvmError as wrong:
                first, *others = str(wrong).splitlines()
                trouble = f"{first} {others[-1].strip()}" if others else first
                yield Result(load=load, case=case, link=link, figures=None, trouble=trouble)
            else:
                yield Result(load=load, case=case, link=link, figures=figures)


def bare_round_trip_us() -> float:
    """Return the median of a message there and back between two processes over ZeroMQ."""
    link = EchoLink(os.urandom(4096), "echo", PINGS)
    took = []
    for _ in range(PINGS):
        started = time.perf_counter()
        link.socket.send(b"0123456789abcdef")
        link.socket.recv()
        took.append(time.perf_counter() - started)
    link.close()
    return sorted(took)[PINGS // 2] * 1e6


# --- rows ----------------------------------------------------------------------------------------------------------


def rows_of(result: Result, round_trip_us: float) -> list[Row]:
    """Return the figures of a run, each beside its peer."""
    found, title = result.figures, result.title
    if found is None:
        return [Row(name=title, value=None, unit="", peer="", note=f"not measured: {result.trouble}")]
    echo = {"peer": "bare ZeroMQ round trip", "peer_value": round_trip_us + 2000 * result.link.delay_ms}
    rows = [
        Row(name=f"{title}: output delay p50", value=found.delay_us_p50, unit="us", goal=_delay_goal(result), **echo),
        Row(name=f"{title}: output delay p99", value=found.delay_us_p99, unit="us", **echo),
        Row(name=f"{title}: pause p50", value=found.pause_us_p50, unit="us", peer=""),
        Row(name=f"{title}: pause p99", value=found.pause_us_p99, unit="us", peer=""),
        Row(name=f"{title}: shipped", value=found.bytes_per_second, unit="bytes/s", peer=""),
        _checkpoints_row(result, found),
        Row(name=f"{title}: host's CPU", value=found.cpu, unit="cores", peer=""),
        Row(
            name=f"{title}: takeover beyond detection",
            value=found.takeover_ms,
            unit="ms",
            peer="what the design allows",
            peer_value=10.0,
            goal="<= 1.0" if result.link is DIRECT else None,
        ),
    ]
    if found.work is not None:
        rows.insert(0, _throughput_row(result, found))
    return rows


def _throughput_row(result: Result, found: Figures) -> Row:
    scale = 1e6 if result.load.counts == "instructions" else 1.0
    is_goal = result.load is DIRTY[0] and result.case.engine == "remus" and result.case.latency_ms is None
    return Row(
        name=f"{result.title}: throughput",
        value=(found.work or 0.0) / scale,
        unit=UNITS[result.load.counts],
        peer="the same guest unprotected",
        peer_value=(found.solo_work or 0.0) / scale,
        goal=">= 0.97" if is_goal else None,
    )


def _checkpoints_row(result: Result, found: Figures) -> Row:
    is_goal = result.load is CONSOLE and result.case.engine == "kemari"
    return Row(
        name=f"{result.title}: checkpoints",
        value=found.checkpoints_per_second,
        unit="1/s",
        peer="a modified KVM, as published" if is_goal else "",
        peer_value=2500.0 if is_goal else None,
        goal=">= 1.0" if is_goal else None,
    )


def _delay_goal(result: Result) -> str | None:
    is_goal = result.case.engine == "hybrid" and result.load is KV_ALONE
    return "<= 3.0" if is_goal else None


# --- the table and the chart ---------------------------------------------------------------------------------------

HEAD = (
    f"{'engine':<14}{'throughput':>11}{'delay p50':>11}{'p99 ms':>9}{'pause p50':>11}{'p99 ms':>9}"
    f"{'shipped':>11}{'cuts/s':>8}{'takeover':>10}"
)


def table_line(result: Result) -> str:
    """Return one line of the table."""
    found = result.figures
    if found is None:
        return f"{result.case.name:<14}  not measured: {result.trouble}"
    ratio = "-" if found.ratio is None else f"{found.ratio:.2f}x"
    delays = (found.delay_us_p50, found.delay_us_p99)
    p50, p99 = ("-" if not found.delay_us_p99 else f"{delay_us / 1e3:.2f}" for delay_us in delays)
    return (
        f"{result.case.name:<14}{ratio:>11}{p50:>11}{p99:>9}"
        f"{found.pause_us_p50 / 1e3:>11.2f}{found.pause_us_p99 / 1e3:>9.1f}"
        f"{found.bytes_per_second / 1e6:>6.2f} MB/s{found.checkpoints_per_second:>8.0f}{found.takeover_ms:>7.1f} ms"
    )


def print_table(results: Iterator[Result]) -> list[Result]:
    """Print each run as it comes."""
    all_results: list[Result] = []
    scene = ""
    for result in results:
        here = f"{result.load.name}, link: {result.link.name}"
        if here != scene:
            print(f"\n{here}\n{HEAD}", flush=True)
            scene = here
        print(table_line(result), flush=True)
        all_results.append(result)
    return all_results


def panels(results: list[Result]) -> list[Panel]:
    """Return what the chart shows: throughput by load, and delay by link."""
    measured = [result for result in results if result.figures is not None]
    ratios = [
        (result.load.name, result.case.name, result.figures.ratio)
        for result in measured
        if result.link is DIRECT and result.figures.ratio is not None
    ]
    delays = [
        (result.link.name, result.case.name, result.figures.delay_us_p50 / 1e3)
        for result in measured
        if result.load is KV
    ]
    return [
        Panel(title="guest throughput, protected / unprotected", bars=ratios, is_logarithmic=False, unit="x"),
        Panel(title="kv: median output delay by link", bars=delays, is_logarithmic=True, unit=" ms"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The engines side by side")
    parser.add_argument("--json", action="store_true", help="print a list of {name, value, unit, peer, ...}")
    parser.add_argument("--quick", action="store_true", help="two loads and one slow link; about a minute")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw a chart, too")
    arguments = parser.parse_args()
    round_trip_us = bare_round_trip_us()
    if arguments.json:
        results = list(runs(is_quick=arguments.quick))
    else:
        print(f"Engines side by side; a bare ZeroMQ round trip takes {round_trip_us:.0f} us")
        results = print_table(runs(is_quick=arguments.quick))
    rows = [row for result in results for row in rows_of(result, round_trip_us)]
    if arguments.json:
        json.dump([asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows], sys.stdout, indent=1)
        print()
    else:
        print("\nGoals")
        for row in rows:
            if row.met is not None:
                print(f"{row.name:60} {row.ratio:9.2f}x {row.goal:>8}  {'met' if row.met else 'MISSED'}")
    if arguments.chart is not None:
        write_chart(arguments.chart, panels(results))


if __name__ == "__main__":
    main()
