"""What an active replica and its standby have between them, as the modules see it that act on it.

    admission.py   how a standby comes in          parting.py   how it goes
    shipping.py    what it is sent                 handing.py   how the guest is handed over to it

Those are functions over a Bond, each of one theme; active.py calls them and keeps the time. Here is what all of them
need: the state, and the few steps that more than one takes.
"""

from dataclasses import dataclass, field
from typing import Final

from ftvm.checkpoint import LogRecord
from ftvm.errors import InternalError
from ftvm.events import EngineChanged
from ftvm.interfaces import Engine, Lane
from ftvm.protocol.copying import CopyPlan
from ftvm.protocol.core import Core
from ftvm.protocol.detector import Backoff
from ftvm.protocol.link import LINKS, NAMED, LinkEvent, LinkState
from ftvm.protocol.output import Announcer, OutputBuffer, Releases
from ftvm.protocol.schedule import CheckpointSchedule, interval_ms_of
from ftvm.protocol.session import Contact, Session, Switchover
from ftvm.units import Nanos

__all__ = ["Bond"]

JOINS_TOLERATED: Final = 3
"""So many sessions of one key may come to nothing; with each further one it waits longer for the next."""


@dataclass(slots=True)
class Bond:
    """`epoch` is the last one cut; the one that is open is the next. `began_at` is when this replica became active.

    is_waiting  the guest stands still beside a standby that is silent, and that it may not run without
    unshipped   log records that are in no message yet
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
    backoff: Backoff = field(init=False, repr=False)
    refusals: set[str] = field(default_factory=set, repr=False)
    unshipped: list[LogRecord] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
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
        """Have the epoch that is open cut."""
        lists_pages = self.session is not None and self.session.is_followed
        self.core.do(self.schedule.order(self.epoch, lists_pages=lists_pages, now=now))

    def flush(self, now: Nanos) -> None:
        """Send what is to be sent by now and fits."""
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
