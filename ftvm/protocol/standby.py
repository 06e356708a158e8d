"""What a replica does with a session: it syncs, commits, acknowledges, and takes over when its active falls silent.

Only messages of this session, from the peer and key that opened it, count for anything, even as a sign of life: a whole
non-member must not be kept waiting by somebody else's heartbeats (docs/protocol.md, "Mistakes made once", 3). What is
acknowledged is committed, and what is committed is what a takeover runs from.
"""

from dataclasses import replace
from operator import attrgetter
from typing import Final

from ftvm.checkpoint import Checkpoint, Output
from ftvm.encode.compress import unpack_batch
from ftvm.encode.messages import Ack, Copy, Envelope, EpochPart, Leave, Log, Message, Ping, Pong, Prepare, Sequenced
from ftvm.errors import BadFrame, GuestEnded, LimitExceeded, RemoteProtocolError
from ftvm.interfaces import Lane
from ftvm.protocol import claiming, following, stopping
from ftvm.protocol.channel import Inbox
from ftvm.protocol.commit import CommittedState, Staging
from ftvm.protocol.core import Core, RoleEvent
from ftvm.protocol.detector import FailureDetector, beat_of
from ftvm.protocol.effects import Difference, Execute, Follow, Unload, WarmUp
from ftvm.protocol.holding import Holding
from ftvm.protocol.session import SessionOffer, Switchover
from ftvm.protocol.takeover import ClaimEvent, ClaimState
from ftvm.protocol.timers import Timer, act_on, soonest
from ftvm.units import Nanos

__all__ = ["SYNC_PATIENCE", "TIMERS", "Standby"]

SYNC_PATIENCE = 4
"""How many limits of silence are tolerated before the state is whole: the active may be busy with the first copy."""


