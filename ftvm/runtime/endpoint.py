"""One transport and the guests that are replicated over it: decodes, finds the guest, steps every driver.

A message that does not decode, or is for no guest here, is its sender's fault: it is counted and reported, never
raised. A peer that keeps sending such messages is ignored for a while, each time for longer.
"""

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from ftvm.checkpoint import Buffer, PageBatch
from ftvm.config import Limits, Timing
from ftvm.encode.messages import Envelope, Join, Refuse
from ftvm.encode.wire import encode, read_header
from ftvm.errors import FtvmError, GuestError, RemoteProtocolError, TransportError, VersionMismatch
from ftvm.events import ConnectionRefused, Event, PeerMisbehaved
from ftvm.interfaces import Delivery, Lane, Polled, Transport
from ftvm.protocol.detector import Backoff
from ftvm.protocol.record import NO_RECORD
from ftvm.runtime.driver import Driver
from ftvm.runtime.pulse import late_ns
from ftvm.runtime.questions import Questions
from ftvm.runtime.services import LOOK_NS
from ftvm.units import Nanos

__all__ = ["Endpoint"]

_MISDEEDS_TOLERATED = 16
"""How many misdeeds of one key are reported one by one; after each further one the key is ignored for a while."""

_IGNORED_NS_FIRST = Nanos(1_000_000_000)
_IGNORED_NS_LONGEST = Nanos(60_000_000_000)

_PEERS_COUNTED_MAX = 1024
_TROUBLES_TOLD_MAX = 64


@dataclass(frozen=True, slots=True)
class _OnItsWay:
    driver: Driver
    batch: PageBatch


