"""A guest's flush is answered ahead of the disk here only beside a standby that is named, and knows it."""

import pytest

from ftvm.encode.versions import FIRST, SPOKEN, Versions
from ftvm.protocol import effects as do
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role

from ..harness import Host, Pair, make_settings
from ..situations import begin_switchover, live_on


def told(host: Host) -> list[bool]:
    return [effect.is_covered for effect in host.performed if isinstance(effect, do.Cover)]


def a_pair(*, versions: Versions = SPOKEN) -> Pair:
    return Pair(make_settings(keeps_disks=True, versions=versions))


def test_a_flush_is_answered_ahead_once_the_standby_knows_that_it_is_named() -> None:
    pair = a_pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)
    before = told(pair.a)

    pair.run(100)

    assert before == []
    assert (told(pair.a), told(pair.b)) == ([True], [])


@pytest.mark.parametrize("link", [LinkState.COPYING, LinkState.CATCHING_UP, LinkState.ADDING])
def test_no_flush_is_answered_ahead_before_the_add_is_in_force(link: LinkState) -> None:
    pair = a_pair().started()
    pair.until(lambda: pair.a.active.link is link)

    live_on(pair, pair.a, 1_000)

    assert told(pair.a) == []


def test_who_loses_its_standby_answers_no_flush_ahead_from_then_on_and_has_all_of_them_made_durable() -> None:
    pair = a_pair().protected()
    pair.run(100)

    live_on(pair, pair.a, 600)

    assert pair.a.active.link is LinkState.NONE
    acts = [type(effect) for effect in pair.a.performed if isinstance(effect, do.Cover | do.Persist)]
    assert told(pair.a) == [True, False]
    assert acts[-2:] == [do.Cover, do.Persist]


def test_a_guest_that_is_handed_over_is_covered_again_where_it_goes_on_and_not_where_it_was() -> None:
    pair = a_pair().protected()
    pair.run(100)

    begin_switchover(pair)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    at_once = told(pair.b)
    pair.run(100)

    assert (told(pair.a), at_once, told(pair.b)) == ([True, False], [], [True])


def test_a_switchover_that_is_called_off_leaves_the_guest_covered() -> None:
    pair = a_pair().protected()
    pair.run(100)
    pair.a.asked = []

    begin_switchover(pair)
    pair.run(4_000)

    assert pair.a.active.link is LinkState.PROTECTED
    assert told(pair.a) == [True, False, True]


def test_a_deposed_active_covers_nothing_any_more() -> None:
    pair = a_pair().protected()
    pair.run(100)
    live_on(pair, pair.b, 2_000)
    assert pair.b.role is Role.ACTIVE

    live_on(pair, pair.a, 100)

    assert pair.a.role is not Role.ACTIVE
    assert told(pair.a) == [True, False]


def test_a_standby_of_the_first_version_which_acknowledges_before_its_disk_has_it_covers_nothing() -> None:
    pair = a_pair(versions=FIRST).protected()

    pair.run(100)

    assert told(pair.a) == []


def test_a_guest_without_disks_that_last_is_not_covered() -> None:
    pair = Pair(make_settings()).protected()

    pair.run(100)

    assert told(pair.a) == []
