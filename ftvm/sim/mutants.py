"""The breaks of the safety rules that the simulator must find, each a line that somebody could write by mistake.

A mutant that lives shows that a fault or a checker is missing. Names say what the broken code does. tests/sim replays
the seeds that found each; `ftvm simulate --mutant NAME` searches anew. docs/protocol.md, "Where each rule is", names
the rule that each breaks.
"""

from typing import Final

from ftvm.sim.mutation import Edit, Mutant

__all__ = ["MUTANTS"]

_ACTIVE: Final = "ftvm.protocol.active:Active"
_ADMISSION: Final = "ftvm.protocol.admission"
_HANDING: Final = "ftvm.protocol.handing"
_SHIPPING: Final = "ftvm.protocol.shipping"
_RELEASES: Final = "ftvm.protocol.releasing:Releases"
_CLAIMING: Final = "ftvm.protocol.claiming"
_FOLLOWING: Final = "ftvm.protocol.following"
_STANDBY: Final = "ftvm.protocol.standby:Standby"
_COMMITTED: Final = "ftvm.protocol.commit:Committed"
_STOPPING: Final = "ftvm.protocol.stopping"
_REPLICA: Final = "ftvm.protocol.replica:Replica"
_DESK: Final = "ftvm.protocol.desk:Desk"
_QUESTION: Final = "ftvm.protocol.question:Question"
_WATCH: Final = "ftvm.protocol.suspicion:Watch"
_IN_FORCE: Final = "ftvm.protocol.output:standbys_in_force"

# Guards behind the rule that is broken: what the two memories' digests, and the chain of epochs, would refuse anyway.
_NO_DIGEST_THERE: Final = Edit(f"{_COMMITTED}.commit", ", checkpoint.memory_digest", ", None")
_NO_DIGEST_HERE: Final = Edit("ftvm.protocol.session:Session._compare", "sent.epoch == ack.epoch", "False")
_NO_CHAIN: Final = Edit(f"{_COMMITTED}.commit", "checkpoint.base != self.epoch or ", "")
_NO_WAIT_TO_BE_NAMED: Final = Edit(f"{_CLAIMING}:propose_if_ready", "now < holding.claim.began_at + NAMING_NS", "False")
_NO_RETIRED: Final = Edit(f"{_ADMISSION}:_why_not", "if joiner in bond.core.retired:", "if False:")


def _mutant(name: str, breaks: str, *edits: Edit) -> tuple[str, Mutant]:
    return name, Mutant(name=name, breaks=breaks, edits=edits)


