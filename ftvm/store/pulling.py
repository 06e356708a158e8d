"""Joins two histories of one guest: each host of a pair holds the part that it recorded while it stood by.

A stream is taken over whole or not at all: it counts from the last transaction on, and what a crash left half done is
dropped by the next pull.
"""

from dataclasses import replace
from typing import Final

from ftvm.errors import ConfigError
from ftvm.store.catalogue import Pin, Stream
from ftvm.store.entry import EntryLevel
from ftvm.store.store import Store

__all__ = ["pull_streams"]

_HALF_DONE: Final = "pulling "


def pull_streams(store: Store, other: Store) -> list[Stream]:
    """Copy the ended streams of `other` that `store`, which is open to be written, does not have; return them.

    Raises ConfigError if the two are not of one guest, HistoryError if one of them cannot be read or written.
    """
    owner = other.owner
    if owner is None:
        return []
    store.claim(owner)
    with store.catalogue.transaction():
        for stream in store.catalogue.streams():
            if stream.uuid.startswith(_HALF_DONE):
                store.catalogue.drop_stream(stream.id)
    known = {stream.uuid for stream in store.catalogue.streams()}
    wanted = [s for s in other.streams() if s.uuid not in known and s.ended is not None]
    return [_pulled(store, other, stream) for stream in wanted if other.catalogue.span(stream.id) is not None]


def _pulled(store: Store, other: Store, stream: Stream) -> Stream:
    number = store.catalogue.add_stream(
        uuid=_HALF_DONE + stream.uuid,
        lineage=stream.lineage,
        generation=stream.generation,
        host=stream.host,
        began_ns=stream.began_ns,
        reason=stream.reason,
    )
    for level in EntryLevel:
        for row in other.catalogue.rows(stream.id, level, 0, 1 << 62):
            entry = other.read(stream.id, row)
            store.break_likeness()
            store.append(number, entry)
    for base in other.catalogue.bases(stream.id):
        store.add_base(number, base)
    store.commit()
    store.end_segments()
    names = {pin.name for pin in store.catalogue.pins()}
    with store.catalogue.transaction():
        for pin in other.catalogue.pins(stream.id):
            store.catalogue.add_pin(
                Pin(name=_free(pin.name, names), stream=number, epoch=pin.epoch, time_ns=pin.time_ns)
            )
        store.catalogue.end_stream(number, stream.ended or "")
        store.catalogue.name_stream(number, stream.uuid)
    return replace(stream, id=number)


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is free, and take it."""
    for number in range(1, 10_000):
        wanted = name if number == 1 else f"{name}-{number}"
        if wanted not in taken:
            taken.add(wanted)
            return wanted
    raise ConfigError(f"too many snapshots are called {name!r}: drop some")
