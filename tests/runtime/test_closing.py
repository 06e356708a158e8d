"""A host that ends gives everything back, whatever breaks on the way, and tells all that broke."""

from collections.abc import Sequence

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ArbiterError, BrokenError, InternalError
from ftvm.events import Event
from ftvm.interfaces import Record
from ftvm.protocol import stop
from ftvm.runtime.protection import Protection, protect
from ftvm.runtime.services import Controls, HostService
from ftvm.sim.guest import SimGuest
from ftvm.units import Nanos


class Log:
    """What happened at the end, in order."""

    def __init__(self) -> None:
        self.happened: list[str] = []


class LoggedStore(MemoryRecordStore):
    """Notes a VACATE, or refuses it as a store does whose folder is gone."""

    def __init__(self, log: Log, error: str = "") -> None:
        super().__init__()
        self._log = log
        self._error = error

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if record.active is None:
            self._log.happened.append("vacated")
            if self._error:
                raise ArbiterError(self._error)
        return super().compare_and_set(guest_id, record)


class LoggedGuest(SimGuest):
    def __init__(self, log: Log) -> None:
        super().__init__(page_count=4, pages_per_step=1, output_every=10, boots=True)
        self._log = log

    def close(self) -> None:
        self._log.happened.append("guest closed")
        super().close()


class Visitor:
    """A service whose closing fails, as that of a control socket whose folder was made read-only."""

    name = "visitor"

    def __init__(self, log: Log, error: str = "") -> None:
        self._log = log
        self._error = error

    def begin(self, controls: Controls) -> None:
        del controls

    def fds(self) -> Sequence[int]:
        return ()

    def note(self, event: Event) -> None:
        del event

    def step(self, now: Nanos) -> Nanos | None:
        del now
        return None

    def close(self) -> None:
        self._log.happened.append("service closed")
        if self._error:
            raise PermissionError(self._error)


def host(log: Log, store: LoggedStore, services: Sequence[HostService] = ()) -> Protection:
    return protect(
        LoggedGuest(log),
        listen="tcp://127.0.0.1:0",
        arbiter=store,
        create=True,
        guest_id="vm1",
        services=services,
    )


def test_a_host_that_ends_vacates_the_record_before_all_else() -> None:
    log = Log()
    protection = host(log, LoggedStore(log), [Visitor(log)])

    protection.close()

    assert log.happened == ["vacated", "service closed", "guest closed"]


def test_a_service_that_cannot_be_closed_keeps_nothing_else_from_being_closed() -> None:
    """Regression: the record was not vacated and the guest not closed."""
    log = Log()
    protection = host(log, LoggedStore(log), [Visitor(log), Visitor(log, "read-only")])

    with pytest.raises(BrokenError, match="the visitor could not be closed: PermissionError: read-only"):
        protection.close()

    assert log.happened == ["vacated", "service closed", "service closed", "guest closed"]


@pytest.fixture
def is_hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a stop wait for the arbiter for no longer than a moment."""
    monkeypatch.setattr(stop, "LIMIT_NS", Nanos(300_000_000))


@pytest.mark.usefixtures("is_hasty")
def test_a_record_that_could_not_be_vacated_is_told_of() -> None:
    """Regression: a host whose arbiter was gone ended well, and the next start was fenced."""
    log = Log()
    protection = host(log, LoggedStore(log, "the folder is gone"))

    with pytest.raises(BrokenError) as told:
        protection.close()

    assert "it did not stop cleanly" in str(told.value)
    assert "the arbiter has not answered (the folder is gone)" in str(told.value)
    assert "ftvm init --force" in str(told.value)
    assert set(log.happened[:-1]) == {"vacated"}  # tried again and again
    assert log.happened[-1] == "guest closed"


def test_a_host_whose_loop_does_not_end_leaves_the_record_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its guest may run on: nobody else may start it yet."""
    log = Log()
    protection = host(log, LoggedStore(log))
    loop = protection._node.host

    def hang(*_: object) -> None:
        raise InternalError("the host's loop has not answered for 30 s")

    with monkeypatch.context() as hanging:
        hanging.setattr(loop, "call", hang)
        hanging.setattr(loop, "stop", lambda: None)
        with pytest.raises(InternalError, match="its loop did not take the order to stop"):
            protection.close()

    assert "vacated" not in log.happened
    loop.stop()


@pytest.mark.usefixtures("is_hasty")
def test_all_that_could_not_be_closed_is_told_of() -> None:
    log = Log()
    protection = host(log, LoggedStore(log, "no folder"), [Visitor(log, "read-only"), Visitor(log, "no descriptor")])

    with pytest.raises(BrokenError) as told:
        protection.close()

    assert all(reason in str(told.value) for reason in ("no folder", "read-only", "no descriptor"))


@pytest.mark.usefixtures("is_hasty")
def test_what_ended_a_host_is_not_hidden_by_what_could_not_be_closed() -> None:
    log = Log()

    with pytest.raises(ValueError, match="what went wrong") as told, host(log, LoggedStore(log, "no folder")):
        raise ValueError("what went wrong")

    assert "no folder" in told.value.__notes__[0]


@pytest.mark.usefixtures("is_hasty")
def test_a_host_that_was_closed_badly_is_closed() -> None:
    log = Log()
    protection = host(log, LoggedStore(log, "no folder"))
    with pytest.raises(BrokenError):
        protection.close()

    protection.close()

    assert log.happened.count("guest closed") == 1
