"""The figures of the engines as rows, each beside its limit, its peer or its goal.

Output delays are counted in round trips of TCP in C, throughput in that of the guest alone, cuts in those of an ftvm of
before, if one was measured; all of one run, with all processes in the same places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bare import Bare
from common import Row
from enginerun import EngineCase, Figures, Link, Load, Moves, Replay
from enginewindow import Window
from figures import rank

UNITS = {"instructions": "M/cpu s", "requests": "1/s", "lines": "1/s"}
SHARED_ZEROMQ_US = 145.0
"""The ZeroMQ round trip of the machine for which the design names absolute rates."""
FAR_US = 3000.0
MIB = float(1 << 20)
DESIGN = "what the design allows"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why something was not measured."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run of an engine, what the guest does alone, and the same of an ftvm of before, named by `beside`."""

    load: Load
    case: EngineCase
    link: Link
    found: Figures | Failed
    alone: Window | Failed
    beside: str = ""
    before: Figures | Failed | None = None
    before_alone: Window | Failed | None = None

    @property
    def title(self) -> str:
        return f"{self.load.name}, {self.link.name}: {self.case.name}"

    @property
    def is_direct(self) -> bool:
        return not self.link.has_relay

    @property
    def has_crowd(self) -> bool:
        return self.load.has_clients and self.load.clients > 1

    @property
    def ratio(self) -> float | None:
        """Protected by alone."""
        if isinstance(self.found, Failed) or isinstance(self.alone, Failed):
            return None
        work, alone = self.found.protected.work, self.alone.work
        return work / alone if work is not None and alone else None

    def goal(self, goal: str) -> str | None:
        """Return a goal that holds for hosts side by side."""
        return goal if self.is_direct else None


def missing(name: str, wrong: Failed) -> Row:
    return Row(name=name, value=None, unit="", peer="", note=f"not measured: {wrong.reason}")


def beside_peer(
    name: str,
    value: float | None,
    unit: str,
    peer: str,
    peer_value: float | None,
    goal: str | None = None,
    note: str = "",
) -> Row:
    """Return a row; in short, as there are many."""
    return Row(name=name, value=value, unit=unit, peer=peer, peer_value=peer_value, goal=goal, note=note)


# --- one run -------------------------------------------------------------------------------------------------------


def rows_of(result: Result, bare: Bare) -> list[Row]:
    """Return the figures of a run."""
    found, title = result.found, result.title
    if isinstance(found, Failed):
        return [missing(title, found)]
    window, alone = found.protected, None if isinstance(result.alone, Failed) else result.alone
    carries = float(result.link.rate or bare.link_rate)
    goal = result.goal("<= 1.0")
    return [
        *_throughput(result, found, alone),
        *_bounds(result, window, alone, bare),
        *_delays(result, window, bare),
        *_clients(result, window, alone),
        *_pauses(result, window),
        beside_peer(f"{title}: shipped", window.bytes_per_second, "bytes/s", "what the link carries", carries),
        _checkpoints(result, window),
        *_processors(result, window, alone),
        *_memory(result, window),
        beside_peer(f"{title}: takeover beyond detection", found.takeover_ms, "ms", DESIGN, 10.0, goal),
        beside_peer(f"{title}: kill to running", found.killed_ms, "ms", DESIGN, 50.0, goal),
        *_beside(result, window),
    ]


def _throughput(result: Result, found: Figures, alone: Window | None) -> list[Row]:
    if found.protected.work is None:
        return []
    scale = 1e6 if result.load.counts == "instructions" else 1.0
    peer, peer_value = "the same guest alone", None if alone is None else _scaled(alone.work, scale)
    unit, title = UNITS.get(result.load.counts, ""), result.title
    note = result.alone.reason if isinstance(result.alone, Failed) else "alone: nothing of ftvm in its way"
    work, solo = _scaled(found.protected.work, scale), _scaled(found.solo.work, scale)
    return [
        beside_peer(f"{title}: throughput", work, unit, peer, peer_value, _throughput_goal(result), note),
        beside_peer(f"{title}: throughput before a standby joins", solo, unit, peer, peer_value),
    ]


