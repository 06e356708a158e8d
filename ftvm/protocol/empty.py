"""What an empty replica does: it starts the guest if it was told to and nobody is active, else it asks to join.

Starting (START) moves a vacant record, and creates one only if that was asked for. Joining repeats JOIN to every peer
that this host dials; who is active answers. If nobody does, the record is read now and then, to say who should. A
welcome counts only if it answers the id that this replica has now, and comes from no older generation than the one
known: a deposed active, woken, must not overwrite anybody (docs/protocol.md, "Mistakes made once", 1).

A peer may refuse for now or for good: it protects another guest, or speaks another version. This host gives up once all
that it dials refuse for good; until then one of them may be, or become, the right one.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from ftvm.encode.messages import Join, Refuse, SessionId, Welcome
from ftvm.encode.versions import CACHE_SINCE, Versions
from ftvm.errors import ConfigError, Fenced, FtvmError, VersionMismatch
from ftvm.events import JoinRefused, JoinUnanswered
from ftvm.interfaces import Lane, Record
from ftvm.protocol import reports
from ftvm.protocol.core import Core, RoleEvent, RoleTable
from ftvm.protocol.record import force_command, is_vacant, start
from ftvm.protocol.reports import PeerRefused, Received
from ftvm.protocol.session import SessionOffer
from ftvm.protocol.stop import Stopping
from ftvm.protocol.timers import AT_ONCE, NEVER, Timers, act_on
from ftvm.units import Nanos

__all__ = ["TABLE", "Empty", "no_common_version"]

UNANSWERED_NS: Final = Nanos(10_000_000_000)
REFUSALS_TOLD_MAX: Final = 64
"""How many different refusals are reported: the reasons are texts of the peer's."""


def no_common_version(ours: Versions, theirs: Versions) -> str:
    """Return why a joiner that speaks `theirs` is refused by an active that speaks `ours`, and what to do."""
    return f"no common wire version: the primary speaks {ours}, the joiner {theirs}; {_remedy(ours, theirs)}"


def _remedy(ours: Versions, theirs: Versions) -> str:
    older, newer = sorted((ours, theirs), key=lambda versions: versions.highest)
    return f"update ftvm on the host that speaks {older} to a release that speaks {newer}, too"


