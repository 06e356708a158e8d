"""The lab's client as a process: keeps a key-value guest busy over a datagram cable and judges its answers.

    python -m ftvm.lab.client --nic udp:9021:9020 --seconds 10

It prints JSON lines: ``{"status": {...}}`` a few times a second and, at the end, ``{"verdict": {...}}``. A program that
drives it writes JSON lines to its standard input: ``{"watch": T}`` asks for the time of the first answer that comes at
or after T (monotonic nanoseconds of this machine), given once as ``{"watch": T, "answered_at": A}``; ``{"gap": T}`` for
the longest time without an answer since T, given as ``{"gap": T, "longest_ns": L, "answers": N}``; ``{"stop": true}``
begins the audit; ``{"judge": true}`` asks for the verdict without one, where the guest is known to be gone. The end of
standard input, SIGTERM and SIGINT end it at once without a verdict.
"""

import argparse
import selectors
import signal
import sys
from collections import deque
from collections.abc import Sequence
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Final

from ftvm.errors import FtvmError
from ftvm.guests.datagram import DatagramPort, cable_ends, mac_bytes
from ftvm.lab.kv import KV_PORT
from ftvm.lab.linearizability import Judgement, check
from ftvm.lab.lines import JsonLine, Orders, say
from ftvm.lab.load import PACE_NS, PATIENCE_NS, Workload
from ftvm.lab.station import Station, UdpAddress
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import Nanos, nanos_to_millis, nanos_to_seconds, seconds_to_nanos

__all__ = ["Client", "main"]

_now: Final = MonotonicClock().now

CLIENT_MAC: Final = "52:54:00:77:00:09"
CLIENT_IP: Final = "10.77.0.9"
CLIENT_PORT: Final = 40_000
GUEST_IP: Final = "10.77.0.2"

FRAMES_PER_STEP: Final = 256
WAIT_NS_MAX: Final = seconds_to_nanos(0.05)
STATUS_NS: Final = seconds_to_nanos(0.2)
AUDIT_SECONDS: Final = 15.0
"""How long the audit may take; what is not answered then is reported as unanswered."""

ANSWER_TIMES_KEPT: Final = 65_536
WATCHES_MAX: Final = 64
FINDINGS_SHOWN: Final = 20


class Client:
    """A load behind a station on a datagram port. Thread-free: `step` does what is due and returns."""

    def __init__(self, port: DatagramPort, station: Station, load: Workload) -> None:
        self._port = port
        self._station = station
        self._load = load
        self._answer_times: deque[Nanos] = deque(maxlen=ANSWER_TIMES_KEPT)

    def step(self, now: Nanos) -> None:
        """Take what has come and send what is due."""
        for frame in self._port.receive(FRAMES_PER_STEP):
            heard = self._station.hear(frame)
            for payload in heard.payloads:
                if self._load.on_reply(payload, now):
                    self._answer_times.append(now)
            for answer in heard.frames:
                self._port.send(answer)
        for request in self._load.due(now):
            for frame in self._station.send(request, now):
                self._port.send(frame)

    def wait_ns(self, now: Nanos) -> int:
        """Return how long nothing is due unless a frame comes."""
        due = self._load.next_due
        return WAIT_NS_MAX if due is None else min(max(due - now, 0), WAIT_NS_MAX)

    def first_answer_since(self, at: int) -> Nanos | None:
        """Return when the first answer came at or after a time, None if none has."""
        found = None
        for answered_at in reversed(self._answer_times):
            if answered_at < at:
                break
            found = answered_at
        return found

    def longest_gap(self, at: int, now: Nanos) -> tuple[int, int]:
        """Return the longest time without an answer between `at` and now, and how many answers came in between."""
        answered = [time for time in self._answer_times if time >= at]
        return max(later - earlier for earlier, later in pairwise([at, *answered, now])), len(answered)

    def status(self, now: Nanos) -> dict[str, object]:
        """Return the current figures."""
        counters = self._load.counters
        second_ago = now - seconds_to_nanos(1)
        recent = 0
        for answered_at in reversed(self._answer_times):
            if answered_at < second_ago:
                break
            recent += 1
        return {
            "at": now,
            "requests_acknowledged": counters.acknowledged,
            "requests_per_second": recent,
            "retransmissions": counters.retransmissions,
            "repeats": counters.repeats,
            "oldest_wait_ms": round(nanos_to_millis(self._load.oldest_wait_ns(now)), 1),
        }


