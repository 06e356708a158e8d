"""The state of an active replica, for the modules of this package that act on it.

    joining.py    how a standby comes in             leaving.py    how it goes, and how this host stops in order
    shipping.py   what it is sent                    handover.py   how the guest is handed over to it

Those are functions over an ActiveState, one theme each. Here are the state and the few steps that several of them need.
"""

import math
from dataclasses import dataclass, field
from typing import Final

from ftvm.checkpoint import NO_OUTPUTS, OUTPUT_ROW, OutputTable, joined_outputs
from ftvm.config import Limits
from ftvm.encode.versions import DURABLE_SINCE
from ftvm.errors import InternalError, must
from ftvm.events import EngineChanged
from ftvm.interfaces import Engine, Lane
from ftvm.logtable import LogTable
from ftvm.protocol.active.link import COVERED, JOINING, LINKS, NAMED, SHIPPING, STANDING, LinkEvent, LinkState
from ftvm.protocol.active.output import Announcer, OutputBuffer, Releases
from ftvm.protocol.core import Core
from ftvm.protocol.detector import Backoff
from ftvm.protocol.effects import Cover, Cut, Release
from ftvm.protocol.session import LOGS_IN_FLIGHT, Contact, Session, Switchover
from ftvm.protocol.timers import AT_ONCE, NEVER
from ftvm.units import Nanos

__all__ = ["QUIET_NS_MAX", "ActiveState", "CheckpointSchedule", "CopyPlan", "interval_ms_of", "settings_of"]

JOINS_TOLERATED: Final = 3
"""How many sessions of one key may fail; after each further one it must wait longer for the next."""


QUIET_NS_MAX: Final = 1_000_000_000
"""A guest that writes nothing gets an epoch this often all the same: a takeover sets its clock no further back. So
does one at rest, which is not looked at meanwhile."""


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
class CheckpointSchedule:
    """`engine` is the one under which the guest runs now, `wanted` what was asked for and is not in force yet.

    told        the last engine of which the listeners know that it is in force
    is_guest_idle  the guest waited for something from outside when its last output was taken
    is_cut_wanted  the guest has asked for a cut since the last one was ordered
    is_at_rest  the guest waits, has written nothing since the last epoch, and will be reported to go on
    shipped_at  when an epoch was shipped last: a cut that found nothing to ship came later

    An engine changes at a cut, while the guest stands still, so that each output is judged by the engine under which it
    was made: what came before belongs to that checkpoint; what comes after waits for what the new engine asks. The
    checkpoint's header tells the backup what to do behind it: execute, or come to rest. Without a backup there is no
    cut to wait for.
    """

    engine: Engine
    last_cut_at: Nanos
    told: Engine = field(init=False)
    wanted: Engine | None = None
    shipped_at: Nanos = AT_ONCE
    is_cutting: bool = False
    is_cut_wanted: bool = False
    is_at_rest: bool = False
    is_guest_idle: bool = False
    epoch_ns: int = 0
    pause_ns: int = 0
    dirty_pages: int = 0

    def __post_init__(self) -> None:
        self.told = self.engine

    def use(self, engine: Engine) -> None:
        """Note that the guest stands still and runs on under `engine`."""
        self.engine = engine
        if self.wanted == engine:
            self.wanted = None


