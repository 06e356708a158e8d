"""One run of a comparison of engines, with real processes in their places: alone, solo, protected, taken over.

`measure_alone` runs a guest with nothing of ftvm in its way: what every other figure is compared with. `measure_run`
protects it, measures, kills its host. `measure_moves` hands it over and back, stops its host for a while, and has a
fresh one join. `measure_replay` executes a log again.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from enginehost import LINE_SECONDS, HostPlan
from enginewindow import Heard, Window, window_of
from placement import Placement
from wire import NotBuiltError, wire_program

import ftvm
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.lab.stage import free_ports
from ftvm.units import seconds_to_nanos

T = TypeVar("T")

HOST_SCRIPT = str(Path(__file__).with_name("enginehost.py"))
WAIT_SECONDS = 30.0
PUMP_NS = seconds_to_nanos(0.02)
MEMORY_MIB = 64
FROZEN_SECONDS = 0.5
"""After the takeover the loser of it stays stopped for so long."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the guest does, and by what its work is counted."""

    name: str
    program: str
    arguments: str = ""
    counts: str = "instructions"
    """instructions, requests, or lines on the console; none: there is nothing to count."""
    clients: int = 16
    """Who sends requests, each the next one as soon as the last is answered."""
    memory_mib: int = MEMORY_MIB
    disk_mib: int = 0
    """Each host keeps an image of this size; 0: the guest has no disk."""
    fills: bool = False
    """Whether what the program does not use is full of something that never changes; else it is zeros."""
    line_seconds: float = LINE_SECONDS
    """How often the hosts tell their figures."""

    @property
    def has_clients(self) -> bool:
        return self.counts == "requests"


@dataclass(frozen=True, kw_only=True)
class EngineCase:
    """An engine with its settings."""

    name: str
    engine: str
    interval_ms: float = 25.0
    latency_ms: float | None = None
    group_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Link:
    """What lies between the hosts. Without delay and rate: nothing but the loopback device."""

    name: str = "direct"
    delay_ms: float = 0.0
    rate: int | None = None
    stretch: float = 1.0
    """How many times longer is measured: outputs leave by round trips, and a percentile needs many of those."""

    @property
    def has_relay(self) -> bool:
        return self.delay_ms > 0 or self.rate is not None


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Seconds measured alone and before a standby joins, seconds to settle before each, seconds measured protected."""

    solo: float
    settle: float
    protected: float


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs of a bench share. `python` is that of the ftvm to measure: this one's, or one of before."""

    placement: Placement
    windows: Windows
    python: str = sys.executable


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run of a protected guest found. `killed_ms` is from the kill until the guest ran on."""

    solo: Window
    protected: Window
    takeover_ms: float
    detection_ms: float
    killed_ms: float


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Milliseconds. `switch_ms`: the guest stood still for that, there and back. `loser_ms`: from when a stopped host
    woke, its guest taken over, until it was its standby; `unprotected_ms` from the takeover until then. `fresh_ms`:
    from when a fresh host ran until it was the standby. `loser_bytes`, `fresh_bytes`: what each was sent for that;
    `offered_bytes`: what the loser sent."""

    switch_ms: list[float]
    loser_ms: float
    unprotected_ms: float
    fresh_ms: float
    loser_bytes: int
    offered_bytes: int
    fresh_bytes: int


@dataclass(frozen=True, kw_only=True)
class Replay:
    """CPU seconds of a guest's life, and of the same by its log."""

    live_seconds: float
    replay_seconds: float
    records: int


# --- runs ----------------------------------------------------------------------------------------------------------


def measure_alone(bench: Bench, load: Load) -> Window:
    """Measure a guest with nothing of ftvm in its way. Raises BrokenError if it does not come about."""
    with _started(bench, load) as run:
        run.start_host("a", "alone")
        run.wait_for_line("a")
        run.settle(bench.windows.settle)
        return run.window(bench.windows.solo)


def measure_run(bench: Bench, load: Load, case: EngineCase, link: Link) -> Figures:
    """Measure one engine with one load over one link. Raises BrokenError if it does not come about."""
    windows = bench.windows
    with _started(bench, load, case, link) as run:
        primary = run.start_host("a", "primary")
        run.wait_for_line("a")
        run.settle(windows.settle)
        solo = run.window(windows.solo)
        run.start_relay()
        run.start_host("b", "standby")
        run.wait_protected("a")
        run.settle(windows.settle)
        protected = run.window(windows.protected * link.stretch, has_standby=True)
        killed_at = time.monotonic_ns()
        primary.kill()
        runs = run.wait_for_word("running_at")
    return Figures(
        solo=solo,
        protected=protected,
        takeover_ms=runs["takeover_ns"] / 1e6,
        detection_ms=runs["detection_ns"] / 1e6,
        killed_ms=(runs["running_at"] - killed_at) / 1e6,
    )


