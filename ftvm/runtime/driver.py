"""Drives one guest on one host: feeds its replica, performs the effects, and never waits.

`step(now)` is all there is: host.py calls it from its thread, the simulator from its loop. Everything outside is
reached
through interfaces. The guest runs in a thread or process of its own and is only paused, captured and resumed from here.
"""

from collections.abc import Callable
from typing import assert_never

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Buffer, PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.messages import Copy, Envelope, EpochPart, Message
from ftvm.encode.wire import encode
from ftvm.errors import FtvmError, GuestError, LimitExceeded
from ftvm.events import Event, HostFailed
from ftvm.interfaces import Arbiter, Clock, Guest, Lane, World
from ftvm.protocol import effects as do
from ftvm.protocol.active import Active
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import Role, Settings
from ftvm.protocol.replica import Replica
from ftvm.protocol.standby import Standby
from ftvm.runtime.capture import Hands
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.status import Counters, Status, percentiles
from ftvm.units import Nanos, nanos_to_millis

__all__ = ["Driver", "SendFrames"]

SendFrames = Callable[[str, Lane, list[Buffer], PageBatch | None], bool]
"""Sends frames to a peer on a lane; the batch, if any, is the one whose buffers the frames use. False: not taken."""

_EFFECT_ROUNDS_MAX = 64
"""Performing effects can ask for more; a step that does not come to rest in so many rounds is our bug."""


