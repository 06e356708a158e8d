"""`ftvm status` and `ftvm ctl` against a host that runs: found, told, stopped."""

import io
import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

from ftvm.cli import asking, top
from ftvm.cli.sentences import describe
from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.errors import ClosedError, GuestEnded
from ftvm.events import EngineChanged, GuestWarned
from ftvm.runtime.protection import Protection, Standby
from ftvm.runtime.status import Status
from ftvm.service.connection import connect
from ftvm.service.control import ControlSocket
from ftvm.service.socketfiles import listen_privately
from ftvm.sim.guest import SimGuest

from .conftest import Run

WAIT_SECONDS = 30.0


def test_status_tells_of_each_guest_in_a_line(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("status")

    assert outcome.status == 1
    who = rf"guest 'vm1' on n1 \(process {os.getpid()}\)"
    told = rf"{who}: runs here, unprotected since [0-9:]{{8}} UTC: no standby has joined; generation "
    assert re.match(told, outcome.out)
    assert host.status().role == "active"


def test_status_of_a_protected_guest_tells_its_engine_and_the_interval_in_force(ftvm: Run, host: Protection) -> None:
    ftvm("ctl", "interval", "10")

    protected = replace(host.status(), standby="b#1234", state="protected")

    assert "protected by b (remus, interval 10 ms, lag 0.0 ms)" in asking.status_line(protected)


def test_status_tells_of_the_memory_in_use_and_is_silent_about_a_host_that_does_not(host: Protection) -> None:
    known = replace(host.status(), guest_bytes=64 << 20, shadow_bytes=0, staging_bytes=(1 << 20) + 1)
    unknown = replace(known, guest_bytes=0)

    assert asking.status_line(known).endswith("; memory 64 MiB guest, 2 MiB staging")
    assert "memory" not in asking.status_line(unknown)


SINCE = {"since": "2026-11-30T10:11:12.5Z", "time": "2026-11-30T10:11:20.5Z", "state_seconds": 8.0}


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("no takeover", "W", "runs here, protected by b, but no takeover is possible since 10:11:12 UTC: W"),
        ("standing still", "W", "stands still here since 10:11:12 UTC: W"),
        ("unprotected", "W", "runs here, unprotected since 10:11:12 UTC: W"),
        ("syncing", "W", "runs here, and a standby is being copied to: W"),
        ("failed", "W", "failed since 10:11:12 UTC: W"),
    ],
)
def test_an_active_says_how_its_guest_stands_since_when_and_why(
    host: Protection, state: str, reason: str, told: str
) -> None:
    status = replace(host.status(), state=state, reason=reason, failure=reason, standby="b#1234", **SINCE)

    assert asking.state_line(status) == told
    assert top._state(status).plain == told


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("standby", "", "standby here, of a"),
        ("standby unable", "W", "standby here, but it could not take over since 10:11:12 UTC: W"),
        ("syncing", "W", "is being copied to this host since 10:11:12 UTC: W"),
        ("joining", "W", "has no state here since 10:11:12 UTC: W"),
    ],
)
def test_another_host_says_what_it_could_do_for_the_guest(host: Protection, state: str, reason: str, told: str) -> None:
    status = replace(host.status(), role="standby", state=state, reason=reason, active="a#1234", **SINCE)

    assert asking.state_line(status) == told


def test_a_first_copy_tells_how_far_it_is_and_how_long_it_will_take(host: Protection) -> None:
    copying = replace(host.status(), state="syncing", copy_round=2, copy_pages_sent=400, copy_pages_left=100, **SINCE)

    told = "; first copy, round 2: 400 pages sent, 100 to go, about 2 s more"
    assert asking.state_line(copying).endswith(told)


def test_a_loop_that_is_late_by_half_of_the_silence_is_warned_of_with_advice(host: Protection) -> None:
    late = replace(host.status(), silence_ms=300.0, loop_late_ms=150.0)
    prompt = replace(late, loop_late_ms=149.0)

    assert asking.status_line(late).endswith(
        "; its loop was late by 150 ms: unless it was stopped, give this host more processor time, or raise --silence"
    )
    assert "late" not in asking.status_line(prompt)


def test_what_an_operator_was_warned_of_stands_in_the_status(ftvm: Run, host: Protection) -> None:
    """Regression: that a recording had failed, or an image was deleted, stood in the log alone."""
    host._node.driver._sink.warn("the image of the disk a.img was deleted")
    while not any(isinstance(event, GuestWarned) for event in host.events(WAIT_SECONDS)):
        pass

    text, told = ftvm("status").out, json.loads(ftvm("status", "--json").out)

    assert text.rstrip().endswith("; warning: the image of the disk a.img was deleted")
    assert told[0]["warnings"] == ["the image of the disk a.img was deleted"]


