"""One run of a comparison of engines: a guest alone, then protected, then taken over, with real processes.

The same guest process is measured first alone and then with a standby, so that both figures come from one run on one
machine in one state. At the end its host is killed, and the takeover is measured.
"""

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from enginehost import HostPlan

from ftvm.lab.processes import Child, Children, Line
from ftvm.lab.stage import free_ports
from ftvm.units import seconds_to_nanos

T = TypeVar("T")

PYTHON = [sys.executable, "-P"]
HOST_SCRIPT = str(Path(__file__).with_name("enginehost.py"))
WAIT_SECONDS = 30.0
PUMP_NS = seconds_to_nanos(0.02)
MEMORY_MIB = 64


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the guest does, and by what its work is counted."""

    name: str
    program: str
    arguments: str = ""
    counts: str = "instructions"
    """instructions, requests, or bytes of output; none: there is nothing to count."""
    clients: int = 16
    """Who sends requests, each the next one as soon as the last is answered."""

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


@dataclass(frozen=True, kw_only=True)
class Link:
    """What lies between the hosts. Without delay and rate: nothing but the loopback device."""

    name: str = "direct"
    delay_ms: float = 0.0
    rate: int | None = None

    @property
    def has_relay(self) -> bool:
        return self.delay_ms > 0 or self.rate is not None


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Seconds measured alone, seconds to settle before each measurement, seconds measured protected."""

    solo: float
    settle: float
    protected: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run found. `work` is per second, in what the load counts; `cpu` the active host's cores in use."""

    solo_work: float | None
    work: float | None
    delay_us_p50: float
    delay_us_p99: float
    pause_us_p50: float
    pause_us_p99: float
    bytes_per_second: float
    checkpoints_per_second: float
    cpu: float
    takeover_ms: float
    detection_ms: float

    @property
    def ratio(self) -> float | None:
        return self.work / self.solo_work if self.work is not None and self.solo_work else None


@dataclass
class Heard:
    """What the processes have said last."""

    host: dict[str, Line] = field(default_factory=dict)
    runs: Line | None = None
    lines: list[Line] = field(default_factory=list)
    client_lines: list[Line] = field(default_factory=list)
    is_switch_ready: bool = False
    is_relay_ready: bool = False
    pauses_us: list[float] = field(default_factory=list)

    def on_host(self, name: str) -> Callable[[Line], None]:
        def take(line: Line) -> None:
            if "takeover_ns" in line:
                self.runs = line
            elif "status" in line:
                self.host[name] = line
                if name == "a":
                    self.pauses_us += line["pauses_us"]
                    self.lines.append(line)

        return take

    def on_client(self, line: Line) -> None:
        if "status" in line:
            self.client_lines.append(line["status"])

    def on_switch(self, line: Line) -> None:
        self.is_switch_ready |= "switch" in line

    def on_relay(self, line: Line) -> None:
        self.is_relay_ready |= "relay" in line


