"""The loop and its threads: calls are answered, errors stop the guest, nothing is left behind."""

import errno
import threading
from collections.abc import Callable, Collection, Iterator

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.config import Limits
from ftvm.errors import ArbiterError, ClosedError, ConfigError, FtvmError, InternalError, LocalProtocolError, NotApplied
from ftvm.guests.qemu import qmp
from ftvm.guests.vmm import link
from ftvm.interfaces import Answer, CompareAndSet, Read, Record
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.host import CALL_SECONDS, ArbiterWorker, Host, Repeater, Signal
from ftvm.transport.memory import MemoryNetwork
from ftvm.units import Nanos

WAIT_SECONDS = 20.0


PLACE = "0" * 32


class BreakableEndpoint(Endpoint):
    """An endpoint whose next step raises what a test says."""

    error: BaseException | None = None
    halted: FtvmError | None = None
    beats = 0
    is_beaten_thrice = threading.Event()

    def beat(self, now: Nanos) -> None:
        self.beats += 1
        if self.beats >= 3:
            self.is_beaten_thrice.set()
        super().beat(now)

    def step(self, now: Nanos, ready: Collection[int] | None = None) -> Nanos | None:
        if self.error is not None:
            raise self.error
        return super().step(now, ready)

    def halt(self, error: FtvmError) -> None:
        self.halted = error
        super().halt(error)


@pytest.fixture
def make_host() -> Iterator[Callable[[], tuple[Host, BreakableEndpoint]]]:
    hosts: list[Host] = []
    transports = []

    def make() -> tuple[Host, BreakableEndpoint]:
        transport = MemoryNetwork().transport("here")
        endpoint = BreakableEndpoint(transport, Limits(), lambda event: None)  # noqa: ARG005
        host = Host(endpoint, transport, MonotonicClock())
        hosts.append(host)
        transports.append(transport)
        host.start()
        return host, endpoint

    yield make
    for host, transport in zip(hosts, transports, strict=True):
        host.stop()
        transport.close()


def wait_ended(host: Host) -> None:
    assert host._ended.wait(WAIT_SECONDS)


def test_a_call_runs_in_the_loops_thread_and_returns_its_result(make_host: Callable[[], tuple[Host, object]]) -> None:
    host, _ = make_host()

    assert host.call(lambda: threading.current_thread().name) == "ftvm-host"


def test_the_heart_beats_while_the_loop_is_busy_and_ends_with_it(
    make_host: Callable[[], tuple[Host, BreakableEndpoint]],
) -> None:
    host, endpoint = make_host()
    endpoint.is_beaten_thrice = threading.Event()

    is_beaten = host.call(lambda: endpoint.is_beaten_thrice.wait(WAIT_SECONDS))
    host.stop()

    assert is_beaten
    assert not [thread for thread in threading.enumerate() if thread is host._heart._thread]


