"""Signals end a command as documented, from its first moment on."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Self, cast
from unittest.mock import MagicMock

import pytest

import ftvm.__main__ as way_in
from ftvm.cli import hostrun
from ftvm.cli.report import Report
from ftvm.cli.settings import HostSettings
from ftvm.cli.signals import Stopped, note_signals, on_second_signal, stop_on_signals, stop_wanted
from ftvm.events import ArbiterTrouble, Event, RoleChanged
from ftvm.runtime.protection import HostHandle
from ftvm.units import Nanos

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_while_the_command_still_loads_ends_it_as_documented(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: Ctrl-C in the first moments was a traceback, or "Aborted!" and status 1."""
    monkeypatch.setattr(way_in, "import_module", lambda _: signal.raise_signal(number))

    with pytest.raises(SystemExit) as ended:
        way_in.main()

    assert ended.value.code == 130


def test_a_second_signal_does_not_break_the_clean_up() -> None:
    stop_on_signals()
    with pytest.raises(Stopped, match="SIGHUP"):
        signal.raise_signal(signal.SIGHUP)

    for number in ENDING:
        signal.raise_signal(number)

    assert {signal.getsignal(number) for number in ENDING} == {signal.SIG_IGN}


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    stop_on_signals()
    signal.raise_signal(signal.SIGHUP)

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_behind_the_end_of_a_command_changes_nothing(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: Python gave signals their default action at its end, and status was -15 in place of 0."""
    monkeypatch.setattr(way_in, "import_module", lambda _: SimpleNamespace(main=lambda: sys.exit(0)))

    with pytest.raises(SystemExit) as ended:
        way_in.main()

    assert signal.getsignal(number) is signal.SIG_IGN
    assert ended.value.code == 0


def test_a_signal_that_is_noted_breaks_nothing_off() -> None:
    stop_on_signals()
    note_signals()

    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert stop_wanted() == "SIGTERM"


def test_each_signal_but_the_first_is_a_wish_to_wait_no_longer() -> None:
    hurried: list[bool] = []
    stop_on_signals()
    note_signals()
    on_second_signal(lambda: hurried.append(True))

    signal.raise_signal(signal.SIGTERM)
    assert hurried == []
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert hurried == [True, True]


class FakeHost:
    """A host that runs until it is closed."""

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self.is_closed = False
        if on_event is not None:
            on_event(RoleChanged(at=Nanos(0), guest_id="vm1", role="active", replica_id="a1", reason="started"))
            signal.raise_signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> None:
        return None

    def events(self, _: float = 0.0) -> list[Event]:
        return []

    def check(self) -> None:
        pass

    def hurry(self) -> None:
        raise AssertionError("one signal is no hurry")

    def close(self) -> None:
        self.is_closed = True


class DeafReport:
    def event(self, _: object) -> None:
        pass

    status = event

    def close(self) -> None:
        pass


def test_a_signal_between_a_hosts_start_and_the_return_of_protect_stops_it_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: systemd had been told READY by then, and status 130 was a failed unit to it."""
    hosts: list[FakeHost] = []

    def protect(_guest: object, *, on_event: Callable[[Event], None], **_: object) -> FakeHost:
        hosts.append(FakeHost(on_event))
        return hosts[-1]

    monkeypatch.setattr(hostrun, "protect", protect)
    monkeypatch.setattr(hostrun, "check_settings", lambda _: None)
    monkeypatch.setattr(hostrun, "prepare_process", lambda _: None)
    monkeypatch.setattr(hostrun, "addresses", lambda _: {})
    monkeypatch.setattr(hostrun, "opened", lambda _: nullcontext((None, {})))
    monkeypatch.setattr(hostrun, "make_report", lambda *_: DeafReport())
    stop_on_signals()

    hostrun.run_primary(MagicMock(HostSettings), create=False)

    assert [host.is_closed for host in hosts] == [True]


def test_a_host_that_runs_ends_in_order_when_a_signal_has_come() -> None:
    host = FakeHost()
    stop_on_signals()
    note_signals()
    signal.raise_signal(signal.SIGTERM)

    hostrun.run_until_stopped(cast("HostHandle", host), cast("Report", DeafReport()))

    assert host.is_closed


def test_a_signal_while_a_host_still_waits_for_its_start_breaks_that_off() -> None:
    stop_on_signals()
    hostrun.Doorkeeper().note(ArbiterTrouble(at=Nanos(0), guest_id="vm1", error="it is away"))

    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
