"""The transition tables, pair by pair: what is in them happens, what is absent is refused."""

from itertools import product

import pytest

from ftvm.errors import InternalError
from ftvm.protocol.active.link import LINKS, LinkEvent, LinkState
from ftvm.protocol.core import ROLES, Role, RoleEvent
from ftvm.protocol.standby.standby_state import CLAIMS, Claim, ClaimEvent, ClaimState
from ftvm.units import Nanos

from .harness import lone_active, lone_replica

ROLE_PAIRS = list(product(Role, RoleEvent))
LINK_PAIRS = list(product(LinkState, LinkEvent))
CLAIM_PAIRS = list(product(ClaimState, ClaimEvent))


def named(value: object) -> str:
    return str(getattr(value, "name", value))


@pytest.mark.parametrize(("state", "event"), [pair for pair in CLAIM_PAIRS if pair not in CLAIMS], ids=named)
def test_a_claim_refuses_what_its_table_does_not_have(state: ClaimState, event: ClaimEvent) -> None:
    claim = Claim(state=state)

    with pytest.raises(InternalError, match=f"a claim that is {state.value} cannot be {event.value}"):
        claim.step(event)

    assert claim.state is state


@pytest.mark.parametrize(("state", "event"), CLAIMS, ids=named)
def test_a_claim_moves_by_its_table(state: ClaimState, event: ClaimEvent) -> None:
    claim = Claim(state=state)

    claim.step(event)

    assert claim.state is CLAIMS[state, event]


@pytest.mark.parametrize(("state", "event"), [pair for pair in LINK_PAIRS if pair not in LINKS], ids=named)
def test_a_link_refuses_what_its_table_does_not_have(state: LinkState, event: LinkEvent) -> None:
    active = lone_active()
    active.link = state

    with pytest.raises(InternalError, match=f"a link that is {state.value} cannot be {event.value}"):
        active.move(event)

    assert active.link is state


@pytest.mark.parametrize(("state", "event"), LINKS, ids=named)
def test_a_link_moves_by_its_table(state: LinkState, event: LinkEvent) -> None:
    active = lone_active()
    active.link = state

    active.move(event)

    assert active.link is LINKS[state, event]


@pytest.mark.parametrize(("role", "event"), [pair for pair in ROLE_PAIRS if pair not in ROLES], ids=named)
def test_a_replica_refuses_what_its_table_does_not_have(role: Role, event: RoleEvent) -> None:
    replica = lone_replica()
    replica._role = role
    replica._core.end_role(event, "a test")

    with pytest.raises(InternalError, match=f"a replica that is {role.value} cannot be {event.value}"):
        replica._follow(Nanos(0))

    assert replica.view().role is role


def test_every_state_can_be_reached_and_left() -> None:
    for table, start in ((ROLES, Role.EMPTY), (LINKS, LinkState.NONE), (CLAIMS, ClaimState.WATCHING)):
        reached, left = {start, *table.values()}, {state for state, _ in table}
        assert reached == set(type(start)), table
        assert left == set(type(start)) - {LinkState.VACATING}, table  # after it there is no active, and no link


def transcript(table: dict[tuple[object, object], object]) -> list[str]:
    return [f"{named(state)} --{named(event)}--> {named(after)}" for (state, event), after in table.items()]


def test_the_tables_say_what_was_reviewed() -> None:
    assert transcript(dict(ROLES)) == [
        "EMPTY --STARTED--> ACTIVE",
        "EMPTY --WELCOMED--> SYNCING",
        "SYNCING --WHOLE--> STANDBY",
        "SYNCING --SESSION_LOST--> EMPTY",
        "SYNCING --EXPELLED--> EMPTY",
        "STANDBY --TAKEN--> ACTIVE",
        "STANDBY --EXPELLED--> EMPTY",
        "STANDBY --DIVERGED--> EMPTY",
        "ACTIVE --DEPOSED--> EMPTY",
        "ACTIVE --VACATED--> EMPTY",
        "ACTIVE --SWITCHED_AWAY--> STANDBY",
        "STANDBY --SWITCHED_HERE--> ACTIVE",
    ]
    assert transcript(dict(LINKS)) == [
        "NONE --JOINED--> COPYING",
        "COPYING --CUT--> CATCHING_UP",
        "COPYING --LOST--> NONE",
        "CATCHING_UP --CAUGHT_UP--> ADDING",
        "CATCHING_UP --LOST--> NONE",
        "ADDING --IN_FORCE--> PROTECTED",
        "ADDING --LOST--> ABANDONING",
        "ABANDONING --IN_FORCE--> DROPPING",
        "PROTECTED --LOST--> DROPPING",
        "DROPPING --IN_FORCE--> NONE",
        "PROTECTED --ASKED--> SETTLING",
        "SETTLING --SETTLED--> HANDING",
        "SETTLING --CALLED_OFF--> PROTECTED",
        "SETTLING --LOST--> DROPPING",
        "HANDING --READY--> SWITCHING",
        "HANDING --CALLED_OFF--> PROTECTED",
        "HANDING --LOST--> DROPPING",
        "SWITCHING --IN_FORCE--> NONE",
        "SWITCHING --WITHDRAWN--> PROTECTED",
        "PROTECTED --HALTED--> NONE",
        "SETTLING --HALTED--> NONE",
        "HANDING --HALTED--> NONE",
        "ABANDONING --HALTED--> NONE",
        "PROTECTED --LEFT--> LEAVING",
        "DROPPING --LEFT--> LEAVING",
        "LEAVING --LOST--> DROPPING",
        "LEAVING --HALTED--> NONE",
        "NONE --VACATED--> VACATING",
        "PROTECTED --VACATED--> VACATING",
        "LEAVING --VACATED--> VACATING",
    ]
    assert transcript(dict(CLAIMS)) == [
        "WATCHING --ASKED--> PREPARED",
        "PREPARED --CALLED_OFF--> WATCHING",
        "PREPARED --SUSPECTED--> CHECKING",
        "WATCHING --SUSPECTED--> CHECKING",
        "CHECKING --CALLED_OFF--> WATCHING",
        "CHECKING --PROPOSED--> CLAIMING",
        "CLAIMING --LOST--> WATCHING",
    ]
