"""The kinds of rounds, as a table: what is done to a healthy pair, told in the verbs of `ChaosPair`.

A fault begins with a protected guest and ends with both host processes running again, nothing broken and nothing cut.
Chance gives the moments: times are drawn so that they fall before, into and after every time-out of a default pair
(300 ms of a backup's patience, 500 ms of a primary's).
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from ftvm.errors import BrokenError, FtvmError
from ftvm.lab.chaos.pair import ChaosPair, other
from ftvm.lab.stage import HOSTS

__all__ = ["FAULTS", "Fault", "deal"]

LONGER_THAN_ANY_LIMIT: Final = (0.6, 1.6)
UP_TO_ANY_LIMIT: Final = (0.02, 0.35)
A_LITTLE: Final = (0.0, 0.2)
A_WHILE: Final = (0.0, 0.8)
MIDST: Final = (0.0, 0.12)
"""From the request until some time after the guest usually runs on the other host."""
UP_TO_ITS_END: Final = (0.3, 3.5)
"""A host that stops gives its standby two seconds for a switchover, and two more to take over."""
BURST_MS: Final = (60.0, 450.0)
USUAL_DELAY_MS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of round. `needs_disk`: the arbiter's folder must be on a disk that can be filled. `vacates`: the guest
    ends in order."""

    name: str
    inject: Callable[[ChaosPair, Random], None]
    loses_guest: bool = False
    vacates: bool = False
    needs_disk: bool = False


def _kill_primary(pair: ChaosPair, chance: Random) -> None:
    victim = pair.active
    pair.kill(victim)
    pair.pass_time(chance.uniform(*A_WHILE))
    pair.start_host(victim)


def _kill_standby(pair: ChaosPair, chance: Random) -> None:
    victim = other(pair.active)
    pair.kill(victim)
    pair.pass_time(chance.uniform(*A_WHILE))
    pair.start_host(victim)


def _leave_primary(pair: ChaosPair, chance: Random) -> None:
    victim = pair.active
    pair.ask_to_end(victim)
    pair.pass_time(chance.uniform(*A_LITTLE))
    pair.start_host(victim)


def _leave_standby(pair: ChaosPair, chance: Random) -> None:
    victim = other(pair.active)
    pair.ask_to_end(victim)
    pair.pass_time(chance.uniform(*A_LITTLE))
    pair.start_host(victim)


def _leave_beside_stopped_standby(pair: ChaosPair, chance: Random) -> None:
    """Stop a primary cleanly while its standby is frozen; wake the standby before, or after, the primary is gone."""
    victim = pair.active
    standby = other(victim)
    pair.freeze(standby)
    pair.pass_time(chance.uniform(*UP_TO_ANY_LIMIT))
    pair.begin_to_end(victim)
    pair.pass_time(chance.uniform(*UP_TO_ITS_END))
    pair.wake(standby)
    pair.wait_ended(victim)
    pair.start_host(victim)


def _leave_both(pair: ChaosPair, chance: Random) -> None:
    """Stop both hosts cleanly, like an operator who shuts everything down: the record must be vacant then."""
    first = chance.choice(HOSTS)
    pair.begin_to_end(first)
    pair.pass_time(chance.choice([0.0, chance.uniform(*A_LITTLE)]))
    pair.begin_to_end(other(first))
    for host in HOSTS:
        pair.wait_ended(host)
    record = pair.arbiter.record()
    if record.active is not None or record.standby is not None:
        raise BrokenError(f"both hosts were stopped in order, and {record} still names one\n{pair.last_words()}")


def _stop_primary(pair: ChaosPair, chance: Random) -> None:
    _freeze(pair, chance, pair.active)


def _stop_standby(pair: ChaosPair, chance: Random) -> None:
    _freeze(pair, chance, other(pair.active))


def _freeze(pair: ChaosPair, chance: Random, victim: str) -> None:
    pair.freeze(victim)
    pair.pass_time(chance.uniform(*chance.choice([UP_TO_ANY_LIMIT, LONGER_THAN_ANY_LIMIT, LONGER_THAN_ANY_LIMIT])))
    pair.wake(victim)


