"""The parts of .ci/full: each is whole, bounded, resumable, and leaves evidence of the revision that it ran."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import CI, Repository

PARTS = sorted((CI / "parts").iterdir())
MINUTES_MAX = 60


def kept_by(repository: Repository) -> dict[str, object]:
    found: dict[str, object] = json.loads((repository.folder / "docs" / "evidence" / "small.json").read_text())
    return found


@pytest.mark.parametrize("part", PARTS, ids=lambda path: path.name)
def test_each_part_can_be_run_says_what_it_shows_and_is_bounded(part: Path, evidence: ModuleType) -> None:
    text = part.read_text()

    assert part.stat().st_mode & 0o111 == 0o111
    assert re.fullmatch(r"[a-z]+", part.name)
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert text.splitlines()[1].endswith(".")
    assert 0 < evidence.minutes_of(part) <= MINUTES_MAX
    assert "\n. .ci/lib\n" in text
    assert re.search(r"^ *(\[.*\] \|\| )?chunk ", text, re.MULTILINE), "its work must be in chunks, or nothing is kept"


@pytest.mark.parametrize("part", PARTS, ids=lambda path: path.name)
def test_each_part_is_a_script_that_parses(part: Path) -> None:
    assert subprocess.run(["bash", "-n", part], capture_output=True, check=False).stderr == b""


@pytest.mark.parametrize("part", PARTS, ids=lambda path: path.name)
def test_each_setting_of_a_part_stands_in_its_head(part: Path) -> None:
    head, _, rest = part.read_text().partition("\n. .ci/lib\n")

    assert set(re.findall(r"FTVM_FULL_[A-Z_]+", rest)) <= set(re.findall(r"FTVM_FULL_[A-Z_]+", head))


def test_the_list_names_every_part_and_its_evidence() -> None:
    listed = subprocess.run([CI / "full"], capture_output=True, text=True, check=True).stdout

    names = re.findall(r"^([a-z]+) +\d+ min  \S", listed, re.MULTILINE)
    assert names == [part.name for part in PARTS]
    for part in PARTS:
        has_evidence = (CI.parent / "docs" / "evidence" / f"{part.name}.json").exists()
        said = listed.partition(f"{part.name} ")[2].splitlines()[1]
        assert ("no evidence" in said) != has_evidence


def test_evidence_is_of_parts_that_there_are() -> None:
    kept = {path.stem: json.loads(path.read_text()) for path in (CI.parent / "docs" / "evidence").glob("*.json")}

    assert set(kept) <= {part.name for part in PARTS}
    for name, found in kept.items():
        assert found["part"] == name
        assert re.fullmatch(r"[0-9a-f]{40}", found["revision"])


def test_a_part_runs_the_commit_and_leaves_its_evidence_in_the_tree(repository: Repository) -> None:
    repository.part(
        '# FTVM_FULL_COUNT\nchunk answers one echo "{\\"found\\": 3}"\nchunk answers two echo "{\\"found\\": 4}"'
    )

    ran = repository.full("small", FTVM_FULL_COUNT="2", FTVM_FULL_OTHER="3")

    assert ran.returncode == 0, ran.stderr
    kept = kept_by(repository)
    assert kept["figures"] == {"answers": {"found": 7}}
    assert kept["revision"] == repository.git("rev-parse", "HEAD")
    assert kept["command"] == "FTVM_FULL_COUNT=2 .ci/full small"


def test_a_tree_that_is_not_committed_is_refused(repository: Repository) -> None:
    repository.part("chunk answers one true")
    (repository.folder / "more").write_text("not committed")

    ran = repository.full("small")

    assert ran.returncode == 1
    assert "commit first" in ran.stderr
    assert "more" in ran.stderr


def test_evidence_that_waits_to_be_committed_stops_no_other_part(repository: Repository) -> None:
    repository.part("chunk answers one true")

    assert [repository.full("small").returncode for _ in range(2)] == [0, 0]


def test_a_part_that_failed_goes_on_with_what_failed(repository: Repository, tmp_path: Path) -> None:
    ran, broken = tmp_path / "ran", tmp_path / "broken"
    broken.touch()
    repository.part(f"chunk work one sh -c 'echo 1 >>{ran}'\nchunk work two sh -c 'echo 2 >>{ran}; test ! -e {broken}'")

    first = repository.full("small")
    has_evidence = (repository.folder / "docs" / "evidence" / "small.json").exists()
    broken.unlink()
    second = repository.full("small")

    assert (first.returncode, second.returncode) == (1, 0)
    assert "FAILED with 1: work two" in first.stderr
    assert not has_evidence
    assert ran.read_text().split() == ["1", "2", "2"]
    assert kept_by(repository)["chunks"] == ["work/one", "work/two"]


def test_another_revision_starts_afresh(repository: Repository, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    repository.part(f"chunk work one sh -c 'echo 1 >>{ran}'")
    repository.full("small")
    repository.git("add", "-A")
    repository.commit()

    repository.full("small")

    assert ran.read_text().split() == ["1", "1"]


def test_all_runs_every_part_even_if_one_fails(repository: Repository) -> None:
    repository.part("chunk work one false", name="broken")
    repository.part("chunk work one true")

    ran = repository.full("all")

    assert ran.returncode == 1
    assert "not done: broken" in ran.stderr
    assert kept_by(repository)["chunks"] == ["work/one"]


def test_what_a_part_makes_for_the_tree_is_put_there(repository: Repository) -> None:
    repository.part('mkdir -p "$FTVM_STATE/tree/bench"\nchunk draw one cp .ci/lib "$FTVM_STATE/tree/bench/picture"')

    repository.full("small")

    assert (repository.folder / "bench" / "picture").exists()


def test_an_unknown_part_is_refused_with_the_list(repository: Repository) -> None:
    repository.part("chunk work one true")

    ran = repository.full("smal")

    assert ran.returncode == 2
    assert "there is no part 'smal'; there are: small" in ran.stderr


def test_evidence_is_old_once_code_has_changed_and_not_by_words_alone(repository: Repository) -> None:
    repository.part("chunk work one true")
    repository.full("small")
    (repository.folder / "README.md").write_text("words")
    repository.commit()
    fresh = repository.full().stdout
    (repository.folder / "code.py").write_text("pass\n")
    repository.commit()

    old = repository.full().stdout

    assert "of this tree" in fresh
    assert "OLD: 1 files have changed since" in old


def test_the_time_bound_is_kept(repository: Repository) -> None:
    repository.part(f"chunk work one true\nchunk work two {sys.executable} -c 'import time; time.sleep(300)'")
    part = repository.folder / ".ci" / "parts" / "small"
    part.write_text(part.read_text().replace("# minutes: 5", "# minutes: 0.05"))
    repository.commit()

    ran = repository.full("small")

    assert ran.returncode == 1
    assert "its time is over; start it again, and it goes on" in ran.stderr
    assert not (repository.folder / "docs").exists()
