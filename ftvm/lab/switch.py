"""A small learning Ethernet switch: each of its ports is one end of a datagram cable.

`AddressTable` learns which port an address was last heard on and tells where a frame must go; it is pure. `Switch`
moves frames between ports. An address that moved to another port (the guest, after a takeover) is learned from the
first frame that comes from there. Run as a process::

    python -m ftvm.lab.switch --port udp:9000:9001 --port udp:9010:9011

it ends on SIGTERM or SIGINT. Source: IEEE 802.1D-2004, 7.7 to 7.9 (learning, filtering, ageing), without spanning tree.
"""

import argparse
import selectors
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ftvm.errors import ConfigError, FtvmError
from ftvm.guests.datagram import DatagramPort, cable_ends
from ftvm.lab.lines import say
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import Nanos, nanos_to_seconds, seconds_to_nanos

__all__ = ["AddressTable", "Moved", "Switch", "main"]

_now: Final = MonotonicClock().now

ADDRESSES_MAX: Final = 1_024
"""Far more cards than a lab has; when full, the address not heard for longest makes room."""

AGEING_NS: Final = seconds_to_nanos(300)
"""An address not heard for so long is forgotten, and frames to it are flooded again (802.1D's default)."""

FRAMES_PER_PORT: Final = 64
"""Frames taken from one port before the others have their turn."""

STOP_CHECK_NS: Final = seconds_to_nanos(0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """An address was heard on a port other than before."""

    mac: bytes
    port: int
    port_before: int
    at: Nanos


class AddressTable:
    """Which port each address was last heard on. Pure: time is an argument."""

    def __init__(self, port_count: int, *, addresses_max: int = ADDRESSES_MAX, ageing_ns: int = AGEING_NS) -> None:
        if port_count < 2:
            raise ConfigError("a switch needs at least two ports")
        self._port_count = port_count
        self._addresses_max = addresses_max
        self._ageing_ns = ageing_ns
        self._heard: OrderedDict[bytes, tuple[int, Nanos]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def learn(self, mac: bytes, port: int, now: Nanos) -> Moved | None:
        """Note that `mac` was heard on `port`; tell if it was known on another one."""
        if _is_group(mac):
            return None  # never a sender, whatever a broken card claims
        before = self._heard.pop(mac, None)
        self._heard[mac] = (port, now)
        if len(self._heard) > self._addresses_max:
            self._heard.popitem(last=False)
        if before is None or before[0] == port:
            return None
        return Moved(mac=mac, port=port, port_before=before[0], at=now)

    def ports_for(self, mac: bytes, port: int, now: Nanos) -> tuple[int, ...]:
        """Return where a frame to `mac` that came in on `port` must go: one port, none, or all others."""
        known = None if _is_group(mac) else self._heard.get(mac)
        if known is None or now - known[1] > self._ageing_ns:
            return tuple(other for other in range(self._port_count) if other != port)
        return () if known[0] == port else (known[0],)


class Switch:
    """Moves frames between datagram ports. Thread-free: `step` does what is due and returns."""

    def __init__(self, cables: Sequence[str], *, on_moved: Callable[[Moved], None]) -> None:
        """Open one port for each cable; `on_moved` hears of every address that changed its port.

        Raises ConfigError or TransportError; no port is left open then.
        """
        self._table = AddressTable(len(cables))
        self._on_moved = on_moved
        self._ports: list[DatagramPort] = []
        self._selector = selectors.DefaultSelector()
        try:
            for index, cable in enumerate(cables):
                self._ports.append(DatagramPort(*cable_ends(cable)))
                self._selector.register(self._ports[index], selectors.EVENT_READ, index)
        except FtvmError:
            self.close()
            raise

    def step(self, now: Nanos) -> int:
        """Forward what has come, a bounded share from each port; return how many frames that was."""
        return sum(
            self._forward(frame, index, now)
            for index, port in enumerate(self._ports)
            for frame in port.receive(FRAMES_PER_PORT)
        )

    def wait(self, timeout_ns: int) -> None:
        """Block until a frame has come or the time is over."""
        self._selector.select(nanos_to_seconds(timeout_ns))

    def close(self) -> None:
        """Give back all ports. Idempotent."""
        for port in self._ports:
            port.close()
        self._selector.close()

    def _forward(self, frame: bytes, port: int, now: Nanos) -> int:
        moved = self._table.learn(frame[6:12], port, now)
        for other in self._table.ports_for(frame[:6], port, now):
            self._ports[other].send(frame)
        if moved is not None:
            self._on_moved(moved)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a switch until a signal ends it; prints one JSON line when ready and one for each address that moved."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.lab.switch", description="A learning Ethernet switch.")
    parser.add_argument("--port", action="append", required=True, metavar="CABLE", help="e.g. udp:9000:9001; repeat")
    options = parser.parse_args(arguments)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: stopping.append(signum))
    try:
        switch = Switch(options.port, on_moved=_print_moved)
    except FtvmError as error:
        print(f"switch: {error}", file=sys.stderr)
        return 2
    say({"switch": "ready", "ports": len(options.port)})
    while not stopping:
        switch.wait(STOP_CHECK_NS)
        switch.step(_now())
    switch.close()
    return 0


def _print_moved(moved: Moved) -> None:
    say({"moved": moved.mac.hex(":"), "port": moved.port, "port_before": moved.port_before, "at": moved.at})


def _is_group(mac: bytes) -> bool:
    return bool(mac[0] & 1)


if __name__ == "__main__":
    sys.exit(main())
