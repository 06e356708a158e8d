"""The state of an active replica, for the modules of this package that act on it.

    joining.py    how a standby comes in             leaving.py    how it goes, and how this host stops in order
    shipping.py   what it is sent                    handover.py   how the guest is handed over to it

Those are functions over an ActiveState, one theme each. Here are the state and the few steps that several of them need.
"""

from dataclasses import dataclass, field
from typing import Final

from ftvm.checkpoint import LogRecord, Output
from ftvm.config import Limits
from ftvm.errors import InternalError
from ftvm.events import EngineChanged
from ftvm.interfaces import Engine, Lane
from ftvm.protocol.active.link import LINKS, NAMED, SHIPPING, STANDING, LinkEvent, LinkState
from ftvm.protocol.active.output import Announcer, OutputBuffer, Releases
from ftvm.protocol.active.schedule import CheckpointSchedule, interval_ms_of
from ftvm.protocol.core import Core
from ftvm.protocol.detector import Backoff
from ftvm.protocol.session import Contact, Session, Switchover
from ftvm.units import Nanos

__all__ = ["ActiveState", "CopyPlan"]

JOINS_TOLERATED: Final = 3
"""How many sessions of one key may fail; after each further one it must wait longer for the next."""


@dataclass(slots=True)
class CopyPlan:
    """The progress of the first copy. `left` is what of the present round is not yet encoded.

    Round 1 sends every page; each later round sends what was written during the one before. The last pages are cut in
    one pause. Rounds end when the rest is small, when it no longer shrinks (the guest writes faster than the link
    ships), or when there were too many (Clark et al., live migration, 2005, section 3.2).
    """

    round: int = 0
    pages: int = 0
    left: int = 0
    is_collecting: bool = True
    pages_sent: int = 0

    def collected(self, pages: int, limits: Limits) -> bool:
        """Note a round's size; return whether it is the last, cut in one pause."""
        is_last = self.round > 0 and (
            pages <= limits.copy_rest_pages or pages * 10 >= self.pages * 9 or self.round >= limits.copy_rounds
        )
        self.round += 1
        self.pages = self.left = pages
        self.is_collecting = False
        return is_last

    def copied(self, left: int) -> None:
        """Note that batches were encoded and `left` pages of the round remain."""
        self.pages_sent += self.left - left
        self.left = left


@dataclass(slots=True)
class ActiveState:
    """`epoch` is the last one cut; the one that is open is the next. `began_at` is when this replica became active.

    is_waiting  the guest stands still beside a standby that is silent, and that it may not run without
    unshipped   log records that are in no message yet
    beat_at     when the next heartbeat is due; poll_at  when the record is read again
    refusals    the reasons for refusals that were told
    """

    core: Core
    outputs: OutputBuffer
    epoch: int
    began_at: Nanos
    schedule: CheckpointSchedule
    link: LinkState = LinkState.NONE
    session: Session | None = None
    plan: CopyPlan | None = None
    switchover: Switchover | None = None
    is_waiting: bool = False
    releases: Releases = field(init=False)
    announcer: Announcer = field(init=False)
    beat_at: Nanos = field(init=False)
    poll_at: Nanos = field(init=False)
    backoff: Backoff = field(init=False, repr=False)
    refusals: set[str] = field(default_factory=set, repr=False)
    unshipped: list[LogRecord] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        # The clock's origin is arbitrary, so no timer may start at 0.
        self.beat_at = self.poll_at = self.began_at
        limit_ns = self.core.settings.timing.primary_limit_ns
        self.releases = Releases(self.core, self.outputs)
        self.announcer = Announcer(self.core)
        self.backoff = Backoff(JOINS_TOLERATED, Nanos(2 * limit_ns), Nanos(60 * limit_ns))

    @property
    def is_halted(self) -> bool:
        """Whether the guest waits for a standby: the record names one that is lost, and it may not run without."""
        is_lost = self.link not in NAMED or self.is_waiting
        return self.core.settings.halts_alone and self.core.arbiter.known.standby is not None and is_lost

    @property
    def joining(self) -> str | None:
        """The standby that outputs obey although the record need not name it yet."""
        is_joining = self.link in (LinkState.CATCHING_UP, LinkState.ADDING, LinkState.ABANDONING)
        return self.session.standby if is_joining and self.session is not None else None

    def move(self, event: LinkEvent) -> None:
        """Move the link by its table."""
        link = LINKS.get((self.link, event))
        if link is None:
            raise InternalError(f"a link that is {self.link.value} cannot be {event.value}")
        self.link = link

    def release(self) -> None:
        """Let all outputs leave that the release rule allows."""
        session = self.session
        acknowledged = (session.standby, session.acked) if session is not None else None
        self.releases.release(self.joining, acknowledged)

    def cut(self, now: Nanos) -> None:
        """Order the cut of the open epoch."""
        lists_pages = self.session is not None and self.session.is_followed
        self.core.do(self.schedule.order(self.epoch, lists_pages=lists_pages, now=now))

    def flush(self, now: Nanos) -> None:
        """Send what is due and fits."""
        session = self.session
        if session is None or session.contact is Contact.LOST:
            return
        if self.unshipped and session.outbox.room:
            session.ship_log(tuple(self.unshipped))
            self.unshipped.clear()
        for message in session.outbox.due(now):
            self.core.send(session.peer, Lane.DATA, message, session.id)

    def tell_engine(self, engine: Engine, now: Nanos) -> None:
        """Tell that an engine is in force, once."""
        if engine == self.schedule.told:
            return
        before, self.schedule.told = self.schedule.told, engine
        guest_id = self.core.settings.guest_id
        interval_ms = interval_ms_of(engine)
        self.core.tell(
            EngineChanged(at=now, guest_id=guest_id, before=before.name, engine=engine.name, interval_ms=interval_ms)
        )

    def pending_outputs(self) -> tuple[Output, ...]:
        """Return what the next checkpoint must carry: outputs in no epoch of this session yet and not told as released.

        Under a log engine an output may have left before a checkpoint carried it.
        """
        return self.releases.above(self.session.shipped_next - 1) if self.session is not None else ()

    def must_stand_still(self) -> bool:
        """Whether the guest must not run now: too much is held, the engine has it wait, or it is being handed over."""
        session = self.session
        if self.link in STANDING or self.is_halted:  # rule: stands_still_while_a_switch_is_open
            return True
        if session is None or self.link not in SHIPPING:
            return self.releases.is_stalled
        limits = self.core.settings.limits
        allowed = limits.epochs_in_flight if session.is_followed else 1
        waits = self.schedule.engine.stands_still or session.is_followed
        return self.releases.is_stalled or session.is_log_long(limits) or (waits and len(session.in_flight) >= allowed)
