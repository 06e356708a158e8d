"""What the wire takes by itself, by processes that are placed as the hosts are: TCP in C, ZeroMQ, ZeroMQ with CURVE.

python bench/bare.py echo|ping|drain|fill PORT SECRETS      one end; started by `bare_figures`
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
from figures import Histogram, percentile
from placement import Placement
from wire import NotBuiltError, wire_program

from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.units import seconds_to_nanos

PINGS = 2000
ECHO_CLIENTS = (1, 16)
FILL_FRAMES = 96
FILL_BYTES = 1 << 20
WAIT_SECONDS = 30.0
PING = b"0123456789abcdef" * 4


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Medians in microseconds; None with a reason in `trouble` where C could not be had.

    link_rate   what ZeroMQ with CURVE carries, in bytes/s
    echo_rates  by how many clients ask: the requests per second that an echo in C answers
    """

    tcp_us: float | None
    zeromq_us: float
    curve_us: float
    link_rate: float
    echo_rates: Mapping[int, float]
    trouble: str = ""

    @property
    def round_trip_us(self) -> float:
        """What output delays are counted in: TCP in C, or ZeroMQ where that is missing."""
        return self.zeromq_us if self.tcp_us is None else self.tcp_us

    @property
    def round_trip(self) -> str:
        return "C TCP round trip" if self.tcp_us is not None else f"ZeroMQ round trip ({self.trouble})"


class _Ends:
    """Starts two ends, each in its place, and hands on what they say."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._lines: dict[str, list[JsonLine]] = {}
        self._children = Children()

    def start(self, role: str, words: list[str]) -> Child:
        said = self._lines[role] = []
        child = self._children.start(role, self._placement.command(role, words), said.append)
        child.is_expected_to_end = True
        return child

    def wait_for(self, role: str, name: str) -> Any:
        """Return what an end says under a name."""

        def look() -> Any:
            return next((line[name] for line in self._lines[role] if name in line), None)

        return self._children.wait_for(look, seconds_to_nanos(WAIT_SECONDS), f"the {role} tells its {name}")

    def lines(self, role: str) -> list[JsonLine]:
        return self._lines[role]

    def settle(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self._children.pump(seconds_to_nanos(0.02))

    def close(self) -> None:
        self._children.end_now()
        self._children.close()


def bare_figures(placement: Placement, ports: Sequence[int]) -> Bare:
    """Measure all of it; `ports` are two free UDP ports."""
    trouble, tcp_us, echo_rates = "", None, {}
    try:
        program = wire_program()
        tcp_us = _tcp_us(placement, program)
        echo_rates = {clients: _echo_rate(placement, program, ports, clients) for clients in ECHO_CLIENTS}
    except NotBuiltError as wrong:
        trouble = str(wrong)
    return Bare(
        tcp_us=tcp_us,
        zeromq_us=_between_ends(placement, "echo", "ping", is_secret=False),
        curve_us=_between_ends(placement, "echo", "ping", is_secret=True),
        link_rate=_between_ends(placement, "drain", "fill", is_secret=True),
        echo_rates=echo_rates,
        trouble=trouble,
    )


def _tcp_us(placement: Placement, program: str) -> float:
    ends = _Ends(placement)
    try:
        ends.start("standby", [program, "tcp-echo"])
        ends.start("primary", [program, "tcp-ping", str(ends.wait_for("standby", "port")), str(PINGS)])
        return _median_us(ends.wait_for("primary", "round_trips"))
    finally:
        ends.close()


def _echo_rate(placement: Placement, program: str, ports: Sequence[int], clients: int) -> float:
    """Return the requests per second of clients whom a program in C answers at once."""
    ends = _Ends(placement)
    here, there = map(str, ports)
    try:
        ends.start("primary", [program, "udp-echo", here, there])
        ends.wait_for("primary", "port")
        ends.start("client", [program, "kv", there, here, str(clients)])
        ends.settle(0.6)
        first, *_, last = ends.lines("client")
        return float((last["answered"] - first["answered"]) / (last["at"] - first["at"]) * 1e9)
    finally:
        ends.close()


def _between_ends(placement: Placement, there: str, here: str, *, is_secret: bool) -> float:
    ends = _Ends(placement)
    secrets = [key.decode() for key in (*zmq.curve_keypair(), *zmq.curve_keypair())] if is_secret else []
    words = [sys.executable, __file__]
    try:
        ends.start("standby", [*words, there, "0", json.dumps(secrets)])
        ends.start("primary", [*words, here, str(ends.wait_for("standby", "port")), json.dumps(secrets)])
        return float(ends.wait_for("primary", "result"))
    finally:
        ends.close()


def _median_us(told: dict[str, int]) -> float:
    return (percentile({int(bucket): count for bucket, count in told.items()}, 50) or 0.0) / 1e3


# --- the ends ------------------------------------------------------------------------------------------------------


def run_end(what: str, port: str, secrets: list[str]) -> None:
    """Be one end: the one that listens says its port, the one that dials what it measured."""
    end: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    if what in ("echo", "drain"):
        if secrets:
            end.curve_server, end.curve_secretkey = True, secrets[1].encode()
        print(json.dumps({"port": end.bind_to_random_port("tcp://127.0.0.1")}), flush=True)
    else:
        if secrets:
            end.curve_serverkey = secrets[0].encode()
            end.curve_publickey, end.curve_secretkey = (key.encode() for key in secrets[2:])
        end.connect(f"tcp://127.0.0.1:{port}")
    ends: dict[str, Callable[[zmq.Socket[bytes]], None]] = {
        "echo": _echo,
        "drain": _drain,
        "ping": _ping,
        "fill": _fill,
    }
    ends[what](end)


def _echo(end: "zmq.Socket[bytes]") -> None:
    while True:
        end.send(end.recv())


def _drain(end: "zmq.Socket[bytes]") -> None:
    while True:
        if len(end.recv(copy=False)) < FILL_BYTES:
            end.send(b"!")


def _ping(end: "zmq.Socket[bytes]") -> None:
    took = Histogram()
    for _ in range(PINGS):
        started = time.perf_counter_ns()
        end.send(PING)
        end.recv()
        took.add(time.perf_counter_ns() - started)
    print(json.dumps({"result": _median_us(took.told())}), flush=True)


def _fill(end: "zmq.Socket[bytes]") -> None:
    content = bytes(FILL_BYTES)
    end.send(b"?")
    end.recv()  # the handshake is over
    started = time.perf_counter()
    for _ in range(FILL_FRAMES):
        end.send(content, copy=False)
    end.send(b"?")
    end.recv()
    print(json.dumps({"result": FILL_FRAMES * FILL_BYTES / (time.perf_counter() - started)}), flush=True)


if __name__ == "__main__":
    run_end(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
