"""The world of who only wants a callback."""

from typing import cast

import pytest

from ftvm.checkpoint import Output
from ftvm.errors import LimitExceeded
from ftvm.interfaces import World
from ftvm.runtime import world as module
from ftvm.runtime.world import CallbackWorld, releases_of


def test_inputs_come_out_in_order_and_no_more_than_asked_for() -> None:
    world = CallbackWorld()
    for number in range(3):
        world.put("net0", b"%d" % number)

    assert world.receive(2) == [("net0", b"0"), ("net0", b"1")]
    assert world.receive(2) == [("net0", b"2")]
    assert world.receive(2) == []


def test_released_outputs_reach_the_callback() -> None:
    seen: list[Output] = []
    world = CallbackWorld(seen.append)
    output = Output(number=1, channel="c", payload=b"x")

    world.release(output)

    assert seen == [output]


class OneByOne:
    """A world that knows `release` alone."""

    def __init__(self) -> None:
        self.left: list[Output] = []
        self.release = self.left.append


@pytest.mark.parametrize("is_grouping", [False, True])
def test_outputs_leave_together_in_order_whatever_the_world_knows(is_grouping: bool) -> None:
    plain = OneByOne()
    world = CallbackWorld(plain.release) if is_grouping else plain
    outputs = [Output(number=number, channel="c", payload=b"x") for number in (1, 2, 3)]

    releases_of(cast("World", world))(outputs)

    assert plain.left == outputs


def test_too_many_inputs_are_refused_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INPUTS_WAITING_MAX", 2)
    world = CallbackWorld()
    world.put("net0", b"a")
    world.put("net0", b"b")

    with pytest.raises(LimitExceeded, match="inputs waiting"):
        world.put("net0", b"c")

    assert len(world.receive(10)) == 2
