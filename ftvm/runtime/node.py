"""A host with one guest, running: the driver, its loop, the arbiter's worker, and who is served beside it.

Methods under "Controls" (services.py) are for the loop's thread only; the others are for any other thread, and may
wait. What a user sees of it is protection.py.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Final

from ftvm.engines.names import engine_changed
from ftvm.errors import BrokenError, ClosedError, SwitchoverFailed
from ftvm.events import Committed, Event, GuestWarned, HistoryGap, HostStalled
from ftvm.interfaces import Clock, Guest, RecordStore, Transport, World
from ftvm.protocol.core import Settings
from ftvm.runtime.closing import Closing
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.host import ArbiterWorker, Host, Signal
from ftvm.runtime.identity import Identity
from ftvm.runtime.recording import RecorderOf
from ftvm.runtime.services import ANSWER_SECONDS, HostService, HostServices, Pending
from ftvm.runtime.status import Status
from ftvm.runtime.waiting import STOP_WAIT_SECONDS, GuestWait
from ftvm.runtime.world import CallbackWorld
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Node"]

_EVENTS_KEPT: Final = 65_536
_UNANSWERED: Final = (
    "the switchover is proposed and the arbiter has not answered here: until it does the guest does not run here, and "
    "it may run on the other host already"
)


class Node:
    """A host with one guest, running from the moment it is built until `close`, or until it fails."""

    def __init__(
        self,
        guest: Guest,
        *,
        world: World | None,
        transport: Transport,
        store: RecordStore,
        settings: Settings,
        clock: Clock,
        starts: bool,
        on_event: Callable[[Event], None] | None,
        services: Sequence[HostService],
        is_urgent: bool,
        identity: Identity,
        recorder_of: RecorderOf | None = None,
    ) -> None:
        self.identity = identity
        self.changed = Signal()
        self.events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._happened = Signal()
        self._on_event = on_event
        self._guest = guest
        self._world = world if world is not None else CallbackWorld()
        self._transport = transport
        self._is_closed = False
        self._stop_asked: str | None = None
        self.clock = clock
        self._guest_wait = GuestWait(clock, self._tell_wait)
        recorder = None if recorder_of is None else recorder_of(self._tell_gap, clock)
        present = services if recorder is None else (*services, recorder)
        self._services = HostServices(present, lambda event: self.driver.tell(event))  # the status warns of it, too
        self._arbiter = ArbiterWorker(store, settings.guest_id, transport.wake)
        self._endpoint = endpoint = Endpoint(transport, settings.limits, self._note)
        self.driver = Driver(
            guest=guest,
            world=self._world,
            arbiter=self._arbiter,
            settings=settings,
            clock=clock,
            fresh_id=identity.fresh_id,
            starts=starts,
            send=endpoint.sender_for(settings.guest_id),
            wake=transport.wake,
            on_event=self._note,
            observer=recorder,
            place=None if starts else self._arbiter.first_place(),
            may_wait=self._guest_wait.may_wait,
        )
        endpoint.add(self.driver)
        self._services.begin(self, clock.now())
        self.host = Host(
            endpoint, transport, clock, self._services, self._tell_end, wait=self._guest_wait, is_urgent=is_urgent
        )
        self.host.start()

    def _note(self, event: Event) -> None:
        if isinstance(event, HostStalled):
            event = self._guest_wait.explained(event)
        self.events.append(event)
        self._services.note(event)
        if self._on_event is not None:
            self._on_event(event)
        self._happened.notify()
        if not isinstance(event, Committed):  # with each checkpoint: nothing that is waited for changes
            self.changed.notify()

    def _tell_gap(self, reason: str) -> None:
        self.driver.tell(HistoryGap(at=self.clock.now(), guest_id=self.guest_id, reason=reason))

    def _tell_wait(self, reason: str) -> None:
        self.driver.tell(GuestWarned(at=self.clock.now(), guest_id=self.guest_id, reason=reason))

    def _tell_end(self) -> None:
        self._happened.notify()
        self.changed.notify()

    def wait_for(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until something is true; raise what ended the host if it ended before."""

        def is_over() -> bool:
            return is_true() or self.host.has_ended or self.driver.failure is not None or self._stop_asked is not None

        self.changed.wait_for(is_over, timeout)
        if is_true():
            return True
        self.raise_failure()
        return False

    def take_events(self, timeout: float) -> Iterator[Event]:
        """Yield events that have come, waiting for the first."""
        self._happened.wait_for(lambda: bool(self.events) or self.host.has_ended, timeout)
        while self.events:
            yield self.events.popleft()

    def raise_failure(self) -> None:
        """Raise why this host has ended, if it has."""
        if self.host.error is not None:
            raise self.host.error
        if self.driver.failure is not None:
            raise self.driver.failure
        if self._stop_asked is not None:
            raise ClosedError(self._stop_asked)
        if self._is_closed:
            raise ClosedError("this host was closed")

    def status_from_outside(self) -> Status:
        """Return the status; for any thread but the loop's."""
        return self.status() if self.host.has_ended else self.host.call(self.status, only_looks=True)

    def hand_over(self, timeout: float) -> None:
        """See Protection.switchover."""
        is_done = self.host.call(lambda: self.switch_over(seconds_to_nanos(timeout)))

        def is_over() -> bool:
            return is_done() or self.host.has_ended or self.driver.failure is not None

        if not self.changed.wait_for(is_over, timeout + ANSWER_SECONDS):
            raise SwitchoverFailed(_UNANSWERED)
        if not is_done():
            self.raise_failure()

    def close(self) -> None:
        """Stop in order (protocol/stop.py), end the loop, give everything back. Idempotent.

        All of that is tried, whatever fails; then BrokenError says what failed. A stop that is not in order counts,
        too: the record may name a host that is gone, and somebody has to clean up.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._guest_wait.hurry(STOP_WAIT_SECONDS)
        closing = Closing()
        closing.do("its loop did not take the order to stop", self._ask_to_leave)
        closing.do("its loop did not end", self.host.stop)
        closing.do("it did not stop cleanly", self._check_stop)
        closing.do("the arbiter's worker could not be closed", self._arbiter.close)
        self._services.close(closing)
        closing.do("the world could not be closed", self._world.close)
        closing.do("the guest could not be closed", self._guest.close)
        # After the guest, whose own thread may wake it until then.
        closing.do("the transport could not be closed", self._transport.close)
        self.changed.notify()
        closing.finish()

    def hurry(self) -> None:
        """See HostHandle."""
        self._guest_wait.hurry(0)

    def _ask_to_leave(self) -> None:
        if not self.host.has_ended:
            self.host.call(lambda: self.driver.stop(ClosedError("this host was closed")))

    def _check_stop(self) -> None:
        stop = self.driver.stopped
        if stop is not None and not stop.is_in_order:
            raise BrokenError(str(stop.outcome))

    # --- Controls: for the loop's thread only ----------------------------------------------------------------------

    @property
    def guest_id(self) -> str:
        """The guest's name in the record."""
        return self.driver.settings.guest_id

    def status(self) -> Status:
        """See Controls."""
        now = self.clock.now()
        status = self._guest_wait.shown_in(self.driver.status(now))
        return self.identity.sign(status, self.host.lateness.worst_ms(now), self._counters())

    def _counters(self) -> dict[str, int]:
        """Return what world and transport moved, dropped and refused, as far as they count it."""
        counted = (getattr(each, "counters", None) for each in (self._world, self._transport))
        told = {name: value for each in counted if each is not None for name, value in asdict(each).items()}
        return {**told, "misdeeds": self._endpoint.misdeeds.total(), "ignored": self._endpoint.ignored}

    def set_engine(
        self, *, name: str | None, interval: float | None, latency: float | None, group: float | None
    ) -> Pending:
        """See Controls."""
        self._guest_wait.require_over()
        present = self.driver.engines
        wanted = engine_changed(
            present[1] if present is not None else self.driver.settings.engine,
            name=name,
            interval=interval,
            latency=latency,
            group=group,
        )
        changing = self.host.later(lambda: self.driver.set_engine(wanted))

        def is_done() -> bool:
            if not changing.is_done.is_set():
                return False
            if changing.error is not None:
                raise changing.error
            now = self.driver.engines
            if now is None or wanted not in now:
                raise BrokenError(f"engine {wanted.name} is not in force: the guest went elsewhere, or another was set")
            return now[0] == wanted

        return is_done

    def switch_over(self, limit_ns: Nanos) -> Pending:
        """See Controls."""
        self._guest_wait.require_over()
        asked = self.driver.begin_switchover(limit_ns)
        answer_by = self.clock.now() + limit_ns + seconds_to_nanos(ANSWER_SECONDS)

        def is_done() -> bool:
            if asked.is_over and asked.error is not None:
                raise SwitchoverFailed(asked.error)
            if not asked.is_over and self.clock.now() >= answer_by:
                raise SwitchoverFailed(_UNANSWERED)
            return asked.is_over

        return is_done

    def end_guest(self, reason: str) -> None:
        """See Controls."""
        self.driver.order_end(reason)
        self._guest_wait.hurry(STOP_WAIT_SECONDS)
        self.host.later(lambda: self.driver.end_guest(reason))

    def ask_to_stop(self, reason: str) -> None:
        """See Controls."""
        self._stop_asked = reason
        self.changed.notify()
