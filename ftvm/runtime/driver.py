"""Drives one guest on one host: feeds its replica, performs the effects, and never waits.

`step(now)` is all there is. The guest has its own thread or process: runner.py runs it, capture.py captures it. The
protocol says what is to be done (protocol/effects.py), `_acts_of` who does it. How this host ends is in ending.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import END_CHANNEL, Buffer, Checkpoint, Output, PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.messages import Copy, Envelope, EpochPart, Message, Ping, Pong
from ftvm.encode.wire import encode
from ftvm.engines.names import require
from ftvm.errors import FtvmError, GuestError, LimitExceeded, LocalProtocolError
from ftvm.events import Event, GuestWarned, TransportTrouble
from ftvm.interfaces import Arbiter, Clock, DiskKeeper, Engine, Guest, Lane, World
from ftvm.protocol import effects as do
from ftvm.protocol.core import Settings
from ftvm.protocol.replica import Replica
from ftvm.protocol.reports import (
    CUT_WANTED,
    GUEST_STIRRED,
    STEP_BEGUN,
    TICK,
    CaptureFailed,
    MemoryMeasured,
    PeerGone,
    PeerRefused,
    Received,
    Report,
    ShadowWarmed,
)
from ftvm.protocol.session import Switchover
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.view import Role, View
from ftvm.runtime.capture import CaptureOrder, Capturer
from ftvm.runtime.describing import describe
from ftvm.runtime.ending import HostEnd
from ftvm.runtime.onlooker import CommitObserver, Onlooker
from ftvm.runtime.packing import WORTH_BYTES, Packer
from ftvm.runtime.pulse import Pulse
from ftvm.runtime.runner import GuestRunner
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.standing import Standings
from ftvm.runtime.status import Counters, Status
from ftvm.runtime.stored import Persists, StoredMemory, present_pages
from ftvm.runtime.world import news_of, releases_of
from ftvm.units import Nanos

__all__ = ["Driver", "SendFrames"]

SendFrames = Callable[[str, Lane, list[Buffer], PageBatch | None], bool]
"""Sends frames to a peer on a lane; the batch, if any, is the one whose buffers the frames use. False: not taken."""

_EFFECT_ROUNDS_MAX = 64
"""Performing effects can ask for more; a step that needs more rounds than this is our bug."""


class Driver:
    """One guest on one host. How it ends: ending.py.

    let_go   notes that the transport has let go of one send of a batch
    expects  tells whether a message of an envelope, from a peer, is of the session whose backup this host is
    emitted  what has come from the guest and is not taken yet: only whether there is anything is for others to see
    keepers  of the guest's disks, if not the stores of its regions: the simulator's disk has none
    may_wait tells whether the guest may wait on for a process that does not answer: OutputSink
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
        observer: CommitObserver | None = None,
        place: str | None = None,
        keepers: Sequence[DiskKeeper] | None = None,
        may_wait: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.settings = settings
        self._guest, self._arbiter = guest, arbiter
        self._world, self._let_out, self._news_of_world = world, releases_of(world), news_of(world)
        self._onlooker = Onlooker(observer)
        self._clock = clock
        self._send = send
        self._on_event = on_event
        self._sink = NumberingSink(wake, clock, may_wait)
        self.news = self._sink
        memory = NativeMemory([region.buffer for region in guest.memory])
        stores = [region.store for region in guest.memory if region.store is not None]
        self._memory = CommittedMemory(memory, lambda: present_pages(guest.memory) if stores else None)
        self._stores = StoredMemory(self._memory, guest.memory) if stores else None
        self._stored = self._stores or self._memory
        keepers = stores if keepers is None else keepers
        self._persists = Persists(keepers, wake)
        self._packer = Packer(settings.limits, clock)
        self._counters = Counters()
        self._standings = Standings(self._counters.reasons, clock.now())
        self._wanted: list[do.Effect] = []
        self._pulse: Pulse | None = None
        self._replica = Replica(settings, self._stored, fresh_id=fresh_id, starts=starts, now=clock.now(), place=place)
        self.expects = self._replica.expects
        self._is_asking = False
        self._runner = GuestRunner(guest, self._sink, self._memory, logs_always=settings.is_observed)
        self._capturer = Capturer(
            self._runner, guest, memory, self._sink, settings.limits, clock, self._replica.must_stand_still, keepers
        )
        self.let_go: Callable[[PageBatch], None] = self._capturer.buffers.let_go
        self._ending = HostEnd(
            guest_id=settings.guest_id,
            replica=self._replica,
            runner=self._runner,
            sink=self._sink,
            clock=clock,
            want=self._want,
            perform=self._perform,
            settle=self._settle,
            tell=self.tell,
        )
        self._acts = self._acts_of()
        guest.attach(self._sink)

    @property
    def is_active(self) -> bool:
        """Whether the guest runs here, by the arbiter's word."""
        return self.view().role is Role.ACTIVE

    def view(self) -> View:
        """Return what may be seen of the replica here."""
        return self._replica.view()

    def fds(self) -> tuple[int, ...]:
        """Return what becomes readable when an input for the guest has come.

        Nothing while the guest stands still here: it takes no input now, so the loop does not wake for one. What has
        come waits in the world, and is taken with the step that lets the guest go on.
        """
        return () if self._runner.is_running and self._runner.is_paused else self._world.fds()

    # --- the loop --------------------------------------------------------------------------------------------------

    def begin_step(self, now: Nanos) -> None:
        """Start a step, before the messages that have come are given."""
        if not self._ending.is_halted and now >= self._replica.begins_at:
            self._wanted += self._replica.step(STEP_BEGUN, now)

    def receive(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message for this guest."""
        if not self._ending.is_halted:
            self._wanted += self._replica.step(Received(peer, key, envelope, message), now)
            if self._wanted:
                self._perform()

    @property
    def pulse(self) -> Pulse | None:
        """The last heartbeat sent, while it may be repeated; another thread reads it."""
        return None if self._ending.is_halted else self._pulse

    @property
    def partner(self) -> str | None:
        """The peer in session with the guest here, by its name in the transport."""
        return self._replica.partner()[0] if self._ending.failure is None else None

    def lose_peer(self, peer: str, now: Nanos) -> None:
        """Note that the process of `peer` is gone."""
        self._report(PeerGone(peer), now)

    def refused_by(self, peer: str, error: FtvmError, now: Nanos) -> None:
        """Note that a peer can never take this host as its standby: it gives up once none of its peers can."""
        if self.failure is None:
            self._report(PeerRefused(peer, error), now)
            self._perform()

    def step(self, now: Nanos, *, is_round: bool = True, has_input: bool = True) -> Nanos | None:
        """Do what has come and what is due; return when to be called again, unless something comes; None: only then.

        is_round   look also at what nobody signals: whether the guest lives, what it warns of
        has_input  something may have come for the guest
        """
        if self._ending.is_halted:
            return None
        if self._is_asking and (answer := self._arbiter.poll()) is not None:
            self._is_asking = False
            self._report(answer, now)
            self._perform()
        if self._persists.said:
            self._take_persisted()
            self._perform()
        if has_input and (inputs := self._world.receive(self.settings.limits.inputs_per_step)):
            self._runner.deliver(inputs)
        waiting = () if self._runner.follower is None else self._runner.follower.waiting
        if waiting and isinstance(waiting[-1], Checkpoint):
            self._follow_on(now)
        if self._capturer.is_warming_up and self._capturer.warm_up(self._memory.digests):
            self._report(ShadowWarmed(), now)
        if self._sink.has_stirred or self._sink.is_cut_wanted:
            self._take_words(self._sink, now)
        if self._sink.items:
            self._wanted += self._replica.step(self._runner.take_emitted(), now)
            if self._wanted:
                self._perform()
        self._wanted += self._replica.step(TICK, now)
        if self._wanted:
            self._perform()
        if waiting and not isinstance(waiting[-1], Checkpoint):
            self._follow_on(now)  # behind the acknowledgement: outputs wait for the log, not for its execution here
        if self._onlooker.held:
            self._onlooker.show()
        ending = self._ending
        if is_round:
            self._look_around(now)
        if is_round or ending.guest_end is not None:
            ending.look_at_guest(now)
        if ending.stopping is not None:
            ending.halt_if_over()
        if ending.is_halted:
            return None
        if self._stores is not None:
            self._stores.stands(self.view().footing)
        end, runner = self._replica.end_step(now), self._runner
        if self._pulse is not None and (ending.failure is not None or not end.may_beat):
            self._pulse = None
        if runner.is_running and runner.is_paused is not end.must_stand_still:
            runner.stall_or_go_on(must_stand_still=end.must_stand_still)
        if end.request is not None:
            self._is_asking = True
            self._arbiter.submit(end.request)
        is_busy = self._capturer.is_warming_up or (runner.follower is not None and runner.follower.waiting)
        return now if is_busy else end.due

    def _look_around(self, now: Nanos) -> None:
        if (news := self._news_of_world()) is not None:
            self._sink.warn(news)
        for reason in self._sink.take_warnings():
            self.tell(GuestWarned(at=now, guest_id=self.settings.guest_id, reason=reason))
        self._counters.reasons.silent = self._runner.silence() or ""
        self._standings.look(self.view(), self._ending.failure, now)

    def _follow_on(self, now: Nanos) -> None:
        for report in self._runner.follow_on():
            self._report(report, now)
        self._perform()

    def _take_words(self, sink: NumberingSink, now: Nanos) -> None:
        if sink.has_stirred:
            sink.has_stirred = False
            self._report(GUEST_STIRRED, now)
        if sink.is_cut_wanted:
            sink.is_cut_wanted = False
            self._report(CUT_WANTED, now)

    def _settle(self) -> None:
        """The guest runs or stands still, the pulse may be repeated or not: as the replica says now."""
        if self._pulse is not None and (self._ending.failure is not None or not self._replica.partner()[1]):
            self._pulse = None
        if self._runner.is_running:
            self._runner.stall_or_go_on(must_stand_still=self._replica.must_stand_still())

    # --- orders ----------------------------------------------------------------------------------------------------

    @property
    def engines(self) -> tuple[Engine, Engine] | None:
        """The engine in force, and the one that is to be, which may be the same; None unless the guest runs here."""
        active = self.view().active
        return (active.told, active.wanted) if active is not None else None

    def set_engine(self, engine: Engine) -> None:
        """Change the engine of the guest that runs here; `EngineChanged` tells when it is in force.

        Raises ConfigError if the guest or the standby cannot be protected with it, LocalProtocolError if the guest
        does not run here; nothing changes then.
        """
        require(engine, self._guest.can)
        self._wanted += self._replica.set_engine(engine)
        self._perform()
        self._settle()

    def begin_switchover(self, limit_ns: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; watch what is returned.

        Raises LocalProtocolError if there is no standby in step, or this host has ended: nothing steps it any more.
        """
        if self._ending.cause is not None:
            raise LocalProtocolError(f"cannot switch over: this host is stopping: {self._ending.cause}")
        return self._replica.begin_switchover(limit_ns, self._clock.now())

    # --- its end ---------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> FtvmError | None:
        """Why this host ended, if it did."""
        return self._ending.failure

    def stop(self, error: FtvmError, word: str = "its host was stopped") -> None:
        """Stop cleanly and finally: `error` is why this host ended; `word` is for the peer. Step while `is_leaving`."""
        self._ending.stop(error, word)

    def end_guest(self, reason: str) -> None:
        """End the guest for good, here and at its standby. Raises LocalProtocolError if it does not run here."""
        self._ending.end_guest(reason)

    def order_end(self, reason: str) -> None:
        """Note that `end_guest` comes once this step is over: a guest that fails in it goes on nowhere, either.

        Raises as `end_guest`.
        """
        self._ending.require_running_here()
        self._ending.end_order = reason

    @property
    def is_leaving(self) -> bool:
        """Whether this host was asked to stop, or has to, and is not done with it; that ends by itself."""
        return self._ending.is_leaving

    @property
    def stopped(self) -> Stopping | None:
        """What came of the stop; None if there was none, or it is not over."""
        return self._ending.stopped

    def halt(self, error: FtvmError) -> None:
        """Pause the guest for good and do nothing more."""
        self._ending.halt(error)

    # --- what is told ----------------------------------------------------------------------------------------------

    def status(self, now: Nanos) -> Status:
        """Return what there is to tell now."""
        standing = self._standings.look(self.view(), self.failure, now)
        return describe(self.settings, self.view(), standing, self._counters, self._capturer, self.failure, now)

    def tell(self, event: Event) -> None:
        """Report an event, which counts in the status."""
        self._counters.count(event)
        self._on_event(event)

    def _pass_on(self, effect: do.Tell) -> None:
        self._counters.count(effect.event)
        self._on_event(effect.event)

    def tell_trouble(self, error: str) -> None:
        """Report that the transport could not send."""
        self.tell(TransportTrouble(at=self._clock.now(), guest_id=self.settings.guest_id, error=error))

    # --- reports and effects ---------------------------------------------------------------------------------------

    def _report(self, report: Report, now: Nanos) -> None:
        """Give the replica a report; the next `_perform` does what it wants done, behind what it wanted before."""
        self._wanted += self._replica.step(report, now)

    def _want(self, effects: Sequence[do.Effect]) -> None:
        self._wanted += effects

    def _perform(self) -> None:
        for _ in range(_EFFECT_ROUNDS_MAX):
            if not self._wanted:
                return
            wanted, self._wanted = self._wanted, []
            for effect in wanted:
                self._acts[type(effect)](effect)
        raise LimitExceeded("rounds of effects in one step", limit=_EFFECT_ROUNDS_MAX, wanted=_EFFECT_ROUNDS_MAX + 1)

    def _acts_of(self) -> dict[type, Callable[[Any], None]]:
        """Return what each effect takes."""
        runner, capturer, ending = self._runner, self._capturer, self._ending
        return {
            do.ShowCommit: self._onlooker.keep,
            do.Send: self._transmit,
            do.Release: self._release,
            do.Forget: self._forget,
            do.Cut: self._capture,
            do.Tell: self._pass_on,
            do.StartCopy: self._capture,
            do.CollectRound: self._capture,
            do.MatchPages: self._capture,
            do.CopyMore: self._capture,
            do.RunGuest: self._run,
            do.Use: self._use,
            do.Stop: self._stop_here,
            do.Follow: self._follow,
            do.Execute: lambda effect: runner.lead_along(effect.records),
            do.Compare: lambda effect: runner.lead_along((effect.checkpoint,)),
            do.Rest: lambda _: runner.rest(),
            do.Load: self._load,
            do.Unload: self._unload,
            do.EndSession: lambda _: capturer.end_session(),
            do.Adopt: lambda effect: capturer.adopt(self._memory.digests, effect.staging_bytes),
            do.WarmUp: lambda _: capturer.begin_warm_up(),
            do.Measure: self._measure,
            do.Persist: self._persist,
            do.Cover: lambda effect: self._persists.cover(is_covered=effect.is_covered),
            do.Announce: lambda _: self._world.announce(),
            do.Fail: lambda effect: ending.fail(effect.error, effect.kind),
        }

    def _use(self, effect: do.Use) -> None:
        for report in self._runner.change_engine(effect.engine):
            self._report(report, self._clock.now())

    def _stop_here(self, _: do.Stop) -> None:
        self._runner.pause_for_good()
        self._capturer.release()

    def _follow(self, effect: do.Follow) -> None:
        self._onlooker.show()
        if (diverged := self._runner.start_following(effect)) is not None:
            self._report(diverged, self._clock.now())

    def _load(self, effect: do.Load) -> None:
        self._settle()  # a claim is not a sign of life, and loading may take long
        self._report(self._runner.load(effect), self._clock.now())

    def _unload(self, _: do.Unload) -> None:
        self._runner.unload()
        self._capturer.release()

    def _forget(self, effect: do.Forget) -> None:
        self._capturer.buffers.acknowledged(*effect.batches)
        if self._packer.sent_at:
            self._packer.acknowledged(effect.batches)

    def _measure(self, _: do.Measure) -> None:
        self._stored.measure()
        self._report(MemoryMeasured(), self._clock.now())

    def _persist(self, effect: do.Persist) -> None:
        if self._stores is not None:  # what was agreed is given to them with this
            self._stores.stands(self.view().footing)
        self._persists.ask(effect.number)
        self._take_persisted()

    def _take_persisted(self) -> None:
        for report in self._persists.take():
            self._report(report, self._clock.now())

    def _capture(self, order: CaptureOrder) -> None:
        """Have the guest captured, and report the result."""
        report, ending = self._capturer.capture(order), self._ending
        now = self._clock.now()
        if isinstance(report, CaptureFailed) and ending.is_lost(report, now):  # rule: failed_guest_is_its_standbys
            return  # to report it would drop the standby, the only one that can go on
        self._wanted += self._replica.step(report, now)

    def _transmit(self, effect: do.Send) -> None:
        message = effect.message
        batch = message.batch if isinstance(message, Copy | EpochPart) else None
        if batch is not None and len(batch.payload) >= WORTH_BYTES and isinstance(message, Copy | EpochPart):
            batch = self._packer.pack(batch, is_first_copy=isinstance(message, Copy))
            message = replace(message, batch=batch)
        frames = encode(effect.envelope, message)
        if isinstance(message, Ping | Pong):
            self._pulse = Pulse(effect.peer, frames, self._clock.now(), self.settings.timing.heartbeat_ns)
        if len(frames) == 1:
            batch = None  # the frame is a copy: nothing of the batch is lent
        if batch is not None:
            self._capturer.buffers.sent(batch)
        if not self._send(effect.peer, effect.lane, frames, batch) and batch is not None:
            self._capturer.buffers.let_go(batch)

    def _release(self, effect: do.Release) -> None:
        outputs: Sequence[Output] = effect.outputs
        first, last = effect.outputs.first, effect.outputs.last
        if END_CHANNEL in effect.outputs.channels and outputs[-1].channel == END_CHANNEL:
            self._ending.guest_said(outputs[-1])
            outputs = outputs[:-1]
        self._let_out(outputs)
        made_at = self._sink.take_times(first, last)
        self._counters.released(last + 1 - first, made_at, effect.since, self._clock.now())

    def _run(self, effect: do.RunGuest) -> None:
        self._onlooker.end()
        self._capturer.end_warm_up()
        if self._stores is not None:  # before the guest's first write
            self._stores.stands(self.view().footing)
            self._capturer.inherit(self._memory.digests)
        outcome = self._runner.run(effect)
        if isinstance(outcome, GuestError):
            self._ending.fail(outcome, StopKind.FAILED)
        else:
            self._report(outcome, self._clock.now())
