"""The demo: kill the host of a running guest, again and again, and prove that no client can tell.

It plays the whole scene on one machine with real processes: a learning switch, two hosts, a client that never stops
asking. Each act: the guest is protected and busy; its host is killed as by a power cut; the other host takes over; the
dead one comes back as the new standby and is brought up while requests flow. At the end the client judges the whole
history. `run` returns an `Outcome`; it never waits without a limit, and leaves no process and no file behind.

Times are read from one clock, CLOCK_MONOTONIC, that all processes of a machine share. A takeover is measured from the
kill to the first answer that came from the other host, which the switch sees by the port the guest's address is on.
"""

import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from ftvm.errors import BrokenError, ConfigError, FtvmError
from ftvm.lab.hostprocesses import HostProcesses
from ftvm.lab.ledger import HostFacts, Ledger
from ftvm.lab.processes import Child, Children
from ftvm.lab.stage import GUEST_MAC, HOSTS, HostCommands, Stage
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import nanos_to_millis, nanos_to_seconds, seconds_to_nanos

__all__ = ["DemoOptions", "Outcome", "Screen", "TakeoverTime", "run"]

_now: Final = MonotonicClock().now

VICTIMS: Final = ("host", "qemu", "both")
"""What is killed of a host that runs QEMU, in turn."""

SECONDS_MAX: Final = 86_400
START_NS: Final = seconds_to_nanos(60)
"""From a host's start to its guest's protection: an interpreter's start and a first copy, on a busy machine."""
BOOT_NS: Final = seconds_to_nanos(180)
"""A stock kernel under emulation."""
TAKEOVER_NS: Final = seconds_to_nanos(30)
AUDIT_NS: Final = seconds_to_nanos(60)
ACT_SECONDS: Final = (0.7, 1.7)
"""How long the guest works, protected, before its host is killed: long enough for some dozen epochs, and never at the
same point of one."""
ACKNOWLEDGED_PER_ACT: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a user may choose. `seconds` bounds the time under load; None allows 20 for each kill."""

    kills: int = 2
    seconds: float | None = None
    seed: int = 1
    hosts: HostCommands = field(default_factory=HostCommands)

    def __post_init__(self) -> None:
        if self.kills < 1:
            raise ConfigError("a demo needs at least one kill")
        if self.seconds is not None and not 0 < self.seconds <= SECONDS_MAX:  # not so for nan
            raise ConfigError(f"the time under load must be more than 0 seconds, and at most {SECONDS_MAX}")
        if self.hosts.interval_ms <= 0:
            raise ConfigError("the interval between checkpoints must be more than 0 ms")

    @property
    def load_ns(self) -> int:
        """The bound of the time under load."""
        return seconds_to_nanos(20.0 * self.kills if self.seconds is None else self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverTime:
    """One takeover, from the kill.

    detection_ms  to notice that the host is dead
    heard_ms      until the guest's first frame came from the other host
    total_ms      until the client had an answer from there; beyond `heard_ms` that is the client's own patience
    """

    detection_ms: float
    heard_ms: float
    total_ms: float

    def as_dict(self) -> dict[str, float]:
        """Return it as plain values, for JSON."""
        times = {"total": self.total_ms, "detection": self.detection_ms, "heard": self.heard_ms}
        return {name: round(ms, 1) for name, ms in times.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result. `trouble` says why the demo could not go on, None if it could."""

    options: DemoOptions
    kills: int
    takeovers: tuple[TakeoverTime, ...]
    ledger: Ledger
    seconds: float
    trouble: str | None

    @property
    def is_good(self) -> bool:
        """Tell whether the guest survived every kill, and no answer was lost, contradicted or missing."""
        verdict = self.ledger.verdict
        if self.trouble is not None or verdict is None or len(self.takeovers) != self.options.kills:
            return False
        return not (verdict["acknowledged_lost"] or verdict["contradicted"] or verdict["unanswered"])

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        totals = self.ledger.totals
        verdict = self.ledger.verdict or {}
        return {
            "engine": self.options.hosts.engine,
            "interval_ms": self.options.hosts.interval_ms,
            "seed": self.options.seed,
            "seconds": round(self.seconds, 1),
            "kills": self.kills,
            "takeover_ms": [takeover.as_dict() for takeover in self.takeovers],
            "requests_acknowledged": verdict.get("requests_acknowledged", self.ledger.acknowledged),
            "acknowledged_lost": verdict.get("acknowledged_lost"),
            "contradicted": verdict.get("contradicted"),
            "unanswered": verdict.get("unanswered"),
            "findings": verdict.get("findings", []),
            "checkpoints": totals.checkpoints,
            "digests_compared": totals.digests_compared,
            "pause_us": {"p50": round(totals.pause_us(50), 1), "p99": round(totals.pause_us(99), 1)},
            "bytes_sent": totals.bytes_sent,
            "bytes_raw": totals.bytes_raw,
            "trouble": self.trouble,
        }


