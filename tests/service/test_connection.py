"""Asking running hosts: found by folder or socket, told apart, understood."""

import json
import os
import subprocess
from contextlib import ExitStack
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import ftvm
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import BrokenError, ClosedError, ConfigError, RemoteProtocolError, TransportError
from ftvm.events import Solo
from ftvm.runtime.protection import Standby, protect
from ftvm.runtime.status import FIRST_FIELDS, Status
from ftvm.service.connection import Connection, connect
from ftvm.service.control import ControlSocket
from ftvm.service.controlline import ControlLine, MuteHost
from ftvm.service.requests import json_line, parse_answer
from ftvm.service.socketfiles import listen_privately
from ftvm.units import Nanos

from .fakes import STATUS, LaterStatus
from .hosts import guest, host, pair, serve_two

two_guests = pytest.fixture(serve_two)

MUTE_S = 2.0
"""What one that does not answer costs; all others must answer sooner, on a busy machine too."""


def test_five_lines_list_the_guests_of_a_machine_and_their_states(
    two_guests: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = two_guests.place.rename(two_guests.place.parent / "ftvm")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.parent))

    with ftvm.connect() as machine:
        for found in machine.guests():
            status = found.status()
            print(found.id, status.role, status.standby)

    place.rename(two_guests.place)
    assert capsys.readouterr().out == "vm1 active None\nvm2 active None\n"


def test_one_socket_is_one_hosts_guests(two_guests: Connection) -> None:
    with connect(f"ipc://{two_guests.place}/vm2.sock") as machine:
        assert [found.id for found in machine.guests()] == ["vm2"]


def test_a_guest_is_found_by_its_name_and_not_guessed(two_guests: Connection) -> None:
    assert two_guests.guest("vm2").id == "vm2"
    with pytest.raises(ConfigError, match="say which guest: there are 'vm1', 'vm2'"):
        two_guests.guest()
    with pytest.raises(ConfigError, match="has guest 'vm3'; there are 'vm1', 'vm2'"):
        two_guests.guest("vm3")


def test_a_stopped_host_ends_in_order_and_is_gone_from_the_list(tmp_path: Path) -> None:
    with connect(f"ipc://{tmp_path}") as machine:
        with host(tmp_path, "vm1") as protection:
            machine.guest("vm1").stop()

            with pytest.raises(ClosedError, match="an operator asked this host to stop"):
                protection.wait()

        assert machine.guests() == []


def test_a_host_that_is_asked_to_stop_and_does_not_is_given_up(tmp_path: Path) -> None:
    with host(tmp_path, "vm1"), connect(f"ipc://{tmp_path}") as machine:
        guest = machine.guest("vm1")

        with pytest.raises(MuteHost, match="does not answer"):
            guest.stop_and_wait(timeout=0.1)


def hang_up(line: ControlLine, timeout: float) -> list[dict[str, Any]]:
    """Hear nothing more from a host, as when it was killed."""
    del timeout
    line.close()
    return []


def test_a_host_that_ends_without_its_last_word_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with host(tmp_path, "vm1"), connect(f"ipc://{tmp_path}") as machine:
        guest = machine.guest("vm1")
        monkeypatch.setattr(ControlLine, "listen", hang_up)

        with pytest.raises(BrokenError, match="did not say what became of the guest: run `ftvm status` on the other"):
            guest.stop_and_wait()


def test_events_of_a_host_come_as_they_happen_and_end_with_it(tmp_path: Path) -> None:
    with host(tmp_path, "vm1") as protection, connect(f"ipc://{tmp_path}/vm1.sock") as machine:
        events = machine.guest().events()
        node = protection._node

        node.host.call(lambda: node._note(Solo(at=Nanos(7), guest_id="vm1", generation=1, reason="a test says so")))

        assert next(events)["reason"] == "a test says so"
        protection.close()
        assert list(events)[-1]["event"] == "HostStopped"


