"""The model of power cuts finds what code that stores relies on wrongly, and leaves alone what is promised."""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import LimitExceeded
from ftvm.testing import ContractBroken, PowerCuts

OLD, NEW = b"old " * 8, b"new " * 8


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write(path: Path, content: bytes, *, is_synced: bool = True) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())


def replace_well(folder: Path) -> None:
    write(folder / "aside", NEW)
    os.replace(folder / "aside", folder / "kept")
    sync(folder)


def replace_without_fsync(folder: Path) -> None:
    write(folder / "aside", NEW, is_synced=False)
    os.replace(folder / "aside", folder / "kept")
    sync(folder)


def replace_before_data(folder: Path) -> None:
    descriptor = os.open(folder / "aside", os.O_WRONLY | os.O_CREAT, 0o600)
    os.replace(folder / "aside", folder / "kept")
    os.write(descriptor, NEW)
    os.fsync(descriptor)
    os.close(descriptor)
    sync(folder)


def replace_without_fsync_of_the_folder(folder: Path) -> None:
    write(folder / "aside", NEW)
    os.replace(folder / "aside", folder / "kept")


def overwrite_in_place(folder: Path) -> None:
    write(folder / "kept", NEW)


def cuts_of(folder: Path, store: Callable[[Path], None], *, sector_bytes: int = 512) -> PowerCuts:
    """Record a store that replaces OLD by NEW."""
    write(folder / "kept", OLD)
    cuts = PowerCuts(folder, sector_bytes=sector_bytes)
    with cuts.recorded():
        store(folder)
        cuts.mark("stored")
    return cuts


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    found = (folder / "kept").read_bytes()
    assert found == NEW if marks else found in (OLD, NEW), found


def test_what_is_synced_before_it_is_renamed_survives_every_cut(tmp_path: Path) -> None:
    cuts = cuts_of(tmp_path, replace_well)

    assert cuts.check(recover) > 4
    assert cuts.check(recover, draws=50) == 50


@pytest.mark.parametrize(
    ("store", "lost"),
    [
        (replace_without_fsync, r"lost: (size|sector 0) of kept: "),
        (replace_before_data, r"lost: (size|sector 0) of kept: "),
        (replace_without_fsync_of_the_folder, r"marks \['stored'\]; lost: names \(aside -> nothing, kept -> kept\): "),
        (overwrite_in_place, r"lost: "),
    ],
)
@pytest.mark.parametrize("draws", [None, 200], ids=["every", "drawn"])
def test_a_planted_break_is_found_and_told_by_the_one_thing_that_is_lost(
    tmp_path: Path, store: Callable[[Path], None], lost: str, draws: int | None
) -> None:
    cuts = cuts_of(tmp_path, store)

    with pytest.raises(ContractBroken, match=lost) as caught:
        cuts.check(recover, draws=draws)

    assert "," not in str(caught.value).partition("lost: ")[2].partition(": ")[0].replace(", kept -> kept", "")


def states_of(folder: Path, store: Callable[[Path], None], sector_bytes: int = 4) -> set[bytes | None]:
    """Return what the file may hold after a cut."""
    cuts = PowerCuts(folder, sector_bytes=sector_bytes)
    with cuts.recorded():
        store(folder)
    found = (cut.tree.names().get("file") for cut in cuts.every())
    return {file[1] if file else None for file in found}


def test_a_write_is_torn_at_sectors_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "file", b"aaaabbbb")

    def store(folder: Path) -> None:
        with (folder / "file").open("r+b", buffering=0) as file:
            file.write(b"AAAABBBB")

    assert states_of(tmp_path, store) == {b"aaaabbbb", b"AAAAbbbb", b"aaaaBBBB", b"AAAABBBB"}


def test_writes_that_meet_in_a_sector_come_in_any_order_or_not(tmp_path: Path) -> None:
    write(tmp_path / "file", b"....")

    def store(folder: Path) -> None:
        descriptor = os.open(folder / "file", os.O_WRONLY)
        os.pwrite(descriptor, b"aa", 0)
        os.pwritev(descriptor, [b"b", b"b"], 1)
        os.close(descriptor)

    assert states_of(tmp_path, store) == {b"....", b"aa..", b".bb.", b"abb.", b"aab."}


def test_a_size_comes_apart_from_the_data(tmp_path: Path) -> None:
    write(tmp_path / "file", b"aaaa")

    def store(folder: Path) -> None:
        with (folder / "file").open("ab", buffering=0) as file:
            file.write(b"bbbb")

    assert states_of(tmp_path, store) == {b"aaaa", b"aaaa\0\0\0\0", b"aaaabbbb"}


def test_a_file_that_was_cut_short_may_still_be_whole(tmp_path: Path) -> None:
    write(tmp_path / "file", b"aaaa")

    assert states_of(tmp_path, lambda folder: os.truncate(folder / "file", 2)) == {b"aaaa", b"aa\0\0", b"aa"}


def test_fsync_of_a_file_makes_it_durable_and_not_its_name(tmp_path: Path) -> None:
    assert states_of(tmp_path, lambda folder: write(folder / "file", b"a")) == {None, b"a", b"", b"\0"}

    def synced(folder: Path) -> None:
        write(folder / "file", b"b")
        sync(folder)

    (tmp_path / "file").unlink()
    cuts = PowerCuts(tmp_path)
    with cuts.recorded():
        synced(tmp_path)
        cuts.mark("named")
    after = [cut.tree.names() for cut in cuts.every() if cut.marks]
    assert [names["file"] for names in after] == [(0o644, b"b")]


