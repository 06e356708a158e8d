"""Ten scenarios of a pair happen exactly as their transcripts say (tests/protocol/transcripts/*.txt)."""

import pytest

from .transcripts.files import FOLDER, difference, path_of
from .transcripts.scenarios import SCENARIOS, transcript

LINES_MAX = 60
"""Longer, and nobody reads it."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_happens_as_its_transcript_says(name: str) -> None:
    changes = list(difference(name))

    assert changes == [], (
        f"\n{''.join(changes)}\nIf that is what the change is for, write the transcripts with "
        "`python -m tests.protocol.transcripts --write`, and commit them with it"
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_happens_the_same_way_each_time(name: str) -> None:
    assert transcript(name) == transcript(name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_transcript_is_short_enough_to_be_read(name: str) -> None:
    assert len(path_of(name).read_text(encoding="utf-8").splitlines()) <= LINES_MAX


def test_every_transcript_has_a_scenario() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(SCENARIOS)
