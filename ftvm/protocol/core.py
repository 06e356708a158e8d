"""What all roles of a replica share: its id, its settings, its client of the arbiter, and the effects it asks for.

Roles are a table (`ROLES`). What each does is a RoleTable (empty.py, standby/, active/); none knows another. A role
that is over appends a RoleEvent to `happened`, and replica.py moves on by the table.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from ftvm.checkpoint import Checkpoint, Geometry
from ftvm.config import Limits, Timing
from ftvm.encode.messages import Envelope, Greeting, Message, SessionId
from ftvm.encode.versions import SPOKEN, Versions
from ftvm.errors import FtvmError, GuestEnded
from ftvm.events import ArbiterTrouble, Committed, Event, PlacesDiffer
from ftvm.interfaces import Engine, Lane
from ftvm.protocol.arbiter import ArbiterClient, Places
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.effects import Effect, Fail, Persist, Send, Tell
from ftvm.protocol.record import force_command
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.timers import Timers
from ftvm.units import Nanos

__all__ = ["ROLES", "Core", "Role", "RoleEvent", "RoleTable", "Settings"]


S = TypeVar("S")

RETIRED_KEPT: Final = 64


class Role(Enum):
    """See docs/protocol.md, "Roles"."""

    EMPTY = "empty"
    SYNCING = "syncing"
    STANDBY = "standby"
    ACTIVE = "active"


class RoleEvent(Enum):
    """What can end a role."""

    STARTED = "started"
    """The record names this replica active, from nothing."""
    WELCOMED = "welcomed"
    """An active opened a session."""
    WHOLE = "whole"
    """The first epoch was committed."""
    SESSION_LOST = "session lost"
    """The active went silent, or broke the protocol, before the state was whole."""
    TAKEN = "taken"
    """A TAKE is in force: the record names this replica active, and its state is loaded."""
    EXPELLED = "expelled"
    """The record names neither this replica nor the active whose standby it was."""
    DIVERGED = "diverged"
    """Executing the log, this replica came to another state than its active."""
    DEPOSED = "deposed"
    """The record names another active."""
    VACATED = "vacated"
    """A VACATE is in force: the guest has ended here, and the record names nobody."""
    SWITCHED_AWAY = "switched away"
    """A SWITCH is in force: the guest goes on at the standby, and this replica, paused there, is now its standby."""
    SWITCHED_HERE = "switched here"
    """A SWITCH is in force: the record names this replica active, and its state is loaded."""


ROLES: Final[dict[tuple[Role, RoleEvent], Role]] = {
    (Role.EMPTY, RoleEvent.STARTED): Role.ACTIVE,
    (Role.EMPTY, RoleEvent.WELCOMED): Role.SYNCING,
    (Role.SYNCING, RoleEvent.WHOLE): Role.STANDBY,
    (Role.SYNCING, RoleEvent.SESSION_LOST): Role.EMPTY,
    (Role.SYNCING, RoleEvent.EXPELLED): Role.EMPTY,
    (Role.STANDBY, RoleEvent.TAKEN): Role.ACTIVE,
    (Role.STANDBY, RoleEvent.EXPELLED): Role.EMPTY,
    (Role.STANDBY, RoleEvent.DIVERGED): Role.EMPTY,
    (Role.ACTIVE, RoleEvent.DEPOSED): Role.EMPTY,
    (Role.ACTIVE, RoleEvent.VACATED): Role.EMPTY,
    (Role.ACTIVE, RoleEvent.SWITCHED_AWAY): Role.STANDBY,
    (Role.STANDBY, RoleEvent.SWITCHED_HERE): Role.ACTIVE,
}
"""Every pair that is absent is illegal; reaching one is a bug in ftvm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A replica's settings, the same for all its roles.

    engines       those that the guest can be protected with, by name, each with the parameters that it has here
    engine        the one that a host that starts the guest begins with; who takes over goes on with what was in force
    dialled       peers that this host asks to join
    creates       whether START may create a record that does not exist
    halts_alone   whether the guest stands still when its standby is lost, until there is a new one
    ends_diverged whether a backup whose guest came to another state than the primary's ends, or joins afresh
    is_observed   whether somebody looks on as this host commits, as its backup. As the active it then ships the log of
                  inputs under each engine: its standby is taken to be set like it
    versions      of the wire that this host offers to speak
    images        the names of what this host keeps the guest's disks in
    lineage       of the disks' content once the guest boots from it here
    has_content   whether those have any from before this host started: a cache, though no state was ever whole here
    keeps_disks   whether this host keeps disks of the guest beyond its own life: what was flushed has to be there
    """

    guest_id: str
    geometry: Geometry
    engine: Engine
    engines: Mapping[str, Engine]
    dialled: tuple[str, ...]
    creates: bool
    timing: Timing
    limits: Limits
    halts_alone: bool = False
    ends_diverged: bool = False
    is_observed: bool = False
    versions: Versions = SPOKEN
    images: tuple[str, ...] = ()
    lineage: str = ""
    has_content: bool = False
    keeps_disks: bool = False


@dataclass(slots=True)
class Core:
    """Mutable state that outlives a role. `released` is the highest output number known to have left, anywhere;
    `lineage` is that of the disks' content here.

    `retired` are the last standbys that were in session here and are no more: an id that left never returns. `stop` is
    there once this host was asked to stop. `created_at` is when this host made the record that it is active by, if it
    did, and nobody has joined it since; `places` is who reads another one. `has_cache` says that the memory here is
    that of a state that was whole once, or an image of the guest's disk has content, and `uncached` names those whose
    cache did not lead to one: they are asked for no other.
    """

    settings: Settings
    fresh_id: Callable[[], str]
    arbiter: ArbiterClient
    id: str
    released: int = 0
    released_told: int = 0
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=RETIRED_KEPT))
    sessions_opened: int = 0
    persists: int = 0
    lineage: str = ""
    stop: Stopping | None = None
    created_at: Nanos | None = None
    has_cache: bool = False
    uncached: deque[str] = field(default_factory=lambda: deque(maxlen=RETIRED_KEPT))
    places: Places = field(init=False)
    effects: list[Effect] = field(default_factory=list, repr=False)
    happened: list[tuple[RoleEvent, str]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.places = Places(self.arbiter)

    def send(self, peer: str, lane: Lane, message: Message, session: SessionId | None) -> None:
        """Ask for a message to be sent."""
        envelope = Envelope(
            guest_id=self.settings.guest_id,
            sender=self.id,
            session=session,
            record=self.arbiter.known,
            released=self.released_told,
        )
        self.effects.append(Send(peer, lane, envelope, message))

    def do(self, effect: Effect) -> None:
        """Ask for an effect."""
        self.effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects that were asked for, in order, and forget them."""
        effects, self.effects = self.effects, []
        return effects

    def tell(self, event: Event) -> None:
        """Report an event."""
        self.effects.append(Tell(event))

    def tell_committed(self, checkpoint: Checkpoint, now: Nanos) -> None:
        """Report that an epoch is committed here, on a standby."""
        self.effects.append(
            Tell(
                Committed(
                    at=now,
                    guest_id=self.settings.guest_id,
                    epoch=checkpoint.epoch,
                    dirty_pages=checkpoint.dirty_pages,
                    sent_bytes=sum([batch.size_bytes for batch in checkpoint.batches]),
                    pause_ns=0,
                )
            )
        )

    def fail(self, error: FtvmError, kind: StopKind | None = None) -> None:
        """Give up, and say why: at once, or by a stop of this kind."""
        self.effects.append(Fail(error, kind))

    def say_hello(self, peer: str, role: Role) -> None:
        """Say to a peer in which place this host reads the record, if that is known."""
        if self.arbiter.place is not None:
            self.send(peer, Lane.CONTROL, Greeting(place=self.arbiter.place, role=role.value), None)

    def hear_place(self, peer: str, replica: str, theirs: str | None, role: Role, now: Nanos) -> bool:
        """Take what another host says of its place; answer news that differs. Tells whether it differs."""
        if self.places.hear(replica, theirs, now):
            self.say_hello(peer, role)
        return self.places.differs(theirs)

    def judge_places(self, now: Nanos) -> None:
        """Report who is certain by now to read another record."""
        for replica in self.places.judge(now):
            reason = self.places.sentence((replica,))
            self.tell(PlacesDiffer(at=now, guest_id=self.settings.guest_id, replica=replica, reason=reason))

    def tell_arbiter_trouble(self, now: Nanos) -> None:
        """Report that a request to the arbiter failed; the arbiter client tries again by itself."""
        self.tell(ArbiterTrouble(at=now, guest_id=self.settings.guest_id, error=self.arbiter.error or ""))

    def naming(self) -> str:
        """Say that the record still names this host, and what to do about it.

        A record may be moved by force only if no other host holds the guest: it would be lost.
        """
        known, force = self.arbiter.known, force_command(self.settings.guest_id)
        names = (
            f"the record still names this host (generation {known.generation}, active {known.active or 'none'}, "
            f"standby {known.standby or 'none'})."
        )
        other = known.standby if known.active == self.id else known.active
        if other is None:
            return f"{names} If no host runs the guest any more, run {force}"
        return (
            f"{names} The other host, {other}, holds the guest: run `ftvm status` there, and correct what it names, "
            f"above all an arbiter that is silent. Only if that host is lost for good, run {force}"
        )

    def end_with_guest(self, before: int) -> bool:
        """End this host, which had a part in the guest as of generation `before`, if the record says that the guest has
        ended for good since; tell whether it does. A host that stops anyway goes on with that."""
        known = self.arbiter.known
        # rule: end_of_the_guest_heard
        if not known.is_ended or known.generation <= before or self.stop is not None:
            return False
        self.fail(GuestEnded(f"the guest has ended for good, by the record of generation {known.generation}"))
        return True

    def whereabouts(self) -> str:
        """Say what is known of the record, and no more: a host that only asked to join may never have read it."""
        known = self.arbiter.known
        if known.active is not None:
            return f"the record names the other host active: {known.active} (generation {known.generation})"
        if known.generation > 0:
            return f"the record is vacant (generation {known.generation})"
        is_read = self.arbiter.reads > 0
        return "the arbiter has no record of the guest" if is_read else "this host had no part in the guest"

    def arbiter_silence(self) -> str:
        """Say that the arbiter has not answered, and why."""
        return f"the arbiter has not answered ({self.arbiter.error or 'it is slow'})"

    def persist(self) -> int:
        """Ask that all that was committed so far be put on the disks' devices; return the number of that wish."""
        self.persists += 1
        self.effects.append(Persist(self.persists))
        return self.persists

    def next_session(self) -> int:
        """Return the number of a new session of this host."""
        self.sessions_opened += 1
        return self.sessions_opened

    def end_role(self, event: RoleEvent, reason: str) -> None:
        """Say that the present role is over."""
        self.happened.append((event, reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTable(Generic[S]):
    """What a role does with what happens to it, as functions over its state. All ask for effects through the Core.

    takes               who takes a report, by its type; one that is absent comes too late, for a role that is over
    on_record           the arbiter client has learned a record or had a read answered
    on_arbiter_trouble  a request to the arbiter failed
    tick                does what is due, and returns when the next is due, None if that has to be asked of the timers
    detector            whether the peer in session lives, who is called `peer`
    """

    takes: Mapping[type, Callable[[S, Any, Nanos], None]]
    on_record: Callable[[S, Nanos], None]
    on_arbiter_trouble: Callable[[S, Nanos], None]
    tick: Callable[[S, Nanos], Nanos | None]
    timers: Timers[S]
    go_on_stopping: Callable[[S, Stopping, Nanos], None]
    detector: Callable[[S], FailureDetector | None]
    peer: str
