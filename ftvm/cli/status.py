"""`ftvm status`: which guests have a host on this machine, and how they fare."""

import json
import sys

import click

from ftvm.cli.asking import asking_options, guest_option, status_line
from ftvm.service.connection import connect

__all__ = ["status"]


@click.command()
@asking_options
@guest_option
def status(control: str | None, guest_id: str | None, is_json: bool) -> None:
    """Tell how the guests of this machine fare, one line for each host.

    With --json, a list of objects with the fields of ftvm.Status and the control socket under "control".

    Exit status: 0 if each guest runs or is stood by for, 1 if a host has failed or none answers.
    """
    with connect(control) as machine:
        guests = [guest for guest in machine.guests() if guest_id in (None, guest.id)]
    if is_json:
        told = [{**guest.last_status.as_dict(), "control": f"ipc://{guest.path}"} for guest in guests]
        click.echo(json.dumps(told))
    elif guests:
        for guest in guests:
            click.echo(status_line(guest.last_status))
    else:
        whose = "" if guest_id is None else f" of guest {guest_id!r}"
        click.echo(f"ftvm: no host{whose} answers at {machine.place}", err=True)
    has_failed = any(guest.last_status.failure is not None for guest in guests)
    sys.exit(0 if guests and not has_failed else 1)
