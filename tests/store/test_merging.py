from itertools import pairwise

from ftvm.store.entry import Entry, EntryLevel
from ftvm.store.merging import Merger, merged

from .world import PAGES, SECOND_NS, SmallGuest


def test_each_span_becomes_one_entry_of_its_level() -> None:
    guest, merger = SmallGuest(), Merger(PAGES)

    made = [each for _ in range(40 * 130) for each in merger.add(guest.step())]

    by_level: dict[EntryLevel, list[Entry]] = {}
    for each in made:
        by_level.setdefault(each.level, []).append(each)
    assert {level: len(found) for level, found in by_level.items()} == {
        EntryLevel.SECOND: 130,
        EntryLevel.MINUTE: 2,
    }
    for found in by_level.values():
        assert all(a.epoch == b.base for a, b in pairwise(found))


def test_a_merged_entry_ends_as_its_last_one_did() -> None:
    guest = SmallGuest()
    parts = [guest.step() for _ in range(5)]

    whole = merged(parts, EntryLevel.SECOND, PAGES)

    last = parts[-1]
    assert (whole.base, whole.epoch, whole.time_ns) == (parts[0].base, last.epoch, last.time_ns)
    assert (whole.devices, whole.memory_digest, whole.position) == (last.devices, last.memory_digest, last.position)
    assert whole.outputs == tuple(output for part in parts for output in part.outputs)
    assert merged([whole], EntryLevel.MINUTE, PAGES).outputs == ()


def test_the_end_of_a_stream_merges_what_waits() -> None:
    guest, merger = SmallGuest(), Merger(PAGES)
    made = [each for _ in range(40 * 25) for each in merger.add(guest.step())]

    rest = merger.finish()

    assert [each.level for each in rest] == [EntryLevel.SECOND, EntryLevel.MINUTE]
    assert rest[-1].base == made[0].base
    assert {each.epoch for each in rest} == {guest.epoch}


def test_a_guest_that_changes_once_a_second_is_merged_by_minutes() -> None:
    guest, merger = SmallGuest(), Merger(PAGES)

    made = [each for _ in range(131) for each in merger.add(guest.step(apart_ns=SECOND_NS))]

    assert sum(each.level is EntryLevel.SECOND for each in made) == 130
    assert sum(each.level is EntryLevel.MINUTE for each in made) in (1, 2)
