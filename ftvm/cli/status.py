"""`ftvm status`: which guests have a host on this machine, and their state."""

import json
import sys
from typing import Any

import click

from ftvm.cli.asking import asking_options, guest_option, mute_told, status_line
from ftvm.runtime.status import Status
from ftvm.service.connection import GuestHandle, connect
from ftvm.service.socketfiles import may_be_of

__all__ = ["status"]


@click.command()
@asking_options
@guest_option
def status(control: str | None, guest_id: str | None, is_json: bool) -> None:
    """Show the state of the guests on this machine, one line for each host.

    With --json, a list of objects with the fields of ftvm.Status and the control socket under "control"; for a host
    that does not answer, "control", "pid", "guest_id" (null if not known) and "error".

    Exit status: 0 if each guest runs or has a standby here, 1 if a host has failed or does not answer, if all hosts of
    a guest only wait for an active one, or if there is no host.
    """
    with connect(control) as machine:
        found = machine.survey()
    guests = [guest for guest in found.guests if guest_id in (None, guest.id)]
    mute = [each for each in found.mute if guest_id is None or may_be_of(each.path, guest_id)]
    if is_json:
        click.echo(json.dumps([*map(_told, guests), *map(mute_told, mute)]))
    for line in () if is_json else (*(status_line(guest.last_status) for guest in guests), *map(str, mute)):
        click.echo(line)
    if not guests and not mute and not is_json:
        whose = "" if guest_id is None else f" of guest {guest_id!r}"
        click.echo(f"ftvm: no host{whose} answers at {machine.place}", err=True)
    sys.exit(0 if guests and not mute and _all_fare_well([guest.last_status for guest in guests]) else 1)


def _told(guest: GuestHandle) -> dict[str, Any]:
    return {**guest.last_status.as_dict(), "control": f"ipc://{guest.path}"}


def _all_fare_well(statuses: list[Status]) -> bool:
    """Tell whether no host has failed, and each guest has a host that is not empty."""
    served = {status.guest_id for status in statuses if status.role != "empty"}
    return all(status.failure is None and status.guest_id in served for status in statuses)
