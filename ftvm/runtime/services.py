"""Services that a host's loop steps beside the guests: control socket, metrics page, a service manager's watchdog.

A service is stepped in the loop's thread, between two steps of the endpoint, so that it sees a guest at rest and needs
no lock. It must never block. A service for operators must never end a guest: one that raises is closed and reported as
an event, and the loop goes on without it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from ftvm.events import Committed, Event, HostServiceFailed
from ftvm.runtime.closing import Closing
from ftvm.runtime.status import Status
from ftvm.units import Nanos

__all__ = ["ANSWER_SECONDS", "LOOK_NS", "Controls", "HostService", "HostServices", "Pending"]

LOOK_NS: Final = Nanos(100_000_000)
"""What nobody signals is looked at so often, however busy the loop is."""

ANSWER_SECONDS: Final = 5.0
"""How long, beyond its time-out, a proposed switchover may wait for the arbiter before who asked gets an error."""

Pending = Callable[[], bool]
"""Asks whether something that takes a while is done; raises the FtvmError that it failed with."""


class Controls(Protocol):
    """What an operator may ask about the guest of a host. For the loop's thread only; nothing here waits."""

    @property
    def guest_id(self) -> str:
        """The guest's name in the record."""

    def status(self) -> Status:
        """Return where things stand now."""

    def set_engine(
        self, *, name: str | None, interval: float | None, latency: float | None, group: float | None
    ) -> Pending:
        """Start to change the engine, its interval, its latency target or its group commit (seconds), as
        engines/names.engine_changed.

        Raises ConfigError if that cannot be, LocalProtocolError if the guest does not run here; what is returned is
        done once the change is in force, and raises BrokenError if it will not be.
        """

    def switch_over(self, limit_ns: Nanos) -> Pending:
        """Start to hand the guest over to the standby; called off if it is not under way within `limit_ns`.

        Raises LocalProtocolError if the guest does not run here or has no standby; what is returned raises
        SwitchoverFailed if it failed and the guest goes on here, or the arbiter leaves it open ANSWER_SECONDS longer.
        """

    def end_guest(self, reason: str) -> None:
        """End the guest for good, on this host and on its standby; both hosts end then.

        Raises LocalProtocolError if the guest does not run here.
        """

    def ask_to_stop(self, reason: str) -> None:
        """Have the host's `wait` and `check` raise ClosedError, so that whoever runs it ends it in order."""


class HostService(Protocol):
    """Somebody whom the loop steps. Built ready to serve; `begin` comes once, before the loop starts."""

    @property
    def name(self) -> str:
        """What to call it when it fails."""

    def begin(self, controls: Controls) -> None:
        """Take what may be asked about the guest."""

    def fds(self) -> Sequence[int]:
        """Return what becomes readable when there is something to do."""

    def note(self, event: Event) -> None:
        """Hear what happened. Must be quick: it is called in the midst of a step."""

    def step(self, now: Nanos) -> Nanos | None:
        """Do what is due; return when to be called again if nothing comes before."""

    def close(self) -> None:
        """Give everything back. Idempotent."""


def _tell_nobody(event: Event) -> None:
    """Nobody listens."""


class HostServices:
    """All services of one host. `fds` is what to wait on for them, as of the last step."""

    def __init__(self, services: Sequence[HostService] = (), on_event: Callable[[Event], None] = _tell_nobody) -> None:
        self._present = list(services)
        self._on_event = on_event
        self._guest_id = ""
        self._now = Nanos(0)
        self._look_at: Nanos | None = None
        self._due: Nanos | None = None
        self.fds: tuple[int, ...] = ()

    def begin(self, controls: Controls, now: Nanos) -> None:
        """Introduce all of them to the guest."""
        self._guest_id, self._now = controls.guest_id, now
        for service in self._present:
            service.begin(controls)

    def note(self, event: Event) -> None:
        """Tell all of them what happened. They are stepped soon, unless it is what happens all the time."""
        for service in tuple(self._present):
            try:
                service.note(event)
            except Exception as wrong:  # noqa: BLE001 - see the module's docstring
                self._drop(service, wrong)
        if not isinstance(event, Committed):
            self._look_at = None

    def step(self, now: Nanos, ready: Collection[int] | None = None) -> Nanos | None:
        """Step all of them if one of them may have something to do; return when one is due, None where none is.

        After a while all are stepped with whatever else the loop turns for; it turns for nobody who is not due.

        ready  which descriptors are readable; None if nobody has looked
        """
        look_at = self._look_at
        if look_at is None or now >= look_at or ready is None or any(fd in ready for fd in self.fds):
            self._step_all(now)
        return self._due

    def _step_all(self, now: Nanos) -> None:
        self._now, self._due = now, None
        for service in tuple(self._present):
            try:
                due = service.step(now)
            except Exception as wrong:  # noqa: BLE001 - see the module's docstring
                self._drop(service, wrong)
                continue
            if due is not None and (self._due is None or due < self._due):
                self._due = due
        look_at = Nanos(now + LOOK_NS)
        self._look_at = look_at if self._due is None else min(look_at, self._due)
        self.fds = tuple(fd for service in self._present for fd in service.fds())

    def close(self, closing: Closing) -> None:
        """Close all of them, as steps of `closing`."""
        self.fds = ()
        while self._present:
            service = self._present.pop()
            closing.do(f"the {service.name} could not be closed", service.close)

    def _drop(self, service: HostService, wrong: Exception) -> None:
        self._present.remove(service)
        error = f"{type(wrong).__name__}: {wrong}"
        try:
            service.close()
        except Exception as more:  # noqa: BLE001 - see the module's docstring
            error += f"; closing it failed: {type(more).__name__}: {more}"
        self._on_event(HostServiceFailed(at=self._now, guest_id=self._guest_id, name=service.name, error=error))
