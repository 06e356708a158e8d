"""The options that the commands share which start a host. What is given becomes HostArguments (hostarguments.py)."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ftvm.cli.configoption import config_option, word_option
from ftvm.cli.hostarguments import BACKUP_LOSS, DIVERGENCE
from ftvm.cli.serviceoptions import SERVICE_OPTIONS
from ftvm.cli.values import DEFAULT_MAC
from ftvm.engines.names import ENGINES
from ftvm.guests.riscv.programs import SUMMARIES

__all__ = ["any_host_options", "host_options"]

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
    click.option("--mac", help=f"The address of its network card; needs --nic.  [default: {DEFAULT_MAC}]"),
    click.option(
        "--interval",
        default=25.0,
        show_default=True,
        metavar="MS",
        help="Time between checkpoints, under --engine. A host that takes over under another engine has that one's "
        "own: remus 25, kemari 25, lockstep 100, hybrid 100.",
    ),
    click.option(
        "--latency", type=float, metavar="MS", help="Adapt the interval so that an output waits about so long (remus)."
    ),
    click.option("--engine", "engine_name", default="remus", show_default=True, help=f"One of: {', '.join(ENGINES)}."),
    word_option(
        "--on-backup-loss",
        BACKUP_LOSS,
        explained="When the standby is lost: run on alone, or stand still until there is a new one.",
    ),
    word_option(
        "--on-divergence",
        DIVERGENCE,
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
