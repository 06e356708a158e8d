"""What a replica does with a session: it syncs, commits, acknowledges, and takes over when its active falls silent.

Only messages of this session, from the peer and key that opened it, count for anything, even as a sign of life: a whole
non-member must not be kept waiting by somebody else's heartbeats (PROTOCOL.md, "What went wrong", 3). What is
acknowledged is committed, and what is committed is what a takeover runs from.
"""

from dataclasses import dataclass, field, replace

from ftvm.checkpoint import Checkpoint, Output
from ftvm.encode.compress import unpack_batch
from ftvm.encode.messages import (
    Ack,
    Copy,
    Envelope,
    EpochPart,
    Leave,
    Log,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Sequenced,
)
from ftvm.errors import BadFrame, GuestEnded, GuestError, InternalError, LimitExceeded, RemoteProtocolError
from ftvm.events import Committed as CommittedEvent
from ftvm.events import (
    Diverged,
    EngineChanged,
    HostFailed,
    PeerMisbehaved,
    SessionEnded,
    Suspected,
    SwitchedAway,
    SwitchedHere,
    TookOver,
)
from ftvm.interfaces import Lane, Record
from ftvm.protocol.channel import Inbox
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import Core, RoleEvent
from ftvm.protocol.effects import Adopt, Compare, Difference, Execute, Follow, Load, Rest, Unload, WarmUp
from ftvm.protocol.empty import Opening
from ftvm.protocol.record import take
from ftvm.protocol.staging import Staging
from ftvm.protocol.suspicion import Watch
from ftvm.protocol.switchover import Switchover
from ftvm.protocol.takeover import Claim, ClaimEvent, ClaimState
from ftvm.units import Nanos

__all__ = ["SYNC_PATIENCE", "Standby"]

SYNC_PATIENCE = 4
"""How many limits of silence are tolerated before the state is whole: the active may be busy with the first copy."""