def measure_run(load: Load, case: EngineCase, link: Link, windows: Windows) -> Figures:
    """Measure one engine with one load over one link. Raises BrokenError if it does not come about."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ftvm-bench-"))
        children = Children()
        stack.callback(children.close)
        return _Run(load, case, link, Path(folder), children).measure(windows)


class _Run:
    def __init__(self, load: Load, case: EngineCase, link: Link, folder: Path, children: Children) -> None:
        self._load = load
        self._case = case
        self._link = link
        self._folder = folder
        self._children = children
        self._heard = Heard()
        self._tcp = free_ports(socket.SOCK_STREAM, 3)
        self._udp = free_ports(socket.SOCK_DGRAM, 6)

    def measure(self, windows: Windows) -> Figures:
        if self._load.has_clients:
            self._start_network()
        primary = self._start_host("a", "primary")
        self._wait_for(lambda: self._heard.host.get("a"), "the guest runs")
        self._settle(windows.settle)
        solo = self._window(windows.solo)
        if self._link.has_relay:
            self._start_relay()
        self._start_host("b", "standby")
        self._wait_for(self._is_protected, "the guest is protected")
        self._settle(windows.settle)
        self._heard.pauses_us.clear()
        protected = self._window(windows.protected)
        pauses, last = sorted(self._heard.pauses_us), self._heard.host["a"]["status"]
        primary.kill()
        runs = self._wait_for(lambda: self._heard.runs, "the standby runs the guest")
        return Figures(
            solo_work=solo["work"],
            work=protected["work"],
            delay_us_p50=last["output_delay_us"]["p50"],
            delay_us_p99=last["output_delay_us"]["p99"],
            pause_us_p50=_rank(pauses, 50),
            pause_us_p99=_rank(pauses, 99),
            bytes_per_second=protected["bytes_sent"] or 0.0,
            checkpoints_per_second=protected["checkpoints"] or 0.0,
            cpu=protected["cpu"] or 0.0,
            takeover_ms=runs["takeover_ns"] / 1e6,
            detection_ms=runs["detection_ns"] / 1e6,
        )

    # --- processes ---

    def _start_network(self) -> None:
        ports = [word for n in (0, 2, 4) for word in ("--port", f"udp:{self._udp[n]}:{self._udp[n + 1]}")]
        self._start("switch", ["-m", "ftvm.lab.switch", *ports], self._heard.on_switch)
        self._wait_for(lambda: self._heard.is_switch_ready or None, "the switch is ready")
        words = ["-m", "ftvm.lab.client", "--nic", f"udp:{self._udp[5]}:{self._udp[4]}", "--pace", "0"]
        clients = ["--clients", str(self._load.clients), "--seconds", "600"]
        self._start("client", [*words, *clients], self._heard.on_client)

    def _start_relay(self) -> None:
        rate = [] if self._link.rate is None else ["--rate", str(self._link.rate)]
        ports = ["--listen", str(self._tcp[2]), "--target", str(self._tcp[0])]
        words = ["-m", "ftvm.lab.relay", *ports, "--delay-ms", str(self._link.delay_ms), *rate]
        self._start("relay", words, self._heard.on_relay, listens=True)
        self._wait_for(lambda: self._heard.is_relay_ready or None, "the relay is ready")

    def _start_host(self, name: str, role: str) -> Child:
        index = "ab".index(name)
        peer_port = self._tcp[2] if name == "b" and self._link.has_relay else self._tcp[1 - index]
        plan = HostPlan(
            role=role,
            listen=f"tcp://127.0.0.1:{self._tcp[index]}",
            peer=f"tcp://127.0.0.1:{peer_port}",
            arbiter=f"file://{self._folder}",
            program=self._load.program,
            arguments=self._load.arguments,
            engine=self._case.engine,
            interval_ms=self._case.interval_ms,
            latency_ms=self._case.latency_ms,
            cable=f"udp:{self._udp[2 * index + 1]}:{self._udp[2 * index]}" if self._load.has_clients else None,
            memory_mib=MEMORY_MIB,
        )
        return self._start(f"host {name}", [HOST_SCRIPT, plan.as_json()], self._heard.on_host(name))

    def _start(self, name: str, words: list[str], on_line: Callable[[Line], None], *, listens: bool = False) -> Child:
        return self._children.start(name, [*PYTHON, *words], on_line, listens=listens)

    # --- measuring ---

    def _window(self, seconds: float) -> dict[str, float | None]:
        """Return what the active host counted, per second, over about so many seconds.

        `work` is the rate of the fastest tenth of the time between lines: other users of the machine slow both sides
        down, in turns. The lines are far enough apart that no slice dodges the checkpoints. Instructions are counted
        per second of the host process' CPU, which all that its replication costs is part of.
        """
        self._wait_for_lines()
        self._heard.lines.clear()
        self._heard.client_lines.clear()
        self._settle(seconds)
        self._wait_for_lines()
        lines = self._heard.lines
        took_seconds = (lines[-1]["at"] - lines[0]["at"]) / 1e9
        found: dict[str, float | None] = {
            name: (lines[-1]["status"][name] - lines[0]["status"][name]) / took_seconds
            for name in ("checkpoints", "bytes_sent")
        }
        found["cpu"] = (lines[-1]["cpu_ns"] - lines[0]["cpu_ns"]) / 1e9 / took_seconds
        match self._load.counts:
            case "instructions":
                found["work"] = _best_rate([(line["cpu_ns"], line["retired"]) for line in lines])
            case "bytes":
                found["work"] = _best_rate([(line["at"], line["status"]["outputs_released"]) for line in lines])
            case "requests":
                asked = [(line["at"], line["requests_acknowledged"]) for line in self._heard.client_lines]
                found["work"] = _best_rate(asked)
            case _:
                found["work"] = None
        return found

    def _wait_for_lines(self) -> None:
        """Wait until two more lines have come from host a, and from the client if there is one."""
        lines, asked = len(self._heard.lines) + 2, len(self._heard.client_lines) + 2
        needs_client = self._load.has_clients

        def have_come() -> bool | None:
            has_client = not needs_client or len(self._heard.client_lines) >= asked
            return True if has_client and len(self._heard.lines) >= lines else None

        self._wait_for(have_come, "host and client tell their figures")

    def _is_protected(self) -> Any:
        line = self._heard.host.get("a")
        return line if line is not None and line["status"]["link"] == "protected" else None

    def _settle(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self._children.pump(PUMP_NS)
            self._children.check()

    def _wait_for(self, look: Callable[[], T | None], what: str) -> T:
        return self._children.wait_for(look, seconds_to_nanos(WAIT_SECONDS), what)


def _best_rate(samples: list[tuple[int, int]]) -> float:
    """Return the rate per second of the slice at the fastest tenth; samples are (nanoseconds, count so far)."""
    slices = pairwise(samples)
    rates = sorted(
        (count - count_before) / ((at - before) / 1e9) for (before, count_before), (at, count) in slices if at > before
    )
    if not rates:
        return 0.0
    return rates[len(rates) * 9 // 10]


def _rank(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
