"""Was anything lost or contradicted? A checker over what clients asked and were answered.

`check` takes a recorded history of a key-value guest and finds: acknowledged PUTs that are gone, GETs that contradict
other answers, a guest that was rebooted or went back in time, PUTs that acted twice, and repeated answers that differ.
A key's answers are reported if and only if they are not linearizable; no two PUTs may write the same value to a key.
Pure: it knows nothing of networks, hosts or takeovers.

Sources: Herlihy and Wing, Linearizability, 1990, for what is checked and that each key can be checked alone; Gibbons
and Korach, Testing Shared Memories, 1997, for the zones of a register with unique writes, O(n log n).
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, pairwise
from typing import Final, TypeVar

from ftvm.errors import ConfigError
from ftvm.lab.kv import Operation, Reply, ReplyStatus
from ftvm.units import Nanos

__all__ = ["Anomaly", "Call", "Judgement", "Trouble", "check"]

T = TypeVar("T")

BEFORE_ALL: Final = -1
AFTER_ALL: Final = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request and what was answered.

    returned_at  when its first answer came; None if none did
    replies      the different answers that came, in order; a second one is a violation
    sends        how often it was sent until then
    """

    client: int
    number: int
    operation: Operation
    key: bytes
    value: bytes
    invoked_at: Nanos
    returned_at: Nanos | None
    replies: tuple[Reply, ...]
    sends: int = 1

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether the guest said that it is done."""
        return self.returned_at is not None and self.replies[0].status in (ReplyStatus.OK, ReplyStatus.NOT_FOUND)

    def __str__(self) -> str:
        return f"{self.operation.name} {self.key.decode(errors='replace')} (client {self.client:x}, no. {self.number})"


class Trouble(Enum):
    """What can be wrong with a history."""

    LOST = "an acknowledged PUT is gone"
    UNWRITTEN = "a GET returned a value that was not written before"
    NOT_LINEARIZABLE = "answers about a key contradict each other"
    REFUSED = "the guest refused a request that was in order"
    ANSWERS_DIFFER = "a repeated request was answered differently"
    REBOOTED = "the guest was started again"
    WENT_BACK = "the guest's uptime fell"
    OUT_OF_ORDER = "answers came in another order than the guest gave them"
    ACTED_TWICE = "the guest's count of PUTs does not fit the requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One violation, with what shows it."""

    trouble: Trouble
    evidence: str

    def __str__(self) -> str:
        return f"{self.trouble.value}: {self.evidence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the check found. The history is in order if there are no findings."""

    acknowledged: int
    unanswered: int
    findings: tuple[Anomaly, ...]

    @property
    def acknowledged_lost(self) -> int:
        """How many acknowledged PUTs are gone."""
        return sum(finding.trouble is Trouble.LOST for finding in self.findings)

    @property
    def contradicted(self) -> int:
        """How many other violations there are."""
        return len(self.findings) - self.acknowledged_lost


def check(calls: Iterable[Call], *, keeps_order: bool = False) -> Judgement:
    """Check the whole history of a guest, from its first call on.

    keeps_order  whether the network brings answers in the order in which the guest gave them

    Raises ConfigError if two PUTs wrote the same value to one key: then the answers do not tell them apart.
    """
    history = list(calls)
    keys: defaultdict[bytes, list[Call]] = defaultdict(list)
    for call in history:
        if call.operation is not Operation.STAT:
            keys[call.key].append(call)
    findings = [finding for key_calls in keys.values() for finding in _check_register(key_calls)]
    findings += _check_answers(history)
    findings += _check_uptime(history)
    findings += _check_order(history) if keeps_order else ()
    findings += _check_writes(history)
    return Judgement(
        acknowledged=sum(call.is_acknowledged for call in history),
        unanswered=sum(call.returned_at is None for call in history),
        findings=tuple(findings),
    )


# --- one key as a register ------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Cluster:
    """One value of a register: its write (None for "never written") and all GETs that returned it.

    In any linear order a cluster's calls stand together, since a value is in force once and without a gap. All that
    matters is when the first of them had ended and when the last of them began: the cluster spans at least that.
    """

    write: Call | None
    first_end: int
    last_begin: int
    last_read_begin: int = BEFORE_ALL

    @property
    def spans(self) -> bool:
        """Tell whether it is surely in force throughout from `first_end` to `last_begin` (a forward zone)."""
        return self.first_end < self.last_begin

    @property
    def write_end(self) -> int:
        """When its write was surely over."""
        if self.write is None:
            return BEFORE_ALL
        return _end(self.write)

    def add_read(self, read: Call) -> None:
        self.first_end = min(self.first_end, _end(read))
        self.last_begin = max(self.last_begin, read.invoked_at)
        self.last_read_begin = max(self.last_read_begin, read.invoked_at)

    def __str__(self) -> str:
        return "its absence" if self.write is None else f"the value of {self.write}"


