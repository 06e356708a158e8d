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

from dataclasses import dataclass, field

from ftvm.errors import InternalError
from ftvm.interfaces import Answer, CompareAndSet, Read, Record, Request
from ftvm.protocol.record import NO_RECORD
from ftvm.units import Nanos

__all__ = ["ArbiterClient"]


@dataclass(slots=True)
class ArbiterClient:
    """Mutable; `request` is what to submit next, the answer comes back through `take`.

    known     the newest record that the arbiter told us
    proposal  our own, while it may or may not be in force
    wants_read  whether the record is to be read
    unanswered_since  when the first request was submitted of those without a good answer since, None if all have one
    _attempts, _unapplied  how often that was submitted, and how many of them certainly had no effect
    """

    retry_ns: Nanos
    known: Record = NO_RECORD
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
            self.error = answer.error or broken or "no answer"  # rule: an_error_is_no_answer
            self.wants_read |= isinstance(answer.request, Read)
            self._unapplied += isinstance(answer.request, CompareAndSet) and answer.is_unapplied
            self._not_before = Nanos(now + self.retry_ns)
            return False
        self.error = self.unanswered_since = self._not_before = None
        if isinstance(answer.request, Read):
            self._reads = self._reads_begun
        self.known = record
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
