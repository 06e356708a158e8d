"""`ftvm status`: which guests have a host on this machine, and how they stand."""

import json
import sys
from typing import Any

import click

from ftvm.cli.asking import asking_options, guest_option, mute_told, status_line
from ftvm.errors import FtvmError
from ftvm.service.connection import GuestHandle, Survey, connect
from ftvm.service.health import Health, health, plugin_line
from ftvm.service.socketfiles import may_be_of

__all__ = ["status"]


@click.command()
@asking_options
@guest_option
@click.option("--nagios", is_flag=True, help="Print the line of a monitoring plugin, and exit with 0, 1, 2 or 3.")
def status(control: str | None, guest_id: str | None, is_json: bool, nagios: bool) -> None:
    """Show how the guests on this machine stand, one line for each host: protected or not, since when and why.

    With --json, a list of objects with the fields of ftvm.Status and the control socket under "control"; for a host
    that does not answer, "control", "pid", "guest_id" (null if not known) and "error".

    Exit status: 0 if each guest is protected, or has a standby here that could take over now; 1 if not: a guest is
    unprotected or stands still, nobody could take over because the arbiter is silent, a host has failed or does not
    answer, or there is no host.

    With --nagios: 0 OK, as above; 1 WARNING, guests may run but one more failure could stop or lose one; 2 CRITICAL, a
    guest stands still, or a host has failed or does not answer; 3 UNKNOWN, there is no host, or it cannot be asked.
    """
    if nagios and is_json:
        raise click.UsageError("give --nagios or --json, not both")
    try:
        found, place = _survey(control, guest_id)
    except FtvmError as wrong:
        if not nagios:
            raise
        click.echo(plugin_line(Health.UNKNOWN, [f"{type(wrong).__name__}: {wrong}"]))
        sys.exit(Health.UNKNOWN)
    statuses = [guest.last_status for guest in found.guests]
    verdict = health(statuses, len(found.mute))
    lines = [*map(status_line, statuses), *map(str, found.mute)]
    whose = "" if guest_id is None else f" of guest {guest_id!r}"
    nobody = f"no host{whose} answers at {place}"
    if nagios:
        click.echo(plugin_line(verdict, lines or [nobody], statuses))
        sys.exit(verdict)
    if is_json:
        click.echo(json.dumps([*map(_told, found.guests), *map(mute_told, found.mute)]))
    elif lines:
        click.echo("\n".join(lines))
    else:
        click.echo(f"ftvm: {nobody}", err=True)
    sys.exit(0 if verdict is Health.OK else 1)


def _survey(control: str | None, guest_id: str | None) -> tuple[Survey, str]:
    """Return what the hosts told, of this guest only if one is named, and where they were looked for."""
    with connect(control) as machine:
        found = machine.survey()
        guests = [guest for guest in found.guests if guest_id in (None, guest.id)]
        mute = [each for each in found.mute if guest_id is None or may_be_of(each.path, guest_id)]
        return Survey(guests=guests, mute=mute), str(machine.place)


def _told(guest: GuestHandle) -> dict[str, Any]:
    return {**guest.last_status.as_dict(), "control": f"ipc://{guest.path}"}
