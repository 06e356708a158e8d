"""Adds up what the processes of a demo have reported so far: the hosts, the switch and the client.

`Ledger` takes each JSON line and answers the demo's questions: who is active, is it protected, when did the guest
answer from its new host, what did it cost. Pure: it waits for nothing and starts nothing. Lines of a host are typed
events (``{"event": "Committed", ...}`` with the fields of ftvm/events.py) and ``{"status": {...}}``
(ftvm/runtime/status.py); the others' are described in `ftvm.lab.switch` and `ftvm.lab.client`.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from ftvm.lab.lines import JsonLine
from ftvm.runtime.status import percentile
from ftvm.units import PAGE_BYTES

__all__ = ["HostFacts", "Ledger", "Move", "Takeover", "Totals"]

PAUSES_KEPT: Final = 1_000_000
MOVES_KEPT: Final = 1_000


@dataclass(slots=True, kw_only=True)
class HostFacts:
    """One host process as it presents itself."""

    name: str
    role: str = "down"
    replica: str = ""
    engine: str = ""
    link: str = ""
    generation: int = 0
    standby: str | None = None
    epoch: int = 0
    lag_ms: float = 0.0
    outputs_held: int = 0
    pause_us: float = 0.0
    copy_round: int = 0
    copy_pages_sent: int = 0
    copy_pages_left: int = 0
    status_count: int = 0

    @property
    def is_active(self) -> bool:
        """Tell whether the guest runs here."""
        return self.role == "active"

    @property
    def is_protected(self) -> bool:
        """Tell whether the guest runs here and a standby is in the record."""
        return self.is_active and self.standby is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """What a host reported of its takeover."""

    host: str
    detection_ns: int
    arbiter_ns: int
    load_ns: int
    outputs_emitted_again: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The switch heard an address on another port."""

    mac: str
    port: int
    at: int


@dataclass(slots=True, kw_only=True)
class Totals:
    """What all hosts did together. Digests are compared by the standby at each commit."""

    checkpoints: int = 0
    digests_compared: int = 0
    bytes_sent: int = 0
    bytes_raw: int = 0
    pauses_us: deque[float] = field(default_factory=lambda: deque(maxlen=PAUSES_KEPT))

    def pause_us(self, percent: int) -> float:
        """Return a percentile of the pauses, by nearest rank; 0 if there were none."""
        return percentile(self.pauses_us, percent)


class Ledger:
    """The facts, as of the last line taken."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self.hosts = {name: HostFacts(name=name) for name in hosts}
        self.totals = Totals()
        self.takeovers: list[Takeover] = []
        self.switchovers = 0
        self.client_status: dict[str, Any] = {}
        self.verdict: dict[str, Any] | None = None
        self.is_switch_ready = False
        self._moves: deque[Move] = deque(maxlen=MOVES_KEPT)
        self._answers: dict[int, int] = {}
        self._gaps: dict[int, int] = {}

    # --- what is asked ---

    @property
    def active(self) -> HostFacts | None:
        """The host where the guest runs, if there is just one."""
        found = [host for host in self.hosts.values() if host.is_active]
        return found[0] if len(found) == 1 else None

    @property
    def acknowledged(self) -> int:
        """How many requests the client saw answered."""
        return int(self.client_status.get("requests_acknowledged", 0))

    def move_since(self, at: int, mac: str, port: int) -> Move | None:
        """Return the first time since `at` that the switch heard `mac` move to `port`."""
        return next((move for move in self._moves if move.at >= at and (move.mac, move.port) == (mac, port)), None)

    def answer_since(self, watch: int) -> int | None:
        """Return what the client said when told to watch for the first answer since that time."""
        return self._answers.get(watch)

    def gap_since(self, at: int) -> int | None:
        """Return what the client said when asked for the longest time without an answer since then."""
        return self._gaps.get(at)

    def takeover_of(self, host: str, count_before: int) -> Takeover | None:
        """Return the first takeover by `host` after the first `count_before` of all."""
        return next((takeover for takeover in self.takeovers[count_before:] if takeover.host == host), None)

    # --- what is heard ---

    def host_started(self, name: str) -> HostFacts:
        """Note that a new process runs in a host slot; return its facts, to take its lines for."""
        self.hosts[name] = HostFacts(name=name, role="starting")
        return self.hosts[name]

    def host_killed(self, name: str) -> None:
        """Note that the process in a host slot is gone. What it said before still counts, but it has no role more."""
        self.hosts[name] = HostFacts(name=name, role="killed")

    def on_host_line(self, host: HostFacts, line: JsonLine) -> None:
        """Take a line of a host process, which may be gone by now."""
        if "status" in line:
            _take_status(host, line["status"])
        elif "event" in line:
            self._take_event(host, line)

    def on_switch_line(self, line: JsonLine) -> None:
        """Take a line of the switch."""
        if "moved" in line:
            self._moves.append(Move(mac=line["moved"], port=line["port"], at=line["at"]))
        elif "switch" in line:
            self.is_switch_ready = True

    def on_client_line(self, line: JsonLine) -> None:
        """Take a line of the client."""
        if "status" in line:
            self.client_status = line["status"]
        elif "watch" in line:
            self._answers[line["watch"]] = line["answered_at"]
        elif "gap" in line:
            self._gaps[line["gap"]] = line["longest_ns"]
        elif "verdict" in line:
            self.verdict = line["verdict"]

    def _take_event(self, host: HostFacts, line: JsonLine) -> None:
        match line["event"]:
            case "RoleChanged":
                host.role = line["role"]
                host.replica = line.get("replica_id", "")
            case "RecordLearned":
                host.generation = line["generation"]
                host.standby = line["standby"]
            case "Protected":
                host.standby = line["standby"]
            case "Solo":
                host.standby = None
            case "CopyProgress":
                host.copy_round = line["round"]
                host.copy_pages_sent = line["pages_sent"]
                host.copy_pages_left = line["pages_left"]
            case "Committed":
                self._take_commit(host, line)
            case "TookOver":
                fields = ("detection_ns", "arbiter_ns", "load_ns", "outputs_emitted_again")
                self.takeovers.append(Takeover(host=host.name, **{name: line[name] for name in fields}))
            case "SwitchedHere":
                self.switchovers += 1
            case _:
                pass  # the others are for people, who read them on the host's own log

    def _take_commit(self, host: HostFacts, line: JsonLine) -> None:
        host.epoch = line["epoch"]
        if not host.is_active:
            self.totals.digests_compared += 1
            return
        self.totals.checkpoints += 1
        self.totals.bytes_sent += line["sent_bytes"]
        self.totals.bytes_raw += line["dirty_pages"] * PAGE_BYTES
        if line["pause_ns"]:
            self.totals.pauses_us.append(line["pause_ns"] / 1000)


def _take_status(host: HostFacts, status: dict[str, Any]) -> None:
    host.role = status["role"]
    host.replica = status.get("replica_id", "")
    host.engine = status.get("engine", "")
    host.link = status.get("link", "")
    host.generation = status["generation"]
    host.standby = status.get("standby") if host.is_active else None
    host.epoch = status["epoch"]
    host.lag_ms = status.get("lag_ms", 0.0)
    host.outputs_held = status.get("outputs_held", 0)
    host.pause_us = status.get("pause_us", {}).get("p50", 0.0)
    host.copy_pages_left = status.get("copy_pages_left", 0)
    host.status_count += 1
