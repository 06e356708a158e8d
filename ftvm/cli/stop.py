"""`ftvm stop`: end a guest for good."""

import click

from ftvm.cli.asking import asking_options, tell_stopped
from ftvm.cli.values import complete_guests
from ftvm.errors import ConfigError
from ftvm.service.connection import connect

__all__ = ["stop"]


@click.command()
@click.argument("guest_id", metavar="GUEST", shell_complete=complete_guests)
@click.option("--yes", is_flag=True, help="Do not ask.")
@asking_options
def stop(guest_id: str, yes: bool, control: str | None, is_json: bool) -> None:
    """End a guest for good: it stops where it runs and goes on nowhere, and both its hosts end.

    A standby that cannot hear of it, as it is stopped or cut off, does not end: it goes on without the guest, and waits
    to join a new one. End it with `ftvm ctl leave` on its machine.

    Run it on the machine where the guest runs. To end one host and have the guest go on, use `ftvm ctl leave`. With
    --json, print the fields of the event HostStopped.

    Exit status: 0 if nothing is left to do, 1 if the record may still name the stopped host, or you said no; 2
    if nobody answered the question.
    """
    with connect(control) as machine:
        guest = machine.guest(guest_id)
        if not yes:
            _ask(guest_id)
        tell_stopped(guest.end(), is_json)


def _ask(guest_id: str) -> None:
    try:
        is_right = click.confirm(f"End guest {guest_id!r} for good, on all its hosts?", err=True)
    except click.Abort as unanswered:
        click.echo(err=True)  # end the line of the question
        raise ConfigError("no answer, so nothing was done: add --yes to end it") from unanswered
    if not is_right:
        raise click.Abort
