"""How a guest stands on one host, in one word and one reason: what an operator asks first, and a watcher alerts on.

Made from the replica's view, and from what events told of before: why a standby was lost, why a host was refused. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ftvm.errors import FtvmError
from ftvm.protocol.view import NAMED, ActiveView, ClaimState, LinkState, Role, StandbyView, View
from ftvm.units import Nanos

__all__ = ["GOOD", "Reasons", "Standing", "Standings", "State", "arbiter_trouble"]

SLOW_NS: Final = 2_000_000_000
"""A request to the arbiter that is open for longer counts as unanswered: a mount that hangs reports no error."""


class State(StrEnum):
    """The word. Each host of a guest has its own."""

    PROTECTED = "protected"
    """The guest runs here, and its standby could take over now."""
    NO_TAKEOVER = "no takeover"
    """The guest runs here and has a standby, but the arbiter is silent or cannot be written: nobody takes over."""
    STANDING_STILL = "standing still"
    """The guest is here and does not run, or nothing of what it does leaves."""
    UNPROTECTED = "unprotected"
    """The guest runs here, alone."""
    SYNCING = "syncing"
    """A standby is being copied to, or this host is that standby."""
    STANDBY = "standby"
    """This host could take over now."""
    STANDBY_UNABLE = "standby unable"
    """This host has the guest's state, but could not take over now."""
    JOINING = "joining"
    """This host has nothing of the guest yet."""
    FAILED = "failed"
    """This host cannot go on."""


GOOD: Final = frozenset({State.PROTECTED, State.STANDBY})
"""Where one more failure loses nothing."""

_HANDED_OVER: Final = frozenset({LinkState.HANDING, LinkState.SWITCHING, LinkState.LEAVING})
_LOST: Final = frozenset({LinkState.DROPPING, LinkState.ABANDONING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`reason` says why, for a person; empty where there is nothing to say. `since` is when the state began."""

    state: State
    reason: str
    since: Nanos


def arbiter_trouble(view: View, now: Nanos) -> str | None:
    """Return why the arbiter cannot be relied on now; None if it answers, and could be written."""
    if view.arbiter_error is not None:
        return f"the arbiter cannot be used: {view.arbiter_error}"
    since = view.unanswered_since
    if since is None:
        return None
    return f"the arbiter has not answered for {(now - since) / 1e9:.0f} s" if now - since > SLOW_NS else None


@dataclass(slots=True)
class Reasons:
    """Why what is missing is missing, as events told it (status.Counters notes them).

    lost     how the last standby went
    refused  who refused this host last, and why; empty if nobody did since it changed its role
    failed   what failed here without ending the host, until an epoch is committed
    silent   that the process which is to run the guest does not answer; empty if it does
    """

    lost: str = "no standby has joined"
    refused: str = ""
    failed: str = ""
    silent: str = ""


class Standings:
    """Follows one guest on one host, and knows since when it stands as it does."""

    def __init__(self, reasons: Reasons, now: Nanos) -> None:
        self._reasons = reasons
        self._last = Standing(state=State.JOINING, reason="", since=now)

    def look(self, view: View, failure: FtvmError | None, now: Nanos) -> Standing:
        """Return how the guest stands now; call it often, as `since` is no better than that."""
        state, reason = (State.FAILED, str(failure)) if failure is not None else self._stand(view, now)
        since = now if state is not self._last.state else self._last.since
        if state in (State.NO_TAKEOVER, State.STANDBY_UNABLE) and view.unanswered_since is not None:
            since = min(since, view.unanswered_since)
        self._last = Standing(state=state, reason=reason, since=since)
        return self._last

    def _stand(self, view: View, now: Nanos) -> tuple[State, str]:
        trouble = arbiter_trouble(view, now)
        active, standby = view.active, view.standby
        if active is not None:
            return self._stand_of_active(view, active, trouble)
        if standby is None:
            return State.JOINING, view.elsewhere or f"{_vacancy(view)}{self._reasons.refused}"
        if view.role is Role.SYNCING:
            return State.SYNCING, f"{standby.copied_pages} pages of the first copy have come"
        return self._stand_of_standby(view, standby, trouble)

    def _stand_of_active(self, view: View, active: ActiveView, trouble: str | None) -> tuple[State, str]:
        behind = f"; {trouble}" if trouble is not None else ""
        if active.is_halted:
            halt = "it may not run without one (on-backup-loss = halt)"
            return State.STANDING_STILL, f"{self._reasons.lost}; {halt}{behind}"
        if active.link in _HANDED_OVER:
            return State.STANDING_STILL, f"it is being handed over to its standby{behind}"
        if active.link is LinkState.VACATING or view.stop is not None:
            return State.STANDING_STILL, f"this host is stopping{behind}"
        if active.link in _LOST:
            held = f" ({active.held_count} of them)" if active.held else ""
            wait = f"its outputs wait until the arbiter drops it{held}{behind}"
            return State.STANDING_STILL, f"{self._reasons.lost}; {wait}"
        if active.link in NAMED:
            return (State.PROTECTED, "") if trouble is None else (State.NO_TAKEOVER, trouble)
        if active.link is LinkState.NONE:
            return State.UNPROTECTED, f"{view.elsewhere or self._reasons.lost}{behind}"
        return State.SYNCING, f"it is unprotected until a standby has caught up{behind}"

    def _stand_of_standby(self, view: View, standby: StandbyView, trouble: str | None) -> tuple[State, str]:
        is_claiming = standby.claim in (ClaimState.CHECKING, ClaimState.CLAIMING)
        silent = "the active is silent, and " if is_claiming else ""
        if view.stop is not None:
            return State.STANDBY_UNABLE, "this host is stopping"
        if trouble is not None:
            return State.STANDBY_UNABLE, f"{silent}{trouble}"
        if self._reasons.silent or self._reasons.failed:
            return State.STANDBY_UNABLE, f"{silent}{self._reasons.silent or self._reasons.failed}"
        if view.record.standby != view.id and not is_claiming:
            return State.STANDBY_UNABLE, f"the record (generation {view.record.generation}) does not name this host"
        return State.STANDBY, "the active is silent: this host is taking over" if is_claiming else ""


def _vacancy(view: View) -> str:
    if view.record.generation > 0 and view.record.active is None:
        return "the record has no active host: start the guest with `ftvm run`"
    return "no active host has let this one join"
