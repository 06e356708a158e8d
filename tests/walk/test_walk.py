"""A walk lists what a checkpoint and an output really cross, the same each time, and nothing of the test's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .routes import BURST, walk_burst, walk_checkpoint, walk_output, walk_takeover
from .tracing import Call
from .way import Leg, Walk

REPOSITORY = Path(__file__).parents[2]


def names(leg: Leg) -> list[str]:
    return [f"{call.file}:{call.function}" for call in leg.calls]


@pytest.mark.parametrize("engine", ["remus", "kemari", "hybrid", "lockstep"])
def test_two_walks_of_one_checkpoint_are_equal(engine: str) -> None:
    assert walk_checkpoint(engine) == walk_checkpoint(engine)


@pytest.mark.parametrize("engine", ["kemari", "hybrid", "lockstep"])
def test_two_walks_of_one_output_are_equal(engine: str) -> None:
    assert walk_output(engine) == walk_output(engine)


@pytest.mark.parametrize("engine", ["hybrid", "lockstep"])
def test_two_walks_of_one_burst_are_equal_and_begin_with_the_turn(engine: str) -> None:
    walk = walk_burst(engine)

    assert walk == walk_burst(engine)
    primary, _ = walk.legs
    assert names(primary)[0] == "runtime/sink.py:NumberingSink.hand_on"


@pytest.mark.parametrize("engine", ["hybrid", "lockstep"])
def test_the_answers_to_many_requests_call_the_same_functions_as_those_to_two(engine: str) -> None:
    """Mutants: the standby makes a record of each row; the primary holds, and lets out, one output after the other; a
    guest that follows emits its outputs one by one."""
    few, many = walk_burst(engine, 2), walk_burst(engine, BURST)

    assert few.legs == many.legs


def test_the_answers_to_a_burst_leave_together() -> None:
    primary, _ = walk_burst("hybrid").legs

    assert names(primary).count("runtime/driver.py:Driver._release") == 1
    assert names(primary).count("runtime/world.py:CallbackWorld.release_all") == 1


def test_a_guest_that_stops_at_each_output_makes_no_burst() -> None:
    with pytest.raises(ValueError, match="no two go together"):
        walk_burst("kemari")


def test_a_takeover_calls_no_function_more_for_outputs_that_are_pending() -> None:
    """Else ten thousand of them would have the guest wait, which is paused until all that is done."""
    few, many = walk_takeover(10), walk_takeover(2_000)

    assert "runtime/runner.py:GuestRunner.run" in names(few.legs[0])
    assert names(few.legs[0]) == names(many.legs[0])


def test_an_output_that_waits_for_an_interval_is_not_followed() -> None:
    with pytest.raises(ValueError, match="follow a checkpoint"):
        walk_output("remus")


def test_each_leg_of_a_checkpoint_begins_and_ends_where_it_says() -> None:
    ship, commit, release = walk_checkpoint("remus").legs

    assert [leg.side for leg in (ship, commit, release)] == ["primary", "backup", "primary"]
    assert any("collect_dirty" in name for name in names(ship))
    assert names(ship)[-1] == "transport/memory.py:MemoryTransport.send"
    assert names(commit)[0].endswith(".poll")
    assert any(name.startswith("encode/apply.py:") and name.endswith(".commit") for name in names(commit))
    assert names(commit)[-1].endswith(".send")
    assert names(release)[0].endswith(".poll")
    assert names(release)[-1] == "runtime/world.py:CallbackWorld.release_all"


def test_an_output_is_followed_from_its_emission() -> None:
    primary, backup = walk_output("hybrid").legs

    assert names(primary)[0] == "runtime/sink.py:NumberingSink.emit"
    assert "runtime/world.py:CallbackWorld.release_all" in names(primary)
    assert {call.side for call in backup.calls} == {"backup"}


def test_what_stands_in_for_guest_clock_and_transport_is_counted_apart() -> None:
    files = ["sim/guest.py", "testing/pair.py", "transport/memory.py", "runtime/driver.py", "runtime/world.py"]
    walk = Walk("output", "kemari", (Leg("a leg", "primary", tuple(Call("primary", file, "f") for file in files)),))

    assert walk.calls_on("primary") == (2, 3)
    assert walk.calls_on("backup") == (0, 0)


def test_only_functions_of_ftvm_are_listed() -> None:
    for leg in walk_checkpoint().legs:
        assert {file for file in leg.files if not file.endswith(".py")} == set()
        assert [call for call in leg.calls if "comp>" in call.function or "genexpr" in call.function] == []


def test_a_file_is_entered_again_when_another_was_called_in_between() -> None:
    files = ["a.py", "a.py", "b.py", "a.py", "b.py", "runtime/driver.py", "c.py", "runtime/driver.py", "a.py"]

    leg = Leg("a leg", "primary", tuple(Call("primary", file, "f") for file in files))

    assert leg.entered_again == {"a.py": 2, "b.py": 1}
    assert leg.visits[0].calls == {"f": 2}


@pytest.mark.parametrize("what", ["checkpoint", "output"])
def test_the_command_prints_the_walk(what: str) -> None:
    run = [sys.executable, "-m", "tests.walk", what]

    text = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    told = json.loads(
        subprocess.run([*run, "--json"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    )

    assert "entered again once left" in text
    assert told["walk"] == what
    assert sum(told["summary"]["legs"][leg["name"]]["calls"] for leg in told["legs"]) == told["summary"]["calls"]
    assert all(step["calls"] for leg in told["legs"] for step in leg["way"])