def _stop_both(pair: ChaosPair, chance: Random) -> None:
    for host in chance.sample(HOSTS, 2):
        pair.freeze(host)
        pair.pass_time(chance.uniform(*A_LITTLE))
    pair.pass_time(chance.uniform(*LONGER_THAN_ANY_LIMIT))
    for host in chance.sample(HOSTS, 2):
        pair.wake(host)
        pair.pass_time(chance.uniform(*A_LITTLE))


def _kill_stopped_primary(pair: ChaosPair, chance: Random) -> None:
    victim = pair.active
    pair.freeze(victim)
    pair.pass_time(chance.uniform(*A_WHILE))
    pair.kill(victim)
    pair.start_host(victim)


def _kill_primary_of_stopped_standby(pair: ChaosPair, chance: Random) -> None:
    """Freeze the standby for less than its primary's patience; it must take over when it wakes."""
    victim = pair.active
    standby = other(victim)
    pair.freeze(standby)
    pair.pass_time(chance.uniform(*A_LITTLE))
    pair.kill(victim)
    pair.pass_time(chance.uniform(*A_WHILE))
    pair.wake(standby)
    pair.start_host(victim)


def _cut(pair: ChaosPair, chance: Random) -> None:
    _cut_way(pair, chance, way=True)


def _cut_one_way(pair: ChaosPair, chance: Random) -> None:
    _cut_way(pair, chance, way=chance.choice(["there", "back"]))


def _cut_way(pair: ChaosPair, chance: Random, way: str | bool) -> None:
    pair.tell_relay(cut=way)
    pair.pass_time(chance.uniform(*chance.choice([UP_TO_ANY_LIMIT, LONGER_THAN_ANY_LIMIT])))
    pair.tell_relay(cut=False)


def _cut_and_kill(pair: ChaosPair, chance: Random) -> None:
    """Cut the link, and kill who was active at first when the other has surely taken over, or is about to."""
    victim = pair.active
    pair.tell_relay(cut=True)
    pair.pass_time(chance.uniform(*LONGER_THAN_ANY_LIMIT))
    pair.kill(victim)
    pair.tell_relay(cut=False)
    pair.start_host(victim)


def _reset(pair: ChaosPair, chance: Random) -> None:
    """Reset the connections of a healthy link, as a firewall does."""
    for _ in range(chance.randint(1, 5)):
        pair.tell_relay(reset=True)
        pair.pass_time(chance.uniform(*A_WHILE))


def _reset_and_kill(pair: ChaosPair, chance: Random) -> None:
    """Reset the connections, and kill who is active while it is asked after."""
    victim = pair.active
    pair.tell_relay(reset=True)
    pair.pass_time(chance.uniform(*MIDST))
    pair.kill(victim)
    pair.start_host(victim)


def _delay_burst(pair: ChaosPair, chance: Random) -> None:
    for _ in range(chance.randint(1, 3)):
        pair.tell_relay(delay_ms=chance.uniform(*BURST_MS))
        pair.pass_time(chance.uniform(*A_WHILE))
        pair.tell_relay(delay_ms=USUAL_DELAY_MS)
        pair.pass_time(chance.uniform(*A_LITTLE))


def _arbiter_away(pair: ChaosPair, chance: Random) -> None:
    _break_arbiter(pair, chance)
    pair.pass_time(chance.uniform(*LONGER_THAN_ANY_LIMIT))
    _mend_arbiter(pair)


def _arbiter_away_primary_killed(pair: ChaosPair, chance: Random) -> None:
    victim = pair.active
    _break_arbiter(pair, chance)
    pair.pass_time(chance.uniform(*A_LITTLE))
    pair.kill(victim)
    pair.pass_time(chance.uniform(*A_WHILE))
    _mend_arbiter(pair)
    pair.start_host(victim)


def _arbiter_away_standby_killed(pair: ChaosPair, chance: Random) -> None:
    victim = other(pair.active)
    pair.kill(victim)
    _break_arbiter(pair, chance)
    pair.pass_time(chance.uniform(*LONGER_THAN_ANY_LIMIT))
    _mend_arbiter(pair)
    pair.start_host(victim)


def _break_arbiter(pair: ChaosPair, chance: Random) -> None:
    pair.note(f"the arbiter is {pair.arbiter.break_down(chance)}")


def _mend_arbiter(pair: ChaosPair) -> None:
    pair.arbiter.mend()
    pair.note("the arbiter is mended")


