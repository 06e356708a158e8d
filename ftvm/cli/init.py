"""`ftvm init`: START's and FORCE's first half, an operator's word to the arbiter (docs/protocol.md, "FORCE").

It leaves a vacant record: nobody is active, and the next primary that starts moves it. That the word and the start are
two steps keeps a fresh replica id out of the operator's hands: ids belong to lineages of memory, and init has none.
"""

import json

import click

from ftvm.arbiters.urls import check_record_url, open_record_store
from ftvm.errors import ArbiterError, ConfigError
from ftvm.interfaces import Record
from ftvm.protocol.record import vacate

__all__ = ["init"]


@click.command()
@click.option("--arbiter", required=True, metavar="URL", help="Where the record lives, e.g. file:///shared/vm1.")
@click.option("--guest", "guest_id", default="guest", show_default=True, help="The guest's name in the record.")
@click.option("--force", is_flag=True, help="Vacate a record that exists: every older replica is dead, on your word.")
@click.option("--yes", is_flag=True, help="With --force: do not ask.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of text.")
def init(arbiter: str, guest_id: str, force: bool, yes: bool, is_json: bool) -> None:
    """Create the arbiter's record of a guest, so that `ftvm run` may start it.

    With --force, vacate a record that exists. Do that only when no host runs the guest any more (a solo host that
    crashed leaves such a record): a host that still runs it will stop, and the guest starts from nothing.
    """
    check_record_url(arbiter)
    store = open_record_store(arbiter)
    try:
        known = store.read(guest_id)
        if known.generation > 0 and not force:
            raise ConfigError(
                f"guest {guest_id!r} has a record already ({_shown(known)}): "
                "use `ftvm run` or `ftvm standby`, or vacate it with --force if every older replica is dead"
            )
        wanted = vacate(known)
        if known.generation > 0 and not yes:  # a first record takes nothing from anybody
            _ask(known, wanted, guest_id)
        now = store.compare_and_set(guest_id, wanted)
    finally:
        store.close()
    if now != wanted:
        raise ArbiterError(f"the record changed meanwhile: it is {now}; nothing was done")
    if is_json:
        click.echo(json.dumps({"guest": guest_id, "generation": now.generation, "was_active": known.active}))
    else:
        click.echo(f"guest {guest_id!r}: generation {now.generation}, vacant; start it with `ftvm run`")


def _shown(record: Record) -> str:
    if record.active is None:
        return f"generation {record.generation}, which is vacant"
    return f"generation {record.generation}, active {record.active}, standby {record.standby or 'none'}"


def _ask(known: Record, wanted: Record, guest_id: str) -> None:
    click.echo(
        f"About to write generation {wanted.generation} for guest {guest_id!r}: vacant. It replaces {_shown(known)}.",
        err=True,
    )
    try:
        is_right = click.confirm("Is that right?", err=True)
    except click.Abort as unanswered:
        click.echo(err=True)  # the question stands in the line yet
        raise ConfigError("nobody answered, and nothing was done: say --yes if it is right") from unanswered
    if not is_right:
        raise click.Abort
