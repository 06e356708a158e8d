"""How a standby comes to run the guest: by its own TAKE, or by the active's SWITCH (docs/protocol.md, "TAKE").

The claim's table is in standby_state.py. Loading comes before claiming, for a switchover too: the standby answers
PREPARE with PREPARED once the state is in the guest, and only then does the active propose. Epoch 0 in either asks for,
and answers, a shadow that is warm, on a host that could learn of its arbiter that the guest has come. What is committed
when the record names this replica is what it runs from.
"""

from typing import Final

from ftvm.encode.messages import Prepared
from ftvm.errors import InternalError, must
from ftvm.events import HostFailed, Suspected, SwitchedAway, SwitchedHere, TookOver
from ftvm.interfaces import Lane, Record
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.effects import Adopt, Load, Unload
from ftvm.protocol.record import take
from ftvm.protocol.reports import LoadFailed, ShadowWarmed, StateLoaded
from ftvm.protocol.session import Switchover
from ftvm.protocol.standby.standby_state import ClaimEvent, ClaimState, StandbyState
from ftvm.units import Nanos

NAMING_NS: Final = Nanos(5_000_000_000)
"""How long a whole standby waits for the record to name it: an ADD may be on its way to the arbiter, and then no other
host can go on."""

ANSWER_NS: Final = Nanos(2_000_000_000)
"""A request to the arbiter that is open for longer counts as unanswered, though none has failed."""

__all__ = [
    "NAMING_NS",
    "call_off",
    "prepare",
    "propose_if_ready",
    "suspect",
    "take_load_failure",
    "take_loaded",
    "take_warm",
    "tell_switched_away",
    "win",
]


def suspect(standby: StandbyState, now: Nanos) -> None:
    """Begin a claim, because the active is silent: load the state, and read the record again."""
    silence_ns = standby.detector.silence_ns(now)
    limit_ns = standby.detector.limit_ns()
    guest_id, reason = standby.core.settings.guest_id, standby.detector.reason("the active", now)
    standby.core.tell(Suspected(at=now, guest_id=guest_id, silence_ns=silence_ns, limit_ns=limit_ns, reason=reason))
    standby.claim.begin(fresh_at=standby.core.arbiter.want_read(), silence_ns=silence_ns, now=now)
    standby.core.do(Load(standby.committed.devices))


def take_loaded(standby: StandbyState, _report: StateLoaded, now: Nanos) -> None:
    """Note that the committed state is in the guest."""
    if standby.claim.state is ClaimState.WATCHING and not standby.is_named_active:
        return
    standby.claim.is_loaded = True
    standby.claim.loaded_at = now
    if standby.is_named_active:
        win(standby, standby.core.arbiter.known, now)
    elif standby.claim.state is ClaimState.CHECKING:
        propose_if_ready(standby, now)
    elif standby.claim.state is ClaimState.PREPARED:
        standby.core.do(Adopt(standby.offer.staging_bytes))
        _tell_prepared(standby, standby.committed.epoch or 0)  # rule: prepared_is_not_active
        standby.poll_at = Nanos(now + standby.core.settings.timing.heartbeat_ns)


def take_load_failure(standby: StandbyState, report: LoadFailed, now: Nanos) -> None:
    """Never claim a state that does not load: call the claim off, and try again after a while."""
    standby.core.tell(
        HostFailed(at=now, guest_id=standby.core.settings.guest_id, error=f"loading failed: {report.error}")
    )
    if standby.claim.state is ClaimState.PREPARED:
        _tell_prepared(standby, standby.committed.epoch or 0, report.error)
    if standby.claim.state in (ClaimState.CHECKING, ClaimState.PREPARED):
        call_off(standby, now)  # rule: claim_only_what_loads


def propose_if_ready(standby: StandbyState, now: Nanos) -> None:
    """Propose the TAKE once the state is loaded and a fresh read still names this replica."""
    arbiter = standby.core.arbiter
    if arbiter.reads < standby.claim.fresh_at:  # rule: fresh_read_awaited
        return
    if arbiter.known.standby != standby.core.id:  # rule: only_the_named_claims
        if now < standby.claim.began_at + NAMING_NS:  # rule: time_to_be_named
            standby.poll_at = Nanos(now + standby.core.settings.timing.read_interval_ns)
            return
        call_off(standby, now)
        standby.core.end_role(
            RoleEvent.EXPELLED,
            f"the active is silent and our arbiter's record, of generation {arbiter.known.generation}, does not name "
            "this replica: do both hosts use the same arbiter?",
        )
    elif standby.claim.is_loaded:
        must(standby.is_whole and standby.claim.is_loaded, "only a whole state that is loaded is claimed")
        standby.claim.step(ClaimEvent.PROPOSED)
        arbiter.propose(take(arbiter.known, standby.core.id))  # rule: take_proposed


