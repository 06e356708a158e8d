import fcntl
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import ConfigError, HistoryError
from ftvm.store.crypt import AesSealer
from ftvm.store.entry import EntryLevel
from ftvm.store.merging import Merger
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES

from .world import GEOMETRY, OWNER, PAGES, SECOND_NS, SmallGuest, add_base, begin


def new_store(folder: Path) -> Store:
    store = Store(folder, writes=True, creates=True)
    store.claim(OWNER)
    return store


def restored(store: Store, stream: int, epoch: int) -> bytes:
    base, rows = store.route(stream, epoch)
    buffer = bytearray(PAGES * PAGE_BYTES)
    memory = CommittedMemory(NativeMemory([buffer]))
    for row in (*store.catalogue.portions(stream, base.since), *rows):
        memory.replay(store.read(stream, row).pages)
    return bytes(buffer)


def record(store: Store, stream: int, guest: SmallGuest, epochs: int, *, merger: Merger | None = None) -> None:
    for _ in range(epochs):
        entry = guest.step()
        for each in merger.add(entry) if merger else ():
            store.append(stream, each)
        store.append(stream, entry)
    store.commit()


def test_every_epoch_behind_a_base_can_be_restored(tmp_path: Path) -> None:
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        first = guest.epoch
        record(store, stream, guest, 90)

        assert all(restored(store, stream, epoch) == guest.states[epoch] for epoch in range(first, guest.epoch + 1))


def test_merged_entries_lead_to_the_same_states_in_fewer_steps(tmp_path: Path) -> None:
    guest, merger = SmallGuest(seed=5), Merger(PAGES)
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        record(store, stream, guest, 900, merger=merger)
        for entry in merger.finish():
            store.append(stream, entry)
        store.commit()

        assert all(restored(store, stream, epoch) == guest.states[epoch] for epoch in range(5, guest.epoch + 1, 7))
        assert len(store.route(stream, guest.epoch)[1]) < 60
        assert EntryLevel.MINUTE in {row.level for row in store.route(stream, guest.epoch)[1]}


def test_an_entry_that_stands_in_another_ones_place_is_refused(tmp_path: Path) -> None:
    """Two files that changed their names: each record is whole, and the first of each stands where the other's did."""
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        record(store, stream, guest, 900)
        rows = store.catalogue.rows(stream, EntryLevel.FINE, 0, 1 << 62)
        one = rows[-1]
        firsts = [a for a in rows if a.segment != one.segment and a.offset == 24][-1:]
        firsts += [b for b in rows if b.segment == one.segment and b.offset == 24]
        names = [store.catalogue.segment_name(row.segment) for row in firsts]
    places = [tmp_path / "past" / "segments" / name for name in names]
    places[0].rename(tmp_path / "aside")
    places[1].rename(places[0])
    (tmp_path / "aside").rename(places[1])

    with Store(tmp_path / "past") as store:
        for row in firsts:
            with pytest.raises(HistoryError, match=r"is another entry|is damaged or cut off"):
                store.read(stream, row)


def test_what_was_not_committed_is_gone_and_the_store_opens(tmp_path: Path) -> None:
    guest = SmallGuest()
    store = new_store(tmp_path / "past")
    stream = begin(store, guest)
    record(store, stream, guest, 10)
    safe = guest.epoch
    store.append(stream, guest.step())
    store.close()

    with Store(tmp_path / "past", writes=True) as again:
        assert restored(again, stream, safe) == guest.states[safe]
        with pytest.raises(HistoryError, match=f"the nearest kept are {safe}$"):
            again.route(stream, safe + 1)
        assert again.catalogue.streams()[0].ended == "recording was not ended in order"


def test_a_store_torn_at_any_byte_behind_its_mark_opens_with_all_that_was_committed(tmp_path: Path) -> None:
    guest = SmallGuest()
    store = new_store(tmp_path / "past")
    stream = begin(store, guest)
    record(store, stream, guest, 5)
    safe = guest.epoch
    segment = next(s for s in store.catalogue.segments() if s.level is EntryLevel.FINE)
    store.append(stream, guest.step())
    store.close()
    file = tmp_path / "past" / "segments" / segment.name

    for length in range(segment.synced, file.stat().st_size, 13):
        shutil.copytree(tmp_path / "past", tmp_path / "torn")
        with open(tmp_path / "torn" / "segments" / segment.name, "r+b") as torn:
            torn.truncate(length)
        with Store(tmp_path / "torn", writes=True) as again:
            assert restored(again, stream, safe) == guest.states[safe]
            assert (tmp_path / "torn" / "segments" / segment.name).stat().st_size == segment.synced
        shutil.rmtree(tmp_path / "torn")


