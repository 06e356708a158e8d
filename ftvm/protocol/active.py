"""What an active replica does: run the guest, take a standby in, ship to it, and release what is safe.

How the link to the standby goes on is a table (link.py). From the first cut on outputs obey the joining standby as well
(PROTOCOL.md, ADD).
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from ftvm.checkpoint import Checkpoint, LogRecord, Output, PageBatch, Watermarks
from ftvm.encode.messages import (
    Ack,
    Envelope,
    Join,
    Leave,
    Message,
    Ping,
    Prepare,
    Prepared,
    Refuse,
    SessionId,
    Welcome,
)
from ftvm.errors import ConfigError, InternalError, LocalProtocolError, RemoteProtocolError
from ftvm.events import Committed as CommittedEvent
from ftvm.events import (
    CopyProgress,
    EngineChanged,
    Halted,
    HostFailed,
    JoinRefused,
    PeerMisbehaved,
    Protected,
    SessionEnded,
    Solo,
    Suspected,
    SwitchFailed,
)
from ftvm.interfaces import Engine, Lane
from ftvm.protocol.channel import Outbox
from ftvm.protocol.commit import Committed
from ftvm.protocol.copying import CopyPlan
from ftvm.protocol.core import Core, RoleEvent
from ftvm.protocol.effects import Adopt, Announce, CollectRound, CopyMore, EndSession, Forget, Release, StartCopy, Use
from ftvm.protocol.empty import Opening
from ftvm.protocol.link import LINKS, NAMED, SHIPPING, STANDING, LinkEvent, LinkState
from ftvm.protocol.output import Gate, standbys_in_force
from ftvm.protocol.pace import Pace
from ftvm.protocol.patience import Patience
from ftvm.protocol.record import add, drop, switch
from ftvm.protocol.session import Contact, Session, batches_of
from ftvm.protocol.suspicion import Watch
from ftvm.protocol.switchover import Switchover, session_after
from ftvm.units import Nanos

__all__ = ["COPY_PATIENCE", "Active"]

COPY_PATIENCE: Final = 4
"""How many limits of silence are tolerated before the first epoch is acknowledged: the standby may be busy with it."""


PROGRESS_PATIENCE: Final = 120
"""So many limits a standby that is heard may make no progress: longer, and it could hold outputs for ever."""

JOINS_TOLERATED: Final = 3
"""So many sessions of one key may come to nothing; with each further one it waits longer for the next."""

REFUSALS_TOLD_MAX: Final = 64
"""So many different reasons for a refusal are told, each once: a flood of JOINs must not become a flood of events."""


@dataclass(slots=True)
class Active:
    """`epoch` is the last one cut; the one that is open is the next. `began_at` is when this replica became active."""

    core: Core
    gate: Gate
    epoch: int
    began_at: Nanos
    pace: Pace
    link: LinkState = LinkState.NONE
    session: Session | None = None
    plan: CopyPlan | None = None
    switchover: Switchover | None = None
    _ping_at: Nanos = field(init=False)
    _poll_at: Nanos = field(init=False)
    _announce_at: Nanos | None = None
    _announces_left: int = 0
    _is_held_by_hint: bool = False
    _is_waiting: bool = False
    _released_then: int = 0
    _refusals: set[str] = field(default_factory=set, repr=False)
    _patience: Patience = field(init=False, repr=False)
    _untold: deque[Output] = field(default_factory=deque, repr=False)
    _unshipped: list[LogRecord] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        # The clock's origin is arbitrary: no timer may start at 0.
        self._ping_at = self._poll_at = self.began_at
        limit_ns = self.core.settings.timing.primary_limit_ns
        self._patience = Patience(JOINS_TOLERATED, Nanos(2 * limit_ns), Nanos(60 * limit_ns))

    # --- the engine ------------------------------------------------------------------------------------------------

    def set_engine(self, engine: Engine) -> None:
        """Change the engine: with the next checkpoint, or at once where no checkpoint goes to a backup.

        Raises ConfigError if the standby in session has not said that it knows the engine, and LocalProtocolError
        while the guest is being handed over; nothing changes then.
        """
        session = self.session
        if self.link in STANDING:
            raise LocalProtocolError("the guest is being handed over: set the engine on the host that it goes to")
        if session is not None and not session.is_lost and engine.name not in session.engines:
            raise ConfigError(
                f"standby {session.standby} does not know engine {engine.name}, only {', '.join(session.engines)}"
            )
        self.pace.wanted = engine
        if self.link not in SHIPPING and not self.pace.is_cutting:
            self.core.do(Use(engine))

    def on_engine_used(self, engine: Engine, now: Nanos) -> None:
        """Take note that the guest, paused and all its outputs handed on, goes on under `engine`."""
        self.pace.use(engine)
        if not self.pace.is_cutting:
            self._tell_engine(engine, now)

    def _tell_engine(self, engine: Engine, now: Nanos) -> None:
        if engine == self.pace.told:
            return
        before, self.pace.told = self.pace.told, engine
        guest_id = self.core.settings.guest_id
        self.core.tell(EngineChanged(at=now, guest_id=guest_id, before=before.name, engine=engine.name))

    # --- guest -----------------------------------------------------------------------------------------------------

    def on_log(self, records: list[LogRecord], now: Nanos) -> None:
        """Ship what was logged; before the first cut there is nobody to ship it to, and the cut will cover it."""
        if self.link in SHIPPING and self.session is not None:
            self.session.log(records)
            self._unshipped.extend(records)
            self._flush(now)

    def on_outputs(self, outputs: list[Output], log_index: int, now: Nanos) -> None:
        """Hold what the guest emitted, and release what may leave."""
        needs = self.pace.engine.output_needs(epoch=self.epoch + 1, log_index=log_index)
        for output in outputs:
            self.gate.hold(output, needs, now)
        self.release()

    def release(self) -> None:
        """Let all outputs leave that the release rule allows."""
        if self._is_held_by_hint:
            return
        session = self.session
        standbys = standbys_in_force(self.core.desk.known, self.core.desk.proposal, self._joining())
        acknowledged = (session.standby, session.acked) if session is not None else None
        for held in self.gate.open_for(standbys, acknowledged):
            # After a takeover, a replay makes outputs again that the active before is known to have released.
            if held.output.number > self.core.released:
                self.core.do(Release(held.output, held.since))
                self._untold.append(held.output)
        self.core.released = max(self.core.released, self.gate.released)
        if session is None:
            self._released_then = self.core.released
            self._tell_released()

    def _tell_released(self) -> None:
        """Tell the peer from now on what had been released a heartbeat ago.

        What was let out may still wait in this host and die with it; until then the standby must keep it.
        """
        self.core.released_told, self._released_then = self._released_then, self.core.released
        while self._untold and self._untold[0].number <= self.core.released_told:
            self._untold.popleft()

    def is_stalled(self) -> bool:
        """Whether so much output is held that the guest must not run on."""
        limits = self.core.settings.limits
        return len(self.gate.held) >= limits.outputs_held // 2 or self.gate.held_bytes >= limits.outputs_held_bytes // 2

    def must_stand_still(self) -> bool:
        """Whether the guest must not run now: too much is held, the engine has it wait, or it is being handed over."""
        session = self.session
        if self.link in STANDING or self.is_halted:
            return True
        if session is None or self.link not in SHIPPING:
            return self.is_stalled()
        limits = self.core.settings.limits
        allowed = limits.epochs_in_flight if session.is_followed else 1
        waits = self.pace.engine.stands_still or session.is_followed
        return self.is_stalled() or session.is_log_long(limits) or (waits and len(session.in_flight) >= allowed)

    @property
    def is_halted(self) -> bool:
        """Whether the guest waits for a standby: the record names one that is lost, and it may not run without."""
        is_lost = self.link not in NAMED or self._is_waiting
        return self.core.settings.halts_alone and self.core.desk.known.standby is not None and is_lost

    def announce(self, now: Nanos) -> None:
        """Announce the guest's address now and a few times more: late frames of the old host may undo the first."""
        self.core.do(Announce())
        self._announces_left = self.core.settings.timing.announce_count - 1
        self._announce_at = Nanos(now + self.core.settings.timing.announce_interval_ns)

    def _joining(self) -> str | None:
        is_joining = self.link in (LinkState.CATCHING_UP, LinkState.ADDING, LinkState.ABANDONING)
        return self.session.standby if is_joining and self.session is not None else None

    # --- capture ---------------------------------------------------------------------------------------------------

    def on_round(self, pages: int, now: Nanos) -> None:
        """Take note of what a round of the first copy has collected."""
        if self.plan is None:
            return
        if self.plan.collected(pages, self.core.settings.limits):
            self._cut(now)
        else:
            self._copy_on(now)

    def on_copied(self, batches: tuple[PageBatch, ...], left: int, now: Nanos) -> None:
        """Ship what was encoded of the present round."""
        if self.plan is None or self.session is None:
            self.core.do(Forget(batches))
            return
        self.plan.copied(left)
        for batch in batches:
            self.session.ship_copy(batch, self.plan.round)
        guest_id = self.core.settings.guest_id
        self.core.tell(
            CopyProgress(
                at=now,
                guest_id=guest_id,
                round=self.plan.round,
                pages_sent=self.plan.pages_sent,
                pages_left=left,
            )
        )
        self._flush(now)

    def on_cut(self, checkpoint: Checkpoint, pause_ns: int, now: Nanos) -> None:
        """Ship a checkpoint that was captured."""
        self.pace.is_cutting = False
        self.epoch = checkpoint.epoch
        session = self.session
        if session is None or self.link not in (LinkState.COPYING, *SHIPPING):
            self.core.do(Forget(checkpoint.batches))
            return
        if session.is_followed:
            # Pages stay here: the backup executes. Records that were logged up to the cut must precede the mark.
            self.core.do(Forget(checkpoint.batches))
            checkpoint = replace(checkpoint, batches=(), outputs=())
            if self._unshipped:
                session.ship_log(tuple(self._unshipped))
        self._unshipped.clear()
        self.pace.cut(pause_ns=pause_ns, dirty_pages=checkpoint.dirty_pages)
        session.ship_epoch(checkpoint, self.pace.engine, pause_ns, now)
        if self.link is LinkState.HANDING and self.switchover is not None:
            self.switchover.final = replace(checkpoint, batches=(), outputs=(), page_digests=b"")
        if self.link is LinkState.COPYING:
            self._move(LinkEvent.CUT)
            self.plan = None
        self._flush(now)

    def on_capture_failed(self, error: str, now: Nanos) -> None:
        """End the session: the shadow no longer tells what the standby has. A new one copies afresh."""
        self.pace.is_cutting = False
        self.core.tell(HostFailed(at=now, guest_id=self.core.settings.guest_id, error=f"capture failed: {error}"))
        if self.session is not None:
            self.leave(f"capture failed: {error}", now)

    def pending_outputs(self) -> tuple[Output, ...]:
        """Return what the next checkpoint must carry: outputs in no epoch of this session yet and not told as released.

        Under a log engine an output may have left before a checkpoint carried it.
        """
        if self.session is None:
            return ()
        last = self.session.shipped_next - 1
        return (*(output for output in self._untold if output.number > last), *self.gate.above(last))

    def _copy_on(self, now: Nanos) -> None:
        plan, session = self.plan, self.session
        if plan is None or session is None or plan.is_collecting or self.pace.is_cutting:
            return
        if plan.left:
            if session.has_answered and session.outbox.room:
                self.core.do(CopyMore(session.outbox.room))
        elif session.outbox.is_empty:
            plan.is_collecting = True
            self.core.do(CollectRound())
        del now

    def _cut(self, now: Nanos) -> None:
        lists_pages = self.session is not None and self.session.is_followed
        self.core.do(self.pace.order(self.epoch, lists_pages=lists_pages, now=now))

    def _next_cut(self) -> Nanos | None:
        session = self.session
        limit = self.core.settings.limits.epochs_in_flight
        if session is None or self.link not in SHIPPING or self.pace.is_cutting:
            return None
        if len(session.in_flight) >= limit or session.is_coming_to_rest or self.link is LinkState.HANDING:
            return None
        if self.link is LinkState.SETTLING and self.switchover is not None and self.epoch < self.switchover.warm_epoch:
            return self.pace.last_cut_at
        if session.is_log_long(self.core.settings.limits):
            return self.pace.last_cut_at  # the guest stands still until a checkpoint covers some of it
        return self.pace.next_cut(session, self.gate)

    # --- messages --------------------------------------------------------------------------------------------------

    def on_message(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a JOIN from anybody, anything else only from the standby in session."""
        if isinstance(message, Join):
            self._on_join(peer, key, envelope, message, now)
            return
        session = self.session
        if session is None or (envelope.session, peer, key) != (session.id, session.peer, session.key):
            return
        if envelope.sender != session.standby:
            return
        session.watch.heard(now)
        self._is_waiting = False
        if self.link is LinkState.SWITCHING:
            return
        if self.core.desk.hint(envelope.record.generation, now):
            self._is_held_by_hint = True
        try:
            self._take(session, message, now)
            self._hand_over(now)
        except RemoteProtocolError as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
            self.core.tell(PeerMisbehaved(at=now, guest_id=self.core.settings.guest_id, peer=peer, error=error))
            self._patience.strike(key or peer, now)
            self.leave(error, now)

    def _take(self, session: Session, message: Message, now: Nanos) -> None:
        match message:
            case Ack():
                self._on_ack(session, message, now)
            case Prepared():
                self._on_prepared(message, now)
            case Leave():
                if self.link in (LinkState.COPYING, LinkState.CATCHING_UP):
                    self._patience.strike(session.key or session.peer, now)
                # The answer is what it stays for: else its word could be lost with its connection.
                self.leave(f"the standby left: {message.reason}", now)
            case _:
                pass

    def _on_ack(self, session: Session, ack: Ack, now: Nanos) -> None:
        let_go, committed = session.acknowledge(ack, now)
        self.core.do(Forget(batches_of(let_go)))
        for epoch in committed:
            self.core.tell(
                CommittedEvent(
                    at=now,
                    guest_id=self.core.settings.guest_id,
                    epoch=epoch.epoch,
                    dirty_pages=epoch.dirty_pages,
                    sent_bytes=epoch.sent_bytes,
                    pause_ns=epoch.pause_ns,
                )
            )
            self._tell_engine(epoch.engine, now)
        if committed and session.watch.patience > 1:
            session.watch.arm(now)
        if committed and self.link is LinkState.CATCHING_UP:
            self._move(LinkEvent.CAUGHT_UP)
            self.core.desk.propose(add(self.core.desk.known, self.core.id, session.standby))
        self.release()
        self._flush(now)

    def _on_join(self, peer: str, key: str | None, envelope: Envelope, join: Join, now: Nanos) -> None:
        session = self.session
        is_retired = envelope.sender in self.core.retired
        if session is not None and self._is_waiting and envelope.sender != session.standby and not is_retired:
            self._lose("it is silent, and another one asks to join", now)
            session = self.session
        if session is not None and session.peer == peer and envelope.sender != session.standby and not is_retired:
            self._lose("its host has discarded what it had, and asks to join afresh", now)
        if session is not None and envelope.sender == session.standby and not session.has_answered:
            self._welcome(session)
            return
        reason, is_final = self._why_not(envelope.sender, join)
        ignored_ns = self._patience.ignored_ns(key or peer, now)
        if reason is None and ignored_ns:
            reason = "sessions with this host came to nothing again and again: it has to wait for the next"
        if reason is None:
            self._open(peer, key, envelope.sender, join, now)
            return
        refuse = Refuse(joiner=envelope.sender, reason=reason, is_final=is_final)
        self.core.send(peer, Lane.CONTROL, refuse, None)
        if is_final and reason not in self._refusals and len(self._refusals) < REFUSALS_TOLD_MAX:
            self._refusals.add(reason)
            self.core.tell(JoinRefused(at=now, guest_id=self.core.settings.guest_id, peer=peer, reason=reason))

    def _why_not(self, joiner: str, join: Join) -> tuple[str | None, bool]:
        settings = self.core.settings
        if joiner in self.core.retired:
            return f"replica {joiner} was dropped and cannot return: discard its memory and join under a fresh id", True
        if join.geometry != settings.geometry:
            return f"the guests differ: the primary's is {settings.geometry}; the joiner's is {join.geometry}", True
        if join.staging_bytes < settings.limits.batch_bytes:
            return f"a staging bound of {join.staging_bytes} bytes does not hold one batch", True
        engine = self.pace.engine.name
        if engine not in join.engines:
            return f"the joiner does not know engine {engine}, only {', '.join(join.engines)}", True
        known = self.core.desk.known
        is_taken = known.standby is not None and not self.is_halted
        if self.link is not LinkState.NONE or is_taken or self.core.desk.proposal is not None:
            return f"there is a standby already, or a change is under way (link {self.link.value})", False
        return None, False

    def _open(self, peer: str, key: str | None, joiner: str, join: Join, now: Nanos) -> None:
        settings, known = self.core.settings, self.core.desk.known
        counter = self.core.next_session()
        opening = Opening(
            session=SessionId(counter, self.core.id, known.generation),
            peer=peer,
            key=key,
            engines=join.engines,
            staging_bytes=min(settings.limits.staging_bytes, join.staging_bytes),
        )
        self.session = self._session(opening, joiner, self.gate.released + 1, now)
        self.plan = CopyPlan()
        self._move(LinkEvent.JOINED)
        # The joiner may have been active before, and its last frames may have led the switches astray.
        self.announce(now)
        self._welcome(self.session)
        self.core.do(StartCopy(self.session.staging_bytes))

    def resume(self, opening: Opening, committed: Committed, now: Nanos) -> None:
        """Go on after a switchover, before the guest runs: the old active holds this very state, as the standby."""
        known, epoch = self.core.desk.known, committed.epoch
        if known.standby is None or epoch is None:
            raise InternalError(f"switched to {known} with epoch {epoch}")
        reverse = replace(opening, session=session_after(known))
        self.session = self._session(reverse, known.standby, committed.output_next, now)
        self.session.acked = Watermarks(epoch, committed.log_index)
        self.session.log_shipped = committed.log_index
        self.session.contact = Contact.ANSWERED
        self.session.is_followed = self.pace.engine.executes
        self.link = LinkState.PROTECTED
        self.core.do(Adopt(opening.staging_bytes))

    def _session(self, opening: Opening, standby: str, shipped_next: int, now: Nanos) -> Session:
        settings = self.core.settings
        return Session(
            id=opening.session,
            peer=opening.peer,
            key=opening.key,
            standby=standby,
            engines=opening.engines,
            staging_bytes=opening.staging_bytes,
            outbox=Outbox(window=settings.limits.batches_in_flight, repeat_ns=Nanos(4 * settings.timing.heartbeat_ns)),
            watch=Watch(settings.timing.primary_limit_ns, now, patience=COPY_PATIENCE),
            opened_at=now,
            shipped_next=shipped_next,
        )

    def _welcome(self, session: Session) -> None:
        engines = tuple(self.core.settings.engines)
        welcome = Welcome(joiner=session.standby, engines=engines, staging_bytes=session.staging_bytes)
        self.core.send(session.peer, Lane.CONTROL, welcome, session.id)

    # --- losing the standby ----------------------------------------------------------------------------------------

    def leave(self, reason: str, now: Nanos) -> None:
        """End the session, if there is one, and say why."""
        if self.session is not None:
            self.core.send(self.session.peer, Lane.CONTROL, Leave(reason=reason), self.session.id)
        self._lose(reason, now)

    def end(self, reason: str) -> None:
        """Tell the standby that the guest came to its own end. It has acknowledged that: the end was released."""
        if self.session is not None:
            leave = Leave(reason=reason, is_end=True)
            self.core.send(self.session.peer, Lane.CONTROL, leave, self.session.id)

    def _lose(self, reason: str, now: Nanos) -> None:
        """Go on without the standby: at once if the record does not name it, else as soon as a DROP is in force."""
        session = self.session
        if session is None or session.is_lost or self.link is LinkState.SWITCHING:
            return
        has_answered, session.contact = session.has_answered, Contact.LOST
        self._end_switchover(reason, now)
        if has_answered:
            # One that never answered may never have heard its welcome: its id was of no use yet, and may ask again.
            self.core.retired.append(session.standby)
        else:
            self._patience.strike(session.key or session.peer, now)
        self.plan = None
        self._unshipped.clear()
        self.core.tell(SessionEnded(at=now, guest_id=self.core.settings.guest_id, reason=reason))
        self.core.do(Forget(batches_of(session.outbox.clear())))
        self.core.do(EndSession())
        halts = self.core.settings.halts_alone and self.link in NAMED
        self._move(LinkEvent.HALTED if halts else LinkEvent.LOST)
        self._tell_engine(self.pace.engine, now)
        if self.pace.wanted is not None:
            self.core.do(Use(self.pace.wanted))  # there is no checkpoint any more that could carry it
        if self.link is LinkState.NONE:
            self.session, self._is_waiting = None, False
            self._tell_halted(reason, now)
            self.release()
        elif self.link is LinkState.DROPPING:
            self.core.desk.propose(drop(self.core.desk.known, self.core.id))

    def _wait_for(self, session: Session, now: Nanos) -> None:
        """Stand still beside a standby that is silent: it may be heard again, and go on where it was."""
        if self.link is not LinkState.PROTECTED:
            self._call_off("the standby is silent", now)
        if not self._is_waiting:
            self._is_waiting = True
            self._tell_halted(f"the standby was silent for {session.watch.silence_ns(now) / 1e6:.0f} ms", now)

    def _tell_halted(self, reason: str, now: Nanos) -> None:
        if self.is_halted:
            self.core.tell(Halted(at=now, guest_id=self.core.settings.guest_id, reason=reason))

    # --- switching over --------------------------------------------------------------------------------------------

    def begin_switchover(self, limit_ns: Nanos, now: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; it is called off if that takes longer than `limit_ns`.

        Raises LocalProtocolError if there is no standby to hand it to; the guest then runs on.
        """
        if (self.link, LinkEvent.ASKED) not in LINKS:
            raise LocalProtocolError(
                f"cannot switch over while the link to the standby is {self.link.value!r}: wait until it is "
                f"{LinkState.PROTECTED.value!r}"
            )
        self._move(LinkEvent.ASKED)
        self.switchover = Switchover(
            asked_at=now,
            fresh_at=self.core.desk.want_read(),
            warm_epoch=self.epoch + 1 + self.pace.is_cutting,
            ends_at=Nanos(now + limit_ns),
        )
        return self.switchover

    def _hand_over(self, now: Nanos) -> None:
        """Go on with a switchover, if one is under way, as far as it can go now."""
        switchover, session = self.switchover, self.session
        if switchover is None or session is None:
            return
        if self.link in (LinkState.SETTLING, LinkState.HANDING) and now >= switchover.ends_at:
            self._call_off(f"it took too long ({self.link.value})", now)
        elif self.link is LinkState.SETTLING and self._has_settled(switchover, session):
            self._move(LinkEvent.SETTLED)
            switchover.pause(now, self.core.settings.timing.primary_limit_ns)
            self._cut(now)
            switchover.prepare_at = None
        elif self.link is LinkState.SETTLING and not switchover.is_warm:
            self._ask_to_prepare(switchover, session, 0, now)
        elif self.link is LinkState.HANDING and self._is_handed(switchover, session):
            self._ask_to_prepare(switchover, session, session.acked.epoch, now)

    def _ask_to_prepare(self, switchover: Switchover, session: Session, epoch: int, now: Nanos) -> None:
        if switchover.prepare_at is None or now >= switchover.prepare_at:
            switchover.prepare_at = Nanos(now + self.core.settings.timing.heartbeat_ns)
            self.core.send(session.peer, Lane.CONTROL, Prepare(epoch=epoch), session.id)

    def _has_settled(self, switchover: Switchover, session: Session) -> bool:
        is_free = not self.pace.is_cutting and not session.is_coming_to_rest
        has_room = is_free and len(session.in_flight) < self.core.settings.limits.epochs_in_flight
        is_warm = switchover.is_warm and session.acked.epoch >= switchover.warm_epoch
        return is_warm and has_room and self.core.desk.reads >= switchover.fresh_at

    def _is_handed(self, switchover: Switchover, session: Session) -> bool:
        """Tell whether the standby has all there is, and every output has left."""
        final = switchover.final
        return final is not None and session.acked.epoch == final.epoch and not self.gate.held

    def _on_prepared(self, prepared: Prepared, now: Nanos) -> None:
        """Propose, once the standby has loaded what the guest stands still at.

        The epoch is of this session and of this attempt alone, so no older word can pass for it.
        """
        switchover = self.switchover
        if switchover is not None and self.link is LinkState.SETTLING and prepared.epoch == 0:
            switchover.is_warm = True
            switchover.prepare_at = None
        if self.link is not LinkState.HANDING or switchover is None or switchover.final is None:
            return
        if prepared.epoch != switchover.final.epoch:
            return
        if prepared.error:
            self._call_off(f"the standby cannot run the guest: {prepared.error}", now)
        elif self.core.desk.proposal is None:
            self._move(LinkEvent.READY)
            self.core.desk.propose(switch(self.core.desk.known, self.core.id))

    def _call_off(self, reason: str, now: Nanos) -> None:
        """Go on here: nothing was proposed."""
        self._move(LinkEvent.CALLED_OFF)
        self._end_switchover(reason, now)

    def _end_switchover(self, reason: str, now: Nanos) -> None:
        if self.switchover is not None and not self.switchover.is_over:
            self.switchover.end(reason)
            self.core.tell(SwitchFailed(at=now, guest_id=self.core.settings.guest_id, reason=reason))

    def _has_handed_over(self, session: Session) -> None:
        known = self.core.desk.known
        self._move(LinkEvent.IN_FORCE)
        self.core.do(Forget(batches_of(session.outbox.clear())))
        # A last word in the old session: its record has the standby read the new one at once.
        self.core.send(session.peer, Lane.CONTROL, Ping(number=session.ping_number), session.id)
        self.core.end_role(RoleEvent.SWITCHED_AWAY, f"SWITCH is in force: generation {known.generation}")

    # --- the record ------------------------------------------------------------------------------------------------

    def on_record(self, now: Nanos) -> None:
        """Go by what the arbiter says."""
        self._is_held_by_hint = False
        known = self.core.desk.known
        if known.active != self.core.id:
            if self.link is LinkState.SWITCHING and known.standby == self.core.id and self.session is not None:
                self._has_handed_over(self.session)
                if self.switchover is not None:
                    self.switchover.switched_at = now
                return
            self._end_switchover(f"generation {known.generation} names {known.active} active", now)
            self.core.end_role(RoleEvent.DEPOSED, f"generation {known.generation} names {known.active} active")
            return
        if self.core.desk.proposal is None:
            self._on_resolved(now)
        self.release()
        self._hand_over(now)

    def _on_resolved(self, now: Nanos) -> None:
        known, session, guest_id = self.core.desk.known, self.session, self.core.settings.guest_id
        match self.link:
            case LinkState.ADDING if session is not None:
                self._move(LinkEvent.IN_FORCE)
                self._patience.forgive(session.key or session.peer)
                self.core.tell(
                    Protected(at=now, guest_id=guest_id, generation=known.generation, standby=session.standby)
                )
            case LinkState.ABANDONING if self.core.settings.halts_alone:
                self._move(LinkEvent.HALTED)
                self.session = None
                self._tell_halted("the standby was lost while it was added", now)
            case LinkState.ABANDONING:
                self._move(LinkEvent.IN_FORCE)
                self.core.desk.propose(drop(known, self.core.id))
            case LinkState.DROPPING:
                self._move(LinkEvent.IN_FORCE)
                self.session = None
                self.core.tell(
                    Solo(at=now, guest_id=guest_id, generation=known.generation, reason="the standby was lost")
                )
            case _:
                pass

    def on_arbiter_trouble(self, now: Nanos) -> None:
        """Tell; the desk tries again by itself. The pair goes on as it is, and a mere hint no longer holds outputs."""
        self._is_held_by_hint = False
        self.core.tell_arbiter_trouble(now)
        self.release()

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: Nanos) -> None:
        """Send heartbeats, notice silence, copy on, cut."""
        timing, session = self.core.settings.timing, self.session
        if now >= self._poll_at:
            self._poll_at = Nanos(now + timing.arbiter_poll_ns)
            self.core.desk.want_read()
        if self._announce_at is not None and now >= self._announce_at:
            self._announce_again(now)
        if session is None or session.is_lost:
            return
        if session.watch.is_silent(now) and self.link is not LinkState.SWITCHING and not self._is_waiting:
            silence_ns, limit_ns = session.watch.silence_ns(now), session.watch.limit_ns()
            self.core.tell(
                Suspected(at=now, guest_id=self.core.settings.guest_id, silence_ns=silence_ns, limit_ns=limit_ns)
            )
            if not (self.core.settings.halts_alone and self.link in NAMED):
                self._lose(f"the standby was silent for {silence_ns / 1e6:.0f} ms", now)
                return
            self._wait_for(session, now)
        if not self._is_waiting and session.stuck_ns(now) >= PROGRESS_PATIENCE * timing.primary_limit_ns:
            self._patience.strike(session.key or session.peer, now)
            self.leave(f"the standby made no progress for {session.stuck_ns(now) / 1e9:.0f} s, though it is heard", now)
            return
        if now >= self._ping_at:
            self._ping_at = Nanos(now + timing.heartbeat_ns)
            self._tell_released()
            session.ping_number += 1
            self.core.send(session.peer, Lane.CONTROL, Ping(number=session.ping_number), session.id)
        self._copy_on(now)
        due = self._next_cut()
        if due is not None and now >= due:
            self._cut(now)
        self._hand_over(now)
        self._flush(now)

    def deadline(self, now: Nanos) -> Nanos | None:
        """Return when something is due next."""
        times = [self._poll_at, self._announce_at, self._next_cut()]
        session = self.session
        if session is not None and not session.is_lost:
            times.append(self._ping_at)
            if self.link is not LinkState.SWITCHING and not self._is_waiting:
                times.append(session.watch.deadline())
            if self.link in (LinkState.SETTLING, LinkState.HANDING) and self.switchover is not None:
                times += [self.switchover.ends_at, self.switchover.prepare_at]
            if session.outbox.is_waiting_for_acknowledgement:
                times.append(session.outbox.deadline())
            if self.plan is not None and self.plan.left and session.has_answered and session.outbox.room:
                times.append(now)  # zero pages make no batch, so no acknowledgement will call for more of the copy
        return min(time for time in times if time is not None)

    def _announce_again(self, now: Nanos) -> None:
        self.core.do(Announce())
        self._announces_left -= 1
        interval_ns = self.core.settings.timing.announce_interval_ns
        self._announce_at = Nanos(now + interval_ns) if self._announces_left > 0 else None

    def _flush(self, now: Nanos) -> None:
        session = self.session
        if session is None or session.is_lost:
            return
        if self._unshipped and session.outbox.room:
            session.ship_log(tuple(self._unshipped))
            self._unshipped.clear()
        for message in session.outbox.due(now):
            self.core.send(session.peer, Lane.DATA, message, session.id)

    def _move(self, event: LinkEvent) -> None:
        link = LINKS.get((self.link, event))
        if link is None:
            raise InternalError(f"a link that is {self.link.value} cannot be {event.value}")
        self.link = link
