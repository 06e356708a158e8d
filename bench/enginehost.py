"""One host of a comparison of engines: runs a guest of the built-in machine, or stands by for one, and tells figures.

    python bench/enginehost.py '{"role": "primary", ...}'       see `HostPlan` for the fields

A few times a second it prints a JSON line: counters of the guest and of its protection, and the pauses since the last
line. When it has taken over, it says how long that took, from its suspicion until the guest ran here. Started by
enginerun.py; ends on SIGTERM.
"""

import json
import signal
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import ftvm
from ftvm.engines.names import engine_named
from ftvm.events import Committed, Event, TookOver
from ftvm.guests.datagram import cable_ends, mac_bytes

LINE_SECONDS = 0.1
MAC = "52:54:00:77:00:02"


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """What a host is to do. `cable` is the guest's network, if it has one."""

    role: str
    listen: str
    peer: str
    arbiter: str
    program: str
    arguments: str
    engine: str
    interval_ms: float
    latency_ms: float | None
    cable: str | None
    memory_mib: int

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    def guest(self) -> ftvm.RiscvGuest:
        return ftvm.RiscvGuest(
            ftvm.read_program(self.program) if self.role == "primary" else None,
            clock=ftvm.MonotonicClock(),
            memory_bytes=self.memory_mib << 20,
            mac=None if self.cable is None else mac_bytes(MAC),
            command_line=self.arguments,
        )

    def world(self) -> ftvm.World:
        if self.cable is None:
            return ftvm.CallbackWorld()
        return ftvm.DatagramWorld(*cable_ends(self.cable), mac=MAC)

    def engine_value(self) -> ftvm.Engine:
        latency = None if self.latency_ms is None else self.latency_ms / 1000
        return engine_named(self.engine, self.interval_ms / 1000, latency)


class Teller:
    """Collects events in the host's thread, prints lines in the main one."""

    def __init__(self, guest: ftvm.RiscvGuest) -> None:
        self._guest = guest
        self._pauses_us: deque[float] = deque(maxlen=100_000)
        self.took_over: TookOver | None = None

    def on_event(self, event: Event) -> None:
        if isinstance(event, Committed) and event.pause_ns:
            self._pauses_us.append(event.pause_ns / 1000)
        elif isinstance(event, TookOver):
            self.took_over = event

    def tell(self, status: ftvm.Status) -> None:
        pauses = [self._pauses_us.popleft() for _ in range(len(self._pauses_us))]
        self.say(
            {
                "at": time.monotonic_ns(),
                "retired": self._guest.position.retired,
                "cpu_ns": time.process_time_ns(),
                "pauses_us": pauses,
                "status": status.as_dict(),
            }
        )

    def say(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)


def run(plan: HostPlan) -> None:
    guest = plan.guest()
    teller = Teller(guest)
    options: dict[str, Any] = {
        "arbiter": plan.arbiter,
        "engine": plan.engine_value(),
        "world": plan.world(),
        "on_event": teller.on_event,
    }
    if plan.role == "primary":
        with ftvm.protect(guest, listen=plan.listen, peers=[plan.peer], create=True, **options) as protection:
            work(protection, teller)
    else:
        with ftvm.Standby(guest, listen=plan.listen, peers=[plan.peer], **options) as standby:
            while (taken := standby.wait(LINE_SECONDS)) is None:
                teller.tell(standby.status())
            taken.status()  # answered between two steps of the loop: behind the one that set the guest going
            if (took_over := teller.took_over) is not None:
                replay_ns = time.monotonic_ns() - took_over.at
                teller.say({"takeover_ns": took_over.arbiter_ns + replay_ns, "detection_ns": took_over.detection_ns})
            work(taken, teller)


def work(protection: ftvm.Protection, teller: Teller) -> None:
    while True:
        protection.wait(LINE_SECONDS)
        teller.tell(protection.status())


def stop(number: int, frame: object) -> None:
    del number, frame
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    run(HostPlan(**json.loads(sys.argv[1])))