def _throughput_goal(result: Result) -> str | None:
    case, load = result.case, result.load
    if load.program == "dirty" and "pages=200 " in load.arguments and case.name == "remus":
        return result.goal(">= 0.97")
    return result.goal(">= 0.6") if result.has_crowd and case.name in ("hybrid", "lockstep") else None


def _bounds(result: Result, window: Window, alone: Window | None, bare: Bare) -> list[Row]:
    """Return a crowd's throughput beside what arithmetic leaves it: each client asks only when it was answered.

    Under `remus` each waits for a checkpoint. Where only the log is waited for, all that came together waits for a
    round trip, and the guest answers nobody meanwhile: with no work at all in ftvm.
    """
    case, clients, title = result.case, result.load.clients, result.title
    if not result.has_crowd or not result.is_direct or window.work is None:
        return []
    if case.latency_ms is not None:
        peer = f"{clients} clients that wait {case.latency_ms:g} ms for each answer"
        bound = clients / case.latency_ms * 1e3
        return [beside_peer(f"{title}: throughput, of its bound", window.work, "1/s", peer, bound, ">= 0.6")]
    if case.name not in ("hybrid", "lockstep") or alone is None or not alone.work:
        return []
    bound = clients / (clients / alone.work + bare.curve_us / 1e6)
    peer = f"the guest alone, and a round trip with CURVE for each {clients} answers"
    return [beside_peer(f"{title}: throughput, of its bound", window.work, "1/s", peer, bound)]


def _delays(result: Result, window: Window, bare: Bare) -> list[Row]:
    peer, peer_us = bare.round_trip, bare.round_trip_us + 2000 * result.link.delay_ms
    goals: dict[str, tuple[str, str]] = {"kemari": ("<= 8", "<= 30"), "hybrid": ("<= 10", "<= 40")}
    is_goal = result.is_direct and result.load.has_clients and not result.has_crowd
    p50, p99 = goals.get(result.case.name, (None, None)) if is_goal else (None, None)
    return [
        beside_peer(f"{result.title}: output delay p50", window.delay_us_p50, "us", peer, peer_us, p50),
        beside_peer(f"{result.title}: output delay p99", window.delay_us_p99, "us", peer, peer_us, p99),
        *_far_delays(result, window),
    ]


def _far_delays(result: Result, window: Window) -> list[Row]:
    """Return what outputs waited beside a standby that is far away, whose round trip no engine can beat."""
    if result.link.delay_ms == 0 or not result.load.has_clients:
        return []
    allowed_us, peer = 2000 * result.link.delay_ms + FAR_US, "the round trip of the link and 3 ms"
    goal = "<= 1.0" if result.case.engine in ("kemari", "hybrid") else None
    found = {"p50": window.delay_us_p50, "p99": window.delay_us_p99}
    return [
        beside_peer(f"{result.title}: output delay {rank}, far away", value, "us", peer, allowed_us, goal)
        for rank, value in found.items()
    ]


def _clients(result: Result, window: Window, alone: Window | None) -> list[Row]:
    if not result.load.has_clients:
        return []
    title, peer = result.title, "the same guest alone"
    p50, p99 = (None, None) if alone is None else (alone.latency_us_p50, alone.latency_us_p99)
    note = "" if window.repeated is not None else "the lab's client does not count them"
    thousandth, goal = "one in a thousand", result.goal("<= 1.0")
    return [
        beside_peer(f"{title}: client's latency p50", window.latency_us_p50, "us", peer, p50),
        beside_peer(f"{title}: client's latency p99", window.latency_us_p99, "us", peer, p99),
        beside_peer(f"{title}: repetitions", window.repeated, "a request", thousandth, 0.001, goal, note),
    ]


def _pauses(result: Result, window: Window) -> list[Row]:
    is_goal = result.case.name == "kemari" and result.load.has_clients
    goal, peer = result.goal("<= 1.0") if is_goal else None, "the design's, for a handful of pages"
    return [
        beside_peer(f"{result.title}: pause p50", window.pause_us_p50, "us", peer, 60.0, goal),
        beside_peer(f"{result.title}: pause p99", window.pause_us_p99, "us", peer, 60.0),
    ]


