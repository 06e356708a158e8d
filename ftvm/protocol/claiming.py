"""How a standby comes to run the guest: by a TAKE of its own, or by the active's SWITCH (docs/protocol.md, "TAKE").

The claim's table is in takeover.py. Loading comes before claiming, for a switchover too: the standby answers PREPARE
with PREPARED once the state is in the guest, and only then does the active propose. Epoch 0 in either asks for, and
answers, a shadow that is warm. What is committed when the record names this replica is what it runs from.
"""

from typing import Final

from ftvm.encode.messages import Prepared
from ftvm.errors import InternalError
from ftvm.events import HostFailed, Suspected, SwitchedAway, SwitchedHere, TookOver
from ftvm.interfaces import Lane, Record
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.effects import Adopt, Load, Unload
from ftvm.protocol.holding import Holding
from ftvm.protocol.record import take
from ftvm.protocol.session import Switchover
from ftvm.protocol.takeover import ClaimEvent, ClaimState
from ftvm.units import Nanos

NAMING_NS: Final = Nanos(5_000_000_000)
"""So long does a whole standby that the record does not name wait for that: an ADD may be on its way to the arbiter,
and then nobody else can go on."""

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


def suspect(holding: Holding, now: Nanos) -> None:
    """Begin a claim: load, and ask the arbiter afresh. The active has been silent for too long."""
    silence_ns = holding.detector.silence_ns(now)
    limit_ns = holding.detector.limit_ns()
    guest_id, reason = holding.core.settings.guest_id, holding.detector.reason("the active", now)
    holding.core.tell(Suspected(at=now, guest_id=guest_id, silence_ns=silence_ns, limit_ns=limit_ns, reason=reason))
    holding.claim.begin(fresh_at=holding.core.arbiter.want_read(), silence_ns=silence_ns, now=now)
    holding.core.do(Load(holding.committed.devices))


def take_loaded(holding: Holding, now: Nanos) -> None:
    """Note that the committed state is in the guest."""
    if holding.claim.state is ClaimState.WATCHING and not holding.is_named_active:
        return
    holding.claim.is_loaded = True
    holding.claim.loaded_at = now
    if holding.is_named_active:
        win(holding, holding.core.arbiter.known, now)
    elif holding.claim.state is ClaimState.CHECKING:
        propose_if_ready(holding, now)
    elif holding.claim.state is ClaimState.PREPARED:
        holding.core.do(Adopt(holding.offer.staging_bytes))
        _tell_prepared(holding, holding.committed.epoch or 0)  # rule: prepared_is_not_active
        holding.poll_at = Nanos(now + holding.core.settings.timing.heartbeat_ns)


def take_load_failure(holding: Holding, error: str, now: Nanos) -> None:
    """Never claim what does not load: call it off and try again after a while."""
    holding.core.tell(HostFailed(at=now, guest_id=holding.core.settings.guest_id, error=f"loading failed: {error}"))
    if holding.claim.state is ClaimState.PREPARED:
        _tell_prepared(holding, holding.committed.epoch or 0, error)
    if holding.claim.state in (ClaimState.CHECKING, ClaimState.PREPARED):
        call_off(holding, now)  # rule: claim_only_what_loads


def propose_if_ready(holding: Holding, now: Nanos) -> None:
    """Propose the TAKE once the state is loaded and a fresh read still names this replica."""
    arbiter = holding.core.arbiter
    if arbiter.reads < holding.claim.fresh_at:  # rule: fresh_read_awaited
        return
    if arbiter.known.standby != holding.core.id:  # rule: only_the_named_claims
        if now < holding.claim.began_at + NAMING_NS:  # rule: time_to_be_named
            holding.poll_at = Nanos(now + holding.core.settings.timing.read_interval_ns)
            return
        call_off(holding, now)
        holding.core.end_role(
            RoleEvent.EXPELLED,
            f"the active is silent and our arbiter's record, of generation {arbiter.known.generation}, does not name "
            "this replica: do both hosts use the same arbiter?",
        )
    elif holding.claim.is_loaded:
        holding.claim.step(ClaimEvent.PROPOSED)
        arbiter.propose(take(arbiter.known, holding.core.id))  # rule: take_proposed