def call_off(standby: StandbyState, now: Nanos) -> None:
    """Go back to watching; nothing was proposed."""
    standby.claim.step(ClaimEvent.CALLED_OFF)
    standby.claim.is_loaded = False
    standby.claim.not_before = Nanos(now + standby.core.settings.timing.read_interval_ns)
    standby.core.do(Unload())


def win(standby: StandbyState, known: Record, now: Nanos) -> None:
    """Go on from the committed state, by this replica's own TAKE or by the active's SWITCH."""
    epoch = standby.committed.epoch
    standby.is_session_over = True
    if epoch is None:
        standby.core.fail(InternalError("the record names this replica active, but it has no state"))
    elif known.standby == standby.offer.session.active:
        _switched_here(standby, known, epoch, now)
    elif standby.claim.state is ClaimState.CLAIMING:
        _took_over(standby, known, epoch, now)
    else:
        standby.core.fail(InternalError("the record names this replica active, but it has not claimed that"))


def _took_over(standby: StandbyState, known: Record, epoch: int, now: Nanos) -> None:
    claim = standby.claim
    if standby.switchover is not None:
        standby.switchover.end("the other host fell silent at once, and this one took the guest back")
    standby.core.tell(
        TookOver(
            at=now,
            guest_id=standby.core.settings.guest_id,
            generation=known.generation,
            epoch=epoch,
            detection_ns=claim.silence_ns,
            arbiter_ns=now - (claim.began_at if claim.suspected_at is None else claim.suspected_at),
            load_ns=claim.loaded_at - claim.began_at,
            outputs_emitted_again=len(standby.committed.outputs),
        )
    )
    standby.core.end_role(RoleEvent.TAKEN, f"took over (generation {known.generation}, epoch {epoch})")


def _switched_here(standby: StandbyState, known: Record, epoch: int, now: Nanos) -> None:
    """Run what was loaded when the switchover was prepared. If a suspicion has unloaded it since, load it again.

    A state that does not load now, though it did before, is tried again; the old active, which holds it too, takes
    the guest back meanwhile.
    """
    if not standby.claim.is_loaded:
        standby.claim.not_before = Nanos(now + standby.core.settings.timing.read_interval_ns)
        standby.core.do(Load(standby.committed.devices))
        return
    standby.core.tell(
        SwitchedHere(
            at=now,
            guest_id=standby.core.settings.guest_id,
            generation=known.generation,
            epoch=epoch,
            wait_ns=now - standby.claim.loaded_at,
        )
    )
    standby.core.end_role(RoleEvent.SWITCHED_HERE, f"switched over (generation {known.generation}, epoch {epoch})")


def prepare(standby: StandbyState, now: Nanos) -> None:
    """Load the state that the active stands still at, and say so; say it again if it was loaded before."""
    if standby.claim.state is ClaimState.PREPARED:
        _tell_prepared(standby, standby.committed.epoch or 0)
        return
    standby.claim.prepare(now)
    standby.core.do(Load(standby.committed.devices))


def take_warm(standby: StandbyState, _report: ShadowWarmed, now: Nanos) -> None:
    """Say that the shadow is there, but for what changes from now on; or that the guest could not run here, as nobody
    would learn that it has come."""
    arbiter = standby.core.arbiter
    since = arbiter.unanswered_since
    is_silent = since is not None and (arbiter.error is not None or now >= since + ANSWER_NS)
    if standby.claim.is_watching:
        _tell_prepared(standby, 0, f"on its side {standby.core.arbiter_silence()}" if is_silent else "")


def _tell_prepared(standby: StandbyState, epoch: int, error: str = "") -> None:
    prepared = Prepared(epoch=epoch, error=error)
    standby.core.send(standby.offer.peer, Lane.CONTROL, prepared, standby.offer.session)


def tell_switched_away(standby: StandbyState, switchover: Switchover, now: Nanos) -> None:
    """Note that the new active is alive: the switchover is over."""
    switchover.end(None)
    paused_at = now if switchover.paused_at is None else switchover.paused_at
    switched_at = now if switchover.switched_at is None else switchover.switched_at
    standby.core.tell(
        SwitchedAway(
            at=now,
            guest_id=standby.core.settings.guest_id,
            generation=standby.core.arbiter.known.generation,
            epoch=standby.committed.epoch or 0,
            settle_ns=paused_at - switchover.asked_at,
            pause_ns=switched_at - paused_at,
        )
    )