def _check_register(calls: Sequence[Call]) -> Iterator[Anomaly]:
    clusters = _clusters(calls)
    for call in calls:
        if call.operation is not Operation.GET or not call.is_acknowledged:
            continue
        cluster = clusters.get(_value_read(call))
        if cluster is None:
            yield Anomaly(trouble=Trouble.UNWRITTEN, evidence=f"{call} returned {call.replies[0].value!r}")
        elif cluster.write is not None and _end(call) < cluster.write.invoked_at:
            yield Anomaly(trouble=Trouble.UNWRITTEN, evidence=f"{call} returned {cluster} before that began")
        else:
            cluster.add_read(call)
    seen = [cluster for cluster in clusters.values() if cluster.first_end < AFTER_ALL]
    yield from _find_lost(seen)
    yield from _find_conflicts(seen)


def _clusters(calls: Sequence[Call]) -> dict[bytes | None, _Cluster]:
    """Return the cluster of each value that may have been written, still without its reads."""
    clusters: dict[bytes | None, _Cluster] = {
        None: _Cluster(write=None, first_end=BEFORE_ALL, last_begin=BEFORE_ALL),
    }
    for call in calls:
        if call.operation is not Operation.PUT:
            continue
        if call.value in clusters:
            raise ConfigError(f"{call} writes a value that another PUT wrote; only unique values can be checked")
        # A PUT without an answer may act at any time later, or never: its end is open, and without a read it says
        # nothing at all (`_check_register` leaves it out).
        clusters[call.value] = _Cluster(write=call, first_end=_end(call), last_begin=call.invoked_at)
    return clusters


def _find_lost(clusters: Sequence[_Cluster]) -> Iterator[Anomaly]:
    """Find PUTs that were over before a GET began which returned a value older than they.

    A value is older than a PUT if its own write was over before that PUT began.
    """
    puts = [cluster.write for cluster in clusters if cluster.write is not None and cluster.write.is_acknowledged]
    puts.sort(key=lambda put: put.invoked_at)
    begins = [put.invoked_at for put in puts]
    earliest_end_from = list(accumulate(reversed([_end(put) for put in puts]), min))[::-1]
    gone: dict[tuple[int, int], Anomaly] = {}
    for cluster in clusters:
        later = bisect_left(begins, cluster.write_end + 1)
        if later == len(puts) or earliest_end_from[later] >= cluster.last_read_begin:
            continue
        for put in puts[later:]:
            if _end(put) < cluster.last_read_begin:
                evidence = f"{put}; a later GET returned {cluster}, which is older"
                gone[put.client, put.number] = Anomaly(trouble=Trouble.LOST, evidence=evidence)
    yield from gone.values()


def _find_conflicts(clusters: Sequence[_Cluster]) -> Iterator[Anomaly]:
    """Find values that were both in force at one time.

    Clusters a and b conflict if part of a must come before part of b and the other way round: a.first_end <
    b.last_begin and b.first_end < a.last_begin. For that one of the two must span. Where no two conflict there is an
    order of all, so pairs are all that must be looked at.
    """
    spanning = sorted((cluster for cluster in clusters if cluster.spans), key=lambda cluster: cluster.first_end)
    first_ends = [cluster.first_end for cluster in spanning]
    longest = _greatest_so_far(spanning, lambda cluster: cluster.last_begin)
    places = {id(cluster): place for place, cluster in enumerate(spanning)}
    for cluster in clusters:
        # Among the spanning clusters that began to be in force before this one's last call did, the one that lasted
        # longest is the worst; of two that span, the later one looks back at the earlier.
        place = places.get(id(cluster))
        before = bisect_left(first_ends, cluster.last_begin) if place is None else place
        if before and cluster.first_end < longest[before - 1].last_begin:
            evidence = f"{cluster} and {longest[before - 1]} would both have been in force"
            yield Anomaly(trouble=Trouble.NOT_LINEARIZABLE, evidence=evidence)