def test_names_come_and_go_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "old", b"")

    def store(folder: Path) -> None:
        (folder / "old").unlink()
        os.link(folder / "other", folder / "new")

    write(tmp_path / "other", b"x")
    cuts = PowerCuts(tmp_path)
    with cuts.recorded():
        store(tmp_path)

    assert {frozenset(cut.tree.names()) - {"other"} for cut in cuts.every()} == {
        frozenset(names) for names in ((), ("old",), ("new",), ("old", "new"))
    }


def test_a_folder_is_lost_with_all_in_it_until_its_own_name_is_synced(tmp_path: Path) -> None:
    cuts = PowerCuts(tmp_path)
    with cuts.recorded():
        (tmp_path / "deep").mkdir()
        write(tmp_path / "deep" / "file", b"x")
        sync(tmp_path / "deep")
        cuts.mark("deep")
    last = [cut.tree.names() for cut in cuts.every() if cut.marks]

    assert {} in last
    assert {"deep": None, "deep/file": (0o644, b"x")} in last
    assert len(last) == 2


def test_the_rights_of_a_file_may_come_late(tmp_path: Path) -> None:
    write(tmp_path / "file", b"x")
    cuts = PowerCuts(tmp_path)
    with cuts.recorded():
        (tmp_path / "file").chmod(0o600)

    assert {cut.tree.names()["file"] for cut in cuts.every()} == {(0o644, b"x"), (0o600, b"x")}


def test_a_state_is_made_as_it_is_with_links_rights_and_folders(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    cuts = PowerCuts(source)
    with cuts.recorded():
        (source / "deep").mkdir()
        write(source / "deep" / "file", b"x")
        (source / "deep" / "file").chmod(0o400)
        os.link(source / "deep" / "file", source / "twin")
        sync(source / "deep")
        sync(source / "deep" / "file")
        sync(source)

    *_, last = cuts.every()
    last.write_to(target)

    assert (target / "twin").read_bytes() == b"x"
    assert (target / "twin").samefile(target / "deep" / "file")
    assert (target / "twin").stat().st_mode & 0o777 == 0o400


def test_a_change_past_what_is_recorded_is_an_error(tmp_path: Path) -> None:
    cuts = PowerCuts(tmp_path)

    with pytest.raises(ContractBroken, match="was changed in another way"), cuts.recorded():
        os.mknod(tmp_path / "file")


def test_files_elsewhere_and_reads_are_no_steps(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write(tmp_path / "here" / "file", b"x")
    cuts = PowerCuts(tmp_path / "here")

    with cuts.recorded():
        write(tmp_path / "there", b"y")
        (tmp_path / "here" / "file").read_text()

    assert list(cuts.steps) == []


def test_the_same_seed_draws_the_same_cuts(tmp_path: Path) -> None:
    cuts = cuts_of(tmp_path, replace_without_fsync, sector_bytes=8)

    def drawn(seed: int) -> list[str]:
        chance = random.Random(seed)
        return [str(cuts.draw(chance)) for _ in range(30)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_too_many_states_are_refused_not_begun(tmp_path: Path) -> None:
    cuts = cuts_of(tmp_path, overwrite_in_place, sector_bytes=1)

    with pytest.raises(LimitExceeded, match="states that a power cut may leave"):
        next(cuts.every())


CONTENTS = st.binary(max_size=12)
NAMES = st.sampled_from(["a", "b", "c"])
CALLS = st.one_of(
    st.tuples(st.just("write"), NAMES, CONTENTS),
    st.tuples(st.just("append"), NAMES, CONTENTS),
    st.tuples(st.just("truncate"), NAMES, st.integers(0, 20)),
    st.tuples(st.just("replace"), NAMES, NAMES),
    st.tuples(st.just("link"), NAMES, NAMES),
    st.tuples(st.just("unlink"), NAMES, st.none()),
    st.tuples(st.just("sync"), NAMES, st.none()),
    st.tuples(st.just("sync folder"), NAMES, st.none()),
)


def play(folder: Path, call: str, name: str, argument: object) -> None:
    path = folder / name
    match call, argument:
        case "write", bytes(content):
            write(path, content, is_synced=False)
        case "append", bytes(content):
            with path.open("ab") as file:
                file.write(content)
        case "truncate", int(size):
            os.truncate(path, size)
        case "replace", str(other):
            path.replace(folder / other)
        case "link", str(other):
            os.link(path, folder / other)
        case "unlink", _:
            path.unlink()
        case "sync", _:
            sync(path)
        case "sync folder", _:
            sync(folder)


@settings(max_examples=150)
@given(calls=st.lists(CALLS, max_size=12), seed=st.integers(0, 2**32))
def test_who_syncs_all_loses_nothing_and_a_cut_that_loses_nothing_is_what_was_written(
    calls: list[tuple[str, str, object]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("disk")
    cuts = PowerCuts(folder, sector_bytes=4)

    with cuts.recorded():  # it compares its own replay with the folder at the end
        for call in calls:
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                play(folder, *call)
        for path in (*folder.iterdir(), folder):
            sync(path)
        cuts.mark("all")
    chance = random.Random(seed)
    drawn = [cuts.draw(chance) for _ in range(30)]

    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    for cut in drawn:
        if cut.marks:
            assert cut.lost == ()
            assert {name: file[1] for name, file in cut.tree.names().items() if file} == written
