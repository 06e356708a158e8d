from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.errors import ConfigError, HistoryError
from ftvm.history.history import History
from ftvm.store.crypt import make_key
from ftvm.store.retention import Keep

from ..store.world import GEOMETRY, PAGES, SmallGuest
from .test_pipeline import Host


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A history of 200 epochs with a gap behind epoch 100."""
    host = Host(tmp_path_factory.mktemp("history") / "past")
    host.run(100)
    host.guest.commit()
    host.run(99)
    host.finish()
    return host


@pytest.fixture
def past(recorded: Host) -> Iterator[History]:
    with History.open(recorded.folder) as opened:
        yield opened


def test_it_says_whose_it_is_and_how_large(past: History) -> None:
    assert past.guest_id == "vm1"
    assert past.geometry == GEOMETRY
    assert past.bytes > 1_000


def test_it_lists_unbroken_runs_and_why_they_end(past: History) -> None:
    first, second = past.stretches()

    assert (first.last, second.last) == (100, 200)
    assert second.reason == first.ended
    assert second.ended == "the test ended"


def test_it_lists_the_epochs_that_can_be_restored(past: History) -> None:
    numbers = [epoch.number for epoch in past.epochs()]

    assert numbers[-1] == 200
    assert len(set(numbers)) == len(numbers)
    assert 101 not in numbers
    last = list(past.epochs())[-1]
    assert last.position is not None
    assert last.position.retired == 200_000


def test_epochs_are_found_by_time(past: History) -> None:
    late = list(past.epochs(since="-1s"))

    assert 38 <= len(late) <= 42
    assert past.epoch_at("-1s").number == late[0].number
    assert past.epoch_at(late[3].time + 1e-6).number == late[3].number
    with pytest.raises(HistoryError, match="nothing that old"):
        past.epoch_at(1.0)
    with pytest.raises(ConfigError, match="is no time"):
        list(past.epochs(since="yesterday"))


def test_two_epochs_are_compared_byte_by_byte(past: History, recorded: Host) -> None:
    before, after = recorded.guest.states[150], recorded.guest.states[170]

    found = {(each.page, each.bytes_changed, each.first) for each in past.diff(150, 170)}

    expected = set()
    for page in range(PAGES):
        at = [n for n in range(4096) if before[page * 4096 + n] != after[page * 4096 + n]]
        if at:
            expected.add((page, len(at), at[0]))
    assert found == expected
    with pytest.raises(ConfigError, match="not before"):
        past.diff(170, 150)


def test_no_comparison_crosses_a_gap(past: History) -> None:
    with pytest.raises(HistoryError, match="epoch 90"):
        past.diff(90, 150)


def test_heat_counts_who_changed_each_page(past: History) -> None:
    heat = past.heat(stretches=10)

    assert len(heat.counts) == 10
    assert sum(sum(each.values()) for each in heat.counts) > 200
    picture = heat.rows(6)
    assert [len(row) for row in picture] == [10] * 6
    assert sum(map(sum, picture)) == sum(sum(each.values()) for each in heat.counts)


def test_a_snapshot_keeps_an_epoch_until_it_is_dropped(recorded: Host) -> None:
    with History.open(recorded.folder, keep=Keep(all="1s", second="2s", minute="4s")) as past:
        past.snapshot("before-upgrade", 57)
        newest = past.snapshot("now")

        assert [each.name for each in past.snapshots()] == ["before-upgrade", "now"]
        assert newest.epoch == 200
        with pytest.raises(ConfigError, match="already"):
            past.snapshot("now", 60)
        past.drop("before-upgrade")
        past.drop("now")
        with pytest.raises(ConfigError, match="no snapshot 'now'"):
            past.drop("now")


def test_an_epoch_that_is_gone_is_named_with_its_neighbours(past: History) -> None:
    with pytest.raises(HistoryError, match="epoch 999 is not in the history"):
        past.entry(999)
    with pytest.raises(HistoryError, match="epoch 101"):
        past.snapshot("gone", 101)
    with pytest.raises(ConfigError, match="is no name"):
        past.snapshot("a b")


def test_the_finest_entries_of_a_stretch_are_read_in_order(past: History) -> None:
    entries = list(past.entries(150, 160))

    assert [entry.epoch for entry in entries] == list(range(151, 161))
    assert past.entry(155).devices.endswith(b"155")


def test_a_history_that_is_written_cannot_be_thinned_by_another(tmp_path: Path) -> None:
    host = Host(tmp_path / "past")
    host.run(5)

    with History.open(tmp_path / "past") as past:
        with pytest.raises(ConfigError, match="another process writes"):
            past.collect()
        host.finish()
        past.collect()


def test_a_new_history_is_empty_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no history"):
        History.open(tmp_path / "past")

    with History.open(tmp_path / "past", create=True) as past:
        assert past.guest_id is None
        assert list(past.epochs()) == []
        for ask in (lambda: past.geometry, past.heat, lambda: past.snapshot("x")):
            with pytest.raises(HistoryError):
                ask()


def test_an_encrypted_history_opens_with_its_key_alone(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    History.open(tmp_path / "past", create=True, key=tmp_path / "key").close()

    History.open(tmp_path / "past", key=tmp_path / "key").close()
    with pytest.raises(ConfigError, match="give its key"):
        History.open(tmp_path / "past")


def test_two_guests_numbers_are_told_apart_by_stream(tmp_path: Path) -> None:
    host = Host(tmp_path / "past")
    host.run(30)
    host.pipeline.finish("the guest ended")
    host.store.end_segments()
    again = SmallGuest(seed=77, time_ns=host.guest.time_ns)
    host.guest.buffer[:] = again.buffer
    host.store.close()
    second = Host(tmp_path / "past", again)
    second.run(30)
    second.finish()

    with History.open(tmp_path / "past") as past:
        old, new = past.stretches()
        assert past.entry(20).memory_digest == past.entry(20, new.stream).memory_digest
        assert past.entry(20).memory_digest != past.entry(20, old.stream).memory_digest
