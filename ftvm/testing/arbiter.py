"""check_arbiter: does a record store keep the contract of interfaces.RecordStore?

Promises checked: one cell for each guest, changed only by compare-and-set on the generation; what was decided stays
decided, also for a proposal that comes late or twice; reads and writes are linearizable under racing writers, and a
writer killed at any instant leaves a store that works.

Not checked, for no kit can fill your disk: that NotApplied is raised only where nothing was done that can ever put the
proposal in force. A store that is in doubt raises ArbiterError; one that never raises NotApplied keeps the contract.
"""

import random
import re
import secrets
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from ftvm.errors import ClosedError, LocalProtocolError
from ftvm.interfaces import Record, RecordStore
from ftvm.testing.contract import patience, require
from ftvm.testing.race import KILLED, LINEARIZABLE, MakeStore, Writers, check_killed_writers, check_race

__all__ = ["check_arbiter"]

_GUEST_IDS: Final = ("vm1", "vm10", "VM1 ", "../vm1", "a/b", "größe", "%", "x" * 100)
_NONE: Final = Record(0, None, None)


def check_arbiter(
    make_store: MakeStore,
    *,
    writers: Writers = "threads",
    writer_count: int = 4,
    generations: int = 60,
    patience_seconds: float = 60.0,
    seed: int = 0,
) -> None:
    """Check a record store against its contract; raises ContractBroken that names the promise and what was seen.

    make_store  returns a new handle on the same store each time; guests of earlier checks may be in it
    writers     what races: with "processes", `make_store` must be picklable, and writers are killed as well
    """
    chance = random.Random(seed)
    run = secrets.token_hex(4)
    for clause in _CLAUSES:
        promise = (clause.__doc__ or clause.__name__).rstrip(".")
        with patience(promise, patience_seconds), closing(make_store()) as store:
            clause(_StoreBench(make_store, store, promise, f"{run} {clause.__name__}", chance))
    with patience(LINEARIZABLE, patience_seconds):
        check_race(make_store, f"{run} race", writers=writers, writer_count=writer_count, generations=generations)
    if writers == "processes":
        with patience(KILLED, patience_seconds):
            check_killed_writers(make_store, f"{run} killed")


@dataclass(frozen=True, slots=True)
class _StoreBench:
    """A store, and a guest that nobody else touches."""

    make_store: MakeStore
    store: RecordStore
    promise: str
    guest: str
    chance: random.Random

    def require(self, is_kept: bool, detail: str) -> None:
        require(is_kept, self.promise, detail)

    def expect(self, found: Record, expected: Record, what: str) -> None:
        self.require(found == expected, f"{what} gave {found}, not {expected}")

    def raise_to(self, generation: int) -> Record:
        """Bring the guest's record to a generation."""
        record = _NONE
        for number in range(1, generation + 1):
            record = Record(number, "x", None)
            self.expect(self.store.compare_and_set(self.guest, record), record, "the next generation")
        return record


# --- the promises of one writer -------------------------------------------------------------------


def _starts_with_none(bench: _StoreBench) -> None:
    """A guest that nobody wrote about has generation 0 and no replicas."""
    bench.expect(bench.store.read(bench.guest), _NONE, "a first read")


