"""`ftvm check FILE`: could a host start here with this file? If not, how to correct what is wrong."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ftvm.cli.hostparts import keys_of, look_at_history, look_at_network, peer_endpoints
from ftvm.cli.kinds import read_host
from ftvm.cli.serviceoptions import open_services
from ftvm.cli.settings import HostSettings
from ftvm.cli.values import GOES_IN
from ftvm.errors import FtvmError
from ftvm.runtime.names import for_people
from ftvm.service import checks
from ftvm.service.checks import Finding, Level

__all__ = ["check", "findings_of", "print_findings"]

_MARKS: Final = {Level.OK: "ok      ", Level.WARNING: "warning ", Level.FAILURE: "FAILURE "}


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--role",
    type=click.Choice(["primary", "standby"]),
    default="primary",
    show_default=True,
    help="How this host is to start: by `ftvm run`, or by `ftvm standby`.",
)
@click.option("--qemu", "is_qemu", is_flag=True, hidden=True, help="The old way to say that FILE is for a QEMU.")
@click.option("--json", "is_json", is_flag=True, help="Print a list of objects instead of lines.")
def check(file: Path, role: str, is_qemu: bool, is_json: bool) -> None:
    """Check whether a host could start here with the guest file FILE, and say how to correct what is wrong.

    Looks at settings, keys and their modes, ports, peers, the arbiter and where it is, kernel features and memory, as
    a start would. Changes nothing. A host that runs already holds its ports: check before you start it.

    Exit status: 0 if nothing would fail (there may be warnings), 1 if something would, 2 if FILE is not TOML.
    """
    if is_qemu:
        said = f'`ftvm check --qemu` is now `ftvm check`, with kind = "qemu" in the file; gone in {GOES_IN}'
        click.echo(f"ftvm: {said}", err=True)
    settings = read_host(file, {}, boots=role == "primary", default_kind="qemu" if is_qemu else "")
    findings = list(findings_of(settings))
    if is_json:
        click.echo(json.dumps([{**asdict(each), "level": each.level.value} for each in findings]))
    else:
        print_findings(findings)
    sys.exit(1 if any(each.level is Level.FAILURE for each in findings) else 0)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print what was found, each with its remedy."""
    for each in findings:
        text = for_people(each.text).replace("\n", "\n        ")
        click.echo(f"{_MARKS[each.level]}{each.subject}: {text}")
        if each.remedy:
            click.echo(f"          {each.remedy}")


def findings_of(settings: HostSettings) -> Iterator[Finding]:
    """Yield what is wrong with the settings, then what the checks find; a check whose settings are wrong is skipped."""
    problems = settings.problems
    for name, wrong in problems.items():
        remedy = f"correct it at {settings.places[name]}" if _is_of_the_file(name, wrong) else ""
        yield Finding(level=Level.FAILURE, subject=name, text=str(wrong), remedy=remedy)
    if not problems:
        yield Finding(level=Level.OK, subject="settings", text="valid")
    passed_over = []
    for subject, needed, look in _looks(settings):
        if set(needed) & set(problems):
            passed_over.append(subject)
        else:
            yield from look()
    if passed_over:
        text, remedy = ", ".join(passed_over), "correct the settings that they need, then check again"
        yield Finding(level=Level.WARNING, subject="not checked", text=text, remedy=remedy)


_Look = tuple[str, tuple[str, ...], Callable[[], Iterator[Finding]]]


def _looks(settings: HostSettings) -> tuple[_Look, ...]:
    """Return the checks: name, the settings that each needs, and the function."""
    kind = settings.kind
    keys = ("key", "allow", "peer")  # a peer may be given with its key
    network, served = "the guest's network can be opened", "control socket and metrics can be opened"
    return (
        ("listen", ("listen", *keys), lambda: checks.check_endpoint(settings["listen"], keys_of(settings))),
        (
            "peer",
            keys,
            lambda: checks.check_peers(peer_endpoints(settings), keys_of(settings), is_needed=not settings.boots),
        ),
        ("arbiter", ("arbiter", "guest"), lambda: checks.check_arbiter(settings["arbiter"], settings["guest"])),
        *_disk_looks(settings),
        *_history_looks(settings),
        ("arbiter's place", ("arbiter",), lambda: checks.check_arbiter_place(settings["arbiter"])),
        (
            "nic",
            ("nic", "mac"),
            lambda: checks.check_opens("nic", network, lambda: look_at_network(settings)),
        ),
        (
            "service",
            ("control", "metrics", "guest"),
            lambda: checks.check_opens("service", served, lambda: _open_and_close(settings)),
        ),
        (
            "memory",
            ("kind", "memory", "disk"),
            lambda: checks.check_memory(kind.memory_bytes(settings), kind.shadow_bytes(settings)),
        ),
        (kind.name, ("kind",), lambda: checks.check_tools(kind.name, lambda: kind.check_tools(settings))),
        ("dirty page tracking", (), checks.check_tracking),
        ("priority", (), checks.check_urgency),
    )


def _history_looks(settings: HostSettings) -> tuple[_Look, ...]:
    """Return the check of the history, if there is to be one."""
    needed = ("history", "history-keep", "history-key", "guest")
    if "history" in settings.problems or settings["history"] is None:
        return ()
    text = "the guest's past can be recorded"
    return (("history", needed, lambda: checks.check_opens("history", text, lambda: look_at_history(settings))),)


def _is_of_the_file(name: str, wrong: FtvmError) -> bool:
    """Tell whether the guest file is wrong, and not what it names: a key file, or a missing package."""
    return name not in ("key", "allow") and not isinstance(wrong.__cause__, ModuleNotFoundError)


def _disk_looks(settings: HostSettings) -> tuple[_Look, ...]:
    """Return the checks of each disk: a standby's is overwritten, so what it has does not matter."""
    given = settings.values.get("disk") if "disk" not in settings.problems else None
    images = given if isinstance(given, list) else [given] if given else []

    def look(image: str) -> _Look:
        needed = ("arbiter", "guest")
        return "disk", needed, lambda: checks.check_image(image, *(settings[name] for name in needed))

    def try_to_open(image: str) -> _Look:
        return "disk", (), lambda: checks.check_device(image)

    return (*(try_to_open(image) for image in images), *(look(image) for image in images if settings.boots))


def _open_and_close(settings: HostSettings) -> None:
    with ExitStack() as stack:
        open_services(
            stack,
            guest_id=settings["guest"],
            control=settings["control"],
            metrics=settings["metrics"],
            is_ready_when_active=False,
        )