class Endpoint:
    """Steps all drivers of one transport.

    `misdeeds` counts invalid messages of each peer, `ignored` what came while the peer was ignored.
    """

    def __init__(self, transport: Transport, limits: Limits, on_event: Callable[[Event], None]) -> None:
        self.misdeeds: Counter[str] = Counter()
        self.ignored = 0
        self._backoff = Backoff(_MISDEEDS_TOLERATED, _IGNORED_NS_FIRST, _IGNORED_NS_LONGEST)
        self._refusals: set[str] = set()
        self._troubles: set[str] = set()
        self._transport = transport
        self._limits = limits
        self._on_event = on_event
        self._drivers: dict[str, Driver] = {}
        self._on_its_way: dict[int, _OnItsWay] = {}
        self._questions = Questions(transport.ask)
        self._token = 0
        self._look_at = Nanos(-(1 << 63))
        self._questions_due: Nanos | None = None

    def add(self, driver: Driver) -> None:
        """Take a driver in; its guest id must be new here."""
        self._drivers[driver.settings.guest_id] = driver

    def sender_for(self, guest_id: str) -> Callable[[str, Lane, list[Buffer], PageBatch | None], bool]:
        """Return what the driver of `guest_id` sends with."""

        driver_of, on_its_way, transport = self._drivers, self._on_its_way, self._transport

        def send(peer: str, lane: Lane, frames: list[Buffer], batch: PageBatch | None) -> bool:
            token = None
            if batch is not None:
                token = self._token = self._token + 1
                on_its_way[token] = _OnItsWay(driver_of[guest_id], batch)
            try:
                is_taken = transport.send(peer, lane, frames, token)
            except TransportError as wrong:
                is_taken = False
                self._tell_trouble(driver_of[guest_id], str(wrong))
            if token is not None and not is_taken:
                del on_its_way[token]
            return is_taken

        return send

    def _tell_trouble(self, driver: Driver, error: str) -> None:
        """Report why a message was lost: heartbeats judge that; it is not a reason to stop a guest."""
        if error not in self._troubles and len(self._troubles) < _TROUBLES_TOLD_MAX:
            self._troubles.add(error)
            driver.tell_trouble(error)

    def step(self, now: Nanos, ready: Collection[int] | None = None) -> Nanos | None:
        """Do what was signalled and what is due, for every driver; return when to be called again if nothing comes
        before.

        What nobody signals is looked at once in a while, and where a wake-up brought nothing: it was for something else
        then. A step that only time caused, as for a heartbeat, is no such wake-up.

        ready  which descriptors are readable, of `fds` and of the transport; None if nobody has looked
        """
        drivers = self._drivers.values()
        for driver in drivers:
            driver.begin_step(now)
        polled = self._transport.poll(self._limits.messages_per_step)
        for token in polled.let_go:
            sent = self._on_its_way.pop(token)
            sent.driver.let_go(sent.batch)
        for delivery in polled.deliveries:
            self._take(delivery, now)
        inputs = self._with_input(ready) if ready else ()
        has_news = any(driver.news.items or driver.news.has_stirred for driver in drivers)
        is_clear = polled.deliveries or inputs or has_news or (ready is not None and not ready)
        is_round = not is_clear or now >= self._look_at or bool(polled.signs)
        if is_round:
            self._look_round(polled, now)
        due = self._questions_due
        for driver in drivers:
            has_input = ready is None or driver in inputs or not driver.fds()
            driver_due = driver.step(now, is_round=is_round, has_input=has_input)
            if driver_due is not None and (due is None or driver_due < due):
                due = driver_due
        return now if len(polled.deliveries) == self._limits.messages_per_step else due

    def _with_input(self, ready: Collection[int]) -> list[Driver]:
        return [driver for driver in self._drivers.values() if any(fd in ready for fd in driver.fds())]

    def _look_round(self, polled: Polled, now: Nanos) -> None:
        self._ask_after_peers(polled, now)  # behind the messages: what a peer said before it ended comes first
        self._report_refusals(now)
        self._questions_due = self._questions.deadline()
        look_at = Nanos(now + LOOK_NS)
        self._look_at = look_at if self._questions_due is None else min(look_at, self._questions_due)

    @property
    def beat_ns(self) -> Nanos:
        """The shortest time between the heartbeats of a guest here."""
        intervals = [driver.settings.timing.heartbeat_ns for driver in tuple(self._drivers.values())]
        return min(intervals, default=Timing().heartbeat_ns)

    def beats_in(self, now: Nanos) -> Nanos:
        """Return for how long `beat` has nothing to do, whatever the loop sends meanwhile."""
        # A guest without a pulse may get one at once, and wants it repeated sooner than the others, perhaps.
        dues = [
            late_ns(driver.settings.timing.heartbeat_ns) if (pulse := driver.pulse) is None else pulse.due_at - now
            for driver in tuple(self._drivers.values())
        ]
        return Nanos(max(0, min(dues, default=late_ns(self.beat_ns))))

    def beat(self, now: Nanos) -> None:
        """Repeat the last heartbeat of each guest whose loop is late with the next.

        For a thread beside the loop's; the transport must be shared.
        """
        for driver in tuple(self._drivers.values()):
            pulse = driver.pulse
            if pulse is not None and now >= pulse.due_at:
                pulse.sent_at = now
                with suppress(FtvmError):  # the loop meets it as well, and tells
                    self._transport.send(pulse.peer, Lane.CONTROL, pulse.frames)
                self._transport.wake()  # to send takes the signal that something has come

    @property
    def is_leaving(self) -> bool:
        """Whether a driver has stopped, and stays for the answer to its goodbye; that ends by itself."""
        return any(driver.is_leaving for driver in self._drivers.values())

    def halt(self, error: FtvmError) -> None:
        """Pause every guest for good, without a word to anybody: this host no longer knows what it does.

        But a standby whose guest failed, as by a full disk, says goodbye: the active learns why it is gone.
        """
        for driver in self._drivers.values():
            if isinstance(error, GuestError) and not driver.is_active:
                with suppress(FtvmError):  # it is silent then
                    driver.stop(error, f"its guest failed: {error}")
            driver.halt(error)

    def fds(self) -> tuple[int, ...]:
        """Return what to wait on besides the transport."""
        return tuple(fd for driver in self._drivers.values() for fd in driver.fds())

    def _take(self, delivery: Delivery, now: Nanos) -> None:
        if self._backoff.records and self._backoff.ignored_ns(delivery.key or delivery.peer, now):
            self.ignored += 1
            return
        try:
            sealed = read_header(delivery.frames, self._limits)
            envelope = sealed.envelope
            driver = self._drivers.get(envelope.guest_id)
            if sealed.builds_state and (driver is None or not driver.expects(delivery.peer, delivery.key, envelope)):
                return  # a few megabytes of log take seconds to read: do so only for a peer in session
            message = sealed.open(self._limits)
        except RemoteProtocolError as wrong:
            self._report(delivery, wrong, now)
            return
        if driver is not None:
            driver.receive(delivery.peer, delivery.key, envelope, message, now)
        elif isinstance(message, Join):
            reason = f"this host protects no guest {envelope.guest_id!r}, only {', '.join(map(repr, self._drivers))}"
            self._refuse(delivery, envelope.guest_id, Refuse(joiner=envelope.sender, reason=reason, is_final=True))

    def _ask_after_peers(self, polled: Polled, now: Nanos) -> None:
        """Take what the transport saw of peers; tell the drivers which of them are gone."""
        partners = {peer for driver in self._drivers.values() if (peer := driver.partner) is not None}
        for peer in self._questions.step(polled.signs, partners, now):
            for driver in self._drivers.values():
                driver.lose_peer(peer, now)

    def _report_refusals(self, now: Nanos) -> None:
        for reason in self._transport.take_refusals():
            if reason in self._refusals or len(self._refusals) >= _PEERS_COUNTED_MAX:
                continue
            self._refusals.add(reason)
            for guest_id in self._drivers:
                self._on_event(ConnectionRefused(at=now, guest_id=guest_id, reason=reason))

    def _report(self, delivery: Delivery, wrong: RemoteProtocolError, now: Nanos) -> None:
        """Report a peer's misdeed, and tell a peer of another version so, in ours: it then sees that ours differs."""
        peer = delivery.peer
        ignored_ns = self._backoff.strike(delivery.key or peer, now)
        if peer in self.misdeeds or len(self.misdeeds) < _PEERS_COUNTED_MAX:
            self.misdeeds[peer] += 1
        error = f"{type(wrong).__name__}: {wrong}"
        if ignored_ns:
            error += f"; ignored for {ignored_ns / 1e9:.0f} s"
        for guest_id, driver in self._drivers.items():
            self._on_event(PeerMisbehaved(at=now, guest_id=guest_id, peer=peer, error=error))
            if not isinstance(wrong, VersionMismatch):
                continue
            self._refuse(delivery, guest_id, Refuse(joiner="?", reason=str(wrong), is_final=True))
            driver.refused_by(peer, wrong, now)

    def _refuse(self, delivery: Delivery, guest_id: str, refuse: Refuse) -> None:
        """Refuse somebody for whom there is no driver here, in the name of the guest that was asked for."""
        envelope = Envelope(guest_id=guest_id, sender="?", session=None, record=NO_RECORD, released=0)
        for driver in islice(self._drivers.values(), 1):
            try:
                self._transport.send(delivery.peer, Lane.CONTROL, encode(envelope, refuse))
            except TransportError as wrong:
                self._tell_trouble(driver, str(wrong))