def _keeps_what_was_set(bench: _StoreBench) -> None:
    """A record is read as it was set, by every handle."""
    ids = (None, "", "x", "replica with spaces", "größe", "y" * 200)
    records = [Record(1 + number, ids[number % 6], ids[number // 2 % 6]) for number in range(12)]
    with closing(bench.make_store()) as other:
        for record in records:
            bench.expect(bench.store.compare_and_set(bench.guest, record), record, "the next generation")
            bench.expect(bench.store.read(bench.guest), record, "a read")
            bench.expect(other.read(bench.guest), record, "a read by another handle")


def _refuses_other_bases(bench: _StoreBench) -> None:
    """A proposal takes effect only on the generation just below its own."""
    in_force = bench.raise_to(3)
    for generation in (1, 2, 3, 5, 6, 1000):
        found = bench.store.compare_and_set(bench.guest, Record(generation, "evil", None))
        bench.expect(found, in_force, f"a proposal of generation {generation} on 3")
        bench.expect(bench.store.read(bench.guest), in_force, f"a read after it, generation {generation}")


def _lets_a_proposal_be_repeated(bench: _StoreBench) -> None:
    """A proposal may be repeated: it is still won while in force, and harmless later."""
    bench.raise_to(1)
    proposal, newer = Record(2, "x", "y"), Record(3, "y", None)
    for _ in range(3):
        bench.expect(bench.store.compare_and_set(bench.guest, proposal), proposal, "a repeated proposal")
    with closing(bench.make_store()) as other:
        bench.expect(other.compare_and_set(bench.guest, newer), newer, "the next generation by another handle")
    bench.expect(bench.store.compare_and_set(bench.guest, proposal), newer, "a late duplicate")
    bench.expect(bench.store.read(bench.guest), newer, "a read after a late duplicate")


def _resolves_a_lost_answer(bench: _StoreBench) -> None:
    """Whose answer was lost can learn from a read whether its proposal is in force, and learns the same ever after."""
    bench.raise_to(1)
    for generation in range(2, 12):
        mine, theirs = Record(generation, "mine", None), Record(generation, "theirs", None)
        with closing(bench.make_store()) as other:
            for store, proposal in bench.chance.sample([(bench.store, mine), (other, theirs)], 2):
                store.compare_and_set(bench.guest, proposal)  # the answer is lost
            decided = bench.store.read(bench.guest)
            bench.require(decided in (mine, theirs), f"a read after two lost answers gave {decided}")
            for store, proposal in ((bench.store, mine), (other, theirs)):
                bench.expect(store.compare_and_set(bench.guest, proposal), decided, f"{proposal}, repeated,")
                bench.expect(store.read(bench.guest), decided, "a later read")


def _keeps_guests_apart(bench: _StoreBench) -> None:
    """Each guest id has its own record."""
    guests = [f"{bench.guest} {guest_id}" for guest_id in _GUEST_IDS]
    for number, guest in enumerate(guests):
        record = Record(1, f"replica {number}", None)
        bench.expect(bench.store.compare_and_set(guest, record), record, f"the first record of {guest!r}")
    for number, guest in enumerate(guests):
        bench.expect(bench.store.read(guest), Record(1, f"replica {number}", None), f"a read of {guest!r}")


def _outlives_its_handles(bench: _StoreBench) -> None:
    """What was set is there for a handle that is opened later."""
    with closing(bench.make_store()) as first:
        first.compare_and_set(bench.guest, Record(1, "x", None))
        first.compare_and_set(bench.guest, Record(2, "x", "y"))
    with closing(bench.make_store()) as later:
        bench.expect(later.read(bench.guest), Record(2, "x", "y"), "a read by a later handle")


def _names_its_place(bench: _StoreBench) -> None:
    """All handles of a store give the place of a record the same name, from the first change on, or none."""
    bench.raise_to(1)
    bench.store.read(bench.guest)
    first = bench.store.place_id(bench.guest)
    with closing(bench.make_store()) as other:
        for number in range(2, 6):
            handle = other if number % 2 else bench.store
            handle.compare_and_set(bench.guest, Record(number, "x", None))
            for each in (bench.store, other):
                each.read(bench.guest)
            names = [bench.store.place_id(bench.guest), other.place_id(bench.guest)]
            bench.require(names[0] == names[1], f"the names are {names}")
            is_name = names[0] is None or re.fullmatch("[0-9a-f]{32}", names[0]) is not None
            bench.require(is_name, f"{names[0]!r} is not 32 hexadecimal digits")
            bench.require(names[0] == first, f"the name was {first}, and is {names[0]}")


def _behaves_as_one_cell(bench: _StoreBench) -> None:
    """Two handles used in turns behave as one cell."""
    expected = _NONE
    with closing(bench.make_store()) as other:
        for number in range(80):
            handle = bench.chance.choice((bench.store, other))
            proposal = Record(max(1, expected.generation + bench.chance.choice((-1, 0, 1, 1, 1, 2))), f"{number}", None)
            if proposal.generation == expected.generation + 1:
                expected = proposal
            bench.expect(handle.compare_and_set(bench.guest, proposal), expected, f"proposal {proposal}")
            bench.expect(bench.chance.choice((bench.store, other)).read(bench.guest), expected, "a read")


def _refuses_nonsense(bench: _StoreBench) -> None:
    """A record below generation 1 cannot be proposed."""
    for generation in (0, -1):
        try:
            found = bench.store.compare_and_set(bench.guest, Record(generation, "x", None))
        except LocalProtocolError:
            continue
        bench.require(False, f"generation {generation} gave {found} instead of LocalProtocolError")


def _close_is_final_and_idempotent(bench: _StoreBench) -> None:
    """A closed handle refuses to be used and can be closed again."""
    handle = bench.make_store()
    handle.close()
    handle.close()
    try:
        handle.read(bench.guest)
    except ClosedError:
        return
    bench.require(False, "a read after close raised no ClosedError")


_CLAUSES: Final = (
    _starts_with_none,
    _keeps_what_was_set,
    _refuses_other_bases,
    _lets_a_proposal_be_repeated,
    _resolves_a_lost_answer,
    _keeps_guests_apart,
    _outlives_its_handles,
    _names_its_place,
    _behaves_as_one_cell,
    _refuses_nonsense,
    _close_is_final_and_idempotent,
)