MUTANTS: Final[dict[str, Mutant]] = dict(
    (
        # --- the record and proposals ------------------------------------------------------------------------------
        _mutant(
            "put_blindly",
            "the arbiter changes the record without comparing its generation",
            Edit("ftvm.sim.arbiter:SimStore.apply", " and request.record.generation == self.record.generation + 1", ""),
        ),
        _mutant(
            "give_up_a_proposal_on_an_error",
            "an arbiter that does not answer counts as a no",
            Edit(f"{_DESK}.take", 'self.error = answer.error or broken or "no answer"', "self.proposal = None"),
        ),
        _mutant(
            "withdraw_what_may_be_in_force",
            "a proposal is taken back after one refusal, although an earlier attempt at it may have taken effect",
            Edit(f"{_DESK}.withdraw", "self._attempts != self._unapplied", "not self._unapplied"),
        ),
        _mutant(
            "resolve_a_proposal_by_the_record_before_it",
            "a record older than the proposal resolves it",
            Edit(f"{_DESK}.take", ">= self.proposal.generation", ">= self.proposal.generation - 1"),
        ),
        _mutant(
            "keep_the_id_after_discarding",
            "a replica that emptied joins again under its old name",
            Edit(f"{_REPLICA}._become", "self.core.id = self.core.fresh_id()", "self.core.fresh_id()"),
        ),
        _mutant(
            "keep_the_id_over_a_restart",
            "a host has one replica id for ever",
            Edit(f"{_REPLICA}.__init__", "id=fresh_id()", "id=settings.dialled[0]"),
        ),
        _mutant(
            "add_an_id_again_that_was_removed",
            "a replica that was dropped is taken in under the same name",
            Edit(f"{_REPLICA}._become", "self.core.id = self.core.fresh_id()", "self.core.fresh_id()"),
            _NO_RETIRED,
        ),
        # --- roles -------------------------------------------------------------------------------------------------
        _mutant(
            "go_on_when_deposed",
            "an active that finds another one active runs on",
            Edit(f"{_ACTIVE}.on_record", "self.core.end_role(RoleEvent.DEPOSED,", "self.release() or str("),
        ),
        _mutant(
            "release_what_is_held_when_deposed",
            "outputs that are held leave when another replica has become active",
            Edit(
                f"{_ACTIVE}.on_record",
                "self.core.end_role(RoleEvent.DEPOSED,",
                "self.releases.let_out(self.gate.held); self.core.end_role(RoleEvent.DEPOSED,",
            ),
        ),
        # --- sessions ----------------------------------------------------------------------------------------------
        _mutant(
            "take_messages_of_another_session",
            "a standby takes what another session sent",
            Edit(
                f"{_STANDBY}._is_of_session",
                "(envelope.session, peer, key) == (opening.session, opening.peer, opening.key)",
                "True",
            ),
            Edit(f"{_STANDBY}._is_of_session", "envelope.sender == opening.session.active", "True"),
        ),
        _mutant(
            "acknowledge_what_is_only_staged",
            "an epoch is acknowledged before it is whole",
            Edit(
                f"{_STANDBY}._acknowledge",
                "epoch=",
                "epoch=self.staging.epoch or ",
            ),
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "acknowledge_a_log_record_too_many",
            "the log is acknowledged one record further than it has come",
            Edit("ftvm.protocol.session:Session.acknowledge", "max(ack.log_index, ", "max(ack.log_index + 1, "),
        ),
        _mutant(
            "skip_a_gap",
            "what comes early is taken at once, and what it overtook is dropped",
            Edit(
                "ftvm.protocol.channel:Inbox.take",
                "self._aside.setdefault(message.sequence, message)",
                "self._aside.setdefault(message.sequence, message); self.expected = message.sequence",
            ),
            _NO_CHAIN,
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "commit_and_acknowledge_while_claiming",
            "a standby that has loaded its state goes on committing and acknowledging",
            Edit(
                f"{_STANDBY}._take",
                "Log() if self.claim.is_watching:",
                "Log():",
            ),
            Edit(f"{_STANDBY}.tick", "not self.is_session_over and self.claim.is_watching", "not self.is_session_over"),
        ),
        # --- changes -----------------------------------------------------------------------------------------------
        _mutant(
            "add_before_the_standby_caught_up",
            "the ADD is proposed with the first cut, not with its acknowledgement",
            Edit(
                f"{_SHIPPING}:take_cut",
                "bond.move(LinkEvent.CUT)",
                "bond.move(LinkEvent.CUT); bond.move(LinkEvent.CAUGHT_UP); "
                "bond.core.desk.propose(add(bond.core.desk.known, bond.core.id, session.standby))",
            ),
        ),
        _mutant(
            "run_before_the_record_is_learned",
            "a standby runs as soon as it has proposed its TAKE",
            Edit(
                f"{_CLAIMING}:propose_if_ready",
                "desk.propose(take(desk.known, holding.core.id))",
                'desk.propose(take(desk.known, holding.core.id)); holding.core.end_role(RoleEvent.TAKEN, "")',
            ),
        ),
        _mutant(
            "claim_on_a_read_from_before",
            "what the record was before the active fell silent decides whether to claim, or to give up",
            Edit(f"{_CLAIMING}:propose_if_ready", "if desk.reads < holding.claim.fresh_at:", "if False:"),
            _NO_WAIT_TO_BE_NAMED,
        ),
        _mutant(
            "claim_what_does_not_load",
            "a standby claims although its state did not load",
            Edit(f"{_CLAIMING}:take_load_failure", "call_off(holding, now)", "take_loaded(holding, now)"),
        ),
        _mutant(
            "take_without_being_named",
            "a replica that the record does not name any more stays, and takes over",
            Edit(f"{_STANDBY}.on_record", "and known.standby != me", "and False"),
            Edit(f"{_CLAIMING}:propose_if_ready", "if desk.known.standby != holding.core.id:", "if False:"),
            Edit("ftvm.protocol.record:take", "record.standby == standby", "True"),
        ),
        _mutant(
            "start_a_timer_at_zero",
            "the clock is taken to begin at zero",
            Edit(f"{_STANDBY}._begin", "backup_limit_ns, now,", "backup_limit_ns, Nanos(0),"),
        ),
        _mutant(
            "run_while_a_switch_is_open",
            "the guest goes on although the SWITCH is unresolved, and the other may be running it",
            Edit(f"{_ACTIVE}.must_stand_still", "self.link in STANDING", "self.link is LinkState.HANDING"),
        ),
        _mutant(
            "stand_by_with_a_state_that_ran_on",
            "who handed the guest over runs on until it knows, and stands by with memory that nobody compared",
            Edit(f"{_ACTIVE}.must_stand_still", "self.link in STANDING", "self.link is LinkState.HANDING"),
            Edit(f"{_FOLLOWING}:take_measured", "found != final.memory_digest", "False"),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        # --- suspicion ---------------------------------------------------------------------------------------------
        _mutant(
            "take_a_reset_for_a_death",
            "a connection that ends is not asked after: its peer counts as gone",
            Edit(f"{_QUESTION}._ask", "return Order.ASK", "return Order.SUSPECT"),
        ),
        _mutant(
            "believe_the_first_refusal",
            "one refusal is enough: a firewall that refuses once makes a host dead",
            Edit(f"{_QUESTION}._count", ">= REFUSALS_NEEDED", ">= 1"),
        ),
        _mutant(
            "add_up_the_refusals_of_two_resets",
            "a firewall that resets twice, and refuses once each time, makes a host dead",
            Edit(f"{_QUESTION}.step", "self._refusals = 0", "pass"),
        ),
        _mutant(
            "take_a_broken_answer_for_a_refusal",
            "a connection that was made and broke counts as refused",
            Edit(f"{_QUESTION}._count", "if sign is Sign.REFUSED else 0", ""),
        ),
        _mutant(
            "excuse_every_stall_to_its_end",
            "a host that is stopped again and again bears with a dead peer for ever",
            Edit(f"{_WATCH}.excuse", "if self._excuses >= EXCUSES_MAX:", "if False:"),
            Edit(f"{_WATCH}.excuse", "min(now, self.heard_at + stall_ns)", "now"),
        ),
        _mutant(
            "bear_with_a_loop_that_hangs",
            "a heartbeat that is only repeated counts as progress: a host whose loop hangs is alive for ever",
            Edit(f"{_WATCH}.heard", "if self._beat is None or beat > self._beat:", "if True:"),
        ),
        # --- the release rule --------------------------------------------------------------------------------------
        _mutant(
            "release_without_acknowledgement",
            "nothing is held",
            Edit("ftvm.protocol.output:Gate.open_for", "if not safe.cover(held.needs):", "if False:"),
        ),
        _mutant(
            "release_an_epoch_early",
            "an output leaves with the commit of the epoch before its own",
            Edit("ftvm.checkpoint:Watermarks.cover", "self.epoch >=", "self.epoch + 1 >="),
        ),
        _mutant(
            "release_before_the_log_is_safe",
            "the log is not waited for",
            Edit("ftvm.checkpoint:Watermarks.cover", "self.log_index >= needed.log_index", "True"),
        ),
        _mutant(
            "count_an_output_to_the_epoch_before",
            "an output made after a cut waits for what was cut",
            Edit(f"{_ACTIVE}.on_outputs", "epoch=self.epoch + 1", "epoch=self.epoch"),
        ),
        _mutant(
            "leave_an_outputs_own_record_out",
            "an output waits for the log up to the record before its own",
            Edit("ftvm.runtime.sink:NumberingSink._put", "self._log_next - 1", "self._log_next - 2"),
        ),
        _mutant(
            "obey_the_own_proposal_alone",
            "a DROP counts as in force as soon as it is proposed",
            Edit(_IN_FORCE, "{known.standby}", "{(proposal or known).standby}"),
        ),
        _mutant(
            "obey_the_last_record_alone",
            "neither the own proposal nor the joining standby is obeyed",
            Edit(_IN_FORCE, "if proposal is not None:", "if False:"),
            Edit(_IN_FORCE, "if joining is not None:", "if False:"),
        ),
        _mutant(
            "add_without_hold",
            "outputs do not obey the joining standby before the ADD is proposed",
            Edit(_IN_FORCE, "if joining is not None:", "if False:"),
        ),
        # --- what a backup keeps -----------------------------------------------------------------------------------
        _mutant(
            "begin_behind_the_first_output_after_a_join",
            "the first output that a new standby is shipped is the second one behind its join",
            Edit(f"{_RELEASES}.first_untold", "self.gate.released + 1", "self.gate.released + 2"),
        ),
        _mutant(
            "forget_pending_outputs",
            "a takeover emits nothing again",
            Edit(f"{_COMMITTED}.commit", "self._become(checkpoint, pending)", "self._become(checkpoint, ())"),
        ),
        _mutant(
            "forget_outputs_that_are_only_acknowledged",
            "what the standby has acknowledged counts as released",
            Edit(f"{_COMMITTED}.forget_released", "self.outputs[0].number <= released", "released"),
        ),
        _mutant(
            "tell_a_release_before_it_left",
            "an output that was let out counts as released, although it may still wait in its host and die with it",
            Edit(
                f"{_RELEASES}.tell",
                "= self._released_then,",
                "= self.core.released,",
            ),
        ),
        _mutant(
            "leave_out_what_is_not_told_as_released",
            "a checkpoint carries only the outputs that are still held",
            Edit(
                f"{_RELEASES}.above",
                "output.number > last",
                "False",
            ),
        ),
        _mutant(
            "replay_nothing",
            "a takeover runs from the last checkpoint and leaves the log out",
            Edit(f"{_REPLICA}._activate", "tuple(committed.log)", "()"),
        ),
        _mutant(
            "forget_pages_of_the_last_round",
            "the first cut leaves out pages that a round collected and did not copy",
            Edit("ftvm.runtime.capture:Hands.cut", "dirty | self._uncopied", "dirty"),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "commit_without_devices",
            "an epoch is committed with the devices of the one before",
            Edit(f"{_COMMITTED}._become", "self.devices = ", "self.devices = self.devices or "),
        ),
        _mutant(
            "commit_what_is_not_whole",
            "a part of an epoch that is missing is not missed",
            Edit("ftvm.protocol.staging:Staging.add", "batches=tuple(self.batches)", "batches=tuple(self.batches[1:])"),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        # --- switching over ----------------------------------------------------------------------------------------
        _mutant(
            "run_on_while_the_switch_is_open",
            "the guest runs on while the SWITCH is proposed and nobody knows whether it is in force",
            Edit(f"{_ACTIVE}.must_stand_still", "self.link in STANDING", "self.link is LinkState.HANDING"),
            Edit(f"{_FOLLOWING}:take_measured", "found != final.memory_digest", "False"),
        ),
        _mutant(
            "run_when_prepared",
            "the standby runs as soon as it has loaded what it is asked to prepare",
            Edit(
                f"{_CLAIMING}:take_loaded",
                "_tell_prepared(holding, holding.committed.epoch or 0)",
                'holding.core.end_role(RoleEvent.TAKEN, "prepared")',
            ),
        ),
        _mutant(
            "call_off_what_is_proposed",
            "a switchover that takes long is called off although it may be in force",
            Edit(
                f"{_HANDING}:go_on",
                "bond.link in (LinkState.SETTLING, LinkState.HANDING) and now >= switchover.ends_at",
                "now >= switchover.ends_at",
            ),
            Edit(f"{_HANDING}:call_off", "bond.move(LinkEvent.CALLED_OFF)", "bond.link = LinkState.PROTECTED"),
        ),
        # --- stopping ----------------------------------------------------------------------------------------------
        _mutant(
            "stop_while_a_proposal_is_open",
            "a host that stops goes at once, although what it has proposed may still come into force",
            Edit(
                f"{_STOPPING}:go_on_active",
                "if now >= stop.ends_at:",
                'if bond.link is LinkState.DROPPING: stop.end("", is_in_order=True)\n    if now >= stop.ends_at:',
            ),
        ),
        _mutant(
            "end_the_guest_beside_its_standby",
            "a host that stops vacates the record although its standby could go on",
            Edit(
                f"{_STOPPING}:_move_on",
                "case LinkState.PROTECTED if stop.kind is StopKind.ENDED:",
                "case LinkState.PROTECTED:",
            ),
        ),
        _mutant(
            "drop_the_standby_of_a_guest_that_failed",
            "a capture that fails, because the guest has, drops the only one who could go on",
            Edit("ftvm.runtime.cutting:Cutter.capture", "if not self._has_guest_failed():", "if True:"),
            Edit(f"{_STOPPING}:_move_on", "bond.core.desk.withdraw_unsent()", "False"),
        ),
        _mutant(
            "send_the_drop_of_a_failed_guest",
            "a standby that is suspected in the step in which the guest is found to have failed is dropped",
            Edit(f"{_STOPPING}:_move_on", "bond.core.desk.withdraw_unsent()", "False"),
        ),
        _mutant(
            "go_without_vacating",
            "a host that stops, and ran the guest alone, leaves the record as it is",
            Edit(
                f"{_STOPPING}:_vacate",
                "if bond.core.desk.proposal is None:",
                'bond.core.stop.end("", is_in_order=True)\n    if False:',
            ),
        ),
        _mutant(
            "discard_before_an_add_can_have_come",
            "a whole standby that reads once that it is no member throws its state away",
            _NO_WAIT_TO_BE_NAMED,
        ),
        _mutant(
            "stop_a_standby_that_may_be_active",
            "a standby that is prepared for a switchover goes although the SWITCH may come into force",
            Edit(f"{_STOPPING}:go_on_standby", "may_be_active = ", "may_be_active = False and "),
            Edit(f"{_STOPPING}:go_on_standby", "GOODBYE_LIMITS *", "0 *"),
        ),
    )
)
