"""`ftvm vmm`: for authors of monitors that hand their guests over to ftvm."""

import json
import sys

import click

from ftvm.cli.values import parse_memory
from ftvm.errors import ConfigError
from ftvm.lab.monitors import MonitorCheck, check_monitor
from ftvm.testing.contract import ContractBroken

__all__ = ["vmm"]


@click.group()
def vmm() -> None:
    """Check your own monitor against the hand-over protocol."""


@vmm.command(short_help="Check whether a monitor keeps its promises.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--socket", required=True, metavar="PATH", help="Where the monitor connects. It is made here.")
@click.option("--input", "inputs", multiple=True, metavar="CHANNEL=TEXT", help="An input to try. May be repeated.")
@click.option("--deterministic", is_flag=True, help="What the guest says without inputs depends on its state alone.")
@click.option("--examples", default=10, show_default=True, type=click.IntRange(1, 1000), help="Plans to try.")
@click.option("--moment", default=20.0, show_default=True, metavar="MS", help="How long the guest runs in each step.")
@click.option("--memory", default="512M", show_default=True, metavar="SIZE", help="The most memory to take.")
@click.option(
    "--wait", default=30.0, show_default=True, metavar="S", help="How long to wait for each monitor, and answer."
)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object at the end.")
def check(
    command: tuple[str, ...],
    socket: str,
    inputs: tuple[str, ...],
    deterministic: bool,
    examples: int,
    moment: float,
    memory: str,
    wait: float,
    is_json: bool,
) -> None:
    """Check whether a monitor keeps its promises: those of docs/handover.md, and those that every guest makes.

    COMMAND starts a monitor that connects to PATH, e.g. `-- ./monitor /run/vm.sock`; it is run once for each trial.
    Without it, monitors must connect by themselves, one after the other, two at a time. A small guest is checked
    faster: a few MiB, a program that goes on for ever.

    A monitor that ends, hangs or lies is named with what it was told last; with COMMAND also how its process ended and
    its last line on stderr, which is passed on whole. The check stops there.

    Exit status: 0 if all promises are kept, 1 if one is broken (it is named, with --json under "promise" and "seen"),
    2 for wrong usage.
    """
    if not 0 < moment <= 10_000 or not 0 < wait <= 3600:
        raise ConfigError("--moment is more than 0 and at most 10000 ms, --wait more than 0 and at most 3600 s")
    wanted = MonitorCheck(
        socket=socket,
        command=command,
        inputs=[_parse_input(each) for each in inputs],
        is_deterministic=deterministic,
        examples=examples,
        moment_seconds=moment / 1000,
        memory_bytes_max=parse_memory(memory),
        connect_seconds=wait,
    )
    broken: ContractBroken | None = None
    try:
        check_monitor(wanted)
    except ContractBroken as found:
        broken = found
    if is_json:
        promise, seen = (broken.clause, broken.detail) if broken else (None, None)
        click.echo(json.dumps({"kept": broken is None, "promise": promise, "seen": seen}))
    elif broken is None:
        click.echo("all promises are kept")
    else:
        click.echo(f"broken: {broken.clause}\n  {broken.detail}")
    sys.exit(0 if broken is None else 1)


def _parse_input(written: str) -> tuple[str, bytes]:
    channel, is_given, text = written.partition("=")
    if not is_given or not channel:
        raise ConfigError(f"--input {written}: write CHANNEL=TEXT")
    return channel, text.encode()
