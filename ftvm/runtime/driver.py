"""Drives one guest on one host: feeds its replica, performs the effects, and never waits.

`step(now)` is all there is: host.py calls it from its thread, the simulator from its loop. Everything outside is
reached through interfaces. The guest runs in a thread or process of its own; runner.py runs and pauses it, capture.py
captures it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import END_CHANNEL, Buffer, PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.messages import Copy, Envelope, EpochPart, Message, Ping, Pong
from ftvm.encode.wire import encode
from ftvm.engines.names import require
from ftvm.errors import FtvmError, GuestEnded, GuestError, LimitExceeded, LocalProtocolError
from ftvm.events import Event, GuestFinished, GuestWarned, HostFailed, HostStopped, TransportTrouble
from ftvm.interfaces import (
    Arbiter,
    Clock,
    Engine,
    Guest,
    Lane,
    World,
)
from ftvm.protocol import effects as do
from ftvm.protocol.active import Active
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import Role, Settings
from ftvm.protocol.replica import Replica
from ftvm.protocol.reports import CaptureFailed
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.switchover import Switchover
from ftvm.runtime.capture import CaptureOrder, Capturer
from ftvm.runtime.describing import describe
from ftvm.runtime.packing import Packer
from ftvm.runtime.pulse import Pulse
from ftvm.runtime.runner import GuestRunner
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.status import Counters, Status
from ftvm.runtime.stored import StoredMemory
from ftvm.units import Nanos

__all__ = ["Driver", "SendFrames"]

SendFrames = Callable[[str, Lane, list[Buffer], PageBatch | None], bool]
"""Sends frames to a peer on a lane; the batch, if any, is the one whose buffers the frames use. False: not taken."""

_EFFECT_ROUNDS_MAX = 64
"""Performing effects can ask for more; a step that does not come to rest in so many rounds is our bug."""


class Driver:
    """One guest on one host. `failure` says why it ended, if it did.

    A host that ends in order steps on while it `is_leaving`: it hands the guest over, or sees to it that the record
    does not name a host that is gone. `pulse` is the last heartbeat sent, while it may be repeated; another thread
    reads it.
    """

    def __init__(
        self,
        *,
        guest: Guest,
        world: World,
        arbiter: Arbiter,
        settings: Settings,
        clock: Clock,
        fresh_id: Callable[[], str],
        starts: bool,
        send: SendFrames,
        wake: Callable[[], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.settings = settings
        self.failure: FtvmError | None = None
        self._guest = guest
        self._world = world
        self._arbiter = arbiter
        self._clock = clock
        self._send = send
        self._on_event = on_event
        self._sink = NumberingSink(wake, clock)
        memory = NativeMemory([region.buffer for region in guest.memory])
        self._memory = CommittedMemory(memory)
        self._stored = StoredMemory(self._memory, guest.memory)
        self._packer = Packer(settings.limits, clock)
        self._stop: Stopping | None = None
        self._stop_error: FtvmError | None = None
        self._is_halted = False
        committed = Committed(self._stored, settings.limits)
        self._counters = Counters()
        self._end: str | None = None
        self._later: list[do.Effect] = []
        self.pulse: Pulse | None = None
        self.replica = Replica(settings, committed, fresh_id=fresh_id, starts=starts, now=clock.now())
        self._runner = GuestRunner(guest, self._sink, self._memory, self.replica, clock)
        self._capturer = Capturer(self._runner, guest, memory, self._sink, settings.limits, clock)
        guest.attach(self._sink)

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.settings.limits

    @property
    def is_active(self) -> bool:
        """Whether the guest runs here, by the arbiter's word."""
        return self.replica.role is Role.ACTIVE

    @property
    def is_warming_up(self) -> bool:
        """Whether this host copies, a portion at a time, the memory that a switchover will start from."""
        return self._capturer.is_warming_up

    def fds(self) -> tuple[int, ...]:
        """Return what becomes readable when an input for the guest has come."""
        return self._world.fds()

    # --- the loop --------------------------------------------------------------------------------------------------

    def begin_step(self, now: Nanos) -> None:
        """Start a step, before the messages that have come are given."""
        self.replica.begin_step(now)
        self._end_pulse_if_over()

    def _end_pulse_if_over(self) -> None:
        if self.failure is not None or not self.replica.may_beat:
            self.pulse = None

    def expects(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of the session whose backup this host is."""
        return self.replica.expects(peer, key, envelope)

    def receive(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message for this guest."""
        if not self._is_halted:
            self.replica.on_message(peer, key, envelope, message, now)
            self._perform()

    @property
    def partner(self) -> str | None:
        """The peer in session with the guest here, by its name in the transport."""
        return self.replica.partner if self.failure is None else None

    def lose_peer(self, peer: str) -> None:
        """Take note that the process of `peer` is gone."""
        self.replica.on_peer_gone(peer)

    def refused_by(self, peer: str, error: FtvmError, now: Nanos) -> None:
        """Take note that a peer can never take this host as its standby: it gives up once none of its peers can."""
        if self.failure is None:
            self.replica.on_refused(peer, error, now)
            self._perform()

    def tell_trouble(self, error: str) -> None:
        """Report that the transport could not send."""
        self._tell(TransportTrouble(at=self._clock.now(), guest_id=self.settings.guest_id, error=error))

    def let_go(self, batch: PageBatch) -> None:
        """Note that the transport has let go of one send of this batch."""
        self._capturer.buffers.let_go(batch)

    def step(self, now: Nanos) -> Nanos | None:
        """Do all that is due; return when to be called again if nothing comes before (None: only when something
        comes)."""
        if self._is_halted:
            return None
        answer = self._arbiter.poll()
        if answer is not None:
            self.replica.on_answer(answer, now)
            self._perform()
        self._runner.deliver(self._world.receive(self.settings.limits.inputs_per_step))
        if self._runner.has_work:
            self._runner.follow_on(now)
            self._perform()
        self._warm_up()
        self._take_outputs(now)
        self.replica.tick(now)
        self._perform()
        self._runner.stall_or_go_on()
        self._tell_warnings(now)
        self._check_guest(now)
        self._end_if_over()
        if self._has_ended():
            return None
        request = self.replica.next_request(now)
        if request is not None:
            self._arbiter.submit(request)
        is_busy = self.is_warming_up or self._runner.has_work
        return now if is_busy else self.replica.deadline(now)

    def _tell_warnings(self, now: Nanos) -> None:
        for reason in self._sink.take_warnings():
            self._tell(GuestWarned(at=now, guest_id=self.settings.guest_id, reason=reason))

    def _has_ended(self) -> bool:
        return self._is_halted

    @property
    def engines(self) -> tuple[Engine, Engine] | None:
        """The engine in force, and the one that is to be, which may be the same; None unless the guest runs here."""
        steps = self.replica.steps
        return (steps.pace.told, steps.pace.wanted or steps.pace.engine) if isinstance(steps, Active) else None

    def set_engine(self, engine: Engine) -> None:
        """Change the engine of the guest that runs here; `EngineChanged` tells when it is in force.

        Raises ConfigError if the guest or the standby cannot be protected with it, LocalProtocolError if the guest
        does not run here; nothing changes then.
        """
        require(engine, self._guest.can)
        self.replica.set_engine(engine)
        self._perform()

    def begin_switchover(self, limit_ns: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; watch what is returned.

        Raises LocalProtocolError if there is no standby in step, or this host has ended: nothing steps it any more.
        """
        if self.failure is not None or self._stop is not None:
            raise LocalProtocolError(f"cannot switch over: this host is stopping: {self.failure or self._stop_error}")
        return self.replica.begin_switchover(limit_ns, self._clock.now())

    def stop(self, error: FtvmError) -> None:
        """Stop in order, and for good: `error` is what this host ended of. Step on while `is_leaving`."""
        if self._stop is None and not self._is_halted:
            self._begin_stop(StopKind.ASKED, error, str(error))

    def _begin_stop(self, kind: StopKind, error: FtvmError, word: str) -> None:
        self._stop_error = self._stop_error or error
        self._stop = self.replica.stop(kind, word, self._clock.now())
        self._perform()
        self._end_if_over()

    @property
    def is_leaving(self) -> bool:
        """Whether this host was asked to stop, or has to, and is not done with it; that ends by itself."""
        return self._stop is not None and not self._is_halted

    @property
    def stopped(self) -> Stopping | None:
        """What came of the stop; None if there was none, or it is not over."""
        return self._stop if self._stop is not None and self._stop.is_over else None

    def _end_if_over(self) -> None:
        stop, error = self.stopped, self._stop_error
        if stop is None or stop.outcome is None or error is None or self._is_halted:
            return
        self.halt(error)
        now, guest_id = self._clock.now(), self.settings.guest_id
        self._tell(HostStopped(at=now, guest_id=guest_id, outcome=stop.outcome, is_in_order=stop.is_in_order))

    def status(self, now: Nanos) -> Status:
        """Return what there is to tell now."""
        return describe(self.settings, self.replica, self._counters, self._capturer, self.failure, now)

    # --- guest and world -------------------------------------------------------------------------------------------

    def _check_guest(self, now: Nanos) -> None:
        if self.failure is not None:
            return
        if self._end is not None:
            self._fail(GuestEnded(self._end), StopKind.ENDED)
            return
        reason = self._runner.failure()
        if reason is None:
            return
        self._take_outputs(now)
        if not self._runner.is_end_held() and self._end is None:
            self._fail(GuestError(f"the guest ended: {reason}"), StopKind.FAILED, f"its guest failed: {reason}")

    def _take_outputs(self, now: Nanos) -> None:
        has_spoken = self._runner.hand_on(now)
        self._perform()
        if has_spoken:
            self._runner.stop_behind_output()

    # --- effects ---------------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        for _ in range(_EFFECT_ROUNDS_MAX):
            wanted = self._later + self.replica.take_effects()
            self._later = []
            if not wanted:
                return
            for effect in wanted:
                self._perform_one(effect)
        raise LimitExceeded("rounds of effects in one step", limit=_EFFECT_ROUNDS_MAX, wanted=_EFFECT_ROUNDS_MAX + 1)

    def _perform_one(self, effect: do.Effect) -> None:
        match effect:
            case do.Send():
                self._transmit(effect)
            case do.Release():
                self._release(effect)
            case do.Tell():
                self._tell(effect.event)
            case do.Announce():
                self._world.announce()
            case do.Run():
                self._run(effect)
            case do.Use():
                self._runner.change_engine(effect.engine)
            case do.Stop():
                self._runner.pause_for_good()
                self._capturer.release()
            case do.Follow():
                self._runner.start_following(effect)
            case do.Execute():
                self._runner.lead_along(effect.records)
            case do.Compare():
                self._runner.lead_along((effect.checkpoint,))
            case do.Rest():
                self._runner.rest()
            case do.Load():
                self._end_pulse_if_over()  # a claim is no sign of life, and loading may take long
                self._runner.load(effect)
            case do.Unload():
                self._runner.unload()
                self._capturer.release()
            case do.Forget():
                self._capturer.forget(effect.batches)
                self._packer.acknowledged(effect.batches)
            case do.EndSession():
                self._capturer.end_session()
            case do.Fail():
                self._fail(effect.error)
            case do.Adopt():
                self._capturer.adopt(self._memory.digests, effect.staging_bytes)
            case do.WarmUp():
                self._capturer.is_warming_up = True
            case do.Measure():
                self._stored.measure()
                self.replica.on_measured(self._clock.now())
            case do.StartCopy() | do.CollectRound() | do.CopyMore() | do.Cut():
                self._capture(effect)
            case _:
                assert_never(effect)

    def _capture(self, order: CaptureOrder) -> None:
        """Have the guest captured, and report what came of it; it goes on unless it must stand still."""
        report = self._capturer.capture(order)
        now = self._clock.now()
        # A guest that failed is its standby's: a failed capture would drop the only one that can go on.
        is_guest_lost = isinstance(report, CaptureFailed) and self._runner.has_failed(now)
        if not is_guest_lost:  # rule: failed_guest_is_its_standbys
            self._later += self.replica.step(report, now)
        if isinstance(order, do.Cut):
            self._runner.stall_or_go_on()

    def _transmit(self, effect: do.Send) -> None:
        message = effect.message
        batch = message.batch if isinstance(message, Copy | EpochPart) else None
        if batch is not None and isinstance(message, Copy | EpochPart):
            batch = self._packer.pack(batch, is_first_copy=isinstance(message, Copy))
            message = replace(message, batch=batch)
        frames = encode(effect.envelope, message)
        if isinstance(message, Ping | Pong):
            self.pulse = Pulse(effect.peer, frames, self._clock.now(), self.settings.timing.heartbeat_ns)
        if batch is not None:
            self._capturer.buffers.sent(batch)
        if not self._send(effect.peer, effect.lane, frames, batch) and batch is not None:
            self._capturer.buffers.let_go(batch)

    def _release(self, effect: do.Release) -> None:
        if effect.output.channel == END_CHANNEL:
            self._end = f"the guest ended: {effect.output.payload.decode(errors='replace')}"
        else:
            self._world.release(effect.output)
        made_at = self._sink.take_time(effect.output.number)
        self._counters.released((self._clock.now() - (effect.since if made_at is None else made_at)) / 1000)

    def _run(self, effect: do.Run) -> None:
        self._capturer.end_warm_up()
        error = self._runner.run(effect)
        if error is not None:
            self._fail(error, StopKind.FAILED)

    def _warm_up(self) -> None:
        """Copy a portion of the memory that a switchover will start from."""
        if self._capturer.is_warming_up and self._capturer.warm_up(self._memory.digests):
            self.replica.on_warm()

    # --- ends ------------------------------------------------------------------------------------------------------

    def _fail(self, error: FtvmError, kind: StopKind | None = None, word: str | None = None) -> None:
        """End of an error: at once, or as a stop of this kind where the guest ran here; `word` is for the peer."""
        at, guest_id = self._clock.now(), self.settings.guest_id
        self.failure = self.failure or error  # before it is told: who waits for this host's end looks when it is told
        if isinstance(error, GuestEnded):
            self._tell(GuestFinished(at=at, guest_id=guest_id, reason=str(error)))
        else:
            self._tell(HostFailed(at=at, guest_id=guest_id, error=str(error)))
        if kind is None:
            self.halt(error)
            return
        self._pause_for_good()
        self._begin_stop(kind, error, word or str(error))

    def halt(self, error: FtvmError) -> None:
        """Pause the guest for good and do nothing more."""
        self.failure = self.failure or error
        self.pulse = None
        self._is_halted = True
        self._pause_for_good()

    def _pause_for_good(self) -> None:
        try:
            self._runner.pause_for_good()
        except FtvmError as wrong:
            self._tell(HostFailed(at=self._clock.now(), guest_id=self.settings.guest_id, error=str(wrong)))

    def _tell(self, event: Event) -> None:
        self._counters.count(event)
        self._on_event(event)
