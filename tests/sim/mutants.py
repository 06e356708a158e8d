"""Breaks of the protocol, each a line or two that somebody could write by mistake (PROTOCOL.md, "break:").

A mutant is a function that patches the production code. The simulator must find every one: a mutant that lives shows
that a fault or a checker is missing. Where one rule is guarded by a second one (a digest, a base number), the mutant
takes that guard away too, and says so.
"""
# ruff: noqa: ARG005 - a stand-in takes the arguments of what it stands in for

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ftvm.checkpoint import Watermarks
from ftvm.encode.messages import Ack, Envelope, EpochPart, Message, Sequenced
from ftvm.interfaces import Answer, CompareAndSet, Record, Request
from ftvm.protocol import active
from ftvm.protocol.active import Active
from ftvm.protocol.channel import Inbox
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import Role, RoleEvent
from ftvm.protocol.desk import Desk
from ftvm.protocol.output import Gate, Held
from ftvm.protocol.replica import Replica
from ftvm.protocol.session import Session
from ftvm.protocol.standby import Standby
from ftvm.protocol.takeover import ClaimState
from ftvm.sim.arbiter import SimStore
from ftvm.units import Nanos

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def release_without_acknowledgement(patch: Patch) -> None:
    """Nothing is held."""

    def open_for(self: Gate, standbys: object, acknowledged: object) -> list[Held]:
        del standbys, acknowledged
        return self._take(len(self.held))

    patch.setattr(Gate, "open_for", open_for)


def release_what_the_next_epoch_holds(patch: Patch) -> None:
    """An output leaves with the commit of the epoch before its own."""
    cover = Watermarks.cover
    patch.setattr(Watermarks, "cover", lambda self, needed: cover(self, replace(needed, epoch=needed.epoch - 1)))


def obey_the_own_proposal_alone(patch: Patch) -> None:
    """A DROP counts as in force as soon as it is proposed."""

    def in_force(known: Record, proposal: Record | None, joining: str | None) -> frozenset[str | None]:
        return frozenset({(proposal or known).standby, *([joining] if joining else [])})

    patch.setattr(active, "standbys_in_force", in_force)


def obey_the_last_record_alone(patch: Patch) -> None:
    """Neither the own proposal nor the joining standby is obeyed."""
    patch.setattr(active, "standbys_in_force", lambda known, proposal, joining: frozenset({known.standby}))


def add_without_hold(patch: Patch) -> None:
    """Outputs do not obey the joining standby before the ADD is proposed."""
    in_force = active.standbys_in_force
    patch.setattr(active, "standbys_in_force", lambda known, proposal, joining: in_force(known, proposal, None))


def give_up_a_proposal_on_an_error(patch: Patch) -> None:
    """An arbiter that does not answer counts as a no."""
    take = Desk.take

    def gives_up(self: Desk, answer: Answer, now: Nanos) -> bool:
        if answer.record is None and isinstance(answer.request, CompareAndSet):
            self.proposal = None
        return take(self, answer, now)

    patch.setattr(Desk, "take", gives_up)


def put_blindly(patch: Patch) -> None:
    """The arbiter does not compare."""

    def apply(self: SimStore, request: Request) -> Record:
        if isinstance(request, CompareAndSet):
            before, self.record = self.record, request.record
            self._on_change(before, self.record)
        return self.record

    patch.setattr(SimStore, "apply", apply)


def keep_the_id_after_discarding(patch: Patch) -> None:
    """A replica that emptied joins again under its old name."""
    become = Replica._become

    def keeps(self: Replica, role: Role, event: RoleEvent, now: Nanos) -> None:
        mine, make = self.core.id, self.core.fresh_id
        self.core.fresh_id = lambda: mine
        become(self, role, event, now)
        self.core.fresh_id = make

    patch.setattr(Replica, "_become", keeps)


def run_before_the_record_is_learned(patch: Patch) -> None:
    """A standby runs as soon as it has proposed its TAKE."""
    propose = Standby._propose_if_ready

    def runs(self: Standby, now: Nanos) -> None:
        propose(self, now)
        if self.claim.state is ClaimState.CLAIMING:
            self.core.end_role(RoleEvent.TAKEN, "proposed")

    patch.setattr(Standby, "_propose_if_ready", runs)


