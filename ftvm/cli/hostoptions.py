"""The options that `ftvm primary` and `ftvm standby` share, and what they build: a guest, a world, keys."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

import click

from ftvm.arbiters.urls import check_record_url
from ftvm.cli.configoption import check_word, config_option, word_option
from ftvm.cli.serviceoptions import LOG_FORMATS, SERVICE_OPTIONS, check_control, check_metrics, open_attendants
from ftvm.config import Timing
from ftvm.engines.interval import check_interval
from ftvm.engines.names import ENGINES, engine_named
from ftvm.errors import ConfigError, FtvmError, ImageError
from ftvm.guests.datagram import CableWorld, DatagramWorld, cable_ends, mac_bytes
from ftvm.guests.riscv.elf import parse_elf
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.machine import RAM_BASE
from ftvm.guests.riscv.programs import NEED_NETWORK, SUMMARIES, read_program
from ftvm.guests.tap import TapPort
from ftvm.interfaces import Engine, Guest, World
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.protection import HostOptions, check_guest_id
from ftvm.runtime.world import CallbackWorld
from ftvm.service.configfile import several
from ftvm.transport.endpoints import parse_endpoint
from ftvm.transport.keys import Keys, load_keys, load_public, load_secret
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Check", "HostArguments", "any_host_options", "host_options", "parse_memory"]

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MEMORY_BYTES_MAX: Final = 64 << 30
_MILLIS_MAX: Final = 3_600_000
_TAP: Final = "tap:"
_MAC: Final = "52:54:00:12:34:56"
_BACKUP_LOSS: Final = ("solo", "halt")
_DIVERGENCE: Final = ("rejoin", "end")

F = TypeVar("F", bound=Callable[..., Any])


def host_options(command: F) -> F:
    """Add the options of a host that runs the built-in machine to a command."""
    return _PROGRAM(any_host_options(command))


def any_host_options(command: F) -> F:
    """Add to a command the options that hosts of all kinds of guests share."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_PROGRAM: Final = click.option(
    "--program",
    default="kv",
    show_default=True,
    metavar="NAME|FILE",
    help=f"What the built-in machine runs: an ELF file, or one of {', '.join(SUMMARIES)}.",
)


