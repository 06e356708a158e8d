"""What an operator orders from afar: a handover, another engine, that a host leaves, that a guest ends."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import cast

import pytest

from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.errors import ClosedError, ConfigError, GuestEnded, LocalProtocolError, SwitchoverFailed
from ftvm.protocol.session import Switchover
from ftvm.runtime import node
from ftvm.runtime.driver import Driver
from ftvm.runtime.protection import Protection, Standby
from ftvm.service.connection import Connection, connect
from ftvm.units import Nanos

from .hosts import WAIT_SECONDS, host, pair, serve_two

two_guests = pytest.fixture(serve_two)


def test_an_operator_hands_a_guest_over_and_back(tmp_path: Path) -> None:
    with pair(tmp_path) as (active, standby), connect(f"ipc://{tmp_path}") as machine:
        first = machine.guest("vm1")
        first.switchover(WAIT_SECONDS)
        assert standby.wait(WAIT_SECONDS) is not None
        second = machine.guest("vm1")

        assert (first.status().role, second.last_status.role) == ("standby", "active")
        assert second.path != first.path
        second.switchover(WAIT_SECONDS)
        assert second.last_status.role == "standby"
        assert active.status().generation == second.last_status.generation


def test_an_operator_changes_the_engine_and_its_interval(tmp_path: Path) -> None:
    with pair(tmp_path) as (active, standby), connect(f"ipc://{tmp_path}") as machine:
        handle = machine.guest("vm1")
        handle.set_engine("kemari", interval=0.05)
        assert handle.last_status.engine == "kemari"
        handle.set_engine(interval=0.01, group=0.002)
        grouped = handle.last_status.engine_settings
        handle.set_engine("kemari")

        assert grouped == "interval 10 ms, group commit 2 ms"
        assert active._node.driver.engines == (Kemari(0.01), Kemari(0.01))
        assert active._node.driver.settings.engine == Remus()
        assert handle.status().is_protected
        assert standby.status().role == "standby"


def test_an_engine_that_cannot_be_is_refused_and_nothing_changes(two_guests: Connection) -> None:
    handle = two_guests.guest("vm1")

    with pytest.raises(ConfigError, match="unknown engine 'warp'"):
        handle.set_engine("warp")
    with pytest.raises(ConfigError, match="engine kemari takes no latency target"):
        handle.set_engine("kemari", latency=0.005)
    with pytest.raises(ConfigError, match="engine remus has no group commit"):
        handle.set_engine(group=0.001)
    with pytest.raises(ConfigError, match=r"engine Kemari\(.*\): give its name here"):
        handle.set_engine(cast("str", Kemari()))

    assert handle.status().engine == "remus"


def test_an_engine_is_set_where_the_guest_runs(tmp_path: Path) -> None:
    with (
        pair(tmp_path),
        connect(f"ipc://{tmp_path}/b.sock") as machine,
        pytest.raises(LocalProtocolError, match="the engine is set where the guest runs"),
    ):
        machine.guest().set_engine("kemari")


def test_a_guest_without_a_standby_cannot_be_handed_over(two_guests: Connection) -> None:
    with pytest.raises(LocalProtocolError):
        two_guests.guest("vm1").switchover()


def test_a_switchover_that_the_arbiter_leaves_open_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the host was said not to answer, though it answered everything else."""
    proposed = Switchover(asked_at=Nanos(0), fresh_at=0, warm_epoch=0, ends_at=Nanos(0))
    monkeypatch.setattr(Driver, "begin_switchover", lambda _, __: proposed)
    monkeypatch.setattr(node, "ANSWER_SECONDS", 0.1)

    with (
        host(tmp_path, "vm1"),
        connect(f"ipc://{tmp_path}") as machine,
        pytest.raises(SwitchoverFailed, match="is proposed and the arbiter has not answered here"),
    ):
        machine.guest("vm1").switchover(0.1)


