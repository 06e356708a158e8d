"""Drives one guest on one host: feeds its replica, performs the effects, and never waits.

`step(now)` is all there is: host.py calls it from its thread, the simulator from its loop. Everything outside is
reached through interfaces. The guest runs in a thread or process of its own and is only paused, captured and resumed
from here.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import assert_never, cast

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import END_CHANNEL, Buffer, Checkpoint, LogRecord, PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.messages import Copy, Envelope, EpochPart, Message
from ftvm.encode.wire import encode
from ftvm.engines.names import require
from ftvm.errors import FtvmError, GuestEnded, GuestError, LimitExceeded
from ftvm.events import Event, GuestFinished, HostFailed, TransportTrouble
from ftvm.interfaces import (
    Arbiter,
    Capability,
    Clock,
    Engine,
    ExactStopGuest,
    Guest,
    Lane,
    Record,
    ReplayableGuest,
    World,
)
from ftvm.protocol import effects as do
from ftvm.protocol.active import Active
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import Role, Settings
from ftvm.protocol.record import vacate
from ftvm.protocol.replica import Replica
from ftvm.protocol.standby import Standby
from ftvm.protocol.switchover import Switchover
from ftvm.runtime.capture import Captured, Hands
from ftvm.runtime.farewell import Farewell
from ftvm.runtime.follow import Follower, replay
from ftvm.runtime.packing import Packer
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.status import Counters, Status, percentiles
from ftvm.runtime.stored import StoredMemory
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
        self.failure: FtvmError | None = None
        self._guest = guest
        self._world = world
        self._arbiter = arbiter
        self._clock = clock
        self._send = send
        self._on_event = on_event
        self._sink = NumberingSink(wake)
        memory = NativeMemory([region.buffer for region in guest.memory])
        self._memory = CommittedMemory(memory)
        self._stored = StoredMemory(self._memory, guest.memory)
        self._hands = Hands(guest, memory, settings.limits)
        self._packer = Packer(settings.limits, clock)
        self._follower: Follower | None = None
        self._farewell: Farewell | None = None
        committed = Committed(self._stored, settings.limits)
        self._counters = Counters()
        self._end: str | None = None
        self._is_running = False
        self._is_stalled = False
        self._is_warming_up = False
        self._stops_itself = False
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

    def begin_step(self, now: Nanos) -> None:
        """Start a step, before the messages that have come are given."""
        self.replica.begin_step(now)

    def expects(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of the session whose backup this host is."""
        return self.replica.expects(peer, key, envelope)

    def receive(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message for this guest."""
        if self.failure is None:
            self.replica.on_message(peer, key, envelope, message, now)
            self._perform()
        elif self._farewell is not None and self._farewell.is_answered_by(peer, key, envelope, message):
            self._farewell = None

    def tell_trouble(self, error: str) -> None:
        """Report that the transport could not send."""
        self._tell(TransportTrouble(at=self._clock.now(), guest_id=self.settings.guest_id, error=error))

    def let_go(self, batch: PageBatch) -> None:
        """Note that the transport has let go of one send of this batch."""
        self._hands.let_go(batch)

    def step(self, now: Nanos) -> Nanos | None:
        """Do all that is due; return when to be called again if nothing comes before (None: only when something
        comes)."""
        if self.failure is not None:
            return self._stay_for_answer(now)
        answer = self._arbiter.poll()
        if answer is not None:
            self.replica.on_answer(answer, now)
            self._perform()
        self._bring_inputs()
        self._follow_on(now)
        self._warm_up()
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
        is_busy = self._is_warming_up or (self._follower is not None and self._follower.has_work)
        return now if is_busy else self.replica.deadline(now)

    def _has_failed(self) -> bool:
        return self.failure is not None

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
        """Start to hand the guest over to the standby. Raises LocalProtocolError; watch what is returned."""
        return self.replica.begin_switchover(limit_ns, self._clock.now())

    def stop(self, error: FtvmError) -> None:
        """Stop for good: say goodbye to the peer, leave the guest paused. `error` is what this host ended of.

        Step on while `is_leaving`.
        """
        if self.failure is None:
            now = self._clock.now()
            self._farewell = Farewell.of(self.replica, now)
            self.replica.leave(str(error), now)
            self._perform()
        self.halt(error)

    @property
    def is_leaving(self) -> bool:
        """Whether this host has stopped, and stays for the answer to its goodbye; that ends by itself."""
        return self._farewell is not None

    def _stay_for_answer(self, now: Nanos) -> Nanos | None:
        if self._farewell is not None and now >= self._farewell.ends_at:
            self._farewell = None
        return self._farewell.ends_at if self._farewell is not None else None

    def last_word(self) -> Record | None:
        """Return what to tell the arbiter once the guest has stopped here for good, if anything.

        A host that ran the guest alone vacates the record: nobody else can move it, and the guest ended with this host.
        So does one whose guest came to its own end, whoever stands by.
        """
        desk = self.replica.core.desk
        if self.is_active and isinstance(self.failure, GuestEnded):
            return vacate(desk.known)
        if not self.is_active or desk.proposal is not None or desk.known.standby is not None:
            return None
        return vacate(desk.known)

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
        has_spoken = self._hand_on(now)
        self._perform()
        if has_spoken and self._stops_itself:
            self._guest.pause()  # it is about to; a resume that came before would be lost

    def _hand_on(self, now: Nanos) -> bool:
        """Give the replica what came from the guest; tell whether that was any output."""
        if self._sink.is_empty:
            return False
        drained = self._sink.drain()
        if drained.log:
            self.replica.on_log(drained.log, now)
        for log_index, group in groupby(drained.outputs, key=itemgetter(1)):
            self.replica.on_outputs([output for output, _ in group], log_index, now)
        return bool(drained.outputs)

    def _stall_or_go_on(self) -> None:
        """Keep the guest paused while it must stand still, and no longer."""
        if not self._is_running:
            return
        steps = self.replica.steps
        is_stalled = isinstance(steps, Active) and steps.must_stand_still()
        if is_stalled != self._is_stalled or self._stops_itself:
            self._is_stalled = is_stalled
            if is_stalled:
                self._guest.pause()
            else:
                self._guest.resume()

    def _check_guest(self, now: Nanos) -> None:
        if self._end is not None and self.failure is None:
            self.replica.end(self._end)
            self._perform()
            self._fail(GuestEnded(self._end))
            return
        reason = self._guest.failure() if self._is_running else None
        if reason is None:
            return
        self._take_outputs(now)
        if not self._is_end_held() and self._end is None:
            self.replica.leave(f"the guest ended: {reason}", now)
            self._perform()
            self._fail(GuestError(f"the guest ended: {reason}"))

    def _is_end_held(self) -> bool:
        """Tell whether the guest came to its own end, and that is not safe yet."""
        steps = self.replica.steps
        if not isinstance(steps, Active) or not steps.gate.held:
            return False
        return steps.gate.held[-1].output.channel == END_CHANNEL

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
                self._run(effect)
            case do.Use():
                self._change_engine(effect.engine)
            case do.Stop():
                self._pause_for_good()
                self._hands.release()
            case do.Follow():
                self._start_following(effect)
            case do.Execute():
                self._lead_along(effect.records)
            case do.Compare():
                self._lead_along((effect.checkpoint,))
            case do.Rest():
                self._follower = None
                self._sink.close()
            case do.Load():
                self._load(effect)
            case do.Unload():
                self._guest.pause()
                self._hands.release()
            case do.Forget():
                self._hands.forget(effect.batches)
                self._packer.acknowledged(effect.batches)
            case do.EndSession():
                self._hands.end_session()
            case do.Fail():
                self._fail(effect.error)
            case do.Adopt():
                self._hands.adopt(self._memory.digests, effect.staging_bytes)
            case do.WarmUp():
                self._is_warming_up = True
            case do.Measure():
                self._stored.measure()
                self.replica.on_measured(self._clock.now())
            case do.StartCopy() | do.CollectRound() | do.CopyMore() | do.Cut():
                self._capture(effect)
            case _:
                assert_never(effect)

    def _transmit(self, effect: do.Send) -> None:
        message = effect.message
        batch = message.batch if isinstance(message, Copy | EpochPart) else None
        if batch is not None and isinstance(message, Copy | EpochPart):
            batch = self._packer.pack(batch, is_first_copy=isinstance(message, Copy))
            message = replace(message, batch=batch)
        frames = encode(effect.envelope, message)
        if batch is not None:
            self._hands.sent(batch)
        if not self._send(effect.peer, effect.lane, frames, batch) and batch is not None:
            self._hands.let_go(batch)

    def _release(self, effect: do.Release) -> None:
        if effect.output.channel == END_CHANNEL:
            self._end = f"the guest ended: {effect.output.payload.decode(errors='replace')}"
        else:
            self._world.release(effect.output)
        self._counters.released((self._clock.now() - effect.since) / 1000)

    def _start_following(self, effect: do.Follow) -> None:
        """Load the first copy; from now on the guest is led along the log."""
        try:
            if effect.devices is not None:
                self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            self.replica.on_diverged(do.Difference(reason=f"the first copy does not load: {wrong}"), self._clock.now())
            return
        self._sink.open(effect.output_next, 1, is_logging=False)
        self._follower = Follower(cast("ReplayableGuest", self._guest), self._memory, self._sink)

    def _lead_along(self, items: Iterable[LogRecord | Checkpoint]) -> None:
        """Have the guest follow. There is none if the first copy did not load: then the role ends with this step."""
        if self._follower is not None:
            self._follower.add(items)

    def _follow_on(self, now: Nanos) -> None:
        """Execute a portion of what waits, and report what came of it."""
        if self._follower is None or not self._follower.has_work:
            return
        outcome = self._follower.advance()
        outputs = [output for output, _ in self._sink.drain().outputs]
        if outputs:
            self.replica.on_followed(outputs, now)
        if isinstance(outcome, do.Difference):
            self._follower = None
            self.replica.on_diverged(outcome, now)
        elif outcome is not None:
            self.replica.on_agreed(outcome, now)
        self._perform()

    def _warm_up(self) -> None:
        """Copy a portion of the memory that a switchover will start from."""
        if self._is_warming_up and self._hands.warm_up(self._memory.digests):
            self._is_warming_up = False
            self.replica.on_warm()

    def _load(self, effect: do.Load) -> None:
        if self._follower is not None:
            self.replica.on_loaded(self._clock.now())
            return
        try:
            self._guest.pause()
            self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            self.replica.on_load_failed(str(wrong), self._clock.now())
        else:
            self.replica.on_loaded(self._clock.now())

    def _run(self, effect: do.Run) -> None:
        """Let the guest run here, from where the log ends."""
        guest = self._guest
        follower, self._follower = self._follower, None
        try:
            if follower is not None:
                follower.finish()
            else:
                self._sink.open(effect.output_next, effect.log_next, is_logging=False)
                replay(cast("ReplayableGuest", guest), effect.log, self._sink)
        except GuestError as wrong:
            self._fail(GuestError(f"the replay diverged: {wrong}"))
            return
        self.replica.on_outputs([output for output, _ in self._sink.drain().outputs], 0, self._clock.now())
        self._sink.open(self._sink.output_next, effect.log_next, is_logging=False)
        self._use(effect.engine)
        self._is_running = True
        guest.resume()

    def _use(self, engine: Engine) -> None:
        """Have the paused guest go on under `engine`; all that it emitted before is drained."""
        self._sink.set_logging(engine.logs)
        can_stop = Capability.EXACT_OUTPUT_STOP in self._guest.can
        self._stops_itself = engine.stands_still and can_stop
        if can_stop:
            cast("ExactStopGuest", self._guest).stop_at_output(self._stops_itself)

    def _change_engine(self, engine: Engine) -> None:
        """Change the engine where no cut does it: what the guest emitted before the pause is judged by the old one."""
        if not self._is_running:
            return
        self._guest.pause()
        self._is_stalled = True
        self._hand_on(self._clock.now())
        self._use(engine)
        self.replica.on_engine_used(engine, self._clock.now())
        self._stall_or_go_on()

    def _capture(self, effect: do.StartCopy | do.CollectRound | do.CopyMore | do.Cut) -> None:
        try:
            match effect:
                case do.StartCopy():
                    staging_bytes = effect.staging_bytes
                    self._collect(lambda: self._hands.start_copy(staging_bytes))
                case do.CollectRound():
                    self._collect(self._hands.collect_round)
                case do.CopyMore():
                    batches, left = self._hands.copy_more(effect.batches)
                    self.replica.on_copied(batches, left, self._clock.now())
                case do.Cut():
                    self._cut(effect)
        except (GuestError, LimitExceeded, MemoryError, OSError) as wrong:
            # No memory for a shadow, say: without a standby the guest is as well off as before.
            self.replica.on_capture_failed(f"{type(wrong).__name__}: {wrong}", self._clock.now())

    def _collect(self, collect: Callable[[], int]) -> None:
        """Collect a round of the first copy from the paused guest."""
        self._guest.pause()
        self._is_stalled = True
        try:
            pages = collect()
        finally:
            self._stall_or_go_on()
        self.replica.on_round(pages, self._clock.now())

    def _cut(self, order: do.Cut) -> None:
        """Cut an epoch: all that the guest emitted before the pause belongs to it, nothing emitted after does."""
        began = self._clock.now()
        self._guest.pause()
        self._is_stalled = True
        try:
            self._hand_on(began)
            steps = self.replica.steps
            pending = steps.pending_outputs() if isinstance(steps, Active) else ()
            captured = self._hands.cut(order, pending, self._sink.output_next, self._sink.log_index)
            self._use(order.engine)
            self.replica.on_engine_used(order.engine, began)
            pause_ns = Nanos(self._clock.now() - began)
            if not order.engine.stands_still:
                self._stall_or_go_on()
            checkpoint = self._finish(captured, pause_ns)
            self.replica.on_cut(checkpoint, pause_ns, self._clock.now())
        finally:
            self._stall_or_go_on()

    def _finish(self, captured: Captured, pause_ns: Nanos) -> Checkpoint:
        try:
            return self._hands.finish(captured, pause_ns)
        except LimitExceeded:
            self._is_stalled = True  # the guest was paused to have its dirty pages put back
            raise

    # --- ends ------------------------------------------------------------------------------------------------------

    def _pause_for_good(self) -> None:
        self._is_running = False
        self._is_stalled = False
        self._follower = None
        self._guest.pause()
        self._sink.close()

    def _fail(self, error: FtvmError) -> None:
        at, guest_id = self._clock.now(), self.settings.guest_id
        if isinstance(error, GuestEnded):
            self._tell(GuestFinished(at=at, guest_id=guest_id, reason=str(error)))
        else:
            self._tell(HostFailed(at=at, guest_id=guest_id, error=str(error)))
        self.halt(error)

    def halt(self, error: FtvmError) -> None:
        """Pause the guest for good and do nothing more."""
        self.failure = self.failure or error
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
    engine = active.pace.engine.name if active else steps.committed.engine if isinstance(steps, Standby) else ""
    epoch = active.epoch if active else steps.committed.epoch or 0 if isinstance(steps, Standby) else 0
    in_flight = session.in_flight if session is not None else ()
    return Status(
        at=now,
        guest_id=driver.settings.guest_id,
        role=replica.role.value,
        link=("halted" if active.is_halted else active.link.value) if active is not None else "",
        replica_id=replica.core.id,
        generation=known.generation,
        active=known.active,
        standby=known.standby,
        engine=engine or driver.settings.engine.name,
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
        pauses=counters.pauses.seen(),
        output_delays=counters.output_delays.seen(),
        bytes_sent=counters.bytes_sent,
        bytes_raw=counters.bytes_raw,
        failure=str(driver.failure) if driver.failure is not None else None,
    )