_OPTIONS: Final = (
    click.option("--guest", "guest_id", default="guest", show_default=True, help="The guest's name in the record."),
    click.option("--listen", metavar="ENDPOINT", help="Where peers connect, e.g. tcp://0.0.0.0:7777. Needed."),
    click.option(
        "--peer",
        "peers",
        multiple=True,
        metavar="ENDPOINT[=FILE.pub]",
        help="Another host of this guest; with the key expected there if several are allowed. May be repeated.",
    ),
    click.option("--arbiter", metavar="URL", help="The record that decides, e.g. file:///shared/vm1. Needed."),
    click.option("--key", "key_file", metavar="FILE.key", help="This host's secret key, from `ftvm keygen`."),
    click.option("--allow", multiple=True, metavar="FILE.pub", help="A peer's public key. May be repeated."),
    click.option("--memory", default="64M", show_default=True, help="The machine's RAM, e.g. 64M or 1G."),
    click.option(
        "--nic",
        metavar="CABLE",
        help="Its network: udp:LOCALPORT:REMOTEPORT, a frame in a datagram; or tap:NAME, an interface of this host.",
    ),
    click.option("--mac", help=f"The address of its network card; needs --nic.  [default: {_MAC}]"),
    click.option("--interval", default=25.0, show_default=True, metavar="MS", help="Time between checkpoints."),
    click.option(
        "--latency", type=float, metavar="MS", help="Adapt the interval so that an output waits about so long (remus)."
    ),
    click.option("--engine", "engine_name", default="remus", show_default=True, help=f"One of: {', '.join(ENGINES)}."),
    word_option(
        "--on-backup-loss",
        _BACKUP_LOSS,
        explained="When the standby is lost: run on alone, or stand still until there is a new one.",
    ),
    word_option(
        "--on-divergence",
        _DIVERGENCE,
        explained="When a backup's guest comes to another state under lockstep: have it join afresh, or end this host.",
    ),
    click.option("--heartbeat", default=50.0, show_default=True, metavar="MS", help="Time between heartbeats."),
    click.option(
        "--silence", default=300.0, show_default=True, metavar="MS", help="Silence after which a standby suspects."
    ),
    *SERVICE_OPTIONS,
    config_option,
    click.option("--json", "is_json", is_flag=True, help="Print events and status as JSON lines on stdout."),
)


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

    def checks(self) -> Mapping[str, "Check"]:
        """Return what judges each setting, by the name of the option."""
        return _CHECKS

    def problems(self, *, boots: bool) -> dict[str, FtvmError]:
        """Return all that is wrong with the settings, by the name of the option. Opens nothing to stay open.

        boots       the guest is to be started here, with its program; a standby's comes over from the primary
        """
        found: dict[str, FtvmError] = {}
        checks = {**self.checks(), "nic": _check_network_of_program} if boots else self.checks()
        for option, check in checks.items():
            try:
                check(self)
            except (ConfigError, ImageError) as wrong:
                found[option] = wrong
        return found

    def check(self, *, boots: bool) -> None:
        """Raise one error that tells of all that is wrong with the settings."""
        problems = self.problems(boots=boots)
        if len(problems) == 1:
            raise next(iter(problems.values()))
        if problems:
            raise several([f"{option}: {wrong}" for option, wrong in problems.items()])

    def addresses(self) -> Addresses:
        """Return where this host is and whom it asks; raises ConfigError unless that is all said."""
        if self.listen is None:
            raise ConfigError("say where peers connect: --listen tcp://0.0.0.0:7777")
        if self.arbiter is None:
            raise ConfigError("say where the record is that decides: --arbiter file:///shared/vm1")
        return {"listen": self.listen, "peers": self.peer_endpoints(), "arbiter": self.arbiter}

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
        mac = self.mac or _MAC
        if self.nic.startswith(_TAP):
            return CableWorld(TapPort(self.nic.removeprefix(_TAP)), mac=mac, console=write)
        local, remote = cable_ends(self.nic)
        return DatagramWorld(local, remote, mac=mac, console=write)

    def card(self) -> str | None:
        """Return the address of the guest's network card, None if it has none."""
        return (self.mac or _MAC) if self.nic is not None else None

    @contextmanager
    def opened(self, *, boots: bool) -> Iterator[tuple[Guest, HostOptions]]:
        """Build all that `protect` and `Standby` take, and close what of it is open at the end; all or nothing."""
        self.check(boots=boots)
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
            heartbeat_ns=_millis_to_nanos(self.heartbeat, "--heartbeat"),
            backup_limit_ns=_millis_to_nanos(self.silence, "--silence"),
            primary_limit_ns=_millis_to_nanos(self.silence * 5 / 3, "--silence"),
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


Check = Callable[[HostArguments], object]
"""Raises ConfigError, or ImageError, if a setting is wrong."""


def _check_addresses(arguments: HostArguments) -> None:
    parse_endpoint(arguments.addresses()["listen"])


def _check_peers(arguments: HostArguments) -> None:
    keys: Keys | None = None
    with suppress(ConfigError):  # told of with --key and --allow, or below
        keys = arguments.keys()

    def check(peer: str) -> None:
        endpoint, is_given, file = peer.partition("=")
        parse_endpoint(endpoint)
        if is_given:
            load_public(file)
        if keys is not None:
            keys.server_of(endpoint)

    _check_each(arguments.peers, check)


def _check_key(arguments: HostArguments) -> None:
    if arguments.key_file is None:
        arguments.keys()
    else:
        load_secret(arguments.key_file)


def _check_allow(arguments: HostArguments) -> None:
    _check_each(arguments.allow, load_public)
    if arguments.key_file is not None and not arguments.allow and not any("=" in peer for peer in arguments.peers):
        raise ConfigError("no peer's key is allowed: name at least one .pub file with --allow")