def test_a_damaged_entry_is_named_and_others_are_read(tmp_path: Path) -> None:
    guest = SmallGuest()
    store = new_store(tmp_path / "past")
    stream = begin(store, guest)
    record(store, stream, guest, 5)
    row = store.catalogue.at_epoch(stream, guest.epoch)
    assert row is not None
    file = tmp_path / "past" / "segments" / store.catalogue.segment_name(row.segment)
    content = bytearray(file.read_bytes())
    content[row.offset + row.length // 2] ^= 1
    file.write_bytes(content)
    store.close()

    with Store(tmp_path / "past") as again:
        with pytest.raises(HistoryError, match="damaged or cut off"):
            restored(again, stream, guest.epoch)
        assert restored(again, stream, guest.epoch - 1) == guest.states[guest.epoch - 1]


def test_a_file_that_no_entry_names_is_removed(tmp_path: Path) -> None:
    new_store(tmp_path / "past").close()
    (tmp_path / "past" / "segments" / "00000009.seg").write_bytes(b"left over")

    Store(tmp_path / "past", writes=True).close()

    assert list((tmp_path / "past" / "segments").iterdir()) == []


def test_a_base_that_was_not_whole_is_dropped(tmp_path: Path) -> None:
    guest = SmallGuest()
    store = new_store(tmp_path / "past")
    stream = begin(store, guest)
    portion = replace(guest.step(), level=EntryLevel.BASE, base=guest.epoch, epoch=guest.epoch)
    store.append(stream, portion)
    store.commit()
    store.close()

    with Store(tmp_path / "past", writes=True) as again:
        assert again.catalogue.portions(stream, guest.epoch) == []
        assert len(again.catalogue.portions(stream, 1)) == 1


def test_one_process_writes_and_others_read_meanwhile(tmp_path: Path) -> None:
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        record(store, stream, guest, 3)

        with pytest.raises(ConfigError, match="another process writes"):
            Store(tmp_path / "past", writes=True)
        with Store(tmp_path / "past") as reader:
            assert restored(reader, stream, guest.epoch) == guest.states[guest.epoch]
            record(store, stream, guest, 3)
            assert restored(reader, stream, guest.epoch) == guest.states[guest.epoch]


def test_a_folder_without_a_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no history"):
        Store(tmp_path)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    new_store(tmp_path / "past").close()
    with sqlite3.connect(tmp_path / "past" / "catalogue.db") as catalogue:
        catalogue.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    catalogue.close()

    with pytest.raises(ConfigError, match="format 99"):
        Store(tmp_path / "past")


def test_a_catalogue_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"certainly no database, but some text of a certain length" * 40)

    with pytest.raises(HistoryError, match="catalogue"):
        Store(tmp_path)


def test_another_guest_and_another_shape_are_refused(tmp_path: Path) -> None:
    with new_store(tmp_path / "past") as store:
        with pytest.raises(ConfigError, match="history of guest 'vm1', not of 'vm2'"):
            store.claim(replace(OWNER, guest_id="vm2"))
        with pytest.raises(ConfigError, match="test/2"):
            store.claim(replace(OWNER, geometry=replace(GEOMETRY, machine="test/2")))
        store.claim(OWNER)
        assert store.owner == OWNER


def test_a_key_is_asked_for_by_name(tmp_path: Path) -> None:
    sealer = AesSealer(bytes(32))
    Store(tmp_path / "sealed", sealer=sealer, creates=True).close()
    new_store(tmp_path / "plain").close()

    Store(tmp_path / "sealed", sealer=sealer).close()
    with pytest.raises(ConfigError, match="give its key"):
        Store(tmp_path / "sealed")
    with pytest.raises(ConfigError, match="another key"):
        Store(tmp_path / "sealed", sealer=AesSealer(bytes(31) + b"1"))
    with pytest.raises(ConfigError, match="not encrypted"):
        Store(tmp_path / "plain", sealer=sealer)


def test_an_encrypted_history_reads_as_it_was(tmp_path: Path) -> None:
    guest, sealer = SmallGuest(), AesSealer(bytes(32))
    with Store(tmp_path / "past", sealer=sealer, writes=True, creates=True) as store:
        store.claim(OWNER)
        stream = begin(store, guest)
        record(store, stream, guest, 20)

        assert restored(store, stream, guest.epoch) == guest.states[guest.epoch]
    assert not any(b"devices" in file.read_bytes() for file in (tmp_path / "past" / "segments").iterdir())


def test_only_the_owner_may_look_in(tmp_path: Path) -> None:
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        begin(store, guest)

    assert (tmp_path / "past").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "past").rglob("*.[sd]*"))


def test_the_newest_base_that_leads_there_is_used(tmp_path: Path) -> None:
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        record(store, stream, guest, 30)
        add_base(store, stream, guest)
        second = guest.epoch
        record(store, stream, guest, 5)

        assert store.route(stream, second - 1)[0].since == 1
        assert store.route(stream, guest.epoch)[0].until == second
        assert restored(store, stream, guest.epoch) == guest.states[guest.epoch]


