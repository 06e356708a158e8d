from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.lab.kv import Operation, Reply, ReplyStatus
from ftvm.lab.linearizability import Call, Trouble, check
from ftvm.units import Nanos

PUT, GET = Operation.PUT, Operation.GET


def put(value: str, begin: int, end: int | None, *, key: bytes = b"k") -> Call:
    return call(PUT, key, value.encode(), begin, end, b"")


def get(value: str | None, begin: int, end: int | None, *, key: bytes = b"k") -> Call:
    return call(GET, key, b"", begin, end, None if value is None else value.encode())


def call(operation: Operation, key: bytes, value: bytes, begin: int, end: int | None, answer: bytes | None) -> Call:
    reply = Reply(
        status=ReplyStatus.NOT_FOUND if answer is None else ReplyStatus.OK,
        client=1,
        number=begin,
        uptime=end or 0,
        boot=1,
        writes=0,
        value=answer or b"",
    )
    return Call(
        client=1,
        number=begin,
        operation=operation,
        key=key,
        value=value,
        invoked_at=Nanos(begin),
        returned_at=None if end is None else Nanos(end),
        replies=() if end is None else (reply,),
    )


def register_troubles(*calls: Call) -> set[Trouble]:
    """Check only what the keys say: `writes` and uptime are not filled in by `put` and `get`."""
    whole = {Trouble.ACTED_TWICE, Trouble.WENT_BACK}
    return {finding.trouble for finding in check(calls).findings} - whole


def is_linearizable(calls: tuple[Call, ...]) -> bool:
    """Decide by search, as Wing and Gong did: the slow, obvious way, for one register."""
    settled = tuple(call for call in calls if call.returned_at is not None or call.operation is PUT)

    @cache
    def search(left: frozenset[int], value: bytes | None) -> bool:
        if all(settled[index].returned_at is None for index in left):
            return True
        first_end = min(settled[index].returned_at or 1 << 60 for index in left)
        for index in left:
            now = settled[index]
            if now.invoked_at > first_end:
                continue
            rest = left - {index}
            if now.operation is PUT:
                if search(rest, now.value):
                    return True
            elif _read(now) == value and search(rest, value):
                return True
        return False

    return search(frozenset(range(len(settled))), None)


def _read(call: Call) -> bytes | None:
    return call.replies[0].value if call.replies[0].status is ReplyStatus.OK else None


@st.composite
def any_histories(draw: st.DrawFn) -> tuple[Call, ...]:
    """Small histories of one key, linearizable or not."""
    calls = []
    times = draw(st.permutations(range(1, 13)))
    kinds = draw(st.lists(st.sampled_from(["put", "get", "pending"]), min_size=1, max_size=6))
    written = [f"v{index}" for index, kind in enumerate(kinds) if kind != "get"]
    for index, kind in enumerate(kinds):
        begin, end = sorted(times[2 * index : 2 * index + 2])
        if kind == "get":
            calls.append(get(draw(st.sampled_from([None, *written])), begin, end))
        else:
            calls.append(put(f"v{index}", begin, end if kind == "put" else None))
    return tuple(calls)


@settings(max_examples=200)
@given(any_histories())
def test_verdict_on_a_key_agrees_with_a_search_through_all_orders(calls: tuple[Call, ...]) -> None:
    assert (not register_troubles(*calls)) == is_linearizable(calls)


@dataclass(frozen=True)
class Step:
    """One call as a correct guest serves it: begun, served and returned at rising times."""

    operation: Operation
    key: bytes
    wait: int
    service: int
    is_answered: bool


steps = st.builds(
    Step,
    operation=st.sampled_from([PUT, GET]),
    key=st.sampled_from([b"a", b"b", b"c"]),
    wait=st.integers(1, 50),
    service=st.integers(1, 50),
    is_answered=st.sampled_from([True, True, True, False]),
)


def serve(plan: list[Step]) -> list[Call]:
    """Run a plan against a correct key-value guest: calls overlap, each takes effect at its turn."""
    values: dict[bytes, bytes] = {}
    writes = 0
    calls = []
    for turn, step in enumerate(plan, start=1):
        served_at = 100 * turn
        begin, end = served_at - 3 * step.wait, served_at + 3 * step.service
        value = b""
        if step.operation is PUT:
            value = b"%d" % turn
            values[step.key] = value
            writes += 1
        answer = b"" if step.operation is PUT else values.get(step.key)
        made = call(step.operation, step.key, value, 1_000 + begin, 1_000 + end, answer)
        reply = replace(made.replies[0], uptime=served_at, writes=writes)
        made = replace(made, number=turn, replies=(reply,))
        calls.append(made if step.is_answered else replace(made, returned_at=None, replies=()))
    return calls


histories = st.lists(steps, max_size=60).map(serve)


@given(histories)
def test_history_of_a_correct_guest_is_in_order(calls: list[Call]) -> None:
    verdict = check(calls)

    assert verdict.findings == ()
    assert (verdict.acknowledged_lost, verdict.contradicted) == (0, 0)
    assert verdict.acknowledged + verdict.unanswered == len(calls)


def last_end(calls: list[Call]) -> int:
    return max([call.returned_at or call.invoked_at for call in calls], default=0)