@dataclass(slots=True)
class ActiveState:
    """`epoch` is the last one cut; the one that is open is the next. `began_at` is when this replica became active.

    is_waiting  the guest stands still beside a standby that is silent, and that it may not run without
    unshipped   log records that are in no message yet
    unsynced    the number of the wish that what was flushed before be on this host's devices, where it took over, has
                lost its standby, or hands the guest over; None once it is
    is_covered  a flush is answered before the disks of this host have it: they were told so
    flushed     the last epoch, cut or open, that holds a flush of the guest: no output behind it leaves before it is
                acknowledged
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
    unshipped: list[LogTable] = field(default_factory=list, repr=False)
    unsynced: int | None = None
    is_covered: bool = False
    flushed: int = 0

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

    def persist(self) -> None:
        """Let nothing out before what the guest has flushed is on the devices of the disks here."""
        if self.core.settings.keeps_disks:
            self.unsynced = self.core.persist()

    def move(self, event: LinkEvent) -> None:
        """Move the link by its table."""
        link = LINKS.get((self.link, event))
        if link is None:
            raise InternalError(f"a link that is {self.link.value} cannot be {event.value}")
        self.link = link
        self.cover()

    def cover(self) -> None:
        """Have flushes answered ahead of the disks here, or not, as the link stands: a change of either goes by here.

        Not before the standby knows that it is named: then its image says so on its device with the first flush
        that it acknowledges, and whoever finds both images without their hosts takes the right one (label.py).
        """
        settings, session, known = self.core.settings, self.session, self.core.arbiter.known
        keeps = session is not None and session.id.version >= DURABLE_SINCE and session.generation >= known.generation
        # rule: covered_beside_a_named_standby
        is_covered = settings.keeps_disks and keeps and self.link in COVERED
        if is_covered is not self.is_covered:
            self.is_covered = is_covered
            self.core.do(Cover(is_covered))

    def uncover(self) -> None:
        """This role ends: whatever comes, no flush is answered ahead any more."""
        if self.is_covered:
            self.is_covered = False
            self.core.do(Cover(is_covered=False))

    def release(self) -> None:
        """Let all outputs leave that the release rule allows, in order: THE RELEASE RULE.

        An output leaves when every standby that may be in force, as far as this replica can know, has acknowledged in
        the present session what the output needs; at once where none may be. While a hint holds them, none leaves; nor
        does any while a flush that it took over, or told of beside a standby that it lost, is not durable here.
        """
        releases, outputs, session = self.releases, self.outputs, self.session
        if releases.is_held_by_hint:
            return
        if self.unsynced is not None:  # rule: taken_over_flush_is_durable
            return
        known, proposal = self.core.arbiter.known, self.core.arbiter.proposal
        obeyed = [known.standby]  # rule: known_standby_obeyed
        if proposal is not None:  # rule: proposal_obeyed
            obeyed.append(proposal.standby)  # our own, not yet resolved: it may be in force
        # From before its ADD is proposed on (docs/protocol.md, "ADD").
        if session is not None and self.link in JOINING:  # rule: joining_standby_obeyed
            obeyed.append(session.standby)
        safe = None
        for standby in obeyed:
            if standby is None:
                continue
            if session is None or standby != session.standby:
                return
            safe = session.acked
        held = outputs.held
        leaving: list[OutputTable] = []
        since = held[0].since if held else NEVER
        while held:
            if safe is not None and not safe.cover(held[0].needs):  # rule: held_until_acknowledged
                break
            leaving.append(held.popleft().outputs)
        if not leaving:
            return
        together = leaving[0] if len(leaving) == 1 else joined_outputs(leaving)
        core, first, last = self.core, together.first, together.last
        count = len(together.rows) // OUTPUT_ROW.size
        is_next = first == outputs.released + 1 and last == outputs.released + count
        must(is_next, "outputs leave in the order of their numbers")
        outputs.released = last
        outputs.count -= count
        outputs.held_bytes -= len(together.payloads)
        # After a takeover, a replay makes outputs again that the active before is known to have released.
        if last > core.released:
            fresh = together if first > core.released else together.behind(core.released)
            core.released = last
            core.effects.append(Release(fresh, since))
            releases.untold.append(fresh)

    def cut(self, now: Nanos) -> None:
        """Order the cut of the open epoch, with the engine that is to be in force behind it."""
        schedule = self.schedule
        schedule.is_cutting, schedule.is_cut_wanted, schedule.is_at_rest = True, False, False
        schedule.epoch_ns, schedule.last_cut_at = now - schedule.last_cut_at, now
        lists_pages = self.session is not None and self.session.is_followed
        may_skip = not self.outputs.held and self._is_quiet(now)
        engine = schedule.wanted or schedule.engine
        self.core.effects.append(Cut(self.epoch + 1, self.epoch, engine, lists_pages, may_skip))

    def _is_quiet(self, now: Nanos) -> bool:
        """Whether the standby needs an epoch, or a mark, only if the guest has written something."""
        session, schedule = self.session, self.schedule
        if session is None or self.link is not LinkState.PROTECTED:
            return False
        covered = session.in_flight[-1].logged if session.in_flight else session.covered
        is_waiting = schedule.wanted is not None or session.logged is not covered or self.flushed > self.epoch
        return not is_waiting and now - schedule.shipped_at < QUIET_NS_MAX

    def flush(self, now: Nanos) -> None:
        """Send what is due and fits."""
        session = self.session
        if session is None or session.contact is Contact.LOST:
            return
        outbox = session.outbox
        if self.unshipped and outbox.logs < LOGS_IN_FLIGHT and len(outbox.waiting) < outbox.window:
            session.ship_log(self.unshipped)
            self.unshipped.clear()
        for message in outbox.due(now):
            self.core.send(session.peer, Lane.DATA, message, session.id)

    def tell_engine(self, engine: Engine, now: Nanos) -> None:
        """Tell that an engine is in force, once."""
        if engine == self.schedule.told:
            return
        before, self.schedule.told = self.schedule.told, engine
        guest_id = self.core.settings.guest_id
        self.core.tell(
            EngineChanged(
                at=now,
                guest_id=guest_id,
                before=before.name,
                engine=engine.name,
                interval_ms=interval_ms_of(engine),
                engine_settings=settings_of(engine),
            )
        )

    def pending_outputs(self) -> OutputTable:
        """Return what the next checkpoint must carry: outputs in no epoch of this session yet and not told as released.

        Under a log engine some of them may have left before a checkpoint carried them.
        """
        if self.session is None:
            return NO_OUTPUTS
        last, untold, held = self.session.shipped_next - 1, self.releases.untold, self.outputs.held
        carried = [outputs for outputs in untold if outputs.last > last]  # rule: untold_outputs_carried
        carried += [each.outputs for each in held if each.outputs.last > last]
        if carried and carried[0].first <= last:
            carried[0] = carried[0].behind(last)
        return carried[0] if len(carried) == 1 else joined_outputs(carried)

    def must_stand_still(self) -> bool:
        """Whether the guest must not run now: too much is held, the engine has it wait, or it is being handed over."""
        session, settings, outputs = self.session, self.core.settings, self.outputs
        # rule: stands_still_while_a_switch_is_open
        if self.link in STANDING or (settings.halts_alone and self.is_halted):
            return True
        limits = settings.limits
        if outputs.count >= limits.outputs_held // 2 or outputs.held_bytes >= limits.outputs_held_bytes // 2:
            return True
        if session is None or self.link not in SHIPPING:
            return False
        if session.is_log_long:
            return True
        allowed = limits.epochs_in_flight if session.is_followed else 1
        waits = self.schedule.engine.stands_still or session.is_followed
        return waits and len(session.in_flight) >= allowed


def interval_ms_of(engine: Engine) -> float | None:
    """Return the milliseconds between checkpoints that an engine was given, None if it has no such parameter."""
    interval = getattr(engine, "interval", None)  # not asked of an Engine: one of somebody's own may have anything
    return round(interval * 1000, 6) if isinstance(interval, int | float) and math.isfinite(interval) else None


def settings_of(engine: Engine) -> str:
    """Return what an engine says of its settings, for people; its interval if it says nothing, "" without one."""
    told = getattr(engine, "settings", None)  # nor is this: see above
    if isinstance(told, str):
        return told
    interval_ms = interval_ms_of(engine)
    return "" if interval_ms is None else f"interval {interval_ms:g} ms"