def go_on_when_deposed(patch: Patch) -> None:
    """An active that finds another one active takes its word on standbys and runs on."""
    on_record = Active.on_record

    def goes_on(self: Active, now: Nanos) -> None:
        if self.core.desk.known.active != self.core.id:
            self.release()
            return
        on_record(self, now)

    patch.setattr(Active, "on_record", goes_on)


def commit_and_acknowledge_while_claiming(patch: Patch) -> None:
    """A standby that has loaded its state goes on committing and acknowledging until it is active."""
    on_message, tick = Standby.on_message, Standby.tick

    def still_takes(
        self: Standby, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos
    ) -> None:
        state = self.claim.state
        if state is not ClaimState.CLAIMING:
            on_message(self, peer, key, envelope, message, now)
            return
        self.claim.state = ClaimState.WATCHING
        on_message(self, peer, key, envelope, message, now)
        self.claim.state = state

    def still_acknowledges(self: Standby, now: Nanos) -> None:
        if self._owes_ack and not self.is_session_over:
            self._acknowledge()
        tick(self, now)

    patch.setattr(Standby, "on_message", still_takes)
    patch.setattr(Standby, "tick", still_acknowledges)


def acknowledge_what_is_only_staged(patch: Patch) -> None:
    """An epoch is acknowledged with its first part (and the active does not compare digests)."""
    take = Standby._take

    def hasty(self: Standby, message: Message, envelope: Envelope, now: Nanos) -> None:
        take(self, message, envelope, now)
        if isinstance(message, EpochPart) and self.is_whole and self.claim.is_watching:
            ack = Ack(received=self.inbox.expected, epoch=message.epoch, log_index=0, memory_digest=0)
            self.core.send(self.opening.peer, active.Lane.CONTROL, ack, self.opening.session)

    patch.setattr(Standby, "_take", hasty)
    patch.setattr(Session, "_compare", lambda self, sent, ack: None)


def skip_a_gap(patch: Patch) -> None:
    """What comes early is taken at once, and what it overtook is dropped."""

    def take(self: Inbox, message: Sequenced) -> list[Sequenced]:
        if message.sequence < self.expected:
            return []
        self.expected = message.sequence + 1
        return [message]

    patch.setattr(Inbox, "take", take)


def forget_pending_outputs(patch: Patch) -> None:
    """A takeover emits nothing again."""
    commit = Committed.commit

    def forgetful(self: Committed, checkpoint: Any) -> None:
        commit(self, checkpoint)
        self.outputs.clear()

    patch.setattr(Committed, "commit", forgetful)


def forget_outputs_that_are_only_acknowledged(patch: Patch) -> None:
    """What the standby has acknowledged counts as released, although it may still wait on the primary."""

    def forget(self: Committed, released: int) -> None:
        if released:
            self.outputs.clear()

    patch.setattr(Committed, "forget_released", forget)


def add_before_the_standby_caught_up(patch: Patch) -> None:
    """The ADD is proposed with the first cut, not with its acknowledgement."""
    on_cut = Active.on_cut

    def hasty(self: Active, checkpoint: Any, pause_ns: int, now: Nanos) -> None:
        on_cut(self, checkpoint, pause_ns, now)
        if self.link is active.LinkState.CATCHING_UP and self.session is not None and self.core.desk.proposal is None:
            self._move(active.LinkEvent.CAUGHT_UP)
            self.core.desk.propose(active.add(self.core.desk.known, self.core.id, self.session.standby))

    patch.setattr(Active, "on_cut", hasty)


def keep_outputs_when_deposed(patch: Patch) -> None:
    """What is held leaves when another replica has become active."""
    on_record = Active.on_record

    def lets_go(self: Active, now: Nanos) -> None:
        if self.core.desk.known.active != self.core.id:
            for held in self.gate._take(len(self.gate.held)):
                self.core.do(active.Release(held.output, held.since))
        on_record(self, now)

    patch.setattr(Active, "on_record", lets_go)
