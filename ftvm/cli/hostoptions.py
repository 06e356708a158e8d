"""The options that `ftvm primary` and `ftvm standby` share, and what they build: a guest, a world, keys."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from ftvm.config import Timing
from ftvm.engines.names import ENGINES, engine_named
from ftvm.errors import ConfigError
from ftvm.guests.datagram import DatagramWorld, cable_ends, mac_bytes
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import SUMMARIES, read_program
from ftvm.interfaces import Engine, World
from ftvm.runtime.attend import Attendant
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.protection import HostOptions
from ftvm.runtime.world import CallbackWorld
from ftvm.service.control import ControlSocket
from ftvm.service.places import control_folder, own_endpoint, prepare_folder
from ftvm.transport.keys import Keys, load_keys
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["HostArguments", "host_options", "parse_memory"]

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MEMORY_BYTES_MAX: Final = 64 << 30
_MILLIS_MAX: Final = 3_600_000

F = TypeVar("F", bound=Callable[..., Any])


def host_options(command: F) -> F:
    """Add the shared options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final = (
    click.option("--guest", "guest_id", default="guest", show_default=True, help="The guest's name in the record."),
    click.option("--listen", required=True, metavar="ENDPOINT", help="Where peers connect, e.g. tcp://0.0.0.0:7777."),
    click.option(
        "--peer",
        "peers",
        multiple=True,
        metavar="ENDPOINT[=FILE.pub]",
        help="Another host of this guest; with the key expected there if several are allowed. May be repeated.",
    ),
    click.option("--arbiter", required=True, metavar="URL", help="The record that decides, e.g. file:///shared/vm1."),
    click.option("--key", "key_file", metavar="FILE.key", help="This host's secret key, from `ftvm keygen`."),
    click.option("--allow", multiple=True, metavar="FILE.pub", help="A peer's public key. May be repeated."),
    click.option(
        "--program",
        default="kv",
        show_default=True,
        metavar="NAME|FILE",
        help=f"What the built-in machine runs: an ELF file, or one of {', '.join(SUMMARIES)}.",
    ),
    click.option("--memory", default="64M", show_default=True, help="The machine's RAM, e.g. 64M or 1G."),
    click.option("--nic", metavar="CABLE", help="Its network: udp:LOCALPORT:REMOTEPORT, a frame in each datagram."),
    click.option("--mac", default="52:54:00:12:34:56", show_default=True, help="Its network address."),
    click.option("--interval", default=25.0, show_default=True, metavar="MS", help="Time between checkpoints."),
    click.option(
        "--latency", type=float, metavar="MS", help="Adapt the interval so that an output waits about so long (remus)."
    ),
    click.option("--engine", "engine_name", default="remus", show_default=True, help=f"One of: {', '.join(ENGINES)}."),
    click.option("--heartbeat", default=50.0, show_default=True, metavar="MS", help="Time between heartbeats."),
    click.option(
        "--silence", default=300.0, show_default=True, metavar="MS", help="Silence after which a standby suspects."
    ),
    click.option(
        "--control",
        metavar="ipc:///PATH",
        help="Where `ftvm status` and `ftvm ctl` reach this host, or `none`.  [default: a place of the user]",
    ),
    click.option("--json", "is_json", is_flag=True, help="Print events and status as JSON lines on stdout."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostArguments:
    """The shared options as they were given."""

    guest_id: str
    listen: str
    peers: tuple[str, ...]
    arbiter: str
    key_file: str | None
    allow: tuple[str, ...]
    program: str
    memory: str
    nic: str | None
    mac: str
    interval: float
    latency: float | None
    engine_name: str
    heartbeat: float
    silence: float
    control: str | None
    is_json: bool

    def engine(self) -> Engine:
        """Return the engine; ConfigError lists the names if it is unknown."""
        latency = None if self.latency is None else self.latency / 1000
        return engine_named(self.engine_name, self.interval / 1000, latency)

    def peer_endpoints(self) -> tuple[str, ...]:
        """Return the peers without their keys."""
        return tuple(peer.partition("=")[0] for peer in self.peers)

    def keys(self) -> Keys | None:
        """Load the keys, if any were named."""
        named = {
            endpoint: file for endpoint, is_given, file in (peer.partition("=") for peer in self.peers) if is_given
        }
        if self.key_file is None:
            if self.allow or named:
                raise ConfigError("--allow and keys of peers need --key: name this host's own key file too")
            return None
        return load_keys(self.key_file, self.allow, named)

    def guest(self, *, boots: bool) -> RiscvGuest:
        """Build the machine: with its program for a primary, blank for a standby."""
        return RiscvGuest(
            self._image() if boots else None,
            clock=MonotonicClock(),
            memory_bytes=parse_memory(self.memory),
            mac=mac_bytes(self.mac) if self.nic is not None else None,
        )

    def world(self) -> World:
        """Build the outside: the network cable, and the console on stdout (on stderr where stdout carries JSON)."""
        out = sys.stderr if self.is_json else sys.stdout

        def write(text: bytes) -> None:
            with suppress(OSError):  # a closed pipe or a full disk behind the console is no reason to end the guest
                out.write(text.decode(errors="replace"))
                out.flush()

        if self.nic is None:
            return CallbackWorld(lambda output: write(output.payload))
        local, remote = cable_ends(self.nic)
        return DatagramWorld(local, remote, mac=self.mac, console=write)

    @contextmanager
    def opened(self, *, boots: bool) -> Iterator[tuple[RiscvGuest, HostOptions]]:
        """Build all that `protect` and `Standby` take, and close what of it is open at the end; all or nothing."""
        with ExitStack() as stack:
            options = self._plain_options()
            guest = self.guest(boots=boots)
            stack.callback(guest.close)
            world = self.world()
            stack.callback(world.close)
            attendants = self.attendants()
            for attendant in attendants:
                stack.callback(attendant.close)
            yield guest, {**options, "world": world, "attendants": attendants}

    def _plain_options(self) -> HostOptions:
        timing = Timing(
            heartbeat_ns=_millis_to_nanos(self.heartbeat, "--heartbeat"),
            backup_limit_ns=_millis_to_nanos(self.silence, "--silence"),
            primary_limit_ns=_millis_to_nanos(self.silence * 5 / 3, "--silence"),
        )
        return {
            "keys": self.keys(),
            "engine": self.engine(),
            "guest_id": self.guest_id,
            "timing": timing,
        }

    def attendants(self) -> tuple[Attendant, ...]:
        """Open what serves an operator: the control socket."""
        if self.control == "none":
            return ()
        if self.control is not None:
            return (ControlSocket(self.control),)
        folder = control_folder()
        prepare_folder(folder)
        return (ControlSocket(own_endpoint(folder, self.guest_id)),)

    def _image(self) -> bytes:
        if self.program in SUMMARIES:
            return read_program(self.program)
        try:
            return Path(self.program).read_bytes()
        except OSError as wrong:
            names = ", ".join(SUMMARIES)
            raise ConfigError(f"--program {self.program}: {wrong.strerror}; built-in programs are {names}") from wrong


def _millis_to_nanos(millis: float, option: str) -> Nanos:
    if not 0 < millis <= _MILLIS_MAX:  # so that nan is refused too
        raise ConfigError(f"{option} {millis:g}: write milliseconds, more than 0 and at most an hour")
    return seconds_to_nanos(millis / 1000)


def parse_memory(text: str) -> int:
    """Return bytes from text such as 64M; raises ConfigError."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "M")
    if not number.isdecimal() or not 0 < int(number) * _UNITS[unit] <= _MEMORY_BYTES_MAX:
        raise ConfigError(f"memory {text!r}: write a size such as 64M or 1G, at most 64G")
    return int(number) * _UNITS[unit]