def _check_each(values: Iterable[str], check: Callable[[str], object]) -> None:
    """Raise one ConfigError that tells of all values that are wrong."""
    wrong: list[str] = []
    for value in values:
        try:
            check(value)
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("; ".join(wrong))


def _check_arbiter(arguments: HostArguments) -> None:
    if arguments.arbiter is None:
        return  # told of with --listen
    check_record_url(arguments.arbiter)


def _check_program(arguments: HostArguments) -> None:
    if not arguments.program:
        return  # another kind of guest
    image = arguments.image()
    with suppress(ConfigError):  # a wrong size is told of with --memory
        parse_elf(image, ram_base=RAM_BASE, ram_bytes=parse_memory(arguments.memory))


def _check_network(arguments: HostArguments) -> None:
    if arguments.nic is not None and not arguments.nic.startswith(_TAP):
        cable_ends(arguments.nic)


def _check_network_of_program(arguments: HostArguments) -> None:
    _check_network(arguments)
    if arguments.nic is None and arguments.program in NEED_NETWORK:
        raise ConfigError(
            f"program {arguments.program} needs a network card: give it a cable, --nic udp:LOCALPORT:REMOTEPORT or "
            "--nic tap:NAME, or choose another --program"
        )


def _check_engine(arguments: HostArguments) -> None:
    if arguments.engine_name not in ENGINES:
        arguments.engine()  # says which there are


def _check_latency(arguments: HostArguments) -> None:
    if arguments.latency is not None and arguments.engine_name in ENGINES:
        engine_named(arguments.engine_name, latency=arguments.latency / 1000)


def _check_silence(arguments: HostArguments) -> None:
    _millis_to_nanos(arguments.silence, "--silence")
    if _is_duration(arguments.heartbeat):  # else told of with --heartbeat
        arguments.timing()


def _check_mac(arguments: HostArguments) -> None:
    if arguments.mac is None:
        return
    mac_bytes(arguments.mac)
    if arguments.nic is None:
        raise ConfigError(f"--mac {arguments.mac} needs --nic: without a cable the machine has no network card")


_CHECKS: Final[dict[str, Check]] = {
    "guest": lambda arguments: check_guest_id(arguments.guest_id),
    "listen": _check_addresses,
    "peer": _check_peers,
    "arbiter": _check_arbiter,
    "key": _check_key,
    "allow": _check_allow,
    "memory": lambda arguments: parse_memory(arguments.memory),
    "program": _check_program,
    "nic": _check_network,
    "mac": _check_mac,
    "engine": _check_engine,
    "interval": lambda arguments: check_interval("--interval", arguments.interval / 1000),
    "latency": _check_latency,
    "on-backup-loss": lambda arguments: check_word("on-backup-loss", arguments.on_backup_loss, _BACKUP_LOSS),
    "on-divergence": lambda arguments: check_word("on-divergence", arguments.on_divergence, _DIVERGENCE),
    "heartbeat": lambda arguments: _millis_to_nanos(arguments.heartbeat, "--heartbeat"),
    "silence": _check_silence,
    "control": lambda arguments: check_control(arguments.control),
    "metrics": lambda arguments: check_metrics(arguments.metrics),
    "log-format": lambda arguments: check_word("log-format", arguments.log_format, LOG_FORMATS),
}
"""What can be known to be wrong before anything is opened, by the option that says it."""


def _millis_to_nanos(millis: float, option: str) -> Nanos:
    if not _is_duration(millis):
        raise ConfigError(f"{option} {millis:g}: write milliseconds, more than 0 and at most an hour")
    return seconds_to_nanos(millis / 1000)


def _is_duration(millis: float) -> bool:
    return 0 < millis <= _MILLIS_MAX  # not so for nan


def parse_memory(text: str) -> int:
    """Return bytes from text such as 64M; raises ConfigError."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "M")
    if not number.isdecimal() or not 0 < int(number) * _UNITS[unit] <= _MEMORY_BYTES_MAX:
        raise ConfigError(f"memory {text!r}: write a size such as 64M or 1G, at most 64G")
    return int(number) * _UNITS[unit]
