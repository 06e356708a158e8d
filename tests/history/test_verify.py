"""What is said of a damaged history: what is wrong, and what can be restored all the same."""

import sqlite3
from pathlib import Path

import pytest

from ftvm.history.history import History

from .test_pipeline import Host, restorable

EPOCHS = 60


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path / "past")
    made.run(EPOCHS)
    made.finish()
    return made


def damage_entry(folder: Path, *, level: int, part: float) -> None:
    """Change one byte within an entry of a level, that far into the list of them."""
    with sqlite3.connect(folder / "catalogue.db") as catalogue:
        found = catalogue.execute(
            "SELECT name, offset, length FROM entries JOIN segments ON segments.id = segment "
            "WHERE entries.level = ? ORDER BY base, entries.id",
            (level,),
        ).fetchall()
    catalogue.close()
    name, offset, length = found[int(part * len(found))]
    path = folder / "segments" / name
    content = bytearray(path.read_bytes())
    content[offset + length // 2] ^= 1
    path.write_bytes(content)


def told(folder: Path) -> list[int]:
    """Return the epochs that are said to be restorable."""
    with History.open(folder) as past:
        runs = past.restorable(list(past.verify()))
        return sorted(
            epoch.number
            for epoch in past.epochs()
            if any(run.holds(stream=epoch.stream, epoch=epoch.number) for run in runs)
        )


def test_of_a_whole_history_all_epochs_are_told_in_one_run(host: Host) -> None:
    with History.open(host.folder) as past:
        runs = past.restorable(list(past.verify()))

        assert [(run.first, run.last) for run in runs] == [(min(restorable(host.folder, host.guest)), EPOCHS)]


@pytest.mark.parametrize("part", [0.0, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("level", [0, 1])
def test_exactly_those_epochs_are_told_that_restore_from_a_damaged_history(host: Host, level: int, part: float) -> None:
    """Regression: nothing was said of what is left."""
    before = told(host.folder)

    damage_entry(host.folder, level=level, part=part)

    left = told(host.folder)
    assert left == restorable(host.folder, host.guest)
    assert before == left or len(left) < len(before)