def end_in_order(*hosts: Protection | Standby) -> list[Thread]:
    """End each host in order, in a separate thread, once it must end, as `ftvm run` and `ftvm standby` do."""

    def run(host: Protection | Standby) -> None:
        with suppress(ClosedError, GuestEnded):
            while host.wait(WAIT_SECONDS) is not None:
                host.check()
        host.close()

    threads = [Thread(target=run, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    return threads


def test_a_host_that_leaves_has_its_guest_go_on_at_the_standby(tmp_path: Path) -> None:
    with pair(tmp_path) as (active, standby), connect(f"ipc://{tmp_path}/a.sock") as machine:
        (ending,) = end_in_order(active)

        told = machine.guest().leave()
        ending.join(WAIT_SECONDS)

        assert told["is_in_order"]
        assert standby.wait(WAIT_SECONDS) is not None


def test_a_host_whose_guest_could_not_go_on_elsewhere_does_not_leave(tmp_path: Path) -> None:
    """Regression: the order to stop an unprotected host ended the guest without a word."""
    with host(tmp_path, "vm1") as protection, connect(f"ipc://{tmp_path}") as machine:
        with pytest.raises(LocalProtocolError, match=r"no standby has joined\. To end it .*`ftvm stop vm1`"):
            machine.guest("vm1").leave()

        assert protection.status().role == "active"


def test_a_host_that_cannot_leave_as_no_arbiter_answers_does_not_advise_to_end_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it named `ftvm stop`, which is refused for the same reason."""
    with host(tmp_path, "vm1"), connect(f"ipc://{tmp_path}") as machine:
        guest = machine.guest("vm1")
        silent = replace(guest.last_status, arbiter_error="the arbiter cannot be used: no route")
        monkeypatch.setattr(guest, "status", lambda: silent)

        with pytest.raises(LocalProtocolError, match="no route") as refused:
            guest.leave()

        assert "Make the arbiter reachable, then try again" in str(refused.value)
        assert "ftvm stop" not in str(refused.value)


def test_a_host_whose_standby_has_no_arbiter_does_not_leave(tmp_path: Path) -> None:
    """Regression: it left, and the guest ran nowhere."""
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    link.symlink_to(shared)
    with (
        pair(tmp_path, (f"file://{shared}", f"file://{link}")) as (active, standby),
        connect(f"ipc://{tmp_path}/a.sock") as machine,
    ):
        link.unlink()
        assert standby._node.wait_for(lambda: standby.status().arbiter_error is not None, WAIT_SECONDS)

        with pytest.raises(LocalProtocolError, match="on its side the arbiter has not answered") as refused:
            machine.guest().leave()

        assert "Correct that, then try again" in str(refused.value)
        assert active.status().role == "active"


def test_a_guest_that_is_ended_goes_on_nowhere_and_leaves_a_vacant_record(tmp_path: Path) -> None:
    with pair(tmp_path) as (active, standby), connect(f"ipc://{tmp_path}/a.sock") as machine:
        threads = end_in_order(active, standby)

        told = machine.guest().end()
        for thread in threads:
            thread.join(WAIT_SECONDS)

        assert told["is_in_order"]
        assert told["outcome"].startswith("the guest has ended here, and the record is vacant")
        with pytest.raises(GuestEnded, match="an operator ended the guest"):
            standby.check()


def test_a_guest_is_not_ended_while_the_record_could_not_be_vacated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it ended, and left a record that named both its hosts."""
    with host(tmp_path, "vm1") as protection, connect(f"ipc://{tmp_path}") as machine:
        guest = machine.guest("vm1")
        silent = replace(guest.last_status, arbiter_error="the arbiter cannot be used: no route")
        monkeypatch.setattr(guest, "status", lambda: silent)

        with pytest.raises(LocalProtocolError, match="was not ended: the arbiter cannot be used: no route"):
            guest.end()

        assert protection.status().role == "active"


def test_a_remedy_quotes_the_guests_name_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with host(tmp_path, "vm1"), connect(f"ipc://{tmp_path}") as machine:
        guest = machine.guest()
        monkeypatch.setattr(type(guest), "id", "vm 1/x")
        monkeypatch.setattr(guest, "status", lambda: guest.last_status)

        with pytest.raises(LocalProtocolError, match="use `ftvm stop 'vm 1/x'`"):
            guest.leave()


def test_a_guest_is_ended_only_where_it_runs(tmp_path: Path) -> None:
    with pair(tmp_path) as (active, _), connect(f"ipc://{tmp_path}/b.sock") as machine:
        with pytest.raises(LocalProtocolError, match="end it where it runs"):
            machine.guest().end()

        assert active.status().state == "protected"
