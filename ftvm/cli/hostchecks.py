"""What is wrong with the settings of a host: each judged by itself, all told at once, before anything is opened.

A setting is known by the name of its option, which is its key in a config file, too.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

from ftvm.arbiters.urls import check_record_url
from ftvm.cli.configoption import check_word
from ftvm.cli.hostarguments import BACKUP_LOSS, DIVERGENCE, TAP, HostArguments
from ftvm.cli.serviceoptions import LOG_FORMATS, check_control, check_metrics
from ftvm.cli.values import is_duration, millis_to_nanos, parse_memory
from ftvm.engines.interval import check_interval
from ftvm.engines.names import ENGINES, engine_named
from ftvm.errors import ConfigError, FtvmError, ImageError
from ftvm.guests.datagram import cable_ends, mac_bytes
from ftvm.guests.riscv.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE
from ftvm.guests.riscv.programs import NEED_NETWORK
from ftvm.runtime.protection import check_guest_id
from ftvm.transport.endpoints import parse_endpoint
from ftvm.transport.keys import Keys, load_public, load_secret

__all__ = ["check_settings", "problems_of"]


def problems_of(arguments: HostArguments, *, boots: bool) -> dict[str, FtvmError]:
    """Return all that is wrong with the settings, by the name of the option. Opens nothing to stay open.

    boots  the guest is to be started here, with its program; a standby's comes over from the primary
    """
    found: dict[str, FtvmError] = dict(arguments.misread)
    checks = {**_CHECKS, "nic": _check_network_of_program} if boots else _CHECKS
    for option, check in {**checks, **arguments.more_checks()}.items():
        if {option, *_JUDGED_WITH.get(option, ())} & set(arguments.misread):
            continue  # a default stands where the file says something else
        try:
            check(arguments)
        except (ConfigError, ImageError) as wrong:
            found[option] = wrong
    return found


def check_settings(arguments: HostArguments, *, boots: bool) -> None:
    """Raise one error that tells of all that is wrong with the settings; see `problems_of`."""
    problems = problems_of(arguments, boots=boots)
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        lines = "".join(f"\n  {option}: {wrong}" for option, wrong in problems.items())
        raise ConfigError(f"{len(problems)} settings are wrong:{lines}")


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


def _check_program(arguments: HostArguments) -> None:
    if not arguments.program:
        return  # another kind of guest
    image = arguments.image()
    with suppress(ConfigError):  # a wrong size is told of with --memory
        parse_elf(image, ram_base=RAM_BASE, ram_bytes=parse_memory(arguments.memory))


def _check_network(arguments: HostArguments) -> None:
    if arguments.nic is not None and not arguments.nic.startswith(TAP):
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
    millis_to_nanos(arguments.silence, "--silence")
    if is_duration(arguments.heartbeat):  # else told of with --heartbeat
        arguments.timing()


def _check_mac(arguments: HostArguments) -> None:
    if arguments.mac is None:
        return
    mac_bytes(arguments.mac)
    if arguments.nic is None:
        raise ConfigError(f"--mac {arguments.mac} needs --nic: without a cable the machine has no network card")


_CHECKS: Final[Mapping[str, Callable[[HostArguments], object]]] = {
    "guest": lambda arguments: check_guest_id(arguments.guest_id),
    "listen": lambda arguments: parse_endpoint(arguments.listen_endpoint()),
    "peer": _check_peers,
    "arbiter": lambda arguments: check_record_url(arguments.record_url()),
    "key": _check_key,
    "allow": _check_allow,
    "memory": lambda arguments: parse_memory(arguments.memory),
    "program": _check_program,
    "nic": _check_network,
    "mac": _check_mac,
    "engine": _check_engine,
    "interval": lambda arguments: check_interval(arguments.engine_name, arguments.interval / 1000),
    "latency": _check_latency,
    "on-backup-loss": lambda arguments: check_word("on-backup-loss", arguments.on_backup_loss, BACKUP_LOSS),
    "on-divergence": lambda arguments: check_word("on-divergence", arguments.on_divergence, DIVERGENCE),
    "heartbeat": lambda arguments: millis_to_nanos(arguments.heartbeat, "--heartbeat"),
    "silence": _check_silence,
    "control": lambda arguments: check_control(arguments.control),
    "metrics": lambda arguments: check_metrics(arguments.metrics),
    "log-format": lambda arguments: check_word("log-format", arguments.log_format, LOG_FORMATS),
}
"""What can be known to be wrong before anything is opened, by the option that says it."""

_JUDGED_WITH: Final[Mapping[str, tuple[str, ...]]] = {
    "peer": ("key", "allow"),
    "key": ("peer", "allow"),
    "allow": ("peer", "key"),
    "program": ("memory",),
    "nic": ("program",),
    "mac": ("nic",),
    "latency": ("engine",),
    "interval": ("engine",),
    "silence": ("heartbeat",),
}
"""Which other settings a check reads: it has nothing to judge by where one of them could not be read."""