def test_the_host_where_the_guest_runs_is_meant_if_two_hosts_have_it(tmp_path: Path) -> None:
    standby = Standby(
        guest(),
        listen="tcp://127.0.0.1:0",
        peers=["tcp://127.0.0.1:9"],
        arbiter=MemoryRecordStore(),
        guest_id="vm1",
        services=[ControlSocket(f"ipc://{tmp_path}/standby.sock")],
    )
    with standby, host(tmp_path, "vm1"), connect(f"ipc://{tmp_path}") as machine:
        assert [found.last_status.role for found in machine.guests()] == ["empty", "active"]
        assert machine.guest().last_status.role == "active"


def test_sockets_that_nobody_answers_at_are_passed_over(two_guests: Connection) -> None:
    listen_privately(f"ipc://{two_guests.place}/dead.sock").close()

    assert [found.id for found in two_guests.guests()] == ["vm1", "vm2"]


def test_a_socket_that_nobody_answers_at_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no host answers at"):
        connect(f"ipc://{tmp_path}/none.sock")


def test_a_url_that_is_no_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match="write ipc:///PATH"):
        connect("tcp://127.0.0.1:7777")


def test_a_host_that_does_not_answer_is_given_up_on(tmp_path: Path) -> None:
    with (
        listen_privately(f"ipc://{tmp_path}/mute.sock"),
        pytest.raises(
            MuteHost,
            match=rf"process {os.getpid()} \(control socket .*mute.sock\) does not answer",
        ),
    ):
        connect(f"ipc://{tmp_path}/mute.sock", timeout=0.05)


def test_a_survey_tells_who_answers_and_who_does_not(two_guests: Connection) -> None:
    with (
        listen_privately(f"ipc://{two_guests.place}/vm%201.77.sock"),
        connect(f"ipc://{two_guests.place}", timeout=MUTE_S) as machine,
    ):
        found = machine.survey()

    assert [guest.id for guest in found.guests] == ["vm1", "vm2"]
    assert [(mute.guest, mute.pid) for mute in found.mute] == [("vm 1", os.getpid())]
    assert str(found.mute[0]).startswith(
        f"process {os.getpid()} (guest 'vm 1') does not answer: it is stopped, or hangs;"
    )


def test_hosts_that_do_not_answer_are_waited_for_together(tmp_path: Path) -> None:
    """Regression: each by itself cost its time-out, of five seconds."""
    with ExitStack() as stack:
        for number in range(200):
            stack.enter_context(listen_privately(f"ipc://{tmp_path}/vm1.{number}.sock"))
        machine = stack.enter_context(connect(f"ipc://{tmp_path}", timeout=1.0))  # 200 s, and the test would time out

        found = machine.survey()

    assert len(found.mute) == 200


