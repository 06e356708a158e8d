from contextlib import suppress
from pathlib import Path

from ftvm.errors import HistoryError
from ftvm.store.catalogue import Pin
from ftvm.store.entry import EntryLevel
from ftvm.store.merging import Merger
from ftvm.store.retention import Keep
from ftvm.store.store import Store
from ftvm.store.thinning import Thinner

from .test_store import new_store, record, restored
from .world import PAGES, SECOND_NS, SmallGuest, add_base, begin


def restorable(store: Store, stream: int, guest: SmallGuest) -> set[int]:
    """Return the epochs that can be restored; those that are looked at come out right."""
    found = set()
    for epoch in range(1, guest.epoch + 1):
        with suppress(HistoryError):
            store.route(stream, epoch)
            found.add(epoch)
    for epoch in sorted(found)[::23]:
        assert restored(store, stream, epoch) == guest.states[epoch], epoch
    return found


def past_of(folder: Path, epochs: int, *, seed: int = 3, bases_every: int = 0) -> tuple[Store, int, SmallGuest]:
    guest, merger = SmallGuest(seed=seed), Merger(PAGES)
    store = new_store(folder)
    stream = begin(store, guest, merger)
    for number in range(epochs // 40):
        record(store, stream, guest, 40, merger=merger)
        if bases_every and number % bases_every == bases_every - 1:
            add_base(store, stream, guest, merger)
    store.commit()
    return store, stream, guest


def test_old_epochs_are_thinned_to_one_a_second_and_all_others_stay(tmp_path: Path) -> None:
    store, stream, guest = past_of(tmp_path / "past", 800)
    with store:
        before = store.catalogue.total_bytes()

        freed = Thinner(store, Keep(all="5s")).run_whole()

        kept = restorable(store, stream, guest)
        assert set(range(guest.epoch - 5 * 40, guest.epoch + 1)) <= kept
        assert len([epoch for epoch in kept if epoch < guest.epoch - 7 * 40]) < 20
        assert freed > 0
        assert store.catalogue.total_bytes() < before


def test_a_pinned_epoch_stays_for_ever(tmp_path: Path) -> None:
    store, stream, guest = past_of(tmp_path / "past", 1_200, bases_every=6)
    pins = [57, 58, 300, 611]
    with store:
        with store.catalogue.transaction():
            for epoch in pins:
                store.catalogue.add_pin(Pin(name=f"p{epoch}", stream=stream, epoch=epoch, time_ns=0))

        Thinner(store, Keep(all="1s", second="2s", minute="4s")).run_whole()

        kept = restorable(store, stream, guest)
        assert set(pins) <= kept
        assert guest.epoch in kept
        assert len(kept) < 500


def test_what_is_older_than_all_ages_goes_with_its_base(tmp_path: Path) -> None:
    store, stream, guest = past_of(tmp_path / "past", 1_200, bases_every=5)
    with store:
        bases = store.catalogue.bases(stream)

        Thinner(store, Keep(all="1s", second="5s", minute="10s")).run_whole()

        left = store.catalogue.bases(stream)
        assert left == bases[-len(left) :]
        assert len(left) < len(bases)
        assert min(restorable(store, stream, guest)) >= left[0].until
        assert guest.epoch in restorable(store, stream, guest)


def test_the_budget_stands_above_all_ages(tmp_path: Path) -> None:
    store, stream, guest = past_of(tmp_path / "past", 1_200, bases_every=5)
    keep = Keep(all="1h")
    with store:
        object.__setattr__(keep, "budget", f"{store.catalogue.total_bytes() // 2048}K")

        Thinner(store, keep).run(recording=stream)

        assert store.catalogue.total_bytes() <= keep.budget_bytes
        assert guest.epoch in restorable(store, stream, guest)
        files = sum(file.stat().st_size for file in (tmp_path / "past" / "segments").iterdir())
        assert files <= keep.budget_bytes + 4096


def test_the_stream_that_is_written_is_never_dropped_whole(tmp_path: Path) -> None:
    store, stream, guest = past_of(tmp_path / "past", 200)
    keep = Keep()
    object.__setattr__(keep, "budget", "1K")
    with store:
        Thinner(store, keep).run(recording=stream)

        assert guest.epoch in restorable(store, stream, guest)

        store.end_segments()
        Thinner(store, keep).run()

        assert store.catalogue.streams() == []
        assert store.catalogue.total_bytes() == 0


def test_an_old_stream_goes_as_a_whole_unless_a_snapshot_needs_it(tmp_path: Path) -> None:
    store, old, guest = past_of(tmp_path / "past", 400)
    with store:
        store.end_segments()
        with store.catalogue.transaction():
            store.catalogue.add_pin(Pin(name="kept", stream=old, epoch=123, time_ns=0))
        later = SmallGuest(seed=9, time_ns=guest.time_ns + 3_600 * SECOND_NS)
        new = begin(store, later)
        record(store, new, later, 10)
        thinner = Thinner(store, Keep(all="1s", second="2s", minute="30m"))

        thinner.run_whole()

        assert restored(store, old, 123) == guest.states[123]
        assert len(restorable(store, old, guest)) < 140

        with store.catalogue.transaction():
            assert store.catalogue.drop_pin("kept")
        thinner.run_whole()

        assert [stream.id for stream in store.catalogue.streams()] == [new]


def test_thinning_again_and_again_comes_to_the_same(tmp_path: Path) -> None:
    store, stream, guest = past_of(tmp_path / "past", 400)
    with store:
        Thinner(store, Keep(all="2s")).run_whole()
        once = {level: count for level, (count, _) in store.catalogue.counts(stream).items()}

        Thinner(store, Keep(all="2s")).run_whole()

        assert {level: count for level, (count, _) in store.catalogue.counts(stream).items()} == once
        assert once[EntryLevel.FINE] < 140
        assert guest.epoch in restorable(store, stream, guest)
