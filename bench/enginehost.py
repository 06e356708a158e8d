"""One host of a comparison of engines: runs a guest of the built-in machine, or stands by for one, and tells figures.

    python bench/enginehost.py '{"role": "primary", ...}'       see `HostPlan` for the fields

As often as the plan says it prints a JSON line: counters of the guest and of its protection; what happened to it
(protected, taken over, switched) is told at the next line, with its time. When it has taken over, it says how long that
took, from its suspicion until the guest ran here. {"switchover": true} on standard input has it hand the guest over.
The role `alone` runs the guest with nothing of ftvm in its way, `replay` does so and then replays the log.

Started by enginerun.py, also with an older ftvm: so it uses only what v0.1.0 has. Ends on SIGTERM.
"""

import json
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from figures import Histogram
from stopwatch import LooseSink, TimedGuest, TimedWorld

import ftvm
from ftvm.engines.names import engine_named
from ftvm.events import Committed, Event, Protected, SwitchedAway, SwitchedHere, TookOver
from ftvm.guests.datagram import cable_ends, mac_bytes
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.follow import replay
from ftvm.runtime.sink import NumberingSink
from ftvm.transport.zeromq import ZeroMqTransport

LINE_SECONDS = 0.1
MIB = 1 << 20
MAC = "52:54:00:77:00:02"
FRAMES_PER_LOOK = 256
TOLD = (Protected, SwitchedAway, SwitchedHere, TookOver)


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """What a host is to do. `cable` is the guest's network, if it has one; `keys` are ours and the peer's for CURVE."""

    role: str
    program: str
    arguments: str
    memory_mib: int
    cable: str | None = None
    listen: str = ""
    peer: str = ""
    arbiter: str = ""
    engine: str = "remus"
    interval_ms: float = 25.0
    latency_ms: float | None = None
    group_ms: float | None = None
    keys: tuple[str, str, str] | None = None
    seconds: float = 1.0
    """How much of its life a guest replays."""
    disk_path: str | None = None
    """The image of the guest's disk, in memory on a standby until it runs; None for no disk."""
    line_seconds: float = LINE_SECONDS
    """How often it tells its figures: to ask a host for its status wakes its loop."""
    fills: bool = False
    """Whether memory that the program does not use is full of something that never changes."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    def guest(self) -> TimedGuest:
        guest = TimedGuest(
            None if self.role == "standby" else ftvm.read_program(self.program),
            clock=ftvm.MonotonicClock(),
            memory_bytes=self.memory_mib << 20,
            mac=None if self.cable is None else mac_bytes(MAC),
            command_line=self.arguments,
            **({} if self.disk_path is None else {"disk": self.disk_path}),
        )
        if self.fills and self.role != "standby":
            fill(guest.memory[0].buffer)
        return guest

    def world(self) -> ftvm.World:
        if self.cable is None:
            return ftvm.CallbackWorld()
        return ftvm.DatagramWorld(*cable_ends(self.cable), mac=MAC)

    def engine_value(self) -> ftvm.Engine:
        latency = None if self.latency_ms is None else self.latency_ms / 1000
        if self.group_ms is not None:
            return engine_named(self.engine, self.interval_ms / 1000, latency, self.group_ms / 1000)
        return engine_named(self.engine, self.interval_ms / 1000, latency)  # as an ftvm of before takes it

    def curve(self) -> ftvm.Keys | None:
        if self.keys is None:
            return None
        public, secret, theirs = self.keys
        return ftvm.Keys(public=public, secret=secret, allowed=frozenset({theirs}))


def fill(memory: memoryview) -> None:
    """Write over all but the first quarter and the last mebibyte, which the program uses."""
    noise = os.urandom(MIB)
    for at in range(len(memory) // 4, len(memory) - MIB, MIB):
        memory[at : at + MIB] = noise


class SentBytes:
    """Counts what the transport is given to send, by taking the place of its `send`."""

    def __init__(self) -> None:
        self.total = 0

    def count(self) -> None:
        send = ZeroMqTransport.send

        def counted(transport: ZeroMqTransport, peer: str, lane: Any, frames: Any, *others: Any) -> bool:
            self.total += sum(map(len, frames))
            return send(transport, peer, lane, frames, *others)

        ZeroMqTransport.send = counted  # type: ignore[method-assign]


SENT = SentBytes()


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def memory_bytes() -> int:
    """Return the most memory that this process has had at once."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def counters(guest: TimedGuest) -> dict[str, Any]:
    return {
        "at": time.monotonic_ns(),
        "retired": guest.position.retired,
        "cpu_ns": time.process_time_ns(),
        "memory_bytes": memory_bytes(),
        "delays": guest.watch.delays.told(),
        "outputs": guest.watch.left,
    }