class Standby(Holding):
    """Syncing until the first epoch is committed, standby from then on: the steps differ only in what silence means."""

    __slots__ = ()

    @classmethod
    def open(cls, core: Core, offer: SessionOffer, committed: CommittedState, now: Nanos) -> "Standby":
        """Begin a session from nothing: zero memory."""
        committed.clear()
        return cls._begin(core, offer, committed, now)

    @classmethod
    def resume(
        cls, core: Core, offer: SessionOffer, committed: CommittedState, switchover: Switchover, now: Nanos
    ) -> "Standby":
        """Begin a session after a switchover, from the state that this replica, active until now, stands still at."""
        standby = cls._begin(core, offer, committed, now)
        standby.switchover = switchover
        if core.settings.engines[committed.engine].executes:
            standby.is_following = True
            core.do(Follow(None, committed.output_next))
        return standby

    @classmethod
    def _begin(cls, core: Core, offer: SessionOffer, committed: CommittedState, now: Nanos) -> "Standby":
        limits = core.settings.limits
        return cls(
            core=core,
            offer=offer,
            committed=committed,
            inbox=Inbox(window=limits.batches_in_flight),
            staging=Staging(limit_bytes=min(limits.staging_bytes, offer.staging_bytes)),
            # rule: silence_counted_from_now
            detector=FailureDetector(core.settings.timing.backup_limit_ns, now, patience=SYNC_PATIENCE),
            fresh_at=core.arbiter.want_read(),
            poll_at=Nanos(now + core.settings.timing.arbiter_poll_ns),
        )

    # --- messages --------------------------------------------------------------------------------------------------

    def on_message(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message of this session; drop any other."""
        stop = self.core.stop
        if stop is not None and isinstance(message, Leave) and self._is_of_session(peer, key, envelope):
            stopping.take_goodbye(self, stop)
        if not self.is_in_session(peer, key, envelope):
            return
        self._heard(envelope, message, now)
        is_alive = not (isinstance(message, Leave) or self.detector.is_silent(now))
        if self.claim.state is ClaimState.CHECKING and is_alive:
            claiming.call_off(self, now)  # not for a goodbye, nor for the heartbeat of a loop that hangs
        try:
            self._take(message, envelope, now)
        except (RemoteProtocolError, LimitExceeded) as wrong:
            self.end_session(wrong, now)

    def is_in_session(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of this session, and the session goes on."""
        return not self.is_session_over and self._is_of_session(peer, key, envelope)

    def _is_of_session(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        offer = self.offer
        # rule: session_compared
        is_ours = (envelope.session, peer, key) == (offer.session, offer.peer, offer.key)
        return is_ours and envelope.sender == offer.session.active  # rule: sender_compared

    def _heard(self, envelope: Envelope, message: Message, now: Nanos) -> None:
        if self.switchover is not None and not self.switchover.is_over:
            claiming.tell_switched_away(self, self.switchover, now)
        self.detector.heard(now, beat_of(message))
        self.core.arbiter.hint(envelope.record.generation, now)

    def _take(self, message: Message, envelope: Envelope, now: Nanos) -> None:
        match message:
            case Copy() | EpochPart() | Log() if self.claim.is_watching:  # rule: claimant_takes_nothing
                self.owes_ack = True
                for ready in self.inbox.take(message):
                    self._apply(ready, now)
                self._note_released(envelope)
            case Ping() if self.claim.is_watching:
                self.owes_ack = True  # one that was lost is thus repeated
                pong = Pong(number=message.number)
                self.core.send(self.offer.peer, Lane.CONTROL, pong, self.offer.session)
                self._note_released(envelope)
            case Prepare(epoch=0) if self.is_whole:
                self.core.do(WarmUp())
            case Prepare() if self.claim.is_watching and message.epoch == self.committed.epoch:
                claiming.prepare(self, now)
            case Leave(is_end=True) if self.claim.state is ClaimState.CLAIMING:
                self.guest_end = message.reason  # to end now could leave a record that names a host that is no more
            case Leave(is_end=True):
                self.core.fail(GuestEnded(message.reason))
            case Leave():
                self.detector.hurry(f"the active said goodbye: {message.reason}")
            case _:
                pass

    def _note_released(self, envelope: Envelope) -> None:
        self.committed.forget_released(envelope.released)
        self.core.released = max(self.core.released, envelope.released)

    def _apply(self, message: Sequenced, now: Nanos) -> None:
        if self.claim.state is ClaimState.PREPARED:
            claiming.call_off(self, now)  # the active ships on: its switchover failed
        self.claim.note_shipping()
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
            following.compare(self, checkpoint)
        else:
            self._commit(checkpoint, now)

    def _commit(self, checkpoint: Checkpoint, now: Nanos) -> None:
        was_whole, before = self.is_whole, self.committed.engine
        self.committed.commit(checkpoint)
        self.take_committed(checkpoint, now)
        if not was_whole:
            self.core.end_role(RoleEvent.WHOLE, f"epoch {checkpoint.epoch} completes the first copy")
        else:
            self.tell_engine(before, now)
        if self.executes_behind(checkpoint):
            self.is_following = True
            self.core.do(Follow(checkpoint.devices, checkpoint.output_next))

    # --- the guest -------------------------------------------------------------------------------------------------

    def on_followed(self, outputs: list[Output], now: Nanos) -> None:
        """Take the outputs that the guest made, executing the log."""
        following.take_followed(self, outputs, now)

    def on_agreed(self, checkpoint: Checkpoint, now: Nanos) -> None:
        """Note that the guest, executing here, came to the same state as the primary's."""
        following.take_agreed(self, checkpoint, now)

    def on_diverged(self, difference: Difference, now: Nanos) -> None:
        """Note that it came to another state."""
        following.take_diverged(self, difference, now)

    def on_measured(self, now: Nanos) -> None:
        """Stand by only if the memory here is what was handed over."""
        following.take_measured(self, now)

    def on_loaded(self, now: Nanos) -> None:
        """Note that the committed state is in the guest."""
        claiming.take_loaded(self, now)

    def on_load_failed(self, error: str, now: Nanos) -> None:
        """Note that the committed state does not load."""
        claiming.take_load_failure(self, error, now)

    def on_warm(self) -> None:
        """Note that the shadow is there, but for what changes from now on."""
        claiming.take_warm(self)

    # --- the record ------------------------------------------------------------------------------------------------

    def on_record(self, now: Nanos) -> None:
        """Go by what the arbiter says, which alone makes this replica active or puts it out."""
        known, me = self.core.arbiter.known, self.core.id
        if known.active == me:
            claiming.win(self, known, now)
        elif self.guest_end is not None and self.core.arbiter.proposal is None:
            self.core.fail(GuestEnded(self.guest_end))
        elif known.generation > self.offer.session.generation and known.standby != me:  # rule: unnamed_standby_ends
            self.core.end_role(
                RoleEvent.EXPELLED, f"the record of generation {known.generation} does not name this replica"
            )
        elif self.core.arbiter.reads >= self.fresh_at and known.generation < self.offer.session.generation:
            # The record of a session is older than the session: else any peer that is dialled could keep us for ever.
            self.core.end_role(
                RoleEvent.EXPELLED,
                f"the active is at generation {self.offer.session.generation}, but our arbiter's record is of "
                f"generation {known.generation}: do both hosts use the same arbiter?",
            )
        elif self.claim.state is ClaimState.CLAIMING and self.core.arbiter.proposal is None:
            self.claim.step(ClaimEvent.LOST)
            self.claim.is_loaded = False
            self.core.do(Unload())
        elif self.claim.state is ClaimState.CHECKING:
            claiming.propose_if_ready(self, now)

    def on_arbiter_trouble(self, now: Nanos) -> None:
        """Tell; the arbiter client tries again by itself. Without the arbiter nobody takes over."""
        self.core.tell_arbiter_trouble(now)

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: Nanos) -> Nanos | None:
        """Acknowledge what came, and do what is due (`TIMERS`)."""
        if self.owes_ack and not self.is_session_over and self.claim.is_watching:  # rule: claimant_acknowledges_nothing
            self._acknowledge()
        return act_on(TIMERS, self, now)

    def deadline(self) -> Nanos | None:
        """Return when something is due next."""
        return soonest(TIMERS, self)

    def _acknowledge(self) -> None:
        self.owes_ack = False
        committed = self.committed
        ack = Ack(
            received=self.inbox.expected,
            epoch=committed.epoch or 0,  # rule: committed_is_acknowledged
            log_index=committed.log_index,
            memory_digest=committed.memory.memory_digest if self.is_whole else 0,
        )
        self.core.send(self.offer.peer, Lane.CONTROL, ack, self.offer.session)


def _poll(standby: Standby, now: Nanos) -> None:
    timing = standby.core.settings.timing
    is_prepared = standby.claim.state is ClaimState.PREPARED
    standby.poll_at = Nanos(now + (timing.heartbeat_ns if is_prepared else timing.arbiter_poll_ns))
    standby.core.arbiter.want_read()


def _wins_at(standby: Standby) -> Nanos | None:
    return standby.claim.not_before if standby.is_named_active else None


def _suspects_at(standby: Standby) -> Nanos | None:
    """Of no interest to a host that stops."""
    if standby.is_named_active or standby.core.stop is not None or not standby.claim.is_watching:
        return None
    silent_at, not_before = standby.detector.deadline(), standby.claim.not_before
    return silent_at if not_before is None else max(silent_at, not_before)


def _suspect(standby: Standby, now: Nanos) -> None:
    if standby.is_whole:
        claiming.suspect(standby, now)
    else:
        standby.core.end_role(RoleEvent.SESSION_LOST, "the active fell silent before the first copy was whole")


TIMERS: Final[tuple[Timer[Standby], ...]] = (
    Timer(attrgetter("poll_at"), _poll),
    Timer(_wins_at, lambda standby, now: claiming.win(standby, standby.core.arbiter.known, now)),
    Timer(_suspects_at, _suspect),
)
