"""The settings of a host as they were given, and what they build: a guest, a world, keys, an engine."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from ftvm.cli.serviceoptions import open_attendants
from ftvm.cli.values import DEFAULT_MAC, millis_to_nanos, parse_memory
from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import ConfigError
from ftvm.guests.datagram import CableWorld, DatagramWorld, cable_ends, mac_bytes
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import SUMMARIES, read_program
from ftvm.guests.tap import TapPort
from ftvm.interfaces import Engine, Guest, World
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.protection import HostOptions
from ftvm.runtime.world import CallbackWorld
from ftvm.transport.keys import Keys, load_keys

__all__ = ["BACKUP_LOSS", "DIVERGENCE", "TAP", "HostArguments"]

TAP: Final = "tap:"
"""How a network that is an interface of this host begins; any other is a cable of datagrams."""
BACKUP_LOSS: Final = ("solo", "halt")
DIVERGENCE: Final = ("rejoin", "end")


class Addresses(TypedDict):
    """What `protect` and `Standby` take as their own arguments."""

    listen: str
    peers: tuple[str, ...]
    arbiter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostArguments:
    """The shared options as they were given: on the command line, or in a config file."""

    guest_id: str
    listen: str | None
    peers: tuple[str, ...]
    arbiter: str | None
    key_file: str | None
    allow: tuple[str, ...]
    program: str = ""
    memory: str
    nic: str | None
    mac: str | None
    interval: float
    latency: float | None
    engine_name: str
    on_backup_loss: str
    on_divergence: str
    heartbeat: float
    silence: float
    control: str | None
    metrics: str | None
    log_format: str
    is_json: bool
    misread: Mapping[str, ConfigError]
    """What could not be read in the config file, by its key."""

    def more_checks(self) -> "Mapping[str, Callable[[HostArguments], object]]":
        """Return what judges the settings that only this kind of host has, by the name of the option."""
        return {}

    def addresses(self) -> Addresses:
        """Return where this host is and whom it asks; raises ConfigError unless that is all said."""
        return {"listen": self.listen_endpoint(), "peers": self.peer_endpoints(), "arbiter": self.record_url()}

    def listen_endpoint(self) -> str:
        """Return where peers connect; raises ConfigError if it is not said."""
        if self.listen is None:
            raise ConfigError("say where peers connect: --listen tcp://0.0.0.0:7777")
        return self.listen

    def record_url(self) -> str:
        """Return where the record is; raises ConfigError if it is not said."""
        if self.arbiter is None:
            raise ConfigError("say where the record is that decides: --arbiter file:///shared/vm1")
        return self.arbiter

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

    def guest(self, *, boots: bool) -> Guest:
        """Build the machine: with its program for a primary, blank for a standby."""
        return RiscvGuest(
            self.image() if boots else None,
            clock=MonotonicClock(),
            memory_bytes=parse_memory(self.memory),
            mac=mac_bytes(card) if (card := self.card()) is not None else None,
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
        mac = self.mac or DEFAULT_MAC
        if self.nic.startswith(TAP):
            return CableWorld(TapPort(self.nic.removeprefix(TAP)), mac=mac, console=write)
        local, remote = cable_ends(self.nic)
        return DatagramWorld(local, remote, mac=mac, console=write)

    def card(self) -> str | None:
        """Return the address of the guest's network card, None if it has none."""
        return (self.mac or DEFAULT_MAC) if self.nic is not None else None

    @contextmanager
    def opened(self, *, boots: bool) -> Iterator[tuple[Guest, HostOptions]]:
        """Build all that `protect` and `Standby` take, and close what of it is open at the end; all or nothing.

        The settings are to be checked before (hostchecks.py).
        """
        with ExitStack() as stack:
            options = self._plain_options()
            guest = self.guest(boots=boots)
            stack.callback(guest.close)
            world = self.world()
            stack.callback(world.close)
            attendants = open_attendants(
                stack,
                guest_id=self.guest_id,
                control=self.control,
                metrics=self.metrics,
                is_ready_when_active=boots,
            )
            yield guest, {**options, "world": world, "attendants": attendants}

    def _plain_options(self) -> HostOptions:
        return {
            "keys": self.keys(),
            "engine": self.engine(),
            "guest_id": self.guest_id,
            "timing": self.timing(),
            "halts_alone": self.on_backup_loss == "halt",
            "ends_diverged": self.on_divergence == "end",
        }

    def timing(self) -> Timing:
        """Return when silence becomes suspicion; raises ConfigError."""
        return Timing(
            heartbeat_ns=millis_to_nanos(self.heartbeat, "--heartbeat"),
            backup_limit_ns=millis_to_nanos(self.silence, "--silence"),
            primary_limit_ns=millis_to_nanos(self.silence * 5 / 3, "--silence"),
        )

    def image(self) -> bytes:
        """Return the program that the machine runs; raises ConfigError if it cannot be read."""
        if self.program in SUMMARIES:
            return read_program(self.program)
        try:
            return Path(self.program).read_bytes()
        except OSError as wrong:
            names = ", ".join(SUMMARIES)
            raise ConfigError(f"--program {self.program}: {wrong.strerror}; built-in programs are {names}") from wrong
