"""`ftvm check CONFIG`: what would fail if a host were started here with this file, and how to mend it."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ftvm.cli.hostarguments import HostArguments
from ftvm.cli.hostchecks import problems_of
from ftvm.cli.primary import primary
from ftvm.cli.qemu import QemuArguments, run
from ftvm.cli.serviceoptions import open_attendants
from ftvm.cli.values import parse_memory
from ftvm.errors import FtvmError
from ftvm.service import checks
from ftvm.service.checks import Finding, Level

__all__ = ["check"]

_MARKS: Final = {Level.OK: "ok      ", Level.WARNING: "warning ", Level.FAILURE: "FAILURE "}


@click.command()
@click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--role",
    type=click.Choice(["primary", "standby"]),
    default="primary",
    show_default=True,
    help="As what this host is to be started.",
)
@click.option("--qemu", "is_qemu", is_flag=True, help="CONFIG is for `ftvm qemu run` and `ftvm qemu standby`.")
@click.option("--json", "is_json", is_flag=True, help="Print a list of objects instead of lines.")
def check(config: Path, role: str, is_qemu: bool, is_json: bool) -> None:
    """Say what would fail if a host were started here with CONFIG, and how to mend it.

    Looks at the settings, keys and their modes, ports, peers, the arbiter and where it lives, kernel features and
    memory, as a start would, and leaves everything as it was. A host that runs already holds its ports: check before
    it is started.

    Exit status: 0 if nothing would fail (there may be warnings), 1 if something would, 2 if CONFIG is no file of TOML.
    """
    findings = list(_findings(_arguments(config, is_qemu=is_qemu), is_standby=role == "standby"))
    if is_json:
        click.echo(json.dumps([{**asdict(each), "level": each.level.value} for each in findings]))
    else:
        for each in findings:
            click.echo(f"{_MARKS[each.level]}{each.subject}: {each.text}")
            if each.remedy:
                click.echo(f"          {each.remedy}")
    sys.exit(1 if any(each.level is Level.FAILURE for each in findings) else 0)


def _arguments(config: Path, *, is_qemu: bool) -> HostArguments:
    """Return a host's arguments as the command that starts it would have them with `--config CONFIG`."""
    command = run if is_qemu else primary
    parameters = dict(command.make_context("check", ["--config", str(config)]).params)
    del parameters["create"]
    return QemuArguments(**parameters) if is_qemu else HostArguments(**parameters)


def _findings(arguments: HostArguments, *, is_standby: bool) -> Iterator[Finding]:
    """Yield what is wrong with the settings, then what is found where they lead; a wrong one leads nowhere."""
    problems = problems_of(arguments, boots=not is_standby)
    for option, wrong in problems.items():
        remedy = f"set {option} right in the file" if _is_of_the_file(option, wrong) else ""
        yield Finding(level=Level.FAILURE, subject=option, text=str(wrong), remedy=remedy)
    if not problems:
        yield Finding(level=Level.OK, subject="settings", text="all of them make sense")
    has_keys = not {"key", "allow", "peer"} & set(problems)  # a peer may be given with its key
    if arguments.listen is not None and "listen" not in problems and has_keys:
        yield from checks.check_endpoint(arguments.listen, arguments.keys())
    if "peer" not in problems and has_keys:
        yield from checks.check_peers(arguments.peer_endpoints(), arguments.keys(), is_needed=is_standby)
    if arguments.arbiter is not None and "arbiter" not in problems:
        yield from checks.check_arbiter(arguments.arbiter, arguments.guest_id)
        yield from checks.check_arbiter_place(arguments.arbiter)
    if not {"nic", "mac"} & set(problems):
        yield from checks.check_opens("nic", "the guest's network can be opened", lambda: arguments.world().close())
    if not {"control", "metrics"} & set(problems):
        served = "control socket and metrics can be served"
        yield from checks.check_opens("service", served, lambda: _open_and_close(arguments))
    if "memory" not in problems:
        yield from checks.check_memory(parse_memory(arguments.memory))
    if isinstance(arguments, QemuArguments):
        yield from checks.check_opens("qemu", "QEMU and the package qemu.qmp are here", arguments.check_tools)
    yield from checks.check_tracking()


def _is_of_the_file(option: str, wrong: FtvmError) -> bool:
    """Tell whether the file is to be mended, not what it names: a key file, or a package that is not installed."""
    return option not in ("key", "allow") and not isinstance(wrong.__cause__, ModuleNotFoundError)


def _open_and_close(arguments: HostArguments) -> None:
    with ExitStack() as stack:
        open_attendants(
            stack,
            guest_id=arguments.guest_id,
            control=arguments.control,
            metrics=arguments.metrics,
            is_ready_when_active=False,
        )