def call_off(holding: Holding, now: Nanos) -> None:
    """Go back to watching; nothing was proposed."""
    holding.claim.step(ClaimEvent.CALLED_OFF)
    holding.claim.is_loaded = False
    holding.claim.not_before = Nanos(now + holding.core.settings.timing.read_interval_ns)
    holding.core.do(Unload())


def win(holding: Holding, known: Record, now: Nanos) -> None:
    """Go on from the committed state, by this replica's own TAKE or by the active's SWITCH."""
    epoch = holding.committed.epoch
    holding.is_session_over = True
    if epoch is None:
        holding.core.fail(InternalError("the record names this replica active, but it has no state"))
    elif known.standby == holding.offer.session.active:
        _switched_here(holding, known, epoch, now)
    elif holding.claim.state is ClaimState.CLAIMING:
        _took_over(holding, known, epoch, now)
    else:
        holding.core.fail(InternalError("the record names this replica active, but it has not claimed that"))


def _took_over(holding: Holding, known: Record, epoch: int, now: Nanos) -> None:
    claim = holding.claim
    if holding.switchover is not None:
        holding.switchover.end("the other host fell silent at once, and this one took the guest back")
    holding.core.tell(
        TookOver(
            at=now,
            guest_id=holding.core.settings.guest_id,
            generation=known.generation,
            epoch=epoch,
            detection_ns=claim.silence_ns,
            arbiter_ns=now - (claim.began_at if claim.suspected_at is None else claim.suspected_at),
            load_ns=claim.loaded_at - claim.began_at,
            outputs_emitted_again=len(holding.committed.outputs),
        )
    )
    holding.core.end_role(RoleEvent.TAKEN, f"took over (generation {known.generation}, epoch {epoch})")


def _switched_here(holding: Holding, known: Record, epoch: int, now: Nanos) -> None:
    """Run what was loaded when the switchover was prepared. If a suspicion has unloaded it since, load it again.

    A state that does not load now, though it did before, is tried again; the old active, which holds it too, takes
    the guest back meanwhile.
    """
    if not holding.claim.is_loaded:
        holding.claim.not_before = Nanos(now + holding.core.settings.timing.read_interval_ns)
        holding.core.do(Load(holding.committed.devices))
        return
    holding.core.tell(
        SwitchedHere(
            at=now,
            guest_id=holding.core.settings.guest_id,
            generation=known.generation,
            epoch=epoch,
            wait_ns=now - holding.claim.loaded_at,
        )
    )
    holding.core.end_role(RoleEvent.SWITCHED_HERE, f"switched over (generation {known.generation}, epoch {epoch})")


def prepare(holding: Holding, now: Nanos) -> None:
    """Load the state that the active stands still at, and say so; say it again if it was loaded before."""
    if holding.claim.state is ClaimState.PREPARED:
        _tell_prepared(holding, holding.committed.epoch or 0)
        return
    holding.claim.prepare(now)
    holding.core.do(Load(holding.committed.devices))


def take_warm(holding: Holding) -> None:
    """Note that the shadow is there, but for what changes from now on."""
    if holding.claim.is_watching:
        _tell_prepared(holding, 0)


def _tell_prepared(holding: Holding, epoch: int, error: str = "") -> None:
    prepared = Prepared(epoch=epoch, error=error)
    holding.core.send(holding.offer.peer, Lane.CONTROL, prepared, holding.offer.session)


def tell_switched_away(holding: Holding, switchover: Switchover, now: Nanos) -> None:
    """Note that the new active is alive: the switchover is over."""
    switchover.end(None)
    paused_at = now if switchover.paused_at is None else switchover.paused_at
    switched_at = now if switchover.switched_at is None else switchover.switched_at
    holding.core.tell(
        SwitchedAway(
            at=now,
            guest_id=holding.core.settings.guest_id,
            generation=holding.core.arbiter.known.generation,
            epoch=holding.committed.epoch or 0,
            settle_ns=paused_at - switchover.asked_at,
            pause_ns=switched_at - paused_at,
        )
    )