class Driver:
    """One guest on one host. `failure` says why it ended, if it did; nothing more is done then."""

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
        self.failure: str | None = None
        self._guest = guest
        self._world = world
        self._arbiter = arbiter
        self._clock = clock
        self._send = send
        self._on_event = on_event
        self._sink = NumberingSink(wake)
        memory = NativeMemory([region.buffer for region in guest.memory])
        self._hands = Hands(guest, memory, settings.limits)
        committed = Committed(CommittedMemory(memory), settings.limits.outputs_held)
        self._counters = Counters()
        self._is_running = False
        self._is_stalled = False
        self.replica = Replica(settings, committed, fresh_id=fresh_id, starts=starts, now=clock.now())
        guest.attach(self._sink)

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.settings.limits

    @property
    def is_active(self) -> bool:
        """Whether the guest runs here, by the arbiter's word."""
        return self.replica.role is Role.ACTIVE

    def fds(self) -> tuple[int, ...]:
        """Return what becomes readable when an input for the guest has come."""
        return self._world.fds()

    # --- the loop --------------------------------------------------------------------------------------------------

    def receive(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message for this guest."""
        if self.failure is None:
            self.replica.on_message(peer, key, envelope, message, now)
            self._perform()

    def let_go(self, batch: PageBatch) -> None:
        """Note that the transport has let go of one send of this batch."""
        self._hands.let_go(batch)

    def step(self, now: Nanos) -> Nanos | None:
        """Do all that is due; return when to be called again if nothing comes before (None: only when something
        comes)."""
        if self.failure is not None:
            return None
        answer = self._arbiter.poll()
        if answer is not None:
            self.replica.on_answer(answer, now)
            self._perform()
        self._bring_inputs()
        self._take_outputs(now)
        self.replica.tick(now)
        self._perform()
        self._stall_or_go_on()
        self._check_guest(now)
        if self._has_failed():  # a host that gives up must not drop its standby on the way out
            return None
        request = self.replica.next_request(now)
        if request is not None:
            self._arbiter.submit(request)
        return self.replica.deadline(now)

    def _has_failed(self) -> bool:
        return self.failure is not None

    def stop(self, reason: str) -> None:
        """Stop for good: say goodbye to the peer and leave the guest paused."""
        if self.failure is None:
            self.replica.leave(reason, self._clock.now())
            self._perform()
        self.halt(reason)

    def status(self, now: Nanos) -> Status:
        """Return what there is to tell now."""
        return _status(self, self.replica, self._counters, now)

    # --- guest and world -------------------------------------------------------------------------------------------

    def _bring_inputs(self) -> None:
        inputs = self._world.receive(self.limits.inputs_per_step)
        if self._is_running:
            for channel, payload in inputs:
                self._guest.deliver(channel, payload)

    def _take_outputs(self, now: Nanos) -> None:
        outputs = self._sink.drain()
        if outputs:
            self.replica.on_outputs(outputs, now)
            self._perform()

    def _stall_or_go_on(self) -> None:
        """Keep the guest from running on while too much of its output waits: never an unbounded queue."""
        steps = self.replica.steps
        stalled = self._is_running and isinstance(steps, Active) and steps.is_stalled()
        if stalled != self._is_stalled:
            self._is_stalled = stalled
            if stalled:
                self._guest.pause()
            elif self._is_running:
                self._guest.resume()

    def _check_guest(self, now: Nanos) -> None:
        reason = self._guest.failure() if self._is_running else None
        if reason is not None:
            self._take_outputs(now)
            self.replica.leave(f"the guest ended: {reason}", now)
            self._perform()
            self._fail(f"the guest ended: {reason}")

    # --- effects ---------------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        for _ in range(_EFFECT_ROUNDS_MAX):
            wanted = self.replica.take_effects()
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
                self._sink.open(effect.output_next)
                self._is_running = True
                self._guest.resume()
            case do.Stop():
                self._pause_for_good()
            case do.Load():
                self._load(effect)
            case do.Unload():
                self._guest.pause()
            case do.Forget():
                self._hands.forget(effect.batches)
            case do.EndSession():
                self._hands.end_session()
            case do.Fail():
                self._fail(effect.reason)
            case do.StartCopy() | do.CollectRound() | do.CopyMore() | do.Cut():
                self._capture(effect)
            case _:
                assert_never(effect)

    def _transmit(self, effect: do.Send) -> None:
        message = effect.message
        batch = message.batch if isinstance(message, Copy | EpochPart) else None
        frames = encode(effect.envelope, message)
        if batch is not None:
            self._hands.sent(batch)
        if not self._send(effect.peer, effect.lane, frames, batch) and batch is not None:
            self._hands.let_go(batch)

    def _release(self, effect: do.Release) -> None:
        self._world.release(effect.output)
        self._counters.outputs_released += 1

    def _load(self, effect: do.Load) -> None:
        try:
            self._guest.pause()
            self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            self.replica.on_load_failed(str(wrong), self._clock.now())
        else:
            self.replica.on_loaded(self._clock.now())

    def _capture(self, effect: do.StartCopy | do.CollectRound | do.CopyMore | do.Cut) -> None:
        try:
            match effect:
                case do.StartCopy():
                    self.replica.on_round(self._hands.start_copy(), self._clock.now())
                case do.CollectRound():
                    self.replica.on_round(self._hands.collect_round(), self._clock.now())
                case do.CopyMore():
                    batches, left = self._hands.copy_more(effect.batches)
                    self.replica.on_copied(batches, left, self._clock.now())
                case do.Cut():
                    self._cut(effect)
        except (GuestError, LimitExceeded) as wrong:
            self.replica.on_capture_failed(f"{type(wrong).__name__}: {wrong}", self._clock.now())

    def _cut(self, order: do.Cut) -> None:
        """Cut an epoch: all that the guest emitted before the pause belongs to it, nothing emitted after does."""
        began = self._clock.now()
        self._guest.pause()
        try:
            self.replica.on_outputs(self._sink.drain(), began)
            steps = self.replica.steps
            pending = steps.pending_outputs() if isinstance(steps, Active) else ()
            checkpoint = self._hands.cut(order, pending, self._sink.output_next)
        finally:
            if not self._is_stalled:
                self._guest.resume()
        now = self._clock.now()
        self.replica.on_cut(checkpoint, now - began, now)

    # --- ends ------------------------------------------------------------------------------------------------------

    def _pause_for_good(self) -> None:
        self._is_running = False
        self._is_stalled = False
        self._guest.pause()
        self._sink.close()

    def _fail(self, reason: str) -> None:
        self._tell(HostFailed(at=self._clock.now(), guest_id=self.settings.guest_id, error=reason))
        self.halt(reason)

    def halt(self, reason: str) -> None:
        """Pause the guest for good and do nothing more."""
        self.failure = self.failure or reason
        try:
            self._pause_for_good()
        except FtvmError as wrong:
            self._tell(HostFailed(at=self._clock.now(), guest_id=self.settings.guest_id, error=str(wrong)))

    def _tell(self, event: Event) -> None:
        self._counters.count(event)
        self._on_event(event)


def _status(driver: Driver, replica: Replica, counters: Counters, now: Nanos) -> Status:
    steps, known = replica.steps, replica.core.desk.known
    active = steps if isinstance(steps, Active) else None
    session = active.session if active is not None else None
    epoch = active.epoch if active else steps.committed.epoch or 0 if isinstance(steps, Standby) else 0
    in_flight = session.in_flight if session is not None else ()
    return Status(
        guest_id=driver.settings.guest_id,
        role=replica.role.value,
        link=active.link.value if active is not None else "",
        replica_id=replica.core.id,
        generation=known.generation,
        active=known.active,
        standby=known.standby,
        engine=driver.settings.engine.name,
        epoch=epoch,
        epochs_in_flight=len(in_flight),
        lag_ms=nanos_to_millis(now - in_flight[0].cut_at) if in_flight else 0.0,
        outputs_held=len(active.gate.held) if active is not None else 0,
        outputs_released=counters.outputs_released,
        copy_pages_left=active.plan.left if active is not None and active.plan is not None else 0,
        checkpoints=counters.checkpoints,
        digests_compared=counters.digests_compared,
        takeovers=counters.takeovers,
        pause_us=percentiles(counters.pauses_us),
        output_delay_us=percentiles(counters.output_delays_us),
        bytes_sent=counters.bytes_sent,
        bytes_raw=counters.bytes_raw,
        failure=driver.failure,
    )