def _checkpoints(result: Result, window: Window) -> Row:
    name, rate = f"{result.title}: checkpoints", window.checkpoints_per_second
    if result.case.name == "kemari" and result.load.counts == "lines":
        return beside_peer(name, rate, "1/s", "a modified KVM, as published", 2500.0, result.goal(">= 1.0"))
    return beside_peer(name, rate, "1/s", "one an interval", 1000 / result.case.interval_ms)


def _processors(result: Result, window: Window, alone: Window | None) -> list[Row]:
    title, peer = result.title, "the guest alone"
    cores, an_output = (None, None) if alone is None else (alone.cpu, alone.cpu_us)
    host = beside_peer(f"{title}: host's CPU", window.cpu, "cores", peer, cores)
    if result.load.counts == "none":
        hundredth, goal = "one core in a hundred", result.goal("<= 1.0")
        host = beside_peer(f"{title}: host's CPU", window.cpu, "cores", hundredth, 0.01, goal)
    return [
        host,
        beside_peer(f"{title}: standby's CPU", window.standby_cpu, "cores", "the primary's", window.cpu),
        beside_peer(f"{title}: primary's CPU an output", window.cpu_us, "us", peer, an_output),
        beside_peer(f"{title}: standby's CPU an output", window.standby_cpu_us, "us", peer, an_output),
    ]


def _memory(result: Result, window: Window) -> list[Row]:
    allowed_mib, peer = 2.1 * result.load.memory_mib + 128, "the guest's, twice and a tenth, and 128 MiB"
    primary, standby = (_scaled(found, MIB) for found in (window.memory_bytes, window.standby_memory_bytes))
    goal = result.goal("<= 1.0")
    return [
        beside_peer(f"{result.title}: primary's memory", primary, "MiB", peer, allowed_mib, goal),
        beside_peer(f"{result.title}: standby's memory", standby, "MiB", peer, allowed_mib),
    ]


def _beside(result: Result, window: Window) -> list[Row]:
    """Return what an ftvm of before did in the same place."""
    before, title, beside = result.before, result.title, result.beside
    if before is None:
        return []
    if isinstance(before, Failed):
        return [missing(f"{title}: beside {beside}", before)]
    was = before.protected
    goal = result.goal(">= 5.0") if result.case.engine == "kemari" and result.load.counts == "lines" else None
    rates, was_rates = window.checkpoints_per_second, was.checkpoints_per_second
    rows = [
        beside_peer(f"{title}: throughput, beside", window.work, "", beside, was.work),
        beside_peer(f"{title}: output delay p50, beside", window.delay_us_p50, "us", beside, was.delay_us_p50),
        beside_peer(f"{title}: output delay p99, beside", window.delay_us_p99, "us", beside, was.delay_us_p99),
        beside_peer(f"{title}: checkpoints, beside", rates, "1/s", beside, was_rates, goal),
        beside_peer(f"{title}: primary's CPU an output, beside", window.cpu_us, "us", beside, was.cpu_us),
        beside_peer(
            f"{title}: standby's CPU an output, beside", window.standby_cpu_us, "us", beside, was.standby_cpu_us
        ),
    ]
    return [row for row in rows if row.value is not None]


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


# --- all of them ---------------------------------------------------------------------------------------------------


def alone_rows(
    load: Load, found: Window | Failed, beside: str, before: Window | Failed | None, bare: Bare
) -> list[Row]:
    """Return what a guest does alone: beside an ftvm of before, and beside what any guest could do."""
    name = f"{load.name}: alone"
    if isinstance(found, Failed):
        return [missing(name, found)]
    unit, rows = UNITS.get(load.counts, ""), []
    if load.has_clients:
        rows.append(beside_peer(name, found.work, unit, "an echo in C", bare.echo_rates.get(load.clients)))
    if isinstance(before, Failed):
        rows.append(missing(f"{name}, beside {beside}", before))
    elif before is not None:
        rows.append(beside_peer(f"{name}, beside", found.work, unit, beside, before.work))
    return rows


