"""Who may become the standby of an active: JOIN and its answers, and how a session with it begins.

A joiner that reads another record is not answered but by HELLO: it looks at its own, and says what it is. Else it is
welcomed if it speaks a version of the wire that this host speaks, its guest is built alike, it knows the
engine in force, and there is no other standby; a refusal says why, and whether asking again can help. A joiner whose
sessions fail again and again must wait (detector.py). A planned switchover opens the session in the other direction
without a JOIN (`resume`).
"""

from dataclasses import replace
from typing import Final

from ftvm.checkpoint import Watermarks
from ftvm.encode.messages import Envelope, Join, Refuse, SessionId, Welcome
from ftvm.encode.versions import CACHE_SINCE
from ftvm.errors import InternalError
from ftvm.events import JoinRefused
from ftvm.interfaces import Lane
from ftvm.protocol.active import leaving
from ftvm.protocol.active.active_state import ActiveState, CopyPlan
from ftvm.protocol.active.link import LinkEvent, LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.effects import Adopt, StartCopy
from ftvm.protocol.empty import no_common_version
from ftvm.protocol.session import Contact, Matching, Outbox, Session, SessionOffer, session_after
from ftvm.protocol.standby.commit import CommittedState
from ftvm.units import Nanos

__all__ = ["COPY_PATIENCE", "answer_join", "resume"]

COPY_PATIENCE: Final = 4
"""How many limits of silence are tolerated before the first epoch is acknowledged: the standby may be busy with it."""

REFUSALS_TOLD_MAX: Final = 64
"""How many different reasons for a refusal are reported, each once: a flood of JOINs must not become a flood of
events."""


def answer_join(active: ActiveState, peer: str, key: str | None, envelope: Envelope, join: Join, now: Nanos) -> None:
    """Welcome a joiner, or refuse it and say why."""
    # rule: joiner_reads_the_same_record
    if active.core.hear_place(peer, envelope.sender, join.place, Role.ACTIVE, now):
        active.core.judge_places(now)
        return
    session = active.session
    is_retired = envelope.sender in active.core.retired
    if session is not None and active.is_waiting and envelope.sender != session.standby and not is_retired:
        leaving.lose(active, "it is silent, and another one asks to join", now)
        session = active.session
    if session is not None and session.peer == peer and envelope.sender != session.standby and not is_retired:
        if not session.is_lost:
            active.backoff.strike(key or peer, now)
        leaving.lose(active, "its host has discarded its state, and asks to join again", now)
    if session is not None and envelope.sender == session.standby and not session.has_answered:
        _welcome(active, session)
        return
    reason, is_final = _why_not(active, envelope.sender, join)
    ignored_ns = active.backoff.ignored_ns(key or peer, now)
    if reason is None and ignored_ns:
        reason = "sessions with this host failed again and again: it must wait for the next one"
    if reason is None:
        _open(active, peer, key, envelope.sender, join, now)
        return
    refuse = Refuse(joiner=envelope.sender, reason=reason, is_final=is_final)
    active.core.send(peer, Lane.CONTROL, refuse, None)
    if is_final and reason not in active.refusals and len(active.refusals) < REFUSALS_TOLD_MAX:
        active.refusals.add(reason)
        guest_id, joiner = active.core.settings.guest_id, envelope.sender  # `peer` is a key where the joiner dialled
        active.core.tell(JoinRefused(at=now, guest_id=guest_id, peer=joiner, reason=reason))


def resume(active: ActiveState, offer: SessionOffer, committed: CommittedState, now: Nanos) -> None:
    """Go on after a switchover, before the guest runs: the old active holds this very state, as the standby."""
    known, epoch = active.core.arbiter.known, committed.epoch
    if known.standby is None or epoch is None:
        raise InternalError(f"switched to {known} with epoch {epoch}")
    reverse = replace(offer, session=session_after(known, offer.session))
    active.session = _session(active, reverse, known.standby, committed.output_next, now)
    active.session.acked = Watermarks(epoch, committed.log_index)
    active.session.log_shipped = committed.log_index
    active.session.contact = Contact.ANSWERED
    active.session.is_followed = active.schedule.engine.executes
    active.link = LinkState.PROTECTED
    active.core.do(Adopt(offer.staging_bytes))