class _Process:
    """The client's life as a process: its clock, its commands, what it prints."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._port = DatagramPort(*cable_ends(options.nic))
        station = Station(
            mac=mac_bytes(options.mac),
            here=UdpAddress(ip=IPv4Address(options.ip), port=CLIENT_PORT),
            peer=UdpAddress(ip=IPv4Address(options.guest_ip), port=KV_PORT),
        )
        now = _now()
        pace_ns = seconds_to_nanos(options.pace / 1000)
        patience_ns = seconds_to_nanos(options.patience / 1000)
        self._load = Workload(now, seed=options.seed, clients=options.clients, pace_ns=pace_ns, patience_ns=patience_ns)
        self._client = Client(self._port, station, self._load)
        self._stop_at = None if options.seconds is None else now + seconds_to_nanos(options.seconds)
        self._audit_ns = seconds_to_nanos(options.audit)
        self._audit_ends_at: int | None = None
        self._status_at = now
        self._watches: list[int] = []
        self._orders = Orders(sys.stdin.fileno()) if options.driven else None
        self._is_killed = False
        self._is_to_judge = False

    def run(self) -> int:
        """Work until told to stop; return the exit status: 0 if nothing was lost or contradicted."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with selectors.DefaultSelector() as selector:
            selector.register(self._port, selectors.EVENT_READ)
            if self._orders is not None:
                selector.register(self._orders.fd, selectors.EVENT_READ)
            while not self._is_over(_now()):
                selector.select(nanos_to_seconds(self._client.wait_ns(_now())))
                self._step(_now())
        self._port.close()
        return 1 if self._is_killed else self._judge()

    def _step(self, now: Nanos) -> None:
        self._client.step(now)
        if self._orders is not None:
            for order in self._orders.take():
                self._obey(order)
            self._is_killed |= self._orders.is_over  # whoever drove this is gone, and nobody would read a verdict
        if self._stop_at is not None and now >= self._stop_at:
            self._begin_audit(now)
        if now >= self._status_at:
            self._status_at = Nanos(now + STATUS_NS)
            say({"status": self._client.status(now)})
        for at in list(self._watches):
            answered_at = self._client.first_answer_since(at)
            if answered_at is not None:
                self._watches.remove(at)
                say({"watch": at, "answered_at": answered_at})

    def _obey(self, command: JsonLine) -> None:
        if "stop" in command:
            self._begin_audit(_now())
        elif "watch" in command and len(self._watches) < WATCHES_MAX:
            self._watches.append(command["watch"])
        elif "gap" in command:
            longest_ns, answers = self._client.longest_gap(command["gap"], _now())
            say({"gap": command["gap"], "longest_ns": longest_ns, "answers": answers})
        elif "judge" in command:
            self._is_to_judge = True

    def _begin_audit(self, now: Nanos) -> None:
        self._load.begin_audit()
        if self._audit_ends_at is None:
            self._audit_ends_at = now + self._audit_ns

    def _is_over(self, now: Nanos) -> bool:
        is_late = self._audit_ends_at is not None and now >= self._audit_ends_at
        return self._is_killed or self._is_to_judge or self._load.is_finished or is_late

    def _judge(self) -> int:
        verdict = check(self._load.history(), keeps_order=True)
        say({"verdict": _verdict_fields(verdict, self._load)})
        return 1 if verdict.findings or verdict.unanswered else 0

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._is_killed = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a client until its time is over or it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.lab.client", description="A client of the key-value guest.")
    parser.add_argument("--nic", required=True, metavar="CABLE", help="e.g. udp:9021:9020")
    parser.add_argument("--mac", default=CLIENT_MAC)
    parser.add_argument("--ip", default=CLIENT_IP)
    parser.add_argument("--guest-ip", default=GUEST_IP)
    parser.add_argument("--clients", type=int, default=16, help="logical clients, each with one request outstanding")
    parser.add_argument("--seed", type=int, default=1)
    pace_ms = nanos_to_millis(PACE_NS)
    parser.add_argument("--pace", type=float, default=pace_ms, metavar="MS", help="between two requests of a client")
    patience_ms = nanos_to_millis(PATIENCE_NS)
    parser.add_argument(
        "--patience", type=float, default=patience_ms, metavar="MS", help="between repetitions, at most"
    )
    parser.add_argument("--seconds", type=float, help="work for so long, then judge")
    parser.add_argument("--audit", type=float, default=AUDIT_SECONDS, metavar="S", help="how long the audit may take")
    parser.add_argument("--driven", action="store_true", help="take commands from standard input")
    try:
        return _Process(parser.parse_args(arguments)).run()
    except FtvmError as error:
        print(f"client: {error}", file=sys.stderr)
        return 2


def _verdict_fields(verdict: Judgement, load: Workload) -> dict[str, object]:
    return {
        "requests_acknowledged": verdict.acknowledged,
        "unanswered": verdict.unanswered,
        "acknowledged_lost": verdict.acknowledged_lost,
        "contradicted": verdict.contradicted,
        "findings": [str(finding) for finding in verdict.findings[:FINDINGS_SHOWN]],
        "retransmissions": load.counters.retransmissions,
        "repeats": load.counters.repeats,
    }


if __name__ == "__main__":
    sys.exit(main())