class Teller:
    """Collects events in the host's thread, prints lines in the main one."""

    def __init__(self, guest: TimedGuest) -> None:
        self.took_over: TookOver | None = None
        self._guest = guest
        self._pauses = Histogram()
        self._happened: deque[dict[str, Any]] = deque(maxlen=1000)

    def on_event(self, event: Event) -> None:
        if isinstance(event, Committed) and event.pause_ns:
            self._pauses.add(event.pause_ns)
        elif isinstance(event, TOLD):
            self._happened.append({"event": type(event).__name__, "sent_bytes": SENT.total} | asdict(event))
        if isinstance(event, TookOver):
            self.took_over = event

    def tell(self, status: ftvm.Status) -> None:
        while self._happened:
            say(self._happened.popleft())
        names = ("link", "checkpoints", "bytes_sent")
        of_host = {name: getattr(status, name) for name in names} | {"pauses": self._pauses.told()}
        say(counters(self._guest) | {"host": of_host, "sent_bytes": SENT.total})


# --- protected -----------------------------------------------------------------------------------------------------


def run_host(plan: HostPlan, guest: TimedGuest) -> None:
    teller = Teller(guest)
    options: dict[str, Any] = {
        "arbiter": plan.arbiter,
        "engine": plan.engine_value(),
        "world": TimedWorld(plan.world(), guest.watch),
        "on_event": teller.on_event,
        "keys": plan.curve(),
    }
    if plan.role == "primary":
        with ftvm.protect(guest, listen=plan.listen, peers=[plan.peer], create=True, **options) as protection:
            work(plan, protection, teller)
    else:
        with ftvm.Standby(guest, listen=plan.listen, peers=[plan.peer], **options) as standby:
            while (taken := standby.wait(plan.line_seconds)) is None:
                teller.tell(standby.status())
            taken.status()  # answered between two steps of the loop: behind the one that set the guest going
            if (took_over := teller.took_over) is not None and (ran_at := guest.ran_at) is not None:
                takeover_ns = took_over.arbiter_ns + ran_at - took_over.at
                say({"takeover_ns": takeover_ns, "detection_ns": took_over.detection_ns, "running_at": ran_at})
            work(plan, taken, teller)


def work(plan: HostPlan, protection: ftvm.Protection, teller: Teller) -> None:
    while True:
        protection.wait(plan.line_seconds)
        if wants_switchover():
            protection.switchover()
        teller.tell(protection.status())


def wants_switchover() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and "switchover" in os.read(0, 4096).decode()


# --- alone ---------------------------------------------------------------------------------------------------------


def run_alone(plan: HostPlan, guest: TimedGuest) -> None:
    """Run the guest with its world at its side, and nothing between them."""
    start_alone(guest, plan.world(), is_logging=False)
    while True:
        time.sleep(plan.line_seconds)
        say(counters(guest))


def start_alone(guest: TimedGuest, world: Any, *, is_logging: bool) -> tuple[LooseSink, Callable[[], None]]:
    """Return the sink, and what stops the deliveries."""
    is_over = threading.Event()
    sink = LooseSink(TimedWorld(world, guest.watch), is_logging=is_logging)
    ftvm.RiscvGuest.attach(guest, sink)

    def deliver() -> None:
        while not is_over.is_set():
            select.select(world.fds(), [], [], LINE_SECONDS)
            for channel, payload in world.receive(FRAMES_PER_LOOK):
                guest.deliver(channel, payload)

    threading.Thread(target=deliver, daemon=True).start()
    guest.resume()
    return sink, is_over.set


# --- the log -------------------------------------------------------------------------------------------------------


def run_replay(plan: HostPlan, guest: TimedGuest) -> None:
    """Run the guest alone for a while, replay its log on another, and tell the CPU that each took."""
    sink, end_deliveries = start_alone(guest, plan.world(), is_logging=True)
    time.sleep(plan.seconds)
    end_deliveries()
    guest.pause()
    live_ns, end_at = thread_ns("riscv-guest"), guest.position
    log = sink.log
    guest.close()
    again = plan.guest()
    said = NumberingSink(lambda: None, MonotonicClock())
    said.open(1, 1, is_logging=False)
    ftvm.RiscvGuest.attach(again, said)
    started = time.thread_time_ns()
    replay(again, log, said)
    again.run_until(end_at)
    replay_ns = time.thread_time_ns() - started
    say({"live_ns": live_ns, "replay_ns": replay_ns, "records": len(log), "retired": again.position.retired})


def thread_ns(name: str) -> int:
    """Return the CPU time of a thread of this process."""
    thread = next(thread for thread in threading.enumerate() if thread.name == name)
    assert thread.ident is not None
    return time.clock_gettime_ns(time.pthread_getcpuclockid(thread.ident))


def run(plan: HostPlan) -> None:
    SENT.count()
    roles = {"alone": run_alone, "replay": run_replay}
    roles.get(plan.role, run_host)(plan, plan.guest())


def stop(number: int, frame: object) -> None:
    del number, frame
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    run(HostPlan(**json.loads(sys.argv[1])))