def test_what_is_meant_for_the_active_does_not_go_to_its_standby_because_the_active_is_mute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: `ftvm ctl stop` ended the standby."""
    monkeypatch.setattr("ftvm.service.control.LOOK_NS", 1 << 60)  # when it looks, it listens again
    with pair(tmp_path) as (active, standby), listen_privately(f"ipc://{tmp_path}/vm1.77.sock"):
        del active
        (tmp_path / "a.sock").unlink()
        with connect(f"ipc://{tmp_path}", timeout=MUTE_S) as machine:
            with pytest.raises(MuteHost, match="guest 'vm1'"):
                machine.guest("vm1")
            with pytest.raises(MuteHost, match="guest 'vm1'"):
                machine.guest()
        with connect(f"ipc://{tmp_path}/b.sock") as machine:
            assert machine.guest("vm1").last_status.role == "standby"
        assert standby.status().role == "standby"


def test_a_mute_host_matters_to_nobody_but_its_guest(tmp_path: Path) -> None:
    with (
        host(tmp_path, "vm1"),
        listen_privately(f"ipc://{tmp_path}/vm2.77.sock"),
        listen_privately(f"ipc://{tmp_path}/vm1.78.sock"),
        connect(f"ipc://{tmp_path}", timeout=MUTE_S) as machine,
    ):
        assert machine.guest("vm1").last_status.role == "active"
        with pytest.raises(MuteHost, match="guest 'vm2'"):
            machine.guest("vm2")
        with pytest.raises(ConfigError, match=r"say which guest: there are 'vm1'; process .* does not answer"):
            machine.guest()


def test_a_host_that_ends_in_the_midst_is_told_of(tmp_path: Path) -> None:
    with host(tmp_path, "vm1") as protection, connect(f"ipc://{tmp_path}/vm1.sock") as machine:
        handle = machine.guest()
        protection.close()

        with pytest.raises(BrokenError):
            handle.status()
        with pytest.raises(ClosedError):
            handle.status()


def test_a_control_socket_that_cannot_be_made_starts_nothing(tmp_path: Path) -> None:
    taken = ControlSocket(f"ipc://{tmp_path}/vm1.sock")

    with pytest.raises(TransportError, match="another process listens"):
        host(tmp_path, "vm1")
    taken.close()


def test_a_status_survives_the_journey() -> None:
    with protect(
        guest(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True, guest_id="vm"
    ) as protection:
        status = protection.status()

    assert Status.from_dict(status.as_dict()) == status


@pytest.mark.parametrize("told", [None, [], {}, {"role": "active"}])
def test_what_is_no_status_is_refused(told: object) -> None:
    with pytest.raises(RemoteProtocolError, match="is not a status"):
        Status.from_dict(told)


@pytest.mark.parametrize("nested", ["pause_us", "pauses"])
def test_a_status_with_a_nested_field_missing_is_refused(nested: str) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        Status.from_dict({**STATUS.as_dict(), nested: {}})


def test_a_later_releases_status_is_read_and_what_is_new_in_it_ignored() -> None:
    told = json.loads(json.dumps(STATUS.as_dict()))
    for new in (told, told["pause_us"], told["pauses"]):
        new["what_a_later_release_tells"] = [1, {"more": None}]

    assert Status.from_dict(told) == STATUS


def test_an_earlier_releases_status_is_read_with_defaults_for_what_is_new_here() -> None:
    later = LaterStatus.from_dict(STATUS.as_dict())

    assert (later.memory_bytes, later.epoch) == (0, STATUS.epoch)


def test_who_speaks_version_1_is_told_the_fields_that_he_knows_and_no_others() -> None:
    later = LaterStatus.from_dict({**STATUS.as_dict(), "memory_bytes": 7})

    assert later.told_in(1) == {name: value for name, value in later.as_dict().items() if name in FIRST_FIELDS}
    assert later.told_in(2)["memory_bytes"] == 7


def test_every_field_that_is_newer_than_the_first_release_has_a_default() -> None:
    added = [known for known in fields(Status) if known.name not in FIRST_FIELDS]

    assert [known.name for known in added if known.default is MISSING and known.default_factory is MISSING] == []


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"error": {"type": "ConfigError", "message": "m"}}, ConfigError, "m"),
        ({"error": {"type": "LimitExceeded", "message": "m"}}, BrokenError, "LimitExceeded: m"),
        ({"error": {"type": "SystemExit", "message": "m"}}, BrokenError, "SystemExit: m"),
        ({"error": 7}, RemoteProtocolError, "neither a result nor an error"),
        ([], RemoteProtocolError, "neither"),
    ],
)
def test_an_error_arrives_as_the_class_it_was(answer: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse_answer(json_line(answer))


def test_a_socket_path_that_is_a_plain_file_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(TransportError, match="no host answers"):
        connect(f"ipc://{tmp_path}/file")


def test_the_socket_of_a_killed_host_is_cleared_away_by_who_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it stayed until another host started."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "ftvm").mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / "ftvm" / f"vm1.{dead.pid}.sock"
    listen_privately(f"ipc://{left}").close()

    with connect() as machine:
        assert machine.guests() == []

    assert not left.exists()
