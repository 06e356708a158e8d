"""The pair protocol holds in every history within the bounds; a model that is broken, or does nothing, is noticed."""

from pathlib import Path
from typing import Final

import pytest

from .checker import check, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

BREAKS: Final[dict[str, dict[str, str]]] = {
    "nothing is held": {
        r"MayRelease(h, n) == \A s \in": r"MayRelease(h, n) == TRUE \/ \A s \in",
    },
    "a DROP counts as in force once it is proposed": {
        r"    {Known(h).stb} \cup": r"    (IF IsProposing(h) THEN {} ELSE {Known(h).stb}) \cup",
    },
    "an ADD is proposed without the joint hold": {
        "(IF IsProposing(h) THEN {prop[h].stb} ELSE {})": "{}",
    },
    "an ADD is proposed before the joiner has caught up": {
        r"/\ acked[h] >= rel[h]": r"/\ TRUE",
    },
    "an acknowledgement of another session is counted": {
        r"\E s \in {sess[h]} :": r"\E s \in 1..Len(wire) :",
    },
    "an acknowledgement is sent before the commit": {
        "![sess[h]].acked = Len(hist[h]),": "![sess[h]].acked = Len(Mine(h).hist),",
    },
    "an epoch that holds a flush is acknowledged before the standby's disk has it": {
        r"IF disk[h] >= LastFlush(n) /\ disk[h] # NothingDurable THEN": "IF TRUE THEN",
    },
    "a first copy is acknowledged before the joiner's disk has it": {
        "![s].logged = wire[s].base]": "![s].logged = wire[s].base, ![s].acked = wire[s].base]",
    },
    "an output behind a flush waits for the log alone": {
        r"acked[h] >= LastFlush(n)": "acked[h] >= NothingAcked",
    },
    "who is alone lets out what rests on a flush that its disk lacks": {
        r"/\ Known(h).stb # None \/ LastFlush(n) <= disk[h]": r"/\ TRUE",
    },
    "a SWITCH does not wait for the own disk": {
        r"/\ LastFlush(Len(hist[h])) <= disk[h]": r"/\ TRUE",
    },
    "a gap is skipped": {
        r"\E n \in {Len(hist[h]) + 1} :": r"\E n \in (Len(hist[h]) + 1)..MaxSteps :",
        "Append(@, Mine(h).hist[n])]": (
            r"[i \in 1..n |-> IF i <= Len(@) THEN @[i] ELSE IF i = n THEN Mine(h).hist[n] ELSE None]]"
        ),
    },
    "a replica id survives a restart": {
        "![h] = <<h, @[2] + 1>>]": "![h] = @]",
    },
    "a proposal is given up": {
        r"/\ g <= prop[h].base THEN prop[h]": r"/\ FALSE THEN prop[h]",
    },
    "a standby runs as soon as it has proposed its TAKE": {
        "CASE record.act = id[h]": r"CASE IsStandby(h) /\ IsProposing(h) -> BecomeActive(h, g) [] record.act = id[h]",
    },
    "a claimant still acknowledges, and runs from what it had when it claimed": {
        r"/\ ~IsProposing(h)                                       \* from its claim on": r"/\ TRUE  \*",
        "Append(@, Mine(h).hist[n])]": "IF IsProposing(h) THEN @ ELSE Append(@, Mine(h).hist[n])]",
        r"IF disk[h] >= LastFlush(n) /\ disk[h] # NothingDurable THEN": "IF IsProposing(h) THEN",
    },
    "a SWITCH is resumed from on a time-out": {
        r"/\ ~IsSwitching(h)": r"/\ TRUE",
    },
    "an active's outputs do not obey its standby once it has proposed to vacate": {
        r"    {Known(h).stb} \cup": r"    (IF IsVacating(h) THEN {} ELSE {Known(h).stb}) \cup",
    },
    "a page of a cache is kept although it differs": {
        r"IsKept(h, s, n) == n <= Len(hist[h]) /\ hist[h][n] = wire[s].hist[n]": "IsKept(h, s, n) == n <= Len(hist[h])",
    },
    "what a joiner still has counts as acknowledged": {
        "Append(wire, Session(h, id[joiner], NothingAcked))": (
            "Append(wire, [Session(h, id[joiner], NothingAcked) EXCEPT !.acked = Len(hist[joiner])])"
        ),
    },
    "a SWITCH does not wait for the last epoch": {
        r"/\ acked[h] = Len(hist[h])": r"/\ TRUE",
    },
}
"""Lines of the protocol that somebody could write by mistake (docs/protocol.md), as {text: text broken}."""

WITNESSES: Final = ("NoTakeover", "NoSwitchThereAndBack", "NoLateRelease", "NoReprotection", "NoNewGuest")

NEED_A_SECOND_LIFE: Final = (
    "an acknowledgement of another session is counted",
    "a replica id survives a restart",
    "a page of a cache is kept although it differs",
    "what a joiner still has counts as acknowledged",
    "NoReprotection",
)
"""What cannot be seen where nobody ever starts again; all else is found sooner there."""


NEED_AN_END: Final = (
    "an active's outputs do not obey its standby once it has proposed to vacate",
    "NoNewGuest",
)
"""What cannot be seen where no guest ends."""

GUESTS_END: Final[dict[str, int | str]] = {"MayEnd": "TRUE", "MaxLives": 1}
"""A second search, in which guests end with their hosts and others are started; hosts have one life in it."""

FLUSHES_ARE_RARE: Final[dict[str, int | str]] = {"Flushes": "{1}", "MaxLives": 1}
"""A third search, in which outputs leave by the log alone where no flush is before them that is not durable."""


def bounds_for(name: str) -> dict[str, int | str]:
    if name in NEED_AN_END:
        return GUESTS_END
    return {} if name in NEED_A_SECOND_LIFE else {"MaxLives": 1}


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize(
    "bounds", [{}, GUESTS_END, FLUSHES_ARE_RARE], ids=["hosts restart", "guests end", "flushes are rare"]
)
def test_no_history_within_the_bounds_breaks_the_protocol(bounds: dict[str, int | str], tmp_path: Path) -> None:
    outcome = check(tmp_path, bounds=bounds)

    assert outcome.violated is None, outcome.said


@pytest.mark.parametrize("planted", BREAKS)
def test_a_planted_break_is_found(planted: str, tmp_path: Path) -> None:
    outcome = check(tmp_path, replace=BREAKS[planted], bounds=bounds_for(planted))

    assert outcome.violated is not None, "the broken protocol passed"


@pytest.mark.parametrize("witness", WITNESSES)
def test_the_bounds_leave_room_for_what_the_protocol_is_for(witness: str, tmp_path: Path) -> None:
    outcome = check(tmp_path, invariants=(witness,), bounds=bounds_for(witness))

    assert outcome.violated == witness


def test_a_line_to_break_must_stand_exactly_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not once"):
        check(tmp_path, replace={"VARIABLES that do not exist": ""})
