"""`ftvm ctl`: tell a running host what to do, over its control socket."""

import json
from collections.abc import Callable

import click

from ftvm.cli.asking import asking_options, guest_option, status_line, tell_stopped
from ftvm.cli.values import GOES_IN, completing
from ftvm.engines.interval import INTERVAL_MAX, INTERVAL_MIN
from ftvm.engines.kemari import GROUP_MAX
from ftvm.engines.names import ENGINES
from ftvm.errors import ConfigError
from ftvm.runtime.status import Status
from ftvm.service.connection import GuestHandle, connect
from ftvm.service.requests import SWITCHOVER_SECONDS_MAX, number_in

__all__ = ["ctl"]


@click.group()
def ctl() -> None:
    """Tell a running host what to do.

    The host is found by its guest, among your hosts on this machine; if several have the guest, the one that runs it is
    meant. --control chooses another.
    """


def _tell(control: str | None, guest_id: str | None, is_json: bool, order: Callable[[GuestHandle], object]) -> None:
    """Give an order and print the status after it."""
    with connect(control) as machine:
        guest = machine.guest(guest_id)
        order(guest)
        _print(guest.last_status, is_json)


def _print(status: Status, is_json: bool) -> None:
    click.echo(json.dumps(status.as_dict()) if is_json else status_line(status))


@ctl.command(short_help="Change the engine of a guest while it runs.")
@click.argument("name", metavar="ENGINE", shell_complete=completing(ENGINES))
@click.option("--interval", type=float, metavar="MS", help="Time between checkpoints.  [default: as it is]")
@click.option(
    "--latency", type=float, metavar="MS", help="Adapt the interval to a latency target (remus).  [default: none]"
)
@click.option(
    "--group-commit",
    "group",
    type=float,
    metavar="MS",
    help="Let an output wait this long for others to share its checkpoint (kemari).  [default: each has its own]",
)
@asking_options
@guest_option
def engine(
    name: str,
    interval: float | None,
    latency: float | None,
    group: float | None,
    control: str | None,
    guest_id: str | None,
    is_json: bool,
) -> None:
    """Protect a guest with another ENGINE while it runs. When this returns, both hosts use it.

    The engine that it has already, named without --latency, has no latency target any more, and kemari without
    --group-commit no group; `ftvm ctl interval` changes the interval alone.

    A host that takes over keeps the engine, but uses its own interval: the one it was started with, if it was started
    with this engine, else the engine's default (see `--interval` in `ftvm standby --help`).
    """
    _tell(
        control,
        guest_id,
        is_json,
        lambda guest: guest.set_engine(
            name,
            interval=_seconds("--interval", interval),
            latency=_seconds("--latency", latency),
            group=_seconds("--group-commit", group, 0, GROUP_MAX),
        ),
    )


@ctl.command(
    short_help="Change the time between checkpoints.",
    context_settings={"ignore_unknown_options": True},  # -5 is a wrong number, not an unknown option
)
@click.argument("milliseconds", type=float)
@asking_options
@guest_option
def interval(milliseconds: float, control: str | None, guest_id: str | None, is_json: bool) -> None:
    """Change the time between checkpoints to so many MILLISECONDS, while the guest runs."""
    _tell(control, guest_id, is_json, lambda guest: guest.set_engine(interval=_seconds("interval", milliseconds)))


def _seconds(
    what: str, milliseconds: float | None, least: float = INTERVAL_MIN, most: float = INTERVAL_MAX
) -> float | None:
    if milliseconds is None:
        return None
    if not least <= milliseconds / 1000 <= most:
        raise ConfigError(f"{what} {milliseconds:.15g}: write milliseconds, from {least * 1000:g} to {most * 1000:g}")
    return milliseconds / 1000


@ctl.command(short_help="Hand a guest over to its standby.")
@asking_options
@guest_option
@click.option("--timeout", default=30.0, show_default=True, metavar="S", help="When to give up.")
def switchover(control: str | None, guest_id: str | None, is_json: bool, timeout: float) -> None:
    """Hand a guest over to its standby, as planned: no takeover, nothing lost. This host is the standby afterwards.

    Exit status: 0 once the guest runs on the other host, 1 if that failed and the guest still runs here.
    """

    def hand_over(guest: GuestHandle) -> None:
        if not is_json:
            number_in({"timeout": timeout}, "timeout", SWITCHOVER_SECONDS_MAX)
            click.echo(f"handing guest {guest.id!r} over; that may take up to {timeout:g} s", err=True)
        guest.switchover(timeout)

    _tell(control, guest_id, is_json, hand_over)


@ctl.command(short_help="End a host; its guest goes on at the other.")
@asking_options
@guest_option
def leave(control: str | None, guest_id: str | None, is_json: bool) -> None:
    """End a host in order; its guest, if it runs there, goes on at the standby.

    Refused if the guest runs there and no standby could take it now: `ftvm stop GUEST` ends it for good. With --json,
    print the fields of the event HostStopped.

    Exit status: 0 if nothing is left to do, 1 if it was refused, or the record may still name the host that has ended.
    """
    with connect(control) as machine:
        tell_stopped(machine.guest(guest_id).leave(), is_json)


@ctl.command(short_help="The old name of `leave` and of `ftvm stop`.")
@asking_options
@guest_option
def stop(control: str | None, guest_id: str | None, is_json: bool) -> None:
    """End a host as Ctrl-C and SIGTERM do: without a standby, its guest ends.

    Say what you mean instead: `ftvm ctl leave` (the guest goes on at the other host) or `ftvm stop GUEST` (it ends).

    Exit status: 0 if nothing is left to do, 1 if the record may still name the stopped host.
    """
    click.echo(
        "ftvm: `ftvm ctl stop` is now `ftvm ctl leave` (the guest goes on at the other host), or `ftvm stop GUEST` "
        f"(it ends everywhere); the old way is gone in {GOES_IN}",
        err=True,
    )
    with connect(control) as machine:
        tell_stopped(machine.guest(guest_id).stop_and_wait(), is_json)
