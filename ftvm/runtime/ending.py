"""How a host is done with one guest: by an error, by the end or failure of the guest, or because it was asked to stop.

Three steps, in this order and never back. What went wrong is told as the `failure`. Then the host stops in order
(`is_leaving`): it hands the guest over, or sees to it that the record does not name a host that is gone; the protocol
does that (protocol/stop.py), the driver steps it on. At last the host `is_halted`: the guest is paused for good, and
nothing more is done. Where nothing can be put in order any more, halted comes at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftvm.checkpoint import END_CHANNEL, Output
from ftvm.errors import FtvmError, GuestEnded, GuestError, LocalProtocolError
from ftvm.events import Event, GuestFinished, HostFailed, HostStopped
from ftvm.interfaces import Clock
from ftvm.protocol.effects import Effect
from ftvm.protocol.replica import Replica
from ftvm.protocol.reports import CaptureFailed
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.view import NAMED, Role
from ftvm.runtime.runner import GuestRunner
from ftvm.runtime.sink import NumberingSink
from ftvm.units import Nanos

__all__ = ["HostEnd"]


@dataclass(slots=True, kw_only=True)
class HostEnd:
    """The end of one guest on one host: before it, meanwhile and afterwards. Mutable.

    want        notes what the replica wants done
    perform     does what is wanted
    settle      has the guest run or stand still, as the replica says
    failure     why this host ended, or will; None while it goes on
    is_halted   whether it is over: the guest is paused for good, and the driver does nothing more
    stopping    the stop in order, under way or over; None before
    stop_error  why it was begun
    guest_end   what the guest said at its own end, once that was safe and has been released
    end_order   why its operator has ordered its end, which is not carried out yet
    """

    guest_id: str
    replica: Replica
    runner: GuestRunner
    sink: NumberingSink
    clock: Clock
    want: Callable[[Sequence[Effect]], None]
    perform: Callable[[], None]
    settle: Callable[[], None]
    tell: Callable[[Event], None]
    failure: FtvmError | None = None
    is_halted: bool = False
    stopping: Stopping | None = None
    stop_error: FtvmError | None = None
    guest_end: str | None = None
    end_order: str | None = None

    # --- an orderly stop -------------------------------------------------------------------------------------------

    @property
    def is_leaving(self) -> bool:
        """Whether this host was asked to stop, or has to, and is not done with it; that ends by itself."""
        return self.stopping is not None and not self.is_halted

    @property
    def stopped(self) -> Stopping | None:
        """What came of the stop; None if there was none, or it is not over."""
        return self.stopping if self.stopping is not None and self.stopping.is_over else None

    @property
    def cause(self) -> FtvmError | None:
        """Why this host stops or has ended; None while it does neither."""
        return self.failure or self.stop_error

    def stop(self, error: FtvmError, word: str = "its host was stopped") -> None:
        """Stop because somebody asked for it: `error` is why this host ended, `word` is for the peer.

        The guest is paused first: its process may take long for that, and the limits of a stop are for others.
        """
        if self.stopping is not None or self.is_halted:
            return
        self.runner.stall()
        self.look_at_guest(self.clock.now())
        if self.stopping is None and not self.is_halted:
            self._begin_stop(StopKind.ASKED, error, word)

    def end_guest(self, reason: str) -> None:
        """End the guest for good, here and at its standby. Raises LocalProtocolError if it does not run here."""
        self.end_order = None
        self.require_running_here()
        self.fail(GuestEnded(reason), StopKind.ENDED)

    def require_running_here(self) -> None:
        """Raise LocalProtocolError if the guest does not run on this host, or it stops."""
        if self.cause is not None or self.replica.view().role is not Role.ACTIVE:
            raise LocalProtocolError("the guest does not run on this host: end it where it runs")

    def fail(self, error: FtvmError, kind: StopKind | None = None, word: str | None = None) -> None:
        """End of an error: at once, or as a stop of this kind where the guest ran here; `word` is for the peer."""
        if kind is StopKind.FAILED and self.end_order is not None and self.replica.view().role is Role.ACTIVE:
            error, kind, word = GuestEnded(self.end_order), StopKind.ENDED, None  # its standby must not go on with it
        at, guest_id = self.clock.now(), self.guest_id
        self.failure = self.failure or error  # before it is told: who waits for this host's end looks when it is told
        if isinstance(error, GuestEnded):
            self.tell(GuestFinished(at=at, guest_id=guest_id, reason=str(error)))
        else:
            self.tell(HostFailed(at=at, guest_id=guest_id, error=str(error)))
        if kind is None:
            self.halt(error)
            return
        self._pause_for_good()
        self._begin_stop(kind, error, word or str(error))

    def _begin_stop(self, kind: StopKind, error: FtvmError, word: str) -> None:
        self.stop_error = self.stop_error or error
        self.want(self.replica.stop(kind, word, self.clock.now()))
        self.stopping = self.replica.view().stop
        self.perform()
        self.settle()
        self.halt_if_over()

    def halt_if_over(self) -> None:
        """Halt, and tell what came of the stop, if it is over."""
        stop, error = self.stopped, self.stop_error
        if stop is None or stop.outcome is None or error is None or self.is_halted:
            return
        self.halt(error)
        now = self.clock.now()
        self.tell(HostStopped(at=now, guest_id=self.guest_id, outcome=stop.outcome, is_in_order=stop.is_in_order))

    def halt(self, error: FtvmError) -> None:
        """Pause the guest for good and do nothing more."""
        self.failure = self.failure or error
        self.is_halted = True
        self._pause_for_good()

    def _pause_for_good(self) -> None:
        try:
            self.runner.pause_for_good()
        except FtvmError as wrong:
            self.tell(HostFailed(at=self.clock.now(), guest_id=self.guest_id, error=str(wrong)))

    # --- the guest's end and failure -------------------------------------------------------------------------------

    def guest_said(self, output: Output) -> None:
        """Note what the guest said at its own end. It goes no further: now that it is safe, this host acts on it."""
        self.guest_end = f"the guest ended: {output.payload.decode(errors='replace')}"

    def look_at_guest(self, now: Nanos) -> None:
        """End if the guest has come to its end, or can never run again."""
        if self.failure is not None:
            return
        if self.guest_end is not None:
            self.fail(GuestEnded(self.guest_end), StopKind.ENDED)
            return
        reason = self.runner.failure()
        if reason is None:
            return
        self._take_last_words(now)
        self.perform()
        if not self._is_end_held() and self.guest_end is None:
            self.fail(GuestError(f"the guest ended: {reason}"), StopKind.FAILED, f"its guest failed: {reason}")

    def is_lost(self, failed: CaptureFailed, now: Nanos) -> bool:
        """Tell whether a guest whose capture failed is its standby's from now on."""
        if self._has_guest_failed(now):
            return True
        active = self.replica.view().active
        is_standbys = failed.is_unreadable and active is not None and active.link in NAMED and not active.is_halted
        if is_standbys:
            self.fail(GuestError(failed.error), StopKind.FAILED, f"its guest failed: {failed.error}")
        return is_standbys

    def _has_guest_failed(self, now: Nanos) -> bool:
        """Tell whether the guest itself is lost, which is not so if it has come to its own end and said that."""
        reason = self.runner.failure()
        self._take_last_words(now)
        return reason is not None and not self._is_end_held()

    def _take_last_words(self, now: Nanos) -> None:
        if self.sink.items:
            self.want(self.replica.step(self.runner.take_emitted(), now))

    def _is_end_held(self) -> bool:
        """Whether the guest came to its own end, and that is not safe yet."""
        active = self.replica.view().active
        return active is not None and bool(active.held) and active.held[-1].outputs[-1].channel == END_CHANNEL
