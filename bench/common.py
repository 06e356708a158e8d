"""How benchmarks measure and report: contenders side by side, interleaved, in one run; thread CPU time; the least of
many.

A row compares a value with a peer's or a limit's, and says which goal of the design it has and whether it is met.
Rows are never left out because they are not met; a row that cannot be measured here says why.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

ROUNDS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure beside its peer. `goal` is a bound on `ratio`, as text ("<= 1.25"); None without one."""

    name: str
    value: float | None
    unit: str
    peer: str
    peer_value: float | None = None
    goal: str | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.value is None or not self.peer_value:
            return None
        return self.value / self.peer_value

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.ratio is None:
            return None
        sign, bound = self.goal.split()
        return self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)


Contender = Callable[[], object] | tuple[Callable[[], object], Callable[[], object]]
"""What to time, or a pair: what to do before each time, untimed, and what to time."""


def fastest(contenders: dict[str, Contender], rounds: int = ROUNDS) -> dict[str, float]:
    """Run all contenders in turn, `rounds` times over, and return the least CPU seconds that each took."""
    return _least(contenders, rounds, time.thread_time)


def fastest_wall(contenders: dict[str, Contender], rounds: int = ROUNDS) -> dict[str, float]:
    """The same by the clock on the wall: for what waits on others, such as a link."""
    return _least(contenders, rounds, time.perf_counter)


def _least(contenders: dict[str, Contender], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    least = dict.fromkeys(contenders, float("inf"))
    gc.disable()
    try:
        for _ in range(rounds):
            for name, contender in contenders.items():
                prepare, run = contender if isinstance(contender, tuple) else (None, contender)
                if prepare is not None:
                    prepare()
                started = clock()
                run()
                least[name] = min(least[name], clock() - started)
    finally:
        gc.enable()
    return least


def report(
    title: str, measure: Callable[[argparse.Namespace], Sequence[Row]], *options: tuple[str, type, object]
) -> None:
    """Parse the command line, measure, and print a table or, with --json, a list of objects."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print a list of {name, value, unit, peer, ...}")
    for name, kind, default in options:
        if kind is bool:
            parser.add_argument(f"--{name}", action="store_true")
            continue
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"default {default}")
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.json:
        json.dump([asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows], sys.stdout, indent=1)
        print()
        return
    print(title)
    for row in rows:
        print(_line(row))


def _line(row: Row) -> str:
    value = "-" if row.value is None else f"{row.value:,.3f}"
    peer = "-" if row.peer_value is None else f"{row.peer_value:,.3f}"
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}x"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    ours = f"{row.name:52} {value:>12} {row.unit:9}"
    return f"{ours} {row.peer:31} {peer:>12} {ratio:>9} {row.goal or '':>8} {verdict:6} {row.note}"


def geometric_mean(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value ** (1 / len(values))
    return product