def _end(call: Call) -> int:
    # A PUT that was refused is held to nothing: it is reported as refused, and may or may not have acted.
    if call.returned_at is None or not call.is_acknowledged:
        return AFTER_ALL
    return call.returned_at


def _value_read(call: Call) -> bytes | None:
    return call.replies[0].value if call.replies[0].status is ReplyStatus.OK else None


# --- the guest as a whole -------------------------------------------------------------------------


def _check_answers(history: Sequence[Call]) -> Iterator[Anomaly]:
    boots = {reply.boot for call in history for reply in call.replies}
    if len(boots) > 1:
        yield Anomaly(trouble=Trouble.REBOOTED, evidence=f"answers carry the boot numbers {sorted(boots)}")
    for call in history:
        if len(call.replies) > 1:
            evidence = f"{call} was answered {call.replies[0]} and then {call.replies[1]}"
            yield Anomaly(trouble=Trouble.ANSWERS_DIFFER, evidence=evidence)
        if call.returned_at is not None and not call.is_acknowledged:
            yield Anomaly(trouble=Trouble.REFUSED, evidence=f"{call} was answered {call.replies[0].status.name}")


def _check_uptime(history: Sequence[Call]) -> Iterator[Anomaly]:
    """Find calls whose answer is older, by the guest's own clock, than one that had come before they were made.

    Answers to overlapping calls may pass each other on the way, so their order proves nothing.
    """
    by_begin = sorted(_answered(history), key=lambda call: call.invoked_at)
    by_end = sorted(by_begin, key=lambda call: call.returned_at or 0)
    ends = [call.returned_at or 0 for call in by_end]
    newest = _greatest_so_far(by_end, lambda call: call.replies[0].uptime)
    for call in by_begin:
        before = bisect_left(ends, call.invoked_at)
        if before and call.replies[0].uptime < newest[before - 1].replies[0].uptime:
            earlier = newest[before - 1]
            evidence = f"{call} at {call.replies[0].uptime}, after {earlier} at {earlier.replies[0].uptime}"
            yield Anomaly(trouble=Trouble.WENT_BACK, evidence=evidence)


def _check_order(history: Sequence[Call]) -> Iterator[Anomaly]:
    """Find answers that were overtaken by later ones of the guest, on a network that keeps the order.

    Only those to requests sent once: what a retransmission was answered with may well come late.
    """
    by_end = sorted(_answered(history), key=lambda call: call.returned_at or 0)
    ends = [call.returned_at or 0 for call in by_end]
    newest = _greatest_so_far(by_end, lambda call: call.replies[0].uptime)
    for call in by_end:
        before = bisect_left(ends, call.returned_at or 0)  # what came at the same moment has no order
        if call.sends == 1 and before and call.replies[0].uptime < newest[before - 1].replies[0].uptime:
            yield Anomaly(trouble=Trouble.OUT_OF_ORDER, evidence=f"{call} came after {newest[before - 1]}")


def _check_writes(history: Sequence[Call]) -> Iterator[Anomaly]:
    """Find PUTs that acted twice or not at all, by the guest's own count of them."""
    by_uptime = sorted(_answered(history), key=lambda call: call.replies[0].uptime)
    for earlier, later in pairwise(by_uptime):
        rise = later.replies[0].writes - earlier.replies[0].writes
        if rise < (later.operation is Operation.PUT and later.is_acknowledged):
            evidence = f"{later} left it at {later.replies[0].writes}, {earlier} at {earlier.replies[0].writes} already"
            yield Anomaly(trouble=Trouble.ACTED_TWICE, evidence=evidence)
    made = sum(call.operation is Operation.PUT for call in history)
    counted = max((call.replies[0].writes for call in by_uptime), default=0)
    if counted > made:
        yield Anomaly(trouble=Trouble.ACTED_TWICE, evidence=f"{counted} were counted, only {made} were asked for")


def _answered(history: Sequence[Call]) -> list[Call]:
    return [call for call in history if call.returned_at is not None]


def _greatest_so_far(items: Sequence[T], key: Callable[[T], int]) -> list[T]:
    """Return for each place the item up to there whose key is greatest, the first of equals."""
    best: list[T] = []
    for item in items:
        best.append(item if not best or key(item) > key(best[-1]) else best[-1])
    return best