def test_a_state_that_began_on_another_day_tells_the_day(host: Protection) -> None:
    old = replace(host.status(), state="unprotected", reason="W", **{**SINCE, "since": "2026-11-28T10:11:12.5Z"})

    assert asking.state_line(old) == "runs here, unprotected since 2026-11-28 10:11:12 UTC: W"


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({"link": "protected", "standby": "b1"}, "protected"),
        ({"link": "halted", "standby": "b1"}, "standing still"),
        ({"link": "dropping", "standby": "b1"}, "standing still"),
        ({"link": "none", "standby": None}, "unprotected"),
        ({"link": "copying", "standby": None, "copy_pages_left": 3}, "syncing"),
        ({"role": "standby"}, "standby"),
        ({"role": "empty"}, "joining"),
        ({"failure": "W"}, "failed"),
    ],
)
def test_a_host_of_the_first_release_which_tells_no_state_has_one(
    host: Protection, told: dict[str, object], state: str
) -> None:
    first = {**host.status().told_in(1), **told}

    assert Status.from_dict(first).state == state


def test_a_plugin_is_told_in_one_line_and_by_the_exit_status(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("status", "--nagios")

    assert outcome.status == 1
    assert outcome.out.startswith(f"FTVM WARNING - guest 'vm1' on n1 (process {os.getpid()}): runs here, unprotected")
    assert "| 'vm1 lag'=" in outcome.out
    assert outcome.out.count("\n") == 1
    assert host.status().role == "active"


@pytest.mark.parametrize("place", ["none", "ipc:///none"])
def test_a_plugin_that_can_ask_nobody_does_not_know(ftvm: Run, place: str, host: Protection) -> None:
    outcome = ftvm("status", "--nagios", "--control", place)

    assert outcome.status == 3
    assert outcome.out.startswith("FTVM UNKNOWN - ")
    assert host.status().role == "active"


def test_a_plugins_line_and_json_are_not_given_together(ftvm: Run) -> None:
    outcome = ftvm("status", "--nagios", "--json")

    assert outcome.status == 2
    assert "give --nagios or --json, not both" in outcome.err


def test_a_plugin_without_any_host_does_not_know(ftvm: Run) -> None:
    outcome = ftvm("status", "--nagios")

    assert (outcome.status, outcome.err) == (3, "")
    assert outcome.out.startswith("FTVM UNKNOWN - no host answers at ")


def test_status_json_says_who_tells_it_and_when(ftvm: Run, host: Protection) -> None:
    told = json.loads(ftvm("status", "--json").out)[0]

    assert (told["node"], told["pid"], told["arbiter"]) == ("n1", os.getpid(), "memory:asking")
    assert told["listen"].startswith("tcp://127.0.0.1:")
    assert not told["listen"].endswith(":0")
    assert told["version"] == version("ftvm")
    assert told["replica_id"].startswith("n1#")
    assert told["started"] <= told["since"] <= told["time"]
    assert len(told["histogram_bounds_us"]) + 1 == len(told["pauses"]["counts"])
    assert host.status().role == "active"


def test_status_json_has_the_fields_of_a_status_and_the_socket(ftvm: Run, host: Protection, tmp_path: Path) -> None:
    outcome = ftvm("status", "--json")

    told = json.loads(outcome.out)
    assert [guest["control"] for guest in told] == [f"ipc://{tmp_path}/ftvm/vm1.sock"]
    assert set(told[0]) == {*host.status().as_dict(), "control"}


def test_status_without_any_host_says_so_and_fails(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("status")

    assert (outcome.status, outcome.out) == (1, "")
    assert f"no host answers at {tmp_path}/ftvm" in outcome.err


def test_status_of_a_guest_that_is_not_here_fails(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("status", "--guest", "vm2", "--json")

    assert (outcome.status, outcome.out) == (1, "[]\n")
    assert host.status().guest_id == "vm1"


def test_status_of_a_socket_that_nobody_answers_at_fails(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("status", "--control", f"ipc://{tmp_path}/none")

    assert outcome.status == 1
    assert "TransportError: no host answers at" in outcome.err


def test_status_fails_if_no_host_of_a_guest_is_more_than_empty(ftvm: Run, host: Protection, tmp_path: Path) -> None:
    """Regression: it said that all was well where nobody ran the guest."""
    with Standby(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=False),
        listen="tcp://127.0.0.1:0",
        peers=["tcp://127.0.0.1:9"],
        arbiter="memory:asking",
        guest_id="vm2",
        services=[ControlSocket(f"ipc://{tmp_path}/ftvm/vm2.sock")],
    ):
        assert [ftvm("status", "--guest", guest).status for guest in ("vm1", "vm2")] == [1, 1]
        assert ftvm("status").status == 1
    assert host.status().role == "active"


def end_when_asked(host: Protection) -> None:
    """End a host in order once an operator says so, as `ftvm run` does."""
    with suppress(ClosedError, GuestEnded):
        host.wait(WAIT_SECONDS)
    host.close()


def test_ctl_stop_ends_a_host_and_tells_what_became_of_its_guest(ftvm: Run, host: Protection) -> None:
    """Regression: it answered with the status from before the stop: that the guest runs here."""
    ending = Thread(target=end_when_asked, args=(host,))
    ending.start()

    outcome = ftvm("ctl", "stop", "--guest", "vm1")
    ending.join(WAIT_SECONDS)

    assert outcome.status == 0
    assert outcome.out.startswith(
        "guest 'vm1': stopped: the guest has ended here, and the record is vacant (generation "
    )


def test_ctl_stop_as_json_is_what_came_of_it(ftvm: Run, host: Protection) -> None:
    ending = Thread(target=end_when_asked, args=(host,))
    ending.start()

    told = json.loads(ftvm("ctl", "stop", "--guest", "vm1", "--json").out)
    ending.join(WAIT_SECONDS)

    assert (told["event"], told["guest_id"], told["is_in_order"]) == ("HostStopped", "vm1", True)


def test_the_old_order_to_stop_names_the_two_that_replace_it(ftvm: Run, host: Protection) -> None:
    ending = Thread(target=end_when_asked, args=(host,))
    ending.start()

    outcome = ftvm("ctl", "stop", "--guest", "vm1")
    ending.join(WAIT_SECONDS)

    assert "`ftvm ctl stop` is now `ftvm ctl leave` (the guest goes on at the other host), or `ftvm stop" in outcome.err
    assert outcome.err.endswith("gone in 0.3\n")


def test_a_host_whose_guest_has_no_standby_does_not_leave(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("ctl", "leave")

    assert outcome.status == 1
    assert "guest 'vm1' cannot go on at another host now: no standby has joined" in outcome.err
    assert host.status().role == "active"


def test_stop_ends_the_guest_once_the_answer_is_yes(
    ftvm: Run, host: Protection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = Thread(target=end_when_asked, args=(host,))
    ending.start()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    outcome = ftvm("stop", "vm1")
    ending.join(WAIT_SECONDS)

    assert outcome.status == 0
    assert outcome.err.startswith("End guest 'vm1' for good, on all its hosts? [y/N]:")
    assert outcome.out.startswith("guest 'vm1': stopped: the guest has ended here, and the record is vacant")


@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("", 2)])
def test_stop_does_nothing_without_a_yes(
    ftvm: Run, host: Protection, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    outcome = ftvm("stop", "vm1")

    assert outcome.status == status
    assert host.status().role == "active"


def test_ctl_of_a_guest_that_is_not_here_is_wrong_usage(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("ctl", "stop", "--guest", "vm2")

    assert outcome.status == 2
    assert "has guest 'vm2'; there are 'vm1'" in outcome.err
    assert host.status().role == "active"


def test_ctl_where_no_host_answers_fails(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("ctl", "stop")

    assert outcome.status == 1
    assert f"no host answers at {tmp_path}/ftvm: is one running" in outcome.err


@pytest.mark.parametrize("seconds", ["nan", "inf", "-100", "0", "1e300"])
def test_ctl_switchover_within_no_time_is_wrong_usage(ftvm: Run, host: Protection, seconds: str) -> None:
    outcome = ftvm("ctl", "switchover", "--timeout", seconds)

    assert outcome.status == 2
    assert "write a number above 0, at most 3600" in outcome.err
    assert "handing" not in outcome.err
    assert host.status().role == "active"


def test_ctl_changes_the_engine_and_its_interval(ftvm: Run, host: Protection) -> None:
    changed = ftvm("ctl", "engine", "kemari", "--interval", "50", "--json")
    ftvm("ctl", "interval", "10")

    assert json.loads(changed.out)["engine"] == "kemari"
    assert host._node.driver.engines == (Kemari(0.01), Kemari(0.01))
    assert [describe(event) for event in host.events(0) if isinstance(event, EngineChanged)] == [
        "engine: kemari (interval 50 ms) instead of remus",
        "engine: kemari (interval 10 ms), with new settings",
    ]


@pytest.mark.parametrize("milliseconds", ["1e300", "-5", "0", "nan", "10001", "99999999"])
@pytest.mark.parametrize("words", [["interval"], ["engine", "remus", "--interval"], ["engine", "remus", "--latency"]])
def test_ctl_tells_of_a_wrong_duration_in_the_unit_that_it_takes(
    ftvm: Run, host: Protection, words: list[str], milliseconds: str
) -> None:
    outcome = ftvm("ctl", *words, milliseconds)

    assert outcome.status == 2
    assert f"{words[-1]} {float(milliseconds):.15g}: write milliseconds, from 0.5 to 10000" in outcome.err
    assert host._node.driver.engines == (Remus(0.025), Remus(0.025))


def test_a_latency_target_and_a_group_are_shown_wherever_the_engine_is(
    ftvm: Run, host: Protection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: neither stood in status, log or `ftvm top`."""
    monkeypatch.setenv("COLUMNS", "160")
    host.set_engine(Kemari(0.025, 0.0002))
    grouped = ftvm("status", "--json")
    strict = ftvm("ctl", "engine", "kemari", "--json")
    targeted = ftvm("ctl", "engine", "remus", "--latency", "5", "--json")
    protected = replace(host.status(), state="protected", standby="b#1234")
    top_once = ftvm("top", "--once")
    fixed = ftvm("ctl", "engine", "remus", "--interval", "20", "--json")

    told = [json.loads(each.out) for each in (grouped, strict, targeted, fixed)]
    shown = "interval 25 ms, latency target 5 ms"
    assert [(each[0] if isinstance(each, list) else each)["engine_settings"] for each in told] == [
        "interval 25 ms, group commit 0.2 ms",
        "interval 25 ms",
        shown,
        "interval 20 ms",
    ]
    assert f"(remus, {shown}, lag " in asking.state_line(protected)
    assert f"remus, {shown}" in top_once.out
    assert [describe(event) for event in host.events(0) if isinstance(event, EngineChanged)] == [
        "engine: kemari (interval 25 ms, group commit 0.2 ms) instead of remus",
        "engine: kemari (interval 25 ms), with new settings",
        f"engine: remus ({shown}) instead of kemari",
        "engine: remus (interval 20 ms), with new settings",
    ]


def test_ctl_of_an_engine_that_is_none_is_wrong_usage(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("ctl", "engine", "warp")

    assert outcome.status == 2
    assert "unknown engine 'warp'; choose one of: remus" in outcome.err
    assert host.status().engine == "remus"


def test_ctl_switchover_without_a_standby_fails_and_the_guest_goes_on(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("ctl", "switchover", "--timeout", "1")

    assert outcome.status == 1
    assert "LocalProtocolError" in outcome.err
    assert host.status().role == "active"


def test_top_once_shows_each_guest_with_its_rates(ftvm: Run, host: Protection) -> None:
    outcome = ftvm("top", "--once", "--interval", "0.05")

    assert outcome.status == 1  # as of `ftvm status`: the guest is unprotected
    assert "guest vm1" in outcome.out
    for word in ("role", "generation", "epoch", "lag", "pages/s", "kB/s", "p99"):
        assert word in outcome.out
    assert host.status().role == "active"


def test_top_once_json_adds_rates_to_a_status(ftvm: Run, host: Protection) -> None:
    told = json.loads(ftvm("top", "--once", "--json", "--interval", "0.05").out)

    assert told[0]["guest_id"] == "vm1"
    assert told[0]["rates"]["seconds"] > 0
    assert host.status().role == "active"


def test_top_shows_no_silence_where_there_is_no_session(ftvm: Run, host: Protection) -> None:
    """Regression: a host that nobody had let in allowed `0 ms (set: 0)`."""
    shown = ftvm("top", "--once", "--interval", "0.05").out

    assert host.status().silence_ms == 0
    assert "silence" in shown
    assert "0 ms allowed" not in shown


def test_top_shows_a_host_that_does_not_answer(host: Protection, tmp_path: Path) -> None:
    """Regression: its panel vanished."""
    with (
        listen_privately(f"ipc://{tmp_path}/ftvm/vm2.77.sock"),
        connect(f"ipc://{tmp_path}/ftvm", timeout=2.0) as there,
    ):
        viewer = top._Viewer(there)
        looks = viewer.look()
        console = Console(record=True, width=120, file=io.StringIO())
        console.print(top._scene(looks, viewer.mute, there))

    assert f"process {os.getpid()} (guest 'vm2') does not answer" in console.export_text()
    assert [each.status.guest_id for each in looks.values()] == [host.status().guest_id]


def test_top_without_any_host_says_so(ftvm: Run, tmp_path: Path) -> None:
    assert f"no host answers at {tmp_path}/ftvm" in ftvm("top", "--once", "--interval", "0.05").out.replace("\n", "")