def test_segments_are_short_in_time_so_that_files_go_as_a_whole(tmp_path: Path) -> None:
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        for _ in range(50):
            store.append(stream, guest.step(apart_ns=SECOND_NS))
        store.commit()

        fine = [segment for segment in store.catalogue.segments() if segment.level is EntryLevel.FINE]
        assert len(fine) >= 5


def test_a_disk_that_fails_to_name_a_new_file_is_an_error(tmp_path: Path) -> None:
    guest = SmallGuest()
    full = OSError(28, "No space left on device")

    with (
        new_store(tmp_path / "past") as store,
        mock.patch("os.fsync", side_effect=full),
        pytest.raises(HistoryError, match="the disk is full"),
    ):
        begin(store, guest)


def test_the_finest_entries_between_two_epochs_are_found(tmp_path: Path) -> None:
    guest, merger = SmallGuest(seed=2), Merger(PAGES)
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        first = guest.epoch
        record(store, stream, guest, 100, merger=merger)

        rows = store.fine_chain(stream, first, guest.epoch)

        assert [row.epoch for row in rows] == list(range(first + 1, guest.epoch + 1))
        with pytest.raises(HistoryError, match="no entries lead"):
            store.fine_chain(stream, first, guest.epoch + 1)


def test_a_catalogue_that_names_a_file_elsewhere_is_refused_and_that_file_stays(tmp_path: Path) -> None:
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        record(store, begin(store, guest), guest, 5)
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(1_000))
    with sqlite3.connect(tmp_path / "past" / "catalogue.db") as changed:
        changed.execute("UPDATE segments SET name = ?, synced = 10 WHERE id = 1", (str(precious),))
    changed.close()

    with pytest.raises(HistoryError, match="as a segment, which it cannot be"):
        Store(tmp_path / "past", writes=True)

    assert precious.stat().st_size == 1_000


def test_a_name_that_leads_elsewhere_while_the_store_is_open_is_not_followed(tmp_path: Path) -> None:
    """Mutant: the name is looked at when the store is opened, and not when an entry is read."""
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        record(store, begin(store, guest), guest, 5)
    with Store(tmp_path / "past") as reading:
        with sqlite3.connect(tmp_path / "past" / "catalogue.db") as changed:
            changed.execute("UPDATE segments SET name = '../../elsewhere.seg' WHERE id = 1")
        changed.close()

        with pytest.raises(HistoryError, match="as a segment, which it cannot be"):
            reading.catalogue.segment_name(1)


@pytest.mark.parametrize("table", ["segments", "entries"])
def test_a_catalogue_that_names_a_foreign_level_is_refused_by_name(table: str, tmp_path: Path) -> None:
    """Regression: a bare ValueError, told as a bug in ftvm."""
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = begin(store, guest)
        record(store, stream, guest, 5)
    with sqlite3.connect(tmp_path / "past" / "catalogue.db") as changed:
        changed.execute(f"UPDATE {table} SET level = 77")
    changed.close()

    with (
        pytest.raises(HistoryError, match="77 as the level of an entry"),
        Store(tmp_path / "past", writes=table == "segments") as store,
    ):
        store.catalogue.counts(stream)


def test_a_store_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "past" / "segments").mkdir(parents=True)
    (tmp_path / "past" / "catalogue.db").touch()

    with new_store(tmp_path / "past") as store:
        assert store.owner == OWNER


def test_who_asks_whether_a_history_is_recorded_does_not_keep_the_recorder_out(tmp_path: Path) -> None:
    new_store(tmp_path / "past").close()
    asking = os.open(tmp_path / "past" / "lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)

    with mock.patch("os.sched_yield", side_effect=lambda: fcntl.flock(asking, fcntl.LOCK_UN)):
        Store(tmp_path / "past", writes=True).close()

    os.close(asking)


@pytest.mark.parametrize(
    "geometry",
    ["{", "[]", "{}", '{"machine": "x", "regions": [["../../evil", 4]]}', '{"machine": "x", "regions": [["ram", -4]]}'],
)
def test_a_catalogue_whose_guest_makes_no_sense_is_refused(geometry: str, tmp_path: Path) -> None:
    new_store(tmp_path / "past").close()
    with sqlite3.connect(tmp_path / "past" / "catalogue.db") as changed:
        changed.execute("UPDATE meta SET value = ? WHERE key = 'geometry'", (geometry,))
    changed.close()

    with Store(tmp_path / "past") as store, pytest.raises(HistoryError, match="does not say whose history it is"):
        _ = store.owner


def test_a_stretch_whose_first_base_is_not_whole_says_so_and_names_no_epoch(tmp_path: Path) -> None:
    """It named the nearest epochs that are kept, of which none could be restored either."""
    guest = SmallGuest()
    with new_store(tmp_path / "past") as store:
        stream = store.catalogue.add_stream(
            uuid="s", lineage="a", generation=1, host="h", began_ns=0, reason="the test began"
        )
        record(store, stream, guest, 3)

        with pytest.raises(HistoryError, match=r"nor any other of stream 1 .*: recording ended before all of memory"):
            store.route(stream, guest.epoch)