def audited(calls: list[Call], value: bytes | None) -> list[Call]:
    """Append a GET of the first call's key, made after all the others."""
    end = last_end(calls) + 1_000
    made = call(GET, calls[0].key, b"", end, end + 1, value)
    latest = max(old.replies[0].writes for old in calls if old.replies)
    reply = replace(made.replies[0], uptime=1 << 40, writes=latest)
    return [*calls, replace(made, replies=(reply,))]


answered_puts = st.builds(
    Step,
    operation=st.just(PUT),
    key=st.just(b"a"),
    wait=st.integers(1, 50),
    service=st.integers(1, 50),
    is_answered=st.just(True),
)
answered_histories = st.builds(lambda first, rest: serve([first, *rest]), answered_puts, st.lists(steps, max_size=40))


@given(answered_histories)
def test_acknowledged_put_that_vanished_is_found(calls: list[Call]) -> None:
    verdict = check(audited(calls, None))

    assert verdict.acknowledged_lost >= 1
    assert "a later GET returned its absence" in str(verdict.findings[0])


@given(answered_histories, st.data())
def test_change_of_any_answer_to_a_value_nobody_wrote_is_found(calls: list[Call], data: st.DataObject) -> None:
    reads = [index for index, call in enumerate(calls) if call.operation is GET and call.replies]
    if not reads:
        return
    index = data.draw(st.sampled_from(reads))
    reply = replace(calls[index].replies[0], status=ReplyStatus.OK, value=b"forged")
    calls[index] = replace(calls[index], replies=(reply,))

    assert Trouble.UNWRITTEN in {finding.trouble for finding in check(calls).findings}


Damage = Callable[[Reply], Reply]


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        (lambda reply: replace(reply, boot=2), Trouble.REBOOTED),
        (lambda reply: replace(reply, uptime=1), Trouble.WENT_BACK),
        (lambda reply: replace(reply, writes=0), Trouble.ACTED_TWICE),
        (lambda reply: replace(reply, writes=1 << 30), Trouble.ACTED_TWICE),
        (lambda reply: replace(reply, status=ReplyStatus.STALE), Trouble.REFUSED),
    ],
)
@given(calls=answered_histories)
def test_damage_to_the_last_answer_is_found(damage: Damage, trouble: Trouble, calls: list[Call]) -> None:
    *before, last = audited(calls, None)

    damaged = replace(last, replies=(damage(last.replies[0]),))

    assert trouble in {finding.trouble for finding in check([*before, damaged]).findings}


@given(answered_histories)
def test_second_answer_that_differs_is_found(calls: list[Call]) -> None:
    first = calls[0]
    other = replace(first.replies[0], uptime=first.replies[0].uptime + 1)

    verdict = check([replace(first, replies=(*first.replies, other)), *calls[1:]])

    assert Trouble.ANSWERS_DIFFER in {finding.trouble for finding in verdict.findings}
    assert verdict.contradicted >= 1


def test_every_lost_put_is_counted_once() -> None:
    calls = [put("1", 1, 2), put("2", 3, 4), put("3", 5, 6), get("1", 7, 8), get("1", 9, 10)]

    lost = [finding for finding in check(calls).findings if finding.trouble is Trouble.LOST]

    assert len(lost) == 2


def test_unanswered_put_may_act_late_or_never() -> None:
    assert register_troubles(put("1", 1, None), get(None, 2, 3), get("1", 4, 5)) == set()
    assert register_troubles(put("1", 1, None), get(None, 2, 3)) == set()


def test_value_that_came_and_went_is_found_although_its_put_is_unanswered() -> None:
    troubles = register_troubles(put("1", 1, None), get("1", 2, 3), get(None, 4, 5))

    assert troubles == {Trouble.NOT_LINEARIZABLE}


def test_get_that_knew_the_future_is_found() -> None:
    assert register_troubles(get("1", 1, 2), put("1", 3, 4)) == {Trouble.UNWRITTEN}


def test_keys_are_judged_apart() -> None:
    assert register_troubles(put("1", 1, 2, key=b"a"), get(None, 3, 4, key=b"b")) == set()


def test_overlapping_answers_may_pass_each_other() -> None:
    early, late = get(None, 1, 10), get(None, 2, 9)

    verdict = check([early, late])

    assert verdict.findings == ()


def test_answer_that_was_overtaken_is_found_where_the_network_keeps_the_order() -> None:
    early, late = get(None, 1, 10), get(None, 2, 9)
    early = replace(early, replies=(replace(early.replies[0], uptime=5),))

    overtaken = check([early, late], keeps_order=True)
    repeated = check([replace(early, sends=2), late], keeps_order=True)

    assert [finding.trouble for finding in overtaken.findings] == [Trouble.OUT_OF_ORDER]
    assert repeated.findings == ()


def test_two_puts_of_one_value_are_refused() -> None:
    with pytest.raises(ConfigError, match="only unique values"):
        check([put("1", 1, 2), put("1", 3, 4)])


def test_long_history_in_order_is_checked_without_quadratic_work() -> None:
    plan = [
        Step(operation=PUT if turn % 2 else GET, key=b"%d" % (turn % 7), wait=40, service=40, is_answered=True)
        for turn in range(20_000)
    ]

    assert check(serve(plan)).findings == ()