@dataclass(slots=True)
class Standby:
    """Syncing until the first epoch is committed, standby from then on: the steps differ only in what silence means."""

    core: Core
    opening: Opening
    committed: Committed
    inbox: Inbox
    staging: Staging
    watch: Watch
    claim: Claim = field(default_factory=Claim)
    is_session_over: bool = False
    is_following: bool = False
    _is_coming_to_rest: bool = False
    switchover: Switchover | None = None
    _fresh_at: int = 0
    _owes_ack: bool = True
    _poll_at: Nanos = Nanos(0)

    @classmethod
    def open(cls, core: Core, opening: Opening, committed: Committed, now: Nanos) -> "Standby":
        """Begin a session from nothing: zero memory."""
        committed.clear()
        return cls._begin(core, opening, committed, now)

    @classmethod
    def resume(
        cls, core: Core, opening: Opening, committed: Committed, switchover: Switchover, now: Nanos
    ) -> "Standby":
        """Begin a session after a switchover, from the state that this replica, active until now, stands still at."""
        standby = cls._begin(core, opening, committed, now)
        standby.switchover = switchover
        if core.settings.engines[committed.engine].executes:
            standby.is_following = True
            core.do(Follow(None, committed.output_next))
        return standby

    @classmethod
    def _begin(cls, core: Core, opening: Opening, committed: Committed, now: Nanos) -> "Standby":
        limits = core.settings.limits
        return cls(
            core=core,
            opening=opening,
            committed=committed,
            inbox=Inbox(window=limits.batches_in_flight),
            staging=Staging(limit_bytes=min(limits.staging_bytes, opening.staging_bytes)),
            watch=Watch(core.settings.timing.backup_limit_ns, now, patience=SYNC_PATIENCE),
            _fresh_at=core.desk.want_read(),
            _poll_at=Nanos(now + core.settings.timing.arbiter_poll_ns),
        )

    @property
    def is_whole(self) -> bool:
        """Whether there is a state to take over from."""
        return self.committed.epoch is not None

    # --- messages --------------------------------------------------------------------------------------------------

    def on_message(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message of this session; drop any other."""
        if not self.is_in_session(peer, key, envelope):
            return
        self._heard(envelope, now)
        try:
            self._take(message, envelope, now)
        except (RemoteProtocolError, LimitExceeded) as wrong:
            self._end_session(wrong, now)

    def is_in_session(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of this session, and the session goes on."""
        opening = self.opening
        is_ours = (envelope.session, peer, key) == (opening.session, opening.peer, opening.key)
        return is_ours and not self.is_session_over and envelope.sender == opening.session.active

    def _heard(self, envelope: Envelope, now: Nanos) -> None:
        if self.switchover is not None and not self.switchover.is_over:
            self.watch.arm(now)
            self._tell_switched_away(self.switchover, now)
        self.watch.heard(now)
        self.core.desk.hint(envelope.record.generation, now)
        if self.claim.state is ClaimState.CHECKING:
            self._call_off(now)

    def _take(self, message: Message, envelope: Envelope, now: Nanos) -> None:
        match message:
            case Copy() | EpochPart() | Log() if self.claim.is_watching:
                self._owes_ack = True
                for ready in self.inbox.take(message):
                    self._apply(ready, now)
                self._note_released(envelope)
            case Ping() if self.claim.is_watching:
                self._owes_ack = True  # one that was lost is thus repeated
                pong = Pong(number=message.number)
                self.core.send(self.opening.peer, Lane.CONTROL, pong, self.opening.session)
                self._note_released(envelope)
            case Prepare(epoch=0) if self.is_whole:
                self.core.do(WarmUp())
            case Prepare() if self.claim.is_watching and message.epoch == self.committed.epoch:
                self._prepare(now)
            case Leave(is_end=True):
                self.core.fail(GuestEnded(message.reason))
            case Leave():
                self.watch.hurry()
            case _:
                pass

    def _note_released(self, envelope: Envelope) -> None:
        self.committed.forget_released(envelope.released)
        self.core.released = max(self.core.released, envelope.released)

    def _apply(self, message: Sequenced, now: Nanos) -> None:
        if self.claim.state is ClaimState.PREPARED:
            self._call_off(now)  # the active ships on: its switchover came to nothing
        if isinstance(message, Copy):
            self.committed.copy(unpack_batch(message.batch, self.core.settings.limits))
            return
        if isinstance(message, Log):
            self.committed.append(message.records)
            if self.is_following:
                self.core.do(Execute(message.records))
            return
        if message.batch is not None:
            message = replace(message, batch=unpack_batch(message.batch, self.core.settings.limits))
        checkpoint = self.staging.add(message)
        if checkpoint is None:
            return
        if checkpoint.engine not in self.core.settings.engines:
            raise BadFrame(f"epoch {checkpoint.epoch} asks for engine {checkpoint.engine!r}, which was not offered")
        if self.is_following:
            self._compare(checkpoint)
        else:
            self._commit(checkpoint, now)

    def _compare(self, checkpoint: Checkpoint) -> None:
        if checkpoint.batches or self._is_coming_to_rest:
            raise BadFrame(f"epoch {checkpoint.epoch} came with pages to a backup that executes, or before it rested")
        if checkpoint.log_index > self.committed.log_index or checkpoint.position is None:
            raise BadFrame(f"the mark of epoch {checkpoint.epoch} stands behind a log that has not come")
        self._is_coming_to_rest = not self._executes_behind(checkpoint)
        self.core.do(Compare(checkpoint))

    def _commit(self, checkpoint: Checkpoint, now: Nanos) -> None:
        was_whole, before = self.is_whole, self.committed.engine
        self.committed.commit(checkpoint)
        self._tell_committed(checkpoint, now)
        if not was_whole:
            self.watch.arm(now)
            self.core.end_role(RoleEvent.WHOLE, f"epoch {checkpoint.epoch} makes the state whole")
        else:
            self._tell_engine(before, now)
        if self._executes_behind(checkpoint):
            self.is_following = True
            self.core.do(Follow(checkpoint.devices, checkpoint.output_next))

    def _executes_behind(self, checkpoint: Checkpoint) -> bool:
        return self.core.settings.engines[checkpoint.engine].executes

    # --- executing -------------------------------------------------------------------------------------------------

    def on_followed(self, outputs: list[Output], now: Nanos) -> None:
        """Take the outputs that the guest made, executing the log."""
        try:
            self.committed.made(outputs, self.core.released)
        except LimitExceeded as wrong:
            self._end_session(wrong, now)

    def on_agreed(self, checkpoint: Checkpoint, now: Nanos) -> None:
        """Take note that the guest, executing here, came to the same state as the primary's."""
        before = self.committed.engine
        self.committed.agree(checkpoint)
        self._owes_ack = True
        self._tell_committed(checkpoint, now)
        self._tell_engine(before, now)
        if not self._executes_behind(checkpoint):
            self.is_following = self._is_coming_to_rest = False
            self.core.do(Rest())

    def on_diverged(self, difference: Difference, now: Nanos) -> None:
        """Take note that it came to another state, which makes what is here worthless: begin afresh, or end."""
        self.core.tell(
            Diverged(
                at=now,
                guest_id=self.core.settings.guest_id,
                epoch=self.committed.epoch or 0,
                agreed=self.committed.position,
                seen=difference.seen,
                pages=difference.pages,
                devices=difference.devices,
                reason=difference.reason,
            )
        )
        self.leave(f"diverged: {difference.reason}", now)
        self.core.end_role(RoleEvent.DIVERGED, difference.reason)
        if self.core.settings.ends_diverged:
            self.core.fail(
                GuestError(
                    f"this backup's guest diverged from its primary's between {self.committed.position} and "
                    f"{difference.seen}: {difference.reason}; it was told to end rather than to join afresh"
                )
            )

    def _tell_committed(self, checkpoint: Checkpoint, now: Nanos) -> None:
        self.core.tell(
            CommittedEvent(
                at=now,
                guest_id=self.core.settings.guest_id,
                epoch=checkpoint.epoch,
                dirty_pages=checkpoint.dirty_pages,
                sent_bytes=sum(batch.size_bytes for batch in checkpoint.batches),
                pause_ns=0,
            )
        )

    def _tell_engine(self, before: str, now: Nanos) -> None:
        if self.committed.engine != before:
            guest_id, engine = self.core.settings.guest_id, self.committed.engine
            self.core.tell(EngineChanged(at=now, guest_id=guest_id, before=before, engine=engine))

    def on_measured(self, now: Nanos) -> None:
        """Stand by only if the memory here is what was handed over: a page that no capture saw would stay wrong."""
        final = self.switchover.final if self.switchover is not None else None
        found = self.committed.memory.memory_digest
        if final is not None and found != final.memory_digest:
            reason = f"the memory digest is {found:032x} here, {final.memory_digest:032x} was handed over"
            self.on_diverged(Difference(reason=reason), now)

    # --- ends ------------------------------------------------------------------------------------------------------

    def _end_session(self, wrong: RemoteProtocolError | LimitExceeded, now: Nanos) -> None:
        """Leave a peer that broke the protocol. The committed state stays, and with it the right to take over."""
        guest_id = self.core.settings.guest_id
        error = f"{type(wrong).__name__}: {wrong}"
        self.core.tell(PeerMisbehaved(at=now, guest_id=guest_id, peer=self.opening.peer, error=error))
        self.leave(error, now)

    def leave(self, reason: str, now: Nanos) -> None:
        """End the session from this side."""
        self.core.send(self.opening.peer, Lane.CONTROL, Leave(reason=reason), self.opening.session)
        self.core.tell(SessionEnded(at=now, guest_id=self.core.settings.guest_id, reason=reason))
        self.is_session_over = True
        self.staging.clear()
        if not self.is_whole:
            self.core.end_role(RoleEvent.SESSION_LOST, reason)

    # --- the record ------------------------------------------------------------------------------------------------

    def on_record(self, now: Nanos) -> None:
        """Go by what the arbiter says, which alone makes this replica active or puts it out."""
        known, me = self.core.desk.known, self.core.id
        if known.active == me:
            self._won(known, now)
        elif known.generation > self.opening.session.generation and known.standby != me:
            self.core.end_role(
                RoleEvent.EXPELLED, f"the record of generation {known.generation} does not name this replica"
            )
        elif self.core.desk.reads >= self._fresh_at and known.generation < self.opening.session.generation:
            # The record of a session is older than the session: else any peer that is dialled could keep us for ever.
            self.core.end_role(
                RoleEvent.EXPELLED,
                f"the session claims generation {self.opening.session.generation}, but {known.generation} is in force",
            )
        elif self.claim.state is ClaimState.CLAIMING and self.core.desk.proposal is None:
            self.claim.step(ClaimEvent.LOST)
            self.claim.is_loaded = False
            self.core.do(Unload())
        elif self.claim.state is ClaimState.CHECKING:
            self._propose_if_ready(now)

    def on_arbiter_trouble(self, now: Nanos) -> None:
        """Tell; the desk tries again by itself. Without the arbiter nobody takes over."""
        self.core.tell_arbiter_trouble(now)

    # --- switching over --------------------------------------------------------------------------------------------

    def _prepare(self, now: Nanos) -> None:
        """Load the state that the active stands still at, and say so; say it again if it was loaded before."""
        if self.claim.state is ClaimState.PREPARED:
            self._tell_prepared(self.committed.epoch or 0)
            return
        self.claim.prepare(now)
        self.core.do(Load(self.committed.devices))

    def on_warm(self, now: Nanos) -> None:
        """Take note that the shadow is there, but for what changes from now on."""
        del now
        if self.claim.is_watching:
            self._tell_prepared(0)

    def _tell_prepared(self, epoch: int, error: str = "") -> None:
        prepared = Prepared(epoch=epoch, error=error)
        self.core.send(self.opening.peer, Lane.CONTROL, prepared, self.opening.session)

    def _tell_switched_away(self, switchover: Switchover, now: Nanos) -> None:
        """Note that the new active is alive: the switchover is over."""
        switchover.end(None)
        paused_at = now if switchover.paused_at is None else switchover.paused_at
        switched_at = now if switchover.switched_at is None else switchover.switched_at
        self.core.tell(
            SwitchedAway(
                at=now,
                guest_id=self.core.settings.guest_id,
                generation=self.core.desk.known.generation,
                epoch=self.committed.epoch or 0,
                settle_ns=paused_at - switchover.asked_at,
                pause_ns=switched_at - paused_at,
            )
        )

    # --- taking over -----------------------------------------------------------------------------------------------

    def on_loaded(self, now: Nanos) -> None:
        """Take note that the committed state is in the guest."""
        if self.claim.state is ClaimState.WATCHING and not self.is_named_active:
            return
        self.claim.is_loaded = True
        self.claim.loaded_at = now
        if self.is_named_active:
            self._won(self.core.desk.known, now)
        elif self.claim.state is ClaimState.CHECKING:
            self._propose_if_ready(now)
        elif self.claim.state is ClaimState.PREPARED:
            self.core.do(Adopt(self.opening.staging_bytes))
            self._tell_prepared(self.committed.epoch or 0)
            self._poll_at = Nanos(now + self.core.settings.timing.heartbeat_ns)

    def on_load_failed(self, error: str, now: Nanos) -> None:
        """Never claim what does not load: call it off and try again after a while."""
        self.core.tell(HostFailed(at=now, guest_id=self.core.settings.guest_id, error=f"loading failed: {error}"))
        if self.claim.state is ClaimState.PREPARED:
            self._tell_prepared(self.committed.epoch or 0, error)
        if self.claim.state in (ClaimState.CHECKING, ClaimState.PREPARED):
            self._call_off(now)

    def _suspect(self, now: Nanos) -> None:
        silence_ns = self.watch.silence_ns(now)
        limit_ns = self.watch.limit_ns()
        self.core.tell(
            Suspected(at=now, guest_id=self.core.settings.guest_id, silence_ns=silence_ns, limit_ns=limit_ns)
        )
        self.claim.begin(fresh_at=self.core.desk.want_read(), silence_ns=silence_ns, now=now)
        self.core.do(Load(self.committed.devices))

    def _propose_if_ready(self, now: Nanos) -> None:
        desk = self.core.desk
        if desk.reads < self.claim.fresh_at:
            return
        if desk.known.standby != self.core.id:
            self._call_off(now)
            self.core.end_role(RoleEvent.EXPELLED, "the active is silent and the record does not name this replica")
        elif self.claim.is_loaded:
            self.claim.step(ClaimEvent.PROPOSED)
            desk.propose(take(desk.known, self.core.id))

    def _call_off(self, now: Nanos) -> None:
        self.claim.step(ClaimEvent.CALLED_OFF)
        self.claim.is_loaded = False
        self.claim.not_before = Nanos(now + self.core.settings.timing.read_interval_ns)
        self.core.do(Unload())

    @property
    def is_named_active(self) -> bool:
        """Whether the record names this replica active: from then on it commits and acknowledges nothing."""
        return self.core.desk.known.active == self.core.id

    def _won(self, known: Record, now: Nanos) -> None:
        """Go on from the committed state, by this replica's own TAKE or by the active's SWITCH."""
        epoch = self.committed.epoch
        self.is_session_over = True
        if epoch is None:
            self.core.fail(InternalError("the record names this replica active, but it has no state"))
        elif known.standby == self.opening.session.active:
            self._switched_here(known, epoch, now)
        elif self.claim.state is ClaimState.CLAIMING:
            self._took_over(known, epoch, now)
        else:
            self.core.fail(InternalError("the record names this replica active, but it has not claimed that"))

    def _switched_here(self, known: Record, epoch: int, now: Nanos) -> None:
        """Run what was loaded when the switchover was prepared. If a suspicion has unloaded it since, load it again.

        A state that does not load now, though it did before, is tried again; the old active, which holds it too, takes
        the guest back meanwhile.
        """
        if not self.claim.is_loaded:
            self.claim.not_before = Nanos(now + self.core.settings.timing.read_interval_ns)
            self.core.do(Load(self.committed.devices))
            return
        self.core.tell(
            SwitchedHere(
                at=now,
                guest_id=self.core.settings.guest_id,
                generation=known.generation,
                epoch=epoch,
                wait_ns=now - self.claim.loaded_at,
            )
        )
        self.core.end_role(RoleEvent.SWITCHED_HERE, f"SWITCH is in force: generation {known.generation}, epoch {epoch}")

    def _took_over(self, known: Record, epoch: int, now: Nanos) -> None:
        claim = self.claim
        if self.switchover is not None:
            self.switchover.end("the other host fell silent at once, and this one took the guest back")
        self.core.tell(
            TookOver(
                at=now,
                guest_id=self.core.settings.guest_id,
                generation=known.generation,
                epoch=epoch,
                detection_ns=claim.silence_ns,
                arbiter_ns=now - claim.began_at,
                load_ns=claim.loaded_at - claim.began_at,
                outputs_emitted_again=len(self.committed.outputs),
            )
        )
        self.core.end_role(RoleEvent.TAKEN, f"TAKE is in force: generation {known.generation}, epoch {epoch}")

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: Nanos) -> None:
        """Acknowledge what came, and see whether the active is silent."""
        if self._owes_ack and not self.is_session_over and self.claim.is_watching:
            self._acknowledge()
        if now >= self._poll_at:
            timing = self.core.settings.timing
            is_prepared = self.claim.state is ClaimState.PREPARED
            self._poll_at = Nanos(now + (timing.heartbeat_ns if is_prepared else timing.arbiter_poll_ns))
            self.core.desk.want_read()
        if self.is_named_active:
            if self.claim.not_before is None or now >= self.claim.not_before:
                self._won(self.core.desk.known, now)
            return
        if not self.watch.is_silent(now) or not self.claim.is_watching:
            return
        if not self.is_whole:
            self.core.end_role(RoleEvent.SESSION_LOST, "the active fell silent before the first copy was whole")
        elif self.claim.not_before is None or now >= self.claim.not_before:
            self._suspect(now)

    def deadline(self, now: Nanos) -> Nanos | None:
        """Return when silence passes the limit, or the record is to be read again."""
        del now
        if self.is_named_active:
            return min(self._poll_at, self.claim.not_before or self._poll_at)
        if not self.claim.is_watching:
            return self._poll_at
        silent_at, not_before = self.watch.deadline(), self.claim.not_before
        return Nanos(min(silent_at if not_before is None else max(silent_at, not_before), self._poll_at))

    def _acknowledge(self) -> None:
        self._owes_ack = False
        committed = self.committed
        ack = Ack(
            received=self.inbox.expected,
            epoch=committed.epoch or 0,
            log_index=committed.log_index,
            memory_digest=committed.memory.memory_digest if self.is_whole else 0,
        )
        self.core.send(self.opening.peer, Lane.CONTROL, ack, self.opening.session)