def summary_rows(results: Sequence[Result], bare: Bare) -> list[Row]:
    """Return what is known of all runs together: takeovers, and kemari with many clients."""
    direct = [(result, result.found) for result in results if result.is_direct and isinstance(result.found, Figures)]
    takeovers = [found.takeover_ms for _, found in direct]
    name, note = "takeover beyond detection, all runs", f"of {len(takeovers)} takeovers"
    rates = {
        "kemari": (2500.0 * SHARED_ZEROMQ_US / bare.zeromq_us, f"2,500 where ZeroMQ takes {SHARED_ZEROMQ_US:.0f} us"),
        "kemari, grouped": (10_000.0, DESIGN),
    }
    return [
        beside_peer(f"{name}: p50", rank(takeovers, 50), "ms", DESIGN, 10.0, "<= 1.0", note),
        beside_peer(f"{name}: p99", rank(takeovers, 99), "ms", DESIGN, 25.0, "<= 1.0", note),
        *(
            beside_peer(
                f"{result.title}: requests",
                found.protected.work,
                "1/s",
                rates[result.case.name][1],
                rates[result.case.name][0],
                ">= 1.0",
            )
            for result, found in direct
            if result.case.name in rates and result.has_crowd
        ),
    ]


def move_rows(load: Load, case: EngineCase, found: Moves | Failed, bare: Bare) -> list[Row]:
    """Return what a planned move takes, and how long a guest runs unprotected."""
    title = f"{load.name}, {load.memory_mib} MiB: {case.name}"
    if isinstance(found, Failed):
        return [missing(f"{title}: moves", found)]
    copied_ms, copy = load.memory_mib * MIB / bare.link_rate * 1e3, "all of its memory by ZeroMQ with CURVE"
    shipped = f"{found.loser_bytes / 1e6:,.1f} MB shipped for it, {found.offered_bytes / 1e6:,.1f} MB of digests back"
    woke = f"since it woke; {found.unprotected_ms:,.0f} ms since the takeover; {shipped}"
    loser, fresh = f"{title}: unprotected, a live loser returns", f"{title}: unprotected, a fresh host joins"
    return [
        beside_peer(f"{title}: switchover, standstill", max(found.switch_ms), "ms", DESIGN, 1000.0, "<= 1.0"),
        beside_peer(loser, found.loser_ms, "ms", DESIGN, 1000.0, "<= 1.0", woke),
        beside_peer(
            fresh, found.fresh_ms, "ms", copy, copied_ms, note=f"{found.fresh_bytes / 1e6:,.1f} MB shipped for it"
        ),
    ]


def replay_row(load: Load, found: Replay | Failed) -> Row:
    name = f"{load.name}: replay of its log"
    if isinstance(found, Failed):
        return missing(name, found)
    live, note = "the life that was logged", f"{found.records:,} records"
    return beside_peer(name, found.replay_seconds, "CPU s", live, found.live_seconds, "<= 1.05", note)


def bare_rows(bare: Bare) -> list[Row]:
    """Return the limits themselves."""
    note = f"not measured: {bare.trouble}" if bare.trouble else ""
    return [
        Row(name="bare: TCP in C, there and back", value=bare.tcp_us, unit="us", peer="", note=note),
        beside_peer("bare: ZeroMQ, there and back", bare.zeromq_us, "us", "C TCP round trip", bare.tcp_us),
        beside_peer("bare: ZeroMQ with CURVE, there and back", bare.curve_us, "us", "without CURVE", bare.zeromq_us),
        Row(name="bare: ZeroMQ with CURVE carries", value=bare.link_rate / 1e6, unit="MB/s", peer=""),
        *(
            Row(name=f"bare: echo in C, clients: {clients}", value=rate, unit="1/s", peer="")
            for clients, rate in bare.echo_rates.items()
        ),
    ]


def load_row(before: float, after: float, said: str) -> Row:
    """Return how busy the machine was, the bench itself in it, and what else all figures depend on."""
    return beside_peer("load average, at the end", after, "", "at the start", before, note=said)