def measure_moves(bench: Bench, load: Load, case: EngineCase) -> Moves:
    """Have the guest handed over and back, its host stopped and woken, and a host replaced by a fresh one."""
    with _started(bench, load, case) as run:
        hosts = {"a": run.start_host("a", "primary", listens=True)}
        run.wait_for_line("a")
        hosts["b"] = run.start_host("b", "standby", listens=True)
        run.wait_protected("a")
        switch_ms = []
        for here, there in (("a", "b"), ("b", "a")):
            hosts[here].tell({"switchover": True})
            switch_ms.append(run.wait_for_event(here, "SwitchedAway")["pause_ns"] / 1e6)
            run.wait_protected(there)
            run.settle(bench.windows.settle)
        hosts["a"].freeze()
        took_over = run.wait_for_event("b", "TookOver")
        run.settle(FROZEN_SECONDS)
        offered = run.sent_bytes("a")
        run.forget("b")
        woken_at, sent = time.monotonic_ns(), run.wait_for_line("b")["sent_bytes"]
        hosts["a"].wake()
        protected = run.wait_for_event("b", "Protected")
        run.settle(bench.windows.settle)
        offered = run.sent_bytes("a") - offered
        hosts["a"].kill()
        run.settle(bench.windows.settle)  # it is dropped
        run.forget("a", "b")
        sent_before = run.wait_for_line("b")["sent_bytes"]
        run.start_host("a", "standby")
        runs_at = run.wait_for_line("a")["at"]
        fresh = run.wait_for_event("b", "Protected")
    return Moves(
        switch_ms=switch_ms,
        loser_ms=(protected["at"] - woken_at) / 1e6,
        unprotected_ms=(protected["at"] - took_over["at"]) / 1e6,
        fresh_ms=(fresh["at"] - runs_at) / 1e6,
        loser_bytes=protected["sent_bytes"] - sent,
        offered_bytes=offered,
        fresh_bytes=fresh["sent_bytes"] - sent_before,
    )


def measure_replay(bench: Bench, load: Load, seconds: float) -> Replay:
    """Have a guest run for some seconds and replay that by its log."""
    with _started(bench, load) as run:
        run.start_host("a", "replay", seconds=seconds).is_expected_to_end = True
        told = run.wait_for_word("replay_ns")
    return Replay(live_seconds=told["live_ns"] / 1e9, replay_seconds=told["replay_ns"] / 1e9, records=told["records"])


@contextmanager
def _started(bench: Bench, load: Load, case: EngineCase | None = None, link: Link | None = None) -> Iterator["_Run"]:
    """Give the processes of a run a folder and an end; its client, if it has one, asks from the start."""
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
        children = Children()
        try:
            no_case = EngineCase(name="none", engine="remus")
            run = _Run(bench, load, case or no_case, link or Link(), Path(folder), children)
            run.start_client()
            yield run
        finally:
            children.end_now()  # nothing is handed over: the next run waits for nobody's goodbye
            children.close()