@dataclass(slots=True)
class Empty:
    """`starts` tells whether this replica is to become active by START, not to join; `left_at` is the generation of the
    record as this host ceased to have a part in the guest, None if it never had one."""

    core: Core
    starts: bool
    offer: SessionOffer | None = None
    left_at: int | None = None
    _join_at: Nanos = AT_ONCE
    _unanswered_at: Nanos | None = None
    _read_at: int | None = None
    _told: Record | None = None
    _refusals: frozenset[tuple[str, str]] = frozenset()
    _final: dict[str, str] = field(default_factory=dict)

    @classmethod
    def again(cls, core: Core, now: Nanos) -> "Empty":
        """Begin again after another role. The first JOIN waits: a session that fails each time must not spin."""
        join_at = Nanos(now + core.settings.timing.join_interval_ns)
        return cls(core, starts=False, left_at=core.arbiter.known.generation, _join_at=join_at)

    def take_message(self, report: Received, now: Nanos) -> None:
        """Take a welcome or a refusal; ignore anything else."""
        peer, message = report.peer, report.message
        if self.starts or self.offer is not None:
            return
        match message:
            case Welcome() if message.joiner == self.core.id and report.envelope.session is not None:
                self._welcomed(report, report.envelope.session, message, now)
            case Refuse() if message.joiner == self.core.id:
                self._refused(peer, message, now)
            case _:
                pass

    def on_record(self, now: Nanos) -> None:
        """Start if this replica was told to and may; else say who should have answered, if that was asked."""
        if not self.starts:
            if self.left_at is None or not self.core.end_with_guest(self.left_at):
                self._tell_unanswered(now)
            return
        known, arbiter = self.core.arbiter.known, self.core.arbiter
        if known.active == self.core.id:
            self.core.end_role(RoleEvent.STARTED, "the record names this host active")
        elif arbiter.proposal is not None or self._read_at is None or arbiter.reads < self._read_at:
            return
        elif not is_vacant(known):
            self.core.fail(
                Fenced(
                    f"guest {self.core.settings.guest_id!r} is already in the record: generation {known.generation}, "
                    f"active {known.active}. Start this host as a standby. If that active is dead for good, first run "
                    f"{force_command(self.core.settings.guest_id)}"
                )
            )
        elif known.generation == 0 and not self.core.settings.creates:
            self.core.fail(
                ConfigError(
                    f"the arbiter has no record of guest {self.core.settings.guest_id!r}: run `ftvm init`, "
                    "or start the primary with --create (create=True)"
                )
            )
        else:
            arbiter.propose(start(known, self.core.id))

    def on_arbiter_trouble(self, now: Nanos) -> None:
        """Report it; the arbiter client tries again by itself."""
        self.core.tell_arbiter_trouble(now)

    def tick(self, now: Nanos) -> Nanos | None:
        """Read the record, or ask to join."""
        if self.starts and self._read_at is None:
            self._read_at = self.core.arbiter.want_read()
        due = self.due()
        if now < min(due):
            return due[-1]
        act_on(TIMERS, self, due, now)
        return None

    def due(self) -> tuple[Nanos, ...]:
        """Return when the next JOIN is due: never for who starts, or is welcome already."""
        joins_at = NEVER if self.starts or self.offer is not None else self._join_at
        return joins_at, joins_at

    def join(self, now: Nanos) -> None:
        """Ask every peer to let this host join; read the record now and then if none answers."""
        self._join_at = Nanos(now + self.core.settings.timing.join_interval_ns)
        self._ask_to_join()
        if self._unanswered_at is None or now >= self._unanswered_at:
            self._read_at = self.core.arbiter.want_read() if self._unanswered_at is not None else None
            self._unanswered_at = Nanos(now + UNANSWERED_NS)

    def _ask_to_join(self) -> None:
        settings = self.core.settings
        engines, staging_bytes = tuple(settings.engines), settings.limits.staging_bytes
        join = Join(
            geometry=settings.geometry,
            engines=engines,
            staging_bytes=staging_bytes,
            versions=settings.versions,
            images=settings.images,
            place=self.core.arbiter.place,
            has_cache=self.core.has_cache,
        )
        for peer in settings.dialled:
            self.core.send(peer, Lane.CONTROL, join, None)

    def _tell_unanswered(self, now: Nanos) -> None:
        arbiter = self.core.arbiter
        if self._read_at is None or arbiter.reads < self._read_at or self.offer is not None:
            return
        self._read_at = None
        if arbiter.known != self._told and not self.core.places.elsewhere:  # else that is why, and it was told
            self._told = arbiter.known
            guest_id, generation, active = self.core.settings.guest_id, arbiter.known.generation, arbiter.known.active
            self.core.tell(JoinUnanswered(at=now, guest_id=guest_id, generation=generation, active=active))

    def _welcomed(self, report: Received, session: SessionId, welcome: Welcome, now: Nanos) -> None:
        ours, theirs = self.core.settings.versions, welcome.versions
        version = ours.common(theirs)
        if session.active != report.envelope.sender or session.generation < self.core.arbiter.known.generation:
            return
        if version is None:
            differs = VersionMismatch("wire version", ours=ours, theirs=theirs, remedy=_remedy(ours, theirs))
            self.take_refusal(PeerRefused(report.peer, differs), now)
            return
        session = replace(session, version=version)
        self.core.lineage = welcome.lineage
        takes_cache = welcome.takes_cache and self.core.has_cache and version >= CACHE_SINCE
        self.offer = SessionOffer(session, report.peer, report.key, welcome.staging_bytes, welcome.engines, takes_cache)
        self.core.end_role(RoleEvent.WELCOMED, f"active {session.active} opened session {session.counter}")

    def _refused(self, peer: str, refusal: Refuse, now: Nanos) -> None:
        if peer not in self.core.settings.dialled:
            return
        self._unanswered_at, self._read_at = Nanos(now + UNANSWERED_NS), None  # who refuses for now has answered
        if refusal.is_final:
            error = ConfigError(f"{peer} refused this host as a standby: {refusal.reason}")
            self._refused_for_good(peer, refusal.reason, error, now)
        else:
            self._final.pop(peer, None)
            self._tell_refused(peer, refusal.reason, now)

    def take_refusal(self, report: PeerRefused, now: Nanos) -> None:
        """Note that a peer that was asked cannot be understood: it speaks another version."""
        if not self.starts and self.offer is None and report.peer in self.core.settings.dialled:
            self._refused_for_good(report.peer, str(report.error), report.error, now)

    def _refused_for_good(self, peer: str, reason: str, error: FtvmError, now: Nanos) -> None:
        """Give up if no peer is left that may take this host."""
        self._final[peer] = reason
        peers = len(self.core.settings.dialled)
        if len(self._final) < peers:
            self._tell_refused(peer, reason, now)
        elif peers == 1:
            self.core.fail(error)  # the failure tells the reason
        else:
            reasons = "; ".join(f"{each}: {why}" for each, why in self._final.items())
            self.core.fail(ConfigError(f"no peer takes this host as a standby: {reasons}"))

    def _tell_refused(self, peer: str, reason: str, now: Nanos) -> None:
        if (peer, reason) not in self._refusals and len(self._refusals) < REFUSALS_TOLD_MAX:
            self._refusals |= {(peer, reason)}
            self.core.tell(JoinRefused(at=now, guest_id=self.core.settings.guest_id, peer=peer, reason=reason))


TIMERS: Final[Timers[Empty]] = Timers(Empty.due, (Empty.join,), apart_from=0)


def go_on_stopping(empty: Empty, stop: Stopping, now: Nanos) -> None:
    """Go once nothing is proposed."""
    if empty.core.arbiter.proposal is None:
        stop.end(empty.core.whereabouts(), is_in_order=True)
    elif now >= stop.ends_at:
        stop.end(
            f"it has asked to start the guest, and may still get it: {empty.core.arbiter_silence()}", is_in_order=False
        )


TABLE: Final[RoleTable[Empty]] = RoleTable(
    takes={reports.Received: Empty.take_message, reports.PeerRefused: Empty.take_refusal},
    on_record=Empty.on_record,
    on_arbiter_trouble=Empty.on_arbiter_trouble,
    tick=Empty.tick,
    timers=TIMERS,
    go_on_stopping=go_on_stopping,
    detector=lambda _: None,
    peer="",
)