class Screen(Protocol):
    """Where the demo shows itself."""

    def say(self, text: str) -> None:
        """Show an event."""
        ...

    def show(self, ledger: Ledger) -> None:
        """Show how things stand; called many times a second."""
        ...


def run(options: DemoOptions, screen: Screen) -> Outcome:
    """Play the demo. Raises ConfigError before anything is started; what goes wrong later is in the outcome.

    Any exception, KeyboardInterrupt too, leaves no process and no file behind.
    """
    children = Children()
    try:
        with tempfile.TemporaryDirectory(prefix="ftvm-demo-") as folder:
            try:
                return _Play(options, screen, children, Stage.prepare(Path(folder))).run()
            finally:
                children.close()  # before the folder goes, which they still use
    finally:
        children.close()


class _Play:
    """One run of the demo, in order."""

    def __init__(self, options: DemoOptions, screen: Screen, children: Children, stage: Stage) -> None:
        self._options = options
        self._screen = screen
        self._children = children
        self._stage = stage
        self._random = random.Random(options.seed)
        self._ledger = Ledger(HOSTS)
        self._hosts = HostProcesses(children, stage, meanwhile=lambda: screen.show(self._ledger))
        self._kills = 0
        self._takeovers: list[TakeoverTime] = []

    def run(self) -> Outcome:
        started_at = _now()
        trouble = None
        try:
            self._hosts.make_keys(self._options.hosts)
            client = self._start_everybody()
            self._hosts.wait_for(lambda: self._ledger.acknowledged or None, BOOT_NS, "the guest has booted and answers")
            load_ends_at = _now() + self._options.load_ns
            self._play(client, load_ends_at)
            self._audit(client)
        except FtvmError as error:
            trouble = str(error)
        return Outcome(
            options=self._options,
            kills=self._kills,
            takeovers=tuple(self._takeovers),
            ledger=self._ledger,
            seconds=nanos_to_seconds(_now() - started_at),
            trouble=trouble,
        )

    def _play(self, client: Child, load_ends_at: int) -> None:
        for act in range(1, self._options.kills + 1):
            active = self._hosts.wait_for(self._protected_host, START_NS, "the guest is protected")
            self._screen.say(f"the guest runs on host {active.name}, protected (generation {active.generation})")
            self._work()
            if _now() > load_ends_at:
                done = f"{act - 1} of {self._options.kills} kills"
                raise BrokenError(f"the time under load was over after {done}: give more with --seconds")
            survivor = self._kill_active(active.name, VICTIMS[(act - 1) % len(VICTIMS)], client)
            if act < self._options.kills:
                self._hosts.wait_ended(active.name)
                self._start_host(active.name, "standby")
                self._screen.say(f"host {active.name} is back, as a standby of host {survivor}")
        self._work()

    # --- what happens in an act ---

    def _start_everybody(self) -> Child:
        """Start the switch, the hosts and the client; return the client."""
        self._children.start("the switch", self._stage.switch_command(), self._ledger.on_switch_line)
        self._hosts.wait_for(lambda: self._ledger.is_switch_ready or None, START_NS, "the switch is ready")
        self._start_host(HOSTS[0], "primary")
        self._start_host(HOSTS[1], "standby")
        self._screen.say(f"host {HOSTS[0]} started as primary, host {HOSTS[1]} as standby, with keys made for this run")
        command = self._stage.client_command(self._options.seed)
        return self._children.start("the client", command, self._ledger.on_client_line, listens=True)

    def _start_host(self, host: str, role: str) -> None:
        facts = self._ledger.host_started(host)
        self._hosts.start(host, role, self._options.hosts, lambda line: self._ledger.on_host_line(facts, line))

    def _work(self) -> None:
        """Let requests flow for a while that differs from act to act."""
        ends_at = _now() + seconds_to_nanos(self._random.uniform(*ACT_SECONDS))
        enough = self._ledger.acknowledged + ACKNOWLEDGED_PER_ACT
        self._hosts.wait_for(
            lambda: True if _now() >= ends_at and self._ledger.acknowledged >= enough else None,
            START_NS,
            f"the guest answers {ACKNOWLEDGED_PER_ACT} requests",
        )

    def _kill_active(self, victim: str, part: str, client: Child) -> str:
        """Kill the host of the guest and wait until the guest answers from the other; return which that is.

        Of a host that runs QEMU, `part` says what is killed: the host's own process, QEMU, or both.
        """
        survivor = next(host for host in HOSTS if host != victim)
        takeovers_before = len(self._ledger.takeovers)
        killed_at = _now()
        shown = self._kill(self._hosts.running[victim], part)
        self._kills += 1
        self._ledger.host_killed(victim)
        self._screen.say(f"KILLED {shown} (SIGKILL) with {self._ledger.acknowledged} requests answered")
        port = self._stage.switch_port(survivor)
        move = self._hosts.wait_for(
            lambda: self._ledger.move_since(killed_at, GUEST_MAC, port),
            TAKEOVER_NS,
            f"the guest is heard from host {survivor}",
        )
        client.tell({"watch": move.at})
        answered_at = self._hosts.wait_for(
            lambda: self._ledger.answer_since(move.at), TAKEOVER_NS, f"the guest answers from host {survivor}"
        )
        report = self._hosts.wait_for(
            lambda: self._ledger.takeover_of(survivor, takeovers_before),
            TAKEOVER_NS,
            f"host {survivor} reports its takeover",
        )
        total_ns = answered_at - killed_at
        # The survivor counts from the last word it heard, a little before the kill; no part is more than the whole.
        detection_ns = min(report.detection_ns, total_ns)
        self._takeovers.append(
            TakeoverTime(
                detection_ms=nanos_to_millis(detection_ns),
                heard_ms=nanos_to_millis(move.at - killed_at),
                total_ms=nanos_to_millis(total_ns),
            )
        )
        self._screen.say(
            f"host {survivor} took over: first answer {nanos_to_millis(total_ns):.0f} ms after the kill, "
            f"{nanos_to_millis(detection_ns):.0f} ms of it to notice"
        )
        return survivor

    def _kill(self, host: Child, part: str) -> str:
        """Kill a host, or a part of one that has parts; return what was killed, for people."""
        if not self._options.hosts.is_qemu or part == "host":
            host.kill()
            return host.name
        host.is_expected_to_end = True
        host.kill_children()
        if part == "both":
            host.kill()
            return f"{host.name} and its QEMU"
        return f"the QEMU of {host.name}"

    def _audit(self, client: Child) -> None:
        self._screen.say("the client reads every key once more and judges the whole history")
        client.is_expected_to_end = True
        client.tell({"stop": True})
        self._hosts.wait_for(lambda: self._ledger.verdict, AUDIT_NS, "the client gives its verdict")

    def _protected_host(self) -> HostFacts | None:
        active = self._ledger.active
        return active if active is not None and active.is_protected else None