def test_what_breaks_the_heart_is_told_when_the_host_ends(
    make_host: Callable[[], tuple[Host, BreakableEndpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, endpoint = make_host()
    is_broken = threading.Event()

    def broken(_: Nanos) -> None:
        is_broken.set()
        raise KeyError("surprise")

    monkeypatch.setattr(endpoint, "beat", broken)
    assert is_broken.wait(WAIT_SECONDS)
    host.stop()

    assert "surprise" in str(host.error)


def test_a_call_raises_what_it_raised_and_the_loop_goes_on(make_host: Callable[[], tuple[Host, object]]) -> None:
    host, _ = make_host()

    def wrong() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        host.call(wrong)

    assert host.call(lambda: 7) == 7


def test_a_call_to_a_host_that_has_stopped_is_refused(make_host: Callable[[], tuple[Host, object]]) -> None:
    host, _ = make_host()
    host.stop()

    with pytest.raises(ClosedError):
        host.call(lambda: 7)


def test_an_unexpected_error_halts_the_guest_and_is_kept_as_our_bug(
    make_host: Callable[[], tuple[Host, BreakableEndpoint]],
) -> None:
    host, endpoint = make_host()
    wrong = ZeroDivisionError("oh")

    endpoint.error = wrong
    wait_ended(host)

    assert isinstance(host.error, InternalError)
    assert host.error.__cause__ is wrong
    assert endpoint.halted is not None


def test_a_named_error_halts_the_guest_and_is_kept_as_it_is(
    make_host: Callable[[], tuple[Host, BreakableEndpoint]],
) -> None:
    host, endpoint = make_host()
    wrong = ArbiterError("gone")

    endpoint.error = wrong
    wait_ended(host)

    assert host.error is wrong
    assert endpoint.halted is wrong


def test_a_loop_that_does_not_end_is_no_end(make_host: Callable[[], tuple[Host, object]]) -> None:
    """Regression: whoever stopped the host went on as if the loop had ended, and told nobody."""
    host, _ = make_host()
    has_come, may_go = threading.Event(), threading.Event()

    def hang() -> None:
        has_come.set()
        may_go.wait()

    asking = threading.Thread(target=host.call, args=(hang,))
    asking.start()
    assert has_come.wait(WAIT_SECONDS)

    with pytest.raises(InternalError, match="the host's loop has not ended within 0 s"):
        host.stop(0.0)

    may_go.set()
    asking.join()


def test_stopping_twice_is_stopping_once(make_host: Callable[[], tuple[Host, object]]) -> None:
    host, _ = make_host()

    host.stop()
    host.stop()

    assert host.has_ended
    assert host.error is None


def test_a_signal_wakes_who_waits() -> None:
    signal, seen = Signal(), threading.Event()
    waiter = threading.Thread(target=lambda: signal.wait_for(seen.is_set, WAIT_SECONDS))
    waiter.start()

    seen.set()
    signal.notify()
    waiter.join(WAIT_SECONDS)

    assert not waiter.is_alive()


# --- the arbiter's worker ------------------------------------------------------------------------------------------


class ShakyStore(MemoryRecordStore):
    """A record store that fails when told to."""

    is_down = False

    def place_id(self, guest_id: str) -> str | None:
        return PLACE if guest_id else None

    def read(self, guest_id: str) -> Record:
        if self.is_down:
            raise ArbiterError("cannot be reached")
        return super().read(guest_id)


@pytest.fixture
def worker() -> Iterator[tuple[ArbiterWorker, ShakyStore, threading.Event]]:
    store, woken = ShakyStore(), threading.Event()
    worker = ArbiterWorker(store, "vm", woken.set)
    yield worker, store, woken
    worker.close()


def answer_of(worker: ArbiterWorker, woken: threading.Event) -> Answer | None:
    assert woken.wait(WAIT_SECONDS)
    woken.clear()
    return worker.poll()


def test_the_worker_asks_the_store_and_wakes_the_loop(
    worker: tuple[ArbiterWorker, ShakyStore, threading.Event],
) -> None:
    asked, _, woken = worker
    record = Record(1, "x", None)

    asked.submit(CompareAndSet(record))
    first = answer_of(asked, woken)
    asked.submit(Read())
    second = answer_of(asked, woken)

    assert first == Answer(CompareAndSet(record), record, None, place=PLACE)
    assert second == Answer(Read(), record, None, place=PLACE)
    assert asked.poll() is None


def test_an_arbiter_that_fails_is_an_answer_not_an_end(
    worker: tuple[ArbiterWorker, ShakyStore, threading.Event],
) -> None:
    asked, store, woken = worker
    store.is_down = True

    asked.submit(Read())
    failed = answer_of(asked, woken)
    store.is_down = False
    asked.submit(Read())

    assert failed == Answer(Read(), None, "cannot be reached")
    assert answer_of(asked, woken) == Answer(Read(), Record(0, None, None), None, place=PLACE)


class Unwritable(ShakyStore):
    """A record store that can be read alone, or breaks as it is asked whether it could be written."""

    wrong: Exception | None = None

    def obstacle(self) -> str | None:
        if self.wrong is not None:
            raise self.wrong
        return "the disk is full"


@pytest.mark.parametrize(
    ("wrong", "told"), [(None, "the disk is full"), (OSError("odd"), "the record store broke: OSError('odd')")]
)
def test_why_nothing_could_be_written_comes_beside_the_record_and_refuses_no_read(
    wrong: Exception | None, told: str
) -> None:
    store, woken = Unwritable(), threading.Event()
    store.wrong = wrong
    asked = ArbiterWorker(store, "vm", woken.set)

    asked.submit(Read())
    read = answer_of(asked, woken)
    asked.submit(CompareAndSet(Record(1, "x", None)))
    written = answer_of(asked, woken)
    asked.close()

    assert read == Answer(Read(), Record(0, None, None), told, place=PLACE)
    assert written == Answer(CompareAndSet(Record(1, "x", None)), Record(1, "x", None), None, place=PLACE)


@pytest.mark.parametrize(("kind", "is_unapplied"), [(ArbiterError, False), (NotApplied, True)])
def test_only_a_store_that_says_so_makes_it_certain_that_nothing_was_applied(
    worker: tuple[ArbiterWorker, ShakyStore, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ArbiterError],
    is_unapplied: bool,
) -> None:
    asked, store, woken = worker
    request = CompareAndSet(Record(1, "x", None))

    def fail(*_: object) -> Record:
        raise kind("the disk is full")

    monkeypatch.setattr(store, "compare_and_set", fail)

    asked.submit(request)

    assert answer_of(asked, woken) == Answer(request, None, "the disk is full", is_unapplied=is_unapplied)


def test_an_error_that_nobody_expected_of_the_store_is_an_answer_too(
    worker: tuple[ArbiterWorker, ShakyStore, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it ended the worker's thread, and the host waited for an answer for ever."""
    asked, store, woken = worker

    def wrong(guest_id: str) -> Record:
        raise ZeroDivisionError(guest_id)

    monkeypatch.setattr(store, "read", wrong)
    asked.submit(Read())

    answer = answer_of(asked, woken)

    assert answer is not None
    assert answer.error is not None
    assert "ZeroDivisionError" in answer.error


def test_a_store_that_finds_no_descriptor_left_is_asked_again_with_some_given_back(
    worker: tuple[ArbiterWorker, ShakyStore, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of connections fills the table; the answer decides who runs the guest."""
    arbiter, store, woken = worker
    held: list[int] = []

    def read(guest_id: str) -> Record:
        held.append(len(arbiter._spare._held))
        if held[-1]:
            raise ArbiterError("no descriptor") from OSError(errno.EMFILE, "too many open files")
        return Record(3, guest_id, None)

    monkeypatch.setattr(store, "read", read)

    arbiter.submit(Read())

    assert answer_of(arbiter, woken) == Answer(Read(), Record(3, "vm", None), None, place=PLACE)
    assert held == [16, 0]
    assert arbiter._spare.is_full


def test_one_request_is_outstanding_at_a_time(worker: tuple[ArbiterWorker, ShakyStore, threading.Event]) -> None:
    asked, _, _ = worker
    asked.submit(Read())

    with pytest.raises(LocalProtocolError):
        asked.submit(Read())


def test_a_closed_worker_has_no_thread() -> None:
    before = set(threading.enumerate())
    worker = ArbiterWorker(MemoryRecordStore(), "vm", lambda: None)

    worker.close()

    assert set(threading.enumerate()) <= before


def test_a_repeater_calls_until_it_is_told_that_there_is_no_more() -> None:
    left = [3]

    def call() -> bool:
        left[0] -= 1
        return left[0] > 0

    repeater = Repeater(call, lambda: 0.001, "test-repeater")
    repeater.start()
    repeater._thread.join(30)
    repeater.stop()

    assert left == [0]


def test_what_a_repeated_call_raises_is_raised_by_stop_once() -> None:
    def call() -> bool:
        raise KeyError("surprise")

    repeater = Repeater(call, lambda: 0.001, "test-repeater")
    repeater.start()
    repeater._thread.join(30)

    with pytest.raises(InternalError, match="surprise"):
        repeater.stop()
    repeater.stop()


def test_a_host_outwaits_the_slowest_answers_of_its_guest_before_it_takes_its_loop_for_broken() -> None:
    slowest = max(link.ANSWER_SECONDS, qmp.ANSWER_SECONDS)

    assert 2 * slowest < CALL_SECONDS, "its state, then what it wrote: a lone guest goes on behind both"
