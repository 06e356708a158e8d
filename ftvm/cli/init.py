"""`ftvm init`: the first half of START and FORCE, an operator's word to the arbiter (docs/protocol.md, "FORCE").

It leaves a vacant record: nobody is active, and the next primary that starts moves it. Init and start are two steps, so
that no operator handles replica ids: an id belongs to a lineage of memory, and init has no memory.
"""

import json
from collections.abc import Mapping

import click

from ftvm.arbiters.urls import open_record_store
from ftvm.cli.disk import newest_of, read_labels
from ftvm.cli.hostsettings import SHARED
from ftvm.errors import ArbiterError, ConfigError
from ftvm.guests.disk.label import Label
from ftvm.interfaces import Record
from ftvm.protocol.record import vacate
from ftvm.runtime.names import for_people

__all__ = ["init"]

_ARBITER, _GUEST = (next(row for row in SHARED if row.name == name) for name in ("arbiter", "guest"))


@click.command()
@click.option("--arbiter", required=True, metavar=_ARBITER.metavar, help=_ARBITER.help.removesuffix(" Required."))
@click.option(
    "--guest", "guest_id", default=_GUEST.default, show_default=True, metavar=_GUEST.metavar, help=_GUEST.help
)
@click.option(
    "--force", is_flag=True, help="Vacate an existing record: your word that every host of the guest is dead."
)
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="IMAGE",
    help="With --force: say which of these images of the guest's disk is the newest, see `ftvm disk show`.",
)
@click.option("--yes", is_flag=True, help="With --force: do not ask.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of text.")
def init(arbiter: str, guest_id: str, force: bool, disks: tuple[str, ...], yes: bool, is_json: bool) -> None:
    """Create the arbiter's record of a guest, so that `ftvm run` may start it.

    With --force, vacate an existing record. Do that only if no host runs the guest any more, e.g. after the host that
    ran it alone has crashed: a host that still runs it will stop, and the guest boots again.
    """
    _ARBITER.value(arbiter)
    _GUEST.value(guest_id)
    labels = read_labels(disks)
    store = open_record_store(arbiter)
    try:
        known = store.read(guest_id)
        if known.generation > 0 and not force:
            raise ConfigError(
                f"guest {guest_id!r} has a record already ({_shown(known)}): "
                "use `ftvm run` or `ftvm standby`; add --force only if every host of the guest is dead"
            )
        wanted = vacate(known)
        if known.generation > 0 and not yes:  # a first record replaces nothing
            _ask(known, guest_id)
        now = store.compare_and_set(guest_id, wanted)
    finally:
        store.close()
    if now != wanted:
        raise ArbiterError(
            f"the record changed meanwhile: it has {_shown(now)}. Nothing was done; look at it, then try again"
        )
    if is_json:
        click.echo(json.dumps({"guest": guest_id, "generation": now.generation, "was_active": known.active}))
    else:
        click.echo(f"guest {guest_id!r}: generation {now.generation}, vacant; start it with `ftvm run`")
        if known.active is not None or labels:
            _tell_disks(labels, known.generation)


def _tell_disks(labels: Mapping[str, Label | None], generation: int) -> None:
    """Say from which image a guest that ran in this generation should boot."""
    for path, label in labels.items():
        click.echo(f"{path}: {label or 'says nothing of itself'}")
    if len(labels) > 1:
        click.echo(newest_of(labels))
        return
    click.echo(
        "if it has a disk, start it on the host with the newest image (`ftvm disk show IMAGE`): of generation "
        f"{generation} that of a guest that was stopped in order, else the standby's, else that on which the guest ran"
    )


def _shown(record: Record) -> str:
    if record.active is None:
        return f"generation {record.generation}, which is vacant"
    names = f"active {record.active}, standby {record.standby or 'none'}"
    return f"generation {record.generation}, {for_people(names)}"


def _ask(known: Record, guest_id: str) -> None:
    click.echo(
        f"About to vacate the record of guest {guest_id!r}, which has {_shown(known)}. "
        "Every host of the guest must be dead.",
        err=True,
    )
    try:
        is_right = click.confirm("Are they all dead?", err=True)
    except click.Abort as unanswered:
        click.echo(err=True)  # end the line of the question
        raise ConfigError("no answer, so nothing was done: add --yes if they are all dead") from unanswered
    if not is_right:
        raise click.Abort
