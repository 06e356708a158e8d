"""One replica's client of the arbiter: what it knows, what it has proposed, what it waits for.

One request is outstanding at a time. A proposal is resolved only when a generation at or above its own is learned:
never by a time-out, never by an error (docs/protocol.md, "The record"). Until then it counts as possibly in force,
which is what the release rule asks about. A record older than one already seen means that the arbiter forgot, and
another record of the generation already seen that it contradicts itself: both are refused.

What was proposed and may be in force is thus never abandoned. One that cannot be in force may be withdrawn: each of its
attempts, the first as well as the last, was answered that it certainly had no effect and never will have one (a full
disk, before the store was asked to decide). A single attempt that is under way, lost, or answered in any other way
leaves a doubt that no later answer removes. A caller withdraws only if it can do without; else the proposal is
repeated.

The highest generation is kept for as long as the process lives, and not on disk, unless the user gives a place for it
(arbiters/known.py): a host that restarts has no state and no right that an old record could give back to it. It joins
whoever is active, or starts where nobody is by an operator's word. So `--create` belongs in no unit file: with an
arbiter that forgot, it is that word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ftvm.errors import InternalError
from ftvm.interfaces import Answer, CompareAndSet, Read, Record, Request
from ftvm.protocol.record import NO_RECORD, known_place
from ftvm.units import Nanos

__all__ = ["ArbiterClient", "Places"]

JUDGED_NS: Final = Nanos(2_000_000_000)
"""Who says for so long that it finds no record reads another place: whoever hears of a difference looks again at once.
"""

FORGOTTEN_NS: Final = Nanos(5_000_000_000)
"""Who was not heard for so long is forgotten; every host that is there says HELLO once a second."""

HEARD_MAX: Final = 64


@dataclass(slots=True)
class ArbiterClient:
    """Mutable; `request` is what to submit next, the answer comes back through `take`.

    known     the newest record that the arbiter told us
    place     of the records, "" where the guest has none, None if it is not known
    proposal  our own, while it may or may not be in force
    error     why the last request failed, or, though it did not, no record could be written; it decides nothing
    wants_read  whether the record is to be read
    unanswered_since  when the first request was submitted of those without a good answer since, None if all have one
    _attempts, _unapplied  how often that was submitted, and how many of them certainly had no effect
    """

    retry_ns: Nanos
    known: Record = NO_RECORD
    place: str | None = None
    proposal: Record | None = None
    error: str | None = None
    unanswered_since: Nanos | None = None
    _attempts: int = 0
    _unapplied: int = 0
    _reads: int = 0
    _reads_begun: int = 0
    _outstanding: Request | None = field(default=None, repr=False)
    wants_read: bool = False
    _not_before: Nanos | None = None
    _hint_at: Nanos | None = None

    @property
    def reads(self) -> int:
        """The number of the last read that was answered; they are numbered as they begin."""
        return self._reads

    @property
    def reads_begun(self) -> int:
        """The number of the last read that was begun."""
        return self._reads_begun

    def propose(self, record: Record) -> None:
        """Propose the successor of the known record; it stays proposed until resolved."""
        if self.proposal is not None or record.generation != self.known.generation + 1:
            raise InternalError(f"proposed {record} while {self.proposal} is unresolved and {self.known} is known")
        self.proposal = record
        self._attempts = self._unapplied = 0
        self._not_before = None

    def withdraw(self) -> bool:
        """Take the proposal back if it is certain that no attempt had an effect; tell whether it was taken back."""
        # rule: no_attempt_took_effect
        if self.proposal is None or self._attempts == 0 or self._attempts != self._unapplied:
            return False
        self.proposal = None
        return True

    def withdraw_unsent(self) -> bool:
        """Take the proposal back if it was never submitted; tell whether it was taken back."""
        is_unsent = self.proposal is not None and self._attempts == 0
        if is_unsent:
            self.proposal = None
        return is_unsent

    def want_read(self) -> int:
        """Ask for the record. The answer is fresh once `reads` has come to the number returned.

        A read that is already under way was started earlier, so it does not count.
        """
        self.wants_read = True
        return self._reads_begun + 1

    def hint(self, generation: int, now: Nanos) -> bool:
        """A peer says that `generation` is in force: read the record, but at most once per retry interval.

        Tells whether a read was asked for.
        """
        is_due = self._hint_at is None or now >= self._hint_at
        if generation <= self.known.generation or not is_due:
            return False
        self._hint_at = Nanos(now + self.retry_ns)
        self.want_read()
        return True

    def next_request(self, now: Nanos) -> Request | None:
        """Return what to submit now, if anything; it then counts as outstanding."""
        if self._outstanding is not None or (self._not_before is not None and now < self._not_before):
            return None
        if self.proposal is not None:
            self._attempts += 1
            self._outstanding = CompareAndSet(self.proposal)
        elif self.wants_read:
            self.wants_read = False
            self._reads_begun += 1
            self._outstanding = Read()
        if self._outstanding is not None and self.unanswered_since is None:
            self.unanswered_since = now
        return self._outstanding

    def take(self, answer: Answer, now: Nanos) -> bool:
        """Take the answer to the outstanding request; tell whether a newer record was learned or a read was
        answered."""
        if answer.request != self._outstanding:
            raise InternalError(f"answered {answer.request}, asked {self._outstanding}")
        self._outstanding = None
        record = answer.record
        broken = self._contradiction(record)
        if record is None or broken is not None:
            self.error = broken or answer.error or "no answer"  # rule: an_error_is_no_answer
            self.wants_read |= isinstance(answer.request, Read)
            self._unapplied += isinstance(answer.request, CompareAndSet) and answer.is_unapplied
            self._not_before = Nanos(now + self.retry_ns)
            return False
        self.error, self.unanswered_since, self._not_before = answer.error, None, None
        if isinstance(answer.request, Read):
            self._reads = self._reads_begun
        self.known, self.place = record, known_place(answer)
        if self.proposal is not None and record.generation >= self.proposal.generation:  # rule: proposal_resolved
            self.proposal = None
        return True

    def _contradiction(self, record: Record | None) -> str | None:
        """Tell how a record contradicts the one that the arbiter told us before; None if it does not."""
        if record is None or record.generation > self.known.generation:
            return None
        if record.generation < self.known.generation:
            return f"it went back from generation {self.known.generation} to {record.generation}"
        return None if record == self.known else f"it changed generation {record.generation}, which never changes"

    def deadline(self) -> Nanos | None:
        """Return when a request that failed is due again; None while its answer is awaited, or nothing is wanted."""
        is_due = self._outstanding is None and (self.proposal is not None or self.wants_read)
        return self._not_before if is_due else None


@dataclass(slots=True)
class _Heard:
    """What a host said last of its place: since when that, when it was heard last, and which read would be fresh."""

    place: str
    since: Nanos
    at: Nanos
    fresh_at: int
    is_judged: bool = False


@dataclass(slots=True)
class Places:
    """Which other hosts, by replica id, keep the guest's record in another place than this host. Mutable, bounded.

    A place is named by an id that was drawn there (interfaces.RecordStore.place_id). A difference may be old news,
    where one side has not read the first record yet: so it is believed of this host after a fresh read alone, and of
    another one that finds none after a while.
    """

    arbiter: ArbiterClient
    _heard: dict[str, _Heard] = field(default_factory=dict)
    _asked_at: Nanos | None = None

    def differs(self, theirs: str | None) -> bool:
        """Tell whether a place is known to be another than ours."""
        return theirs is not None and self.arbiter.place is not None and theirs != self.arbiter.place

    def hear(self, replica: str, theirs: str | None, now: Nanos) -> bool:
        """Take what a host says of its place; tell whether that is news, and differs from ours."""
        if theirs is None or not self.differs(theirs):
            self._heard.pop(replica, None)
            return False
        heard = self._heard.get(replica)
        if heard is not None and heard.place == theirs:
            heard.at = now
            return False
        if heard is None and len(self._heard) >= HEARD_MAX:
            return False
        self._heard[replica] = _Heard(theirs, now, now, self._ask_again(now))
        return True

    def judge(self, now: Nanos) -> tuple[str, ...]:
        """Return who is certain only now to read another record."""
        new = [
            replica
            for replica, heard in self._heard.items()
            if not heard.is_judged
            and self.differs(heard.place)
            and self.arbiter.reads >= heard.fresh_at
            and (heard.place or now >= heard.since + JUDGED_NS)
        ]
        for replica in new:
            self._heard[replica].is_judged = True
        return tuple(new)

    def forget(self, now: Nanos) -> None:
        """Forget who is no more to be heard, or says what we say by now."""
        for replica, heard in list(self._heard.items()):
            if now >= heard.at + FORGOTTEN_NS or not self.differs(heard.place):
                del self._heard[replica]

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Who certainly reads another record."""
        return tuple(replica for replica, heard in self._heard.items() if heard.is_judged)

    @property
    def with_records(self) -> tuple[str, ...]:
        """Those of them that have a record there."""
        return tuple(replica for replica, heard in self._heard.items() if heard.is_judged and heard.place)

    @property
    def is_any(self) -> bool:
        """Whether anybody was heard who says another place than ours."""
        return bool(self._heard)

    def sentence(self, replicas: Sequence[str]) -> str:
        """Say it of these, with the remedy."""
        return (
            f"{', '.join(replicas)} and this host keep the guest's record in different places, so neither protects the "
            "other and nothing is copied: give both the same --arbiter, and if that is a folder, mount the same share "
            "on both"
        )

    def _ask_again(self, now: Nanos) -> int:
        """Read the record again, at most once per retry interval, whoever says what."""
        if self._asked_at is None or now >= self._asked_at + self.arbiter.retry_ns:
            self._asked_at = now
            return self.arbiter.want_read()
        return self.arbiter.reads_begun + 1
