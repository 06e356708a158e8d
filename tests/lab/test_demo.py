import os
import sys
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.lab.demo import DemoOptions, run
from ftvm.lab.ledger import Ledger
from ftvm.lab.stage import HostCommands

from ..leftovers import nothing_left_behind

STUB = HostCommands(program=(sys.executable, str(Path(__file__).with_name("stub_host.py"))))


class Recorder:
    """A screen that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, ledger: Ledger) -> None:
        assert set(ledger.hosts) == {"A", "B"}
        self.shown += 1


@pytest.fixture(autouse=True)
def short_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftvm.lab.demo.ACT_SECONDS", (0.2, 0.4))


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_demo_kills_in_turn_and_finds_nothing_lost(temporary_folder: Path) -> None:
    screen = Recorder()

    with nothing_left_behind():
        outcome = run(DemoOptions(kills=2, hosts=STUB), screen)

    facts = outcome.as_dict()
    assert outcome.trouble is None
    assert outcome.is_good
    assert (facts["kills"], len(facts["takeover_ms"])) == (2, 2)
    assert all(0 < takeover["heard"] <= takeover["total"] >= takeover["detection"] for takeover in facts["takeover_ms"])
    assert (facts["acknowledged_lost"], facts["contradicted"], facts["unanswered"]) == (0, 0, 0)
    assert facts["requests_acknowledged"] > 100
    assert facts["bytes_raw"] == 2 * 4096 * facts["checkpoints"]
    assert facts["digests_compared"] > 0
    assert facts["pause_us"] == {"p50": 150.0, "p99": 150.0}
    assert [text.split(" with ")[0] for text in screen.said if "KILLED" in text] == [
        "KILLED host A (SIGKILL)",
        "KILLED host B (SIGKILL)",
    ]
    assert screen.shown > 1
    assert os.listdir(temporary_folder) == []


def test_guest_that_forgets_at_a_takeover_is_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTVM_STUB", "forget")

    outcome = run(DemoOptions(kills=1, hosts=STUB), Recorder())

    assert not outcome.is_good
    assert outcome.as_dict()["acknowledged_lost"] + outcome.as_dict()["contradicted"] > 0


def test_host_that_fails_is_shown_with_its_last_words(monkeypatch: pytest.MonkeyPatch, temporary_folder: Path) -> None:
    monkeypatch.setenv("FTVM_STUB", "fail")

    with nothing_left_behind():
        outcome = run(DemoOptions(kills=1, hosts=STUB), Recorder())

    assert not outcome.is_good
    assert outcome.trouble is not None
    assert "host B ended with status 1" in outcome.trouble
    assert "the stub was told to fail" in outcome.trouble
    assert os.listdir(temporary_folder) == []


def test_takeover_that_never_comes_is_a_failure_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftvm.lab.demo.TAKEOVER_NS", 1_000_000_000)
    monkeypatch.setenv("FTVM_STUB", "sleep")

    outcome = run(DemoOptions(kills=1, hosts=STUB), Recorder())

    assert not outcome.is_good
    assert outcome.kills == 1
    assert outcome.trouble is not None
    assert "until the guest is heard from host B" in outcome.trouble


def test_time_under_load_that_is_too_short_is_said() -> None:
    outcome = run(DemoOptions(kills=1, seconds=0.01, hosts=STUB), Recorder())

    assert not outcome.is_good
    assert outcome.trouble == "the time under load was over after 0 of 1 kills: give more with --seconds"


def test_interrupt_leaves_no_process_and_no_file(temporary_folder: Path) -> None:
    class Impatient(Recorder):
        def show(self, ledger: Ledger) -> None:
            if ledger.acknowledged:
                raise KeyboardInterrupt

    with nothing_left_behind(), pytest.raises(KeyboardInterrupt):
        run(DemoOptions(hosts=STUB), Impatient())

    assert os.listdir(temporary_folder) == []


@pytest.mark.parametrize("wrong", [{"kills": 0}, {"seconds": 0.0}, {"hosts": HostCommands(interval_ms=0)}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"at least one|more than 0"):
        DemoOptions(**wrong)  # type: ignore[arg-type]