def _why_not(active: ActiveState, joiner: str, join: Join) -> tuple[str | None, bool]:
    settings = active.core.settings
    if settings.versions.common(join.versions) is None:
        return no_common_version(settings.versions, join.versions), True
    if joiner in active.core.retired:  # rule: dropped_id_refused
        return f"replica {joiner} was dropped and cannot return: join with a new id and empty memory", True
    if join.geometry != settings.geometry:
        return f"the guests differ (active / joiner): {settings.geometry.difference(join.geometry)}", True
    if shared := set(join.images) & set(settings.images):  # both would write to it
        return (
            f"both hosts keep a disk in one image ({', '.join(sorted(shared))}): each needs its own image",
            True,
        )
    if join.staging_bytes < settings.limits.batch_bytes:
        return f"a staging bound of {join.staging_bytes} bytes does not hold one batch", True
    engine = active.schedule.engine.name
    if engine not in join.engines:
        return f"the joiner does not know engine {engine}, only {', '.join(join.engines)}", True
    if active.core.stop is not None:
        return "this host is about to stop", False
    known = active.core.arbiter.known
    is_taken = known.standby is not None and not active.is_halted
    if active.link is not LinkState.NONE or is_taken or active.core.arbiter.proposal is not None:
        return f"there is a standby already, or one is joining (link: {active.link.value})", False
    return None, False


def _open(active: ActiveState, peer: str, key: str | None, joiner: str, join: Join, now: Nanos) -> None:
    settings, known = active.core.settings, active.core.arbiter.known
    counter, version = active.core.next_session(), settings.versions.common(join.versions)
    if version is None:
        raise InternalError(f"a session without a common version: {settings.versions} here, {join.versions} there")
    offer = SessionOffer(
        session=SessionId(counter, active.core.id, known.generation, version),
        peer=peer,
        key=key,
        engines=join.engines,
        staging_bytes=min(settings.limits.staging_bytes, join.staging_bytes),
    )
    active.session = _session(active, offer, joiner, active.releases.first_untold, now)
    active.plan = CopyPlan()
    takes_cache = version >= CACHE_SINCE and (key or peer) not in active.core.uncached
    if join.has_cache and takes_cache:
        active.session.matching, active.session.is_cached = Matching(settings.geometry.page_count, now), True
    active.move(LinkEvent.JOINED)
    # The joiner may have been active before, and its last frames may have misled the switches.
    active.announcer.begin(now)
    _welcome(active, active.session)
    active.core.do(StartCopy(active.session.staging_bytes, active.session.is_cached))


def _session(active: ActiveState, offer: SessionOffer, standby: str, shipped_next: int, now: Nanos) -> Session:
    settings = active.core.settings
    return Session(
        id=offer.session,
        peer=offer.peer,
        key=offer.key,
        standby=standby,
        engines=offer.engines,
        staging_bytes=offer.staging_bytes,
        outbox=Outbox(window=settings.limits.batches_in_flight, repeat_ns=Nanos(4 * settings.timing.heartbeat_ns)),
        detector=FailureDetector(settings.timing.primary_limit_ns, now, patience=COPY_PATIENCE),
        opened_at=now,
        shipped_next=shipped_next,
        limits=settings.limits,
    )


def _welcome(active: ActiveState, session: Session) -> None:
    settings = active.core.settings
    welcome = Welcome(
        joiner=session.standby,
        engines=tuple(settings.engines),
        staging_bytes=session.staging_bytes,
        versions=settings.versions,
        lineage=active.core.lineage,
        takes_cache=session.is_cached,
    )
    active.core.send(session.peer, Lane.CONTROL, welcome, session.id)