def _disk_full(pair: ChaosPair, chance: Random) -> None:
    """Fill the arbiter's disk when a change of configuration is due."""
    victim = chance.choice(HOSTS)
    pair.arbiter.fill()
    pair.note("the arbiter's disk is full")
    pair.kill(victim)
    pair.pass_time(chance.uniform(*LONGER_THAN_ANY_LIMIT))
    _mend_arbiter(pair)
    pair.start_host(victim)


def _switch_over(pair: ChaosPair, chance: Random) -> None:
    """Move the guest as planned, there and perhaps back again."""
    for _ in range(chance.randint(1, 2)):
        pair.ask_to_switch_over(pair.active)
        try:
            pair.wait_switched_over()
        except FtvmError as wrong:
            raise BrokenError(f"a healthy pair did not switch over: {wrong}\n{pair.last_words()}") from wrong
        if (loss := pair.wait_healed()) is not None:
            raise BrokenError(f"a planned switchover lost the guest: {loss}\n{pair.last_words()}")


def _switch_over_disturbed(pair: ChaosPair, chance: Random) -> None:
    """Do something to a pair during a switchover: the guest ends up here or there, or the switchover fails."""
    active = pair.active
    victim = chance.choice([active, other(active)])
    deed = chance.choice([_die, _sleep, _part])
    pair.ask_to_switch_over(active)
    pair.pass_time(chance.uniform(*MIDST))
    deed(pair, chance, victim)


def _die(pair: ChaosPair, chance: Random, victim: str) -> None:
    pair.kill(victim)
    pair.pass_time(chance.uniform(*A_LITTLE))
    pair.start_host(victim)


def _sleep(pair: ChaosPair, chance: Random, victim: str) -> None:
    pair.freeze(victim)
    pair.pass_time(chance.uniform(*LONGER_THAN_ANY_LIMIT))
    pair.wake(victim)


def _part(pair: ChaosPair, chance: Random, victim: str) -> None:
    del victim
    ways: tuple[str | bool, ...] = (True, "there", "back")
    _cut_way(pair, chance, way=chance.choice(ways))


def _kill_both(pair: ChaosPair, chance: Random) -> None:
    first = chance.choice(HOSTS)
    pair.kill(first)
    pair.pass_time(chance.uniform(*A_LITTLE))
    pair.kill(other(first))


FAULTS: Final = (
    Fault(name="kill primary", inject=_kill_primary),
    Fault(name="kill standby", inject=_kill_standby),
    Fault(name="stop primary", inject=_stop_primary),
    Fault(name="stop standby", inject=_stop_standby),
    Fault(name="stop both", inject=_stop_both),
    Fault(name="stop primary, then kill it", inject=_kill_stopped_primary),
    Fault(name="stop standby, kill primary", inject=_kill_primary_of_stopped_standby),
    Fault(name="cut", inject=_cut),
    Fault(name="cut one way", inject=_cut_one_way),
    Fault(name="cut, then kill primary", inject=_cut_and_kill),
    Fault(name="reset", inject=_reset),
    Fault(name="reset, then kill primary", inject=_reset_and_kill),
    Fault(name="delay burst", inject=_delay_burst),
    Fault(name="arbiter away", inject=_arbiter_away),
    Fault(name="arbiter away, primary killed", inject=_arbiter_away_primary_killed),
    Fault(name="arbiter away, standby killed", inject=_arbiter_away_standby_killed),
    Fault(name="disk full", inject=_disk_full, needs_disk=True),
    Fault(name="leave primary", inject=_leave_primary),
    Fault(name="leave standby", inject=_leave_standby),
    Fault(name="leave primary, standby stopped", inject=_leave_beside_stopped_standby),
    Fault(name="leave both", inject=_leave_both, loses_guest=True, vacates=True),
    Fault(name="switch over", inject=_switch_over),
    Fault(name="switch over, disturbed", inject=_switch_over_disturbed),
    Fault(name="kill both", inject=_kill_both, loses_guest=True),
)


def deal(chance: Random, *, has_disk: bool, count: int) -> list[Fault]:
    """Return this many faults in random order; each kind as often as any other, give or take one."""
    kinds = [fault for fault in FAULTS if has_disk or not fault.needs_disk]
    dealt: list[Fault] = []
    while len(dealt) < count:
        dealt += chance.sample(kinds, len(kinds))
    return dealt[:count]
