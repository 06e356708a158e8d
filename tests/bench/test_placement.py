"""Where the processes of a benchmark run is what the table says, and an ftvm of before is built or refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from beside import NotPreparedError, python_of
from placement import ANY, Placement, placement_named, usable_cores


def test_hosts_have_a_processor_each_and_the_client_shares_where_there_are_few() -> None:
    two, four = (placement_named("split", range(count)) for count in (2, 4))

    assert (two.primary, two.standby, two.client, two.relay) == ("0", "1", "1", "1")
    assert (four.primary, four.standby, four.client, four.relay) == ("0", "1", "2", "3")


def test_one_processor_holds_all_and_free_holds_nobody() -> None:
    assert {placement_named("split", [5]).standby, placement_named("one", [5, 6]).standby} == {"5"}
    assert placement_named("free", [5]).client == ANY


def test_the_table_says_where_everybody_is_and_how_urgent() -> None:
    assert "primary on processor 3, standby on processor 4" in str(placement_named("split", [3, 4]))
    assert "normal priority" in str(placement_named("split", [3, 4]))
    assert "standby on any processor" in str(placement_named("free", [3]))
    assert "SCHED_RR" in str(placement_named("free", [3], is_realtime=True))


def test_a_process_runs_in_its_place() -> None:
    last = str(usable_cores()[-1])
    placement = Placement(primary=last, standby=ANY, client=ANY, relay=ANY)
    say = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]

    placed = subprocess.run(placement.command("primary", say), capture_output=True, text=True, check=True)
    free = subprocess.run(placement.command("standby", say), capture_output=True, text=True, check=True)

    assert placed.stdout.strip() == f"[{last}]"
    assert free.stdout.strip() == str(sorted(os.sched_getaffinity(0)))


def test_a_revision_that_is_not_there_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(NotPreparedError, match=r"git .* failed: "):
        python_of("no-such-revision")
    with pytest.raises(NotPreparedError, match=r"git .* failed: "):
        python_of("--help")

    assert list(tmp_path.iterdir()) == []