class _Run:
    def __init__(
        self, bench: Bench, load: Load, case: EngineCase, link: Link, folder: Path, children: Children
    ) -> None:
        self._bench = bench
        self._load = load
        self._case = case
        self._link = link
        self._folder = folder
        self._children = children
        self._heard = Heard()
        self._tcp = free_ports(socket.SOCK_STREAM, 3)
        self._client_port, *self._cards = free_ports(socket.SOCK_DGRAM, 3)
        self._keys = dict(zip("ab", ftvm.generate_keys(2), strict=True))

    # --- processes ---

    def start_client(self) -> None:
        if not self._load.has_clients:
            return
        ports, clients = [str(self._client_port), str(self._cards[0])], str(self._load.clients)
        try:
            words = [wire_program(), "kv", *ports, clients]
        except NotBuiltError:  # main says why
            cable = f"udp:{ports[0]}:{ports[1]}"
            words = [sys.executable, "-P", "-m", "ftvm.lab.client", "--nic", cable, "--pace", "0"]
            words += ["--clients", clients, "--seconds", "600"]
        self._start("client", "client", words, self._heard.on_client)

    def start_relay(self) -> None:
        """Put the relay between the hosts, if the link has one."""
        if not self._link.has_relay:
            return
        rate = [] if self._link.rate is None else ["--rate", str(self._link.rate)]
        ports = ["--listen", str(self._tcp[2]), "--target", str(self._tcp[0])]
        words = ["-P", "-m", "ftvm.lab.relay", *ports, "--delay-ms", str(self._link.delay_ms), *rate]
        self._start("relay", "relay", [sys.executable, *words], self._heard.on_relay, listens=True)
        self._wait_for(lambda: self._heard.is_relay_ready or None, "the relay is ready")

    def start_host(self, name: str, role: str, *, listens: bool = False, seconds: float = 1.0) -> Child:
        index, other = "ab".index(name), "ba"["ab".index(name)]
        peer_port = self._tcp[2] if name == "b" and self._link.has_relay else self._tcp[1 - index]
        plan = HostPlan(
            role=role,
            program=self._load.program,
            arguments=self._load.arguments,
            memory_mib=self._load.memory_mib,
            cable=f"udp:{self._cards[index]}:{self._client_port}" if self._load.has_clients else None,
            listen=f"tcp://127.0.0.1:{self._tcp[index]}",
            peer=f"tcp://127.0.0.1:{peer_port}",
            arbiter=f"file://{self._folder}",
            engine=self._case.engine,
            interval_ms=self._case.interval_ms,
            latency_ms=self._case.latency_ms,
            group_ms=self._case.group_ms,
            keys=(self._keys[name].public, self._keys[name].secret, self._keys[other].public),
            seconds=seconds,
            disk_path=self._image_of(name),
            line_seconds=self._load.line_seconds,
            fills=self._load.fills,
        )
        words = [self._bench.python, HOST_SCRIPT, plan.as_json()]
        place = "primary" if name == "a" else "standby"
        return self._start(f"host {name}", place, words, self._heard.on_host(name), listens=listens)

    def _image_of(self, name: str) -> str | None:
        """Make a host's image if it has none; return its path, None for a guest without a disk."""
        if self._load.disk_mib == 0:
            return None
        image = self._folder / f"{name}.img"
        if not image.exists():
            image.touch()
            os.truncate(image, self._load.disk_mib << 20)
        return str(image)

    def _start(
        self, name: str, place: str, words: list[str], on_line: Callable[[JsonLine], None], *, listens: bool = False
    ) -> Child:
        return self._children.start(name, self._bench.placement.command(place, words), on_line, listens=listens)

    # --- measuring ---

    def window(self, seconds: float, *, has_standby: bool = False) -> Window:
        """Return what was counted over about so many seconds."""
        heard = self._heard
        self._wait_for_lines(has_standby=has_standby)
        heard.clear()
        self.settle(seconds)
        self._wait_for_lines(has_standby=has_standby)
        return window_of(self._load.counts, heard.lines["a"], heard.lines["b"] if has_standby else [], heard.client)

    def _wait_for_lines(self, *, has_standby: bool) -> None:
        """Wait until two more lines have come from everybody whose figures are wanted."""
        wanted = [self._heard.lines["a"]]
        wanted += [self._heard.lines["b"]] if has_standby else []
        wanted += [self._heard.client] if self._load.has_clients else []
        counts = [len(lines) + 2 for lines in wanted]

        def have_come() -> bool | None:
            return all(len(lines) >= count for lines, count in zip(wanted, counts, strict=True)) or None

        self._wait_for(have_come, "hosts and client tell their figures")

    def forget(self, *names: str) -> None:
        """Forget what hosts have said so far."""
        for lines in chain.from_iterable((self._heard.lines[name], self._heard.events[name]) for name in names):
            lines.clear()

    def wait_for_line(self, name: str) -> JsonLine:
        return self._wait_for(lambda: next(iter(self._heard.lines[name]), None), f"host {name} runs")

    def sent_bytes(self, name: str) -> int:
        """Return what a host said last that it has sent."""
        return int(self._heard.lines[name][-1]["sent_bytes"])

    def wait_protected(self, name: str) -> None:
        def look() -> bool | None:
            lines = self._heard.lines[name]
            return (bool(lines) and lines[-1]["host"]["link"] == "protected") or None

        self._wait_for(look, f"the guest is protected at {name}")

    def wait_for_event(self, name: str, kind: str) -> JsonLine:
        def look() -> JsonLine | None:
            return next((event for event in self._heard.events[name] if event["event"] == kind), None)

        return self._wait_for(look, f"host {name} tells {kind}")

    def wait_for_word(self, word: str) -> JsonLine:
        return self._wait_for(lambda: self._heard.told if word in self._heard.told else None, f"a host tells {word}")

    def settle(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self._children.pump(PUMP_NS)
            self._children.check()

    def _wait_for(self, look: Callable[[], T | None], what: str) -> T:
        return self._children.wait_for(look, seconds_to_nanos(WAIT_SECONDS), what, explain=self._explain)

    def _explain(self) -> str:
        last: dict[str, Any] = {name: lines[-1].get("host") for name, lines in self._heard.lines.items() if lines}
        return f"the hosts said last: {last}" if last else ""
