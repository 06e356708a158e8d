"""The one module that owns threads and waiting: the loop that steps an endpoint, the arbiter's worker, the heart.

The loop's thread is the only one that touches transport, drivers and worlds, but for the heart's, which repeats
heartbeats while the loop is busy with one step (pulse.py). Other threads talk to it through `call`, which runs a
function there and waits for its result. An error that nobody expected stops the loop: the guest is paused, because a
host in an unknown state must not go on (fail-stop), and `wait` raises what happened.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final, Generic, TypeVar

from ftvm.arbiters.obstacle import obstacle_of
from ftvm.errors import (
    ArbiterError,
    ClosedError,
    FtvmError,
    InternalError,
    LimitExceeded,
    LocalProtocolError,
    NotApplied,
)
from ftvm.interfaces import Answer, Clock, CompareAndSet, Read, Record, RecordStore, Request, Transport
from ftvm.protocol.record import known_place
from ftvm.protocol.stop import LIMIT_NS
from ftvm.runtime.descriptors import SpareDescriptors, is_table_full
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.lateness import Lateness
from ftvm.runtime.services import LOOK_NS, HostServices
from ftvm.runtime.urgency import make_urgent
from ftvm.runtime.waiting import GuestWait
from ftvm.units import Nanos, nanos_to_seconds

__all__ = ["CALL_SECONDS", "LAST_REQUEST_SECONDS", "ArbiterWorker", "Host", "Repeater", "Signal"]

_CALLS_WAITING_MAX: Final = 1024

_SPARE_DESCRIPTORS: Final = 16
"""A store needs one or two; while the table is full, whoever waits for one takes what is given back, too."""

_STOP_SECONDS: Final = 2 * nanos_to_seconds(LIMIT_NS)
"""The loop ends well within: a stop is over by then, in order or not."""

CALL_SECONDS: Final = 150.0
"""The loop answers within, however slow its guest is: a state, then a bitmap, may each take a monitor a minute."""

FIRST_PLACE_SECONDS: Final = 1.0
"""How long a host waits for its arbiter before it asks to join without having heard of it."""

LAST_REQUEST_SECONDS: Final = 5.0
"""How long a host that ends waits for its last request to the arbiter."""

T = TypeVar("T")


class ArbiterWorker:
    """An Arbiter made from a RecordStore that may block: a separate thread makes the calls, one at a time."""

    def __init__(self, store: RecordStore, guest_id: str, wake: Callable[[], None]) -> None:
        self._store = store
        self._guest_id = guest_id
        self._wake = wake
        self._requests: queue.SimpleQueue[Request | queue.SimpleQueue[Answer] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._is_busy = False
        self._spare = SpareDescriptors(_SPARE_DESCRIPTORS)
        self._thread = threading.Thread(target=self._work, name=f"ftvm-arbiter-{guest_id}", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Start a request. Raises LocalProtocolError if one is outstanding."""
        if self._is_busy:
            raise LocalProtocolError("one request to the arbiter is outstanding already")
        self._is_busy = True
        self._requests.put(request)

    def first_place(self) -> str | None:
        """Return the place of the records, "" if the guest has none; None if that is not known within a while.

        To be called once, before the first request.
        """
        first: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._requests.put(first)
        try:
            return known_place(first.get(timeout=FIRST_PLACE_SECONDS))
        except queue.Empty:
            return None

    def poll(self) -> Answer | None:
        """Return the answer if it has come."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self._is_busy = False
        return answer

    def close(self, timeout: float = LAST_REQUEST_SECONDS) -> None:
        """End the thread; a call that hangs in the store ends with the process."""
        self._requests.put(None)
        self._thread.join(timeout)
        self._store.close()
        self._spare.close()

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            if isinstance(request, queue.SimpleQueue):
                request.put(self._ask(Read()))
                continue
            self._answers.put(self._ask(request))
            self._wake()

    def _ask(self, request: Request) -> Answer:
        try:
            record = self._decide(request)
            return Answer(request, record, self._obstacle(request), place=self._store.place_id(self._guest_id))
        except ArbiterError as wrong:
            return Answer(request, None, str(wrong), is_unapplied=isinstance(wrong, NotApplied))
        except Exception as wrong:  # noqa: BLE001 - a store that breaks its contract must not end this thread in silence
            return Answer(request, None, f"the record store broke: {wrong!r}")

    def _obstacle(self, request: Request) -> str | None:
        """Return why no record could be written, though one was read. What breaks here refuses no read."""
        try:
            return obstacle_of(self._store) if isinstance(request, Read) else None
        except Exception as wrong:  # noqa: BLE001 - as above
            return f"the record store broke: {wrong!r}"

    def _decide(self, request: Request) -> Record:
        """Ask the store; once more, with the spare descriptors given back, if it found none left."""
        try:
            return self._call(request)
        except ArbiterError as wrong:
            if not is_table_full(wrong):
                raise
            self._spare.refill()
            with self._spare.given_back():
                return self._call(request)

    def _call(self, request: Request) -> Record:
        if isinstance(request, CompareAndSet):
            return self._store.compare_and_set(self._guest_id, request.record)
        return self._store.read(self._guest_id)


class LoopCall(Generic[T]):
    """A function that the loop is to run, and what came of it."""

    def __init__(self, function: Callable[[], T], *, only_looks: bool) -> None:
        self.function = function
        self.only_looks = only_looks
        self.is_done = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as wrong:  # noqa: BLE001 - it is raised again in the thread that asked
            self.error = wrong
        self.is_done.set()


class Repeater:
    """Calls a function again and again from a separate thread, until it returns False or raises, or `stop`."""

    def __init__(
        self, function: Callable[[], bool], seconds: Callable[[], float], name: str, *, is_urgent: bool = False
    ) -> None:
        """Wait for as many seconds before each call as `seconds` says then. `is_urgent` is as for a Host."""
        self._function = function
        self._seconds = seconds
        self._is_urgent = is_urgent
        self._error: BaseException | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def stop(self) -> None:
        """End it, once the call that runs is over. Raises what the function raised, as an FtvmError. Idempotent."""
        self._is_over.set()
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise _named(error)

    def _run(self) -> None:
        try:
            if self._is_urgent:
                make_urgent()
            while not self._is_over.wait(self._seconds()) and self._function():
                pass
        except BaseException as wrong:  # noqa: BLE001 - `stop` raises it
            self._error = wrong


class Host:
    """Runs an endpoint in a thread until it is told to stop, or something breaks."""

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        clock: Clock,
        services: HostServices | None = None,
        on_end: Callable[[], None] = lambda: None,
        *,
        wait: GuestWait | None = None,
        is_urgent: bool = False,
    ) -> None:
        """Call `on_end` from the loop's thread when the loop is over, for whatever reason.

        wait  what a call of the guest waits for; told to whom it serves meanwhile

        With `is_urgent` the threads of loop and heart get real-time priority, where allowed (urgency.py).
        """
        self.error: FtvmError | None = None
        self._endpoint = endpoint
        self._transport = transport
        self._clock = clock
        self._services = services or HostServices()
        self._on_end = on_end
        self._is_urgent = is_urgent
        self._guest_wait = wait or GuestWait(clock, lambda _: None)
        self._is_serving = False
        self._ready: Collection[int] | None = None
        self._calls: deque[LoopCall[Any]] = deque()
        self._is_stopping = False
        self._ended = threading.Event()
        self.lateness = Lateness()
        self._heart = Repeater(
            self._beat, lambda: endpoint.beats_in(clock.now()) / 1e9, "ftvm-heart", is_urgent=is_urgent
        )
        transport.share(threading.Lock())
        self._thread = threading.Thread(target=self._run, name="ftvm-host", daemon=True)
        self._guest_wait.begin(lambda: threading.current_thread() is self._thread, self._attend)

    def start(self) -> None:
        """Start the loop."""
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the loop is over."""
        return self._ended.is_set()

    def call(self, function: Callable[[], T], timeout: float = CALL_SECONDS, *, only_looks: bool = False) -> T:
        """Run `function` in the loop's thread, between two steps, and return what it returns or raise what it
        raises. One that `only_looks` is run in the midst of a step, too, while that waits for the guest."""
        asked = self.later(function, only_looks=only_looks)
        if not asked.is_done.wait(timeout):
            raise InternalError(f"the host's loop has not answered for {timeout} s")
        if asked.error is not None:
            raise asked.error
        return asked.result  # type: ignore[return-value]

    def later(self, function: Callable[[], T], *, only_looks: bool = False) -> LoopCall[T]:
        """Have `function` run as by `call`, and do not wait for that."""
        if self.has_ended:
            raise ClosedError("the host has stopped")
        asked: LoopCall[T] = LoopCall(function, only_looks=only_looks)
        if len(self._calls) >= _CALLS_WAITING_MAX:
            raise LimitExceeded(
                "calls waiting for the host's loop", limit=_CALLS_WAITING_MAX, wanted=len(self._calls) + 1
            )
        self._calls.append(asked)
        self._transport.wake()
        return asked

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """End the loop, once no host is leaving, and wait for that. Idempotent. Raises InternalError if it goes on."""
        self._is_stopping = True
        self._transport.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise InternalError(f"the host's loop has not ended within {timeout:g} s")

    def _run(self) -> None:
        if self._is_urgent:
            make_urgent()
        self._heart.start()
        due, now = None, self._clock.now()
        try:
            while not self._is_stopping or self._endpoint.is_leaving:
                if self._calls:
                    self._answer_calls()
                asked_at, now = now, self._clock.now()
                self.lateness.note(due, asked_at, now)
                due = self._endpoint.step(now, self._ready)
                self._guest_wait.over()
                other = self._serve(now, self._ready)
                due = other if due is None or (other is not None and other < due) else due
                self._ready = self._wait(due)
        except BaseException as wrong:  # noqa: BLE001 - fail-stop: whatever it was, the guest must not run on
            self.error = _named(wrong)
            self._endpoint.halt(self.error)
        finally:
            try:
                self._heart.stop()
            except FtvmError as wrong:
                self.error = self.error or wrong
            self._ended.set()
            self._answer_calls()
            self._on_end()

    def _serve(self, now: Nanos, ready: Collection[int] | None) -> Nanos | None:
        if self._is_serving:
            return None  # it is a service that made the guest wait
        self._is_serving = True
        try:
            return self._services.step(now, ready)
        finally:
            self._is_serving = False

    def _attend(self) -> None:
        """Serve who only looks, and operators, in the midst of a step."""
        for _ in range(len(self._calls)):
            asked = self._calls.popleft()
            if asked.only_looks:
                asked.run()
            else:
                self._calls.append(asked)
        self._serve(self._clock.now(), None)

    def _beat(self) -> bool:
        self._endpoint.beat(self._clock.now())
        return True

    def _wait(self, due: Nanos | None) -> Collection[int] | None:
        """Wait until something comes or is due; return which descriptors are readable, None without a look at them."""
        left_ns = LOOK_NS if due is None else min(due - self._clock.now(), LOOK_NS)
        if left_ns <= 0 or self._calls:
            return None
        return self._transport.wait(left_ns, (*self._endpoint.fds(), *self._services.fds))

    def _answer_calls(self) -> None:
        for _ in range(len(self._calls)):
            self._calls.popleft().run()


def _named(wrong: BaseException) -> FtvmError:
    """Return the error itself if it is ours, else one that says that it was not expected."""
    if isinstance(wrong, FtvmError):
        return wrong
    error = InternalError(f"the host's loop broke: {wrong!r}")
    error.__cause__ = wrong
    return error


class Signal:
    """Lets one thread wait until another says that something has changed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    def notify(self) -> None:
        """Wake all who wait."""
        with self._condition:
            self._condition.notify_all()

    def wait_for(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `is_true`, for at most `timeout` seconds; return whether it is."""
        with self._condition:
            return self._condition.wait_for(is_true, timeout)
