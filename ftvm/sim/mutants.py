"""The breaks of the safety rules that the simulator must find, each a line that somebody could write by mistake.

A mutant that lives shows that a fault or a checker is missing. Names say what the broken code does; the lines are found
by their marks (marks.py). tests/sim replays the seeds that found each; `ftvm simulate --mutant NAME` searches again.
docs/protocol.md, "Where each rule is", names the rule that each breaks.
"""

from typing import Final

from ftvm.sim.mutation import Change, Mutant

__all__ = ["MUTANTS"]

# Guards behind the rule that is broken: what the two memories' digests, and the chain of epochs, would refuse anyway.
_NO_DIGEST_THERE: Final = Change("digest_compared_there", "argument 2", "None")
_NO_DIGEST_HERE: Final = Change("digest_compared_here", "==", "False")
_NO_CHAIN: Final = Change("chain_of_epochs", "!=", "False")
_NO_WAIT_TO_BE_NAMED: Final = Change("time_to_be_named", "test", "False")
_NO_RETIRED: Final = Change("dropped_id_refused", "test", "False")
_NO_MEASURE: Final = Change("handed_over_memory_compared", "!=", "False")
_RUN_ON: Final = Change("stands_still_while_a_switch_is_open", "in", "{left} is LinkState.HANDING")
_SAME_ID: Final = Change("fresh_id_after_discarding", "", "{value}")


def _mutant(name: str, breaks: str, *edits: Change) -> tuple[str, Mutant]:
    return name, Mutant(name=name, breaks=breaks, edits=edits)


MUTANTS: Final[dict[str, Mutant]] = dict(
    (
        # --- the record and proposals ------------------------------------------------------------------------------
        _mutant(
            "put_blindly",
            "the arbiter changes the record without comparing its generation",
            Change("record_compared", "==", "True"),
        ),
        _mutant(
            "give_up_a_proposal_on_an_error",
            "an arbiter that does not answer counts as a no",
            Change("an_error_is_no_answer", "", "self.proposal = None"),
        ),
        _mutant(
            "withdraw_what_may_be_in_force",
            "a proposal is taken back after one refusal, although an earlier attempt at it may have taken effect",
            Change("no_attempt_took_effect", "!=", "not {right}"),
        ),
        _mutant(
            "resolve_a_proposal_by_the_record_before_it",
            "a record older than the proposal resolves it",
            Change("proposal_resolved", "right of >=", "{it} - 1"),
        ),
        _mutant(
            "keep_the_id_after_discarding",
            "a replica that emptied joins again under its old name",
            _SAME_ID,
        ),
        _mutant(
            "keep_the_id_over_a_restart",
            "a host has one replica id for ever",
            Change("fresh_id_at_start", "value", "settings.dialled[0]"),
        ),
        _mutant(
            "add_an_id_again_that_was_removed",
            "a replica that was dropped is taken in under the same name",
            _SAME_ID,
            _NO_RETIRED,
        ),
        # --- roles -------------------------------------------------------------------------------------------------
        _mutant(
            "go_on_when_deposed",
            "an active that finds another one active runs on",
            Change("deposed_active_ends", "", "active.release()"),
        ),
        _mutant(
            "release_what_is_held_when_deposed",
            "outputs that are held leave when another replica has become active",
            Change("deposed_active_ends", "", "active.release()\n{it}"),
        ),
        _mutant(
            "copy_to_who_reads_another_record",
            "a host is welcome that keeps the record in another place",
            Change("joiner_reads_the_same_record", "test", "False"),
        ),
        # --- sessions ----------------------------------------------------------------------------------------------
        _mutant(
            "take_messages_of_another_session",
            "a standby takes what another session sent",
            Change("session_compared", "value", "True"),
            Change("sender_compared", "==", "True"),
        ),
        _mutant(
            "acknowledge_what_is_only_staged",
            "an epoch is acknowledged before it is whole",
            Change("committed_is_acknowledged", "value", "standby.staging.epoch or {it}"),
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "acknowledge_a_log_record_too_many",
            "the log is acknowledged one record further than it has come",
            Change("log_acknowledged_as_it_came", "argument 1", "{it} + 1"),
        ),
        _mutant(
            "skip_a_gap",
            "what comes early is taken at once, and what it overtook is dropped",
            Change("gap_waited_for", "", "{it}\nself.expected = message.sequence"),
            _NO_CHAIN,
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "commit_and_acknowledge_while_claiming",
            "a standby that has loaded its state goes on committing and acknowledging",
            Change("claimant_takes_nothing", "test", "True"),
            Change("claimant_acknowledges_nothing", "and 3", "True"),
        ),
        # --- a loser that lives --------------------------------------------------------------------------------------
        _mutant(
            "keep_a_page_whose_digest_differs",
            "a joiner keeps each page that it still has, whatever the active's is",
            Change("only_equal_pages_kept", "value", 'bytearray(b"\\1" * len({it}))'),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "offer_digests_of_before",
            "a joiner offers the digests that it knew last, not those of what its guest left behind",
            Change("digests_of_now", "", "pass"),
        ),
        _mutant(
            "take_a_written_page_for_what_it_was",
            "an active compares what a joiner has with what it knew at its last cut, also of pages written since",
            Change("written_pages_are_read", "", "pass"),
        ),
        _mutant(
            "offer_what_the_guest_still_writes",
            "a deposed active offers its memory while its guest runs on in it",
            Change("guest_stopped_before_it_is_offered", "", "pass"),
        ),
        _mutant(
            "take_the_cache_for_a_state",
            "what a loser still has counts as the epoch that it was",
            Change("cache_is_no_state", "", "pass"),
            _NO_CHAIN,
        ),
        # --- changes -----------------------------------------------------------------------------------------------
        _mutant(
            "add_before_the_standby_caught_up",
            "the ADD is proposed with the first cut, not with its acknowledgement",
            Change(
                "first_cut_shipped",
                "",
                "{it}\nactive.move(LinkEvent.CAUGHT_UP)\n"
                "active.core.arbiter.propose(add(active.core.arbiter.known, active.core.id, session.standby))",
            ),
        ),
        _mutant(
            "run_before_the_record_is_learned",
            "a standby runs as soon as it has proposed its TAKE",
            Change("take_proposed", "", '{it}\nstandby.core.end_role(RoleEvent.TAKEN, "")'),
        ),
        _mutant(
            "claim_on_a_read_from_before",
            "what the record was before the active fell silent decides whether to claim, or to give up",
            Change("fresh_read_awaited", "test", "False"),
            _NO_WAIT_TO_BE_NAMED,
        ),
        _mutant(
            "claim_what_does_not_load",
            "a standby claims although its state did not load",
            Change("claim_only_what_loads", "", "take_loaded(standby, StateLoaded(), now)"),
        ),
        _mutant(
            "take_without_being_named",
            "a replica that the record does not name any more stays, and takes over",
            Change("unnamed_standby_ends", "!=", "False"),
            Change("only_the_named_claims", "test", "False"),
            Change("take_is_the_standbys", "==", "True"),
        ),
        _mutant(
            "start_a_timer_at_zero",
            "the clock is taken to begin at zero",
            Change("silence_counted_from_now", "argument 2", "Nanos(0)"),
        ),
        _mutant(
            "run_while_a_switch_is_open",
            "the guest goes on although the SWITCH is unresolved, and the other may be running it",
            _RUN_ON,
        ),
        _mutant(
            "stand_by_with_a_state_that_ran_on",
            "who handed the guest over runs on until it knows, and stands by with memory that nobody compared",
            _RUN_ON,
            _NO_MEASURE,
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        # --- suspicion ---------------------------------------------------------------------------------------------
        _mutant(
            "take_a_reset_for_a_death",
            "a connection that ends is not asked after: its peer counts as gone",
            Change("reset_is_asked_after", "value", "Order.SUSPECT"),
        ),
        _mutant(
            "believe_the_first_refusal",
            "one refusal is enough: a firewall that refuses once makes a host dead",
            Change("refusals_needed", "right of >=", "1"),
        ),
        _mutant(
            "add_up_the_refusals_of_two_resets",
            "a firewall that resets twice, and refuses once each time, makes a host dead",
            Change("refusals_of_one_reset", "", "pass"),
        ),
        _mutant(
            "take_a_broken_answer_for_a_refusal",
            "a connection that was made and broke counts as refused",
            Change("only_refusals_counted", "is", "True"),
        ),
        _mutant(
            "excuse_every_stall_to_its_end",
            "a host that is stopped again and again bears with a dead peer for ever",
            Change("excuses_bounded", "test", "False"),
            Change("only_the_stall_excused", "value", "now"),
        ),
        _mutant(
            "bear_with_a_loop_that_hangs",
            "a heartbeat that is only repeated counts as progress: a host whose loop hangs is alive for ever",
            Change("beat_must_grow", "test", "True"),
        ),
        # --- the release rule --------------------------------------------------------------------------------------
        _mutant(
            "release_without_acknowledgement",
            "nothing is held",
            Change("held_until_acknowledged", "test", "False"),
        ),
        _mutant(
            "release_an_epoch_early",
            "an output leaves with the commit of the epoch before its own",
            Change("both_watermarks_covered", "and 1", "{left} + 1 >= {right}"),
        ),
        _mutant(
            "release_before_the_log_is_safe",
            "the log is not waited for",
            Change("both_watermarks_covered", "and 2", "True"),
        ),
        _mutant(
            "count_an_output_to_the_epoch_before",
            "an output made after a cut waits for what was cut",
            Change("output_needs_its_epoch", "keyword epoch", "{it} - 1"),
        ),
        _mutant(
            "leave_an_outputs_own_record_out",
            "an output waits for the log up to the record before its own",
            Change("output_needs_its_record", "argument 1", "({it}[0], {it}[1] - 1)"),
        ),
        _mutant(
            "obey_the_own_proposal_alone",
            "a DROP counts as in force as soon as it is proposed",
            Change("known_standby_obeyed", "value", "[(proposal or known).standby]"),
        ),
        _mutant(
            "obey_the_last_record_alone",
            "neither the own proposal nor the joining standby is obeyed",
            Change("proposal_obeyed", "test", "False"),
            Change("joining_standby_obeyed", "test", "False"),
        ),
        _mutant(
            "add_without_hold",
            "outputs do not obey the joining standby before the ADD is proposed",
            Change("joining_standby_obeyed", "test", "False"),
        ),
        # --- what a backup keeps -----------------------------------------------------------------------------------
        _mutant(
            "begin_behind_the_first_output_after_a_join",
            "the first output that a new standby is shipped is the second one behind its join",
            Change("first_untold_output_shipped", "else", "{it} + 1"),
        ),
        _mutant(
            "forget_pending_outputs",
            "a takeover emits nothing again",
            Change("pending_outputs_kept", "argument 2", "type({it})()"),
        ),
        _mutant(
            "forget_outputs_that_are_only_acknowledged",
            "what the standby has acknowledged counts as released",
            Change("kept_until_told_as_released", "argument 1", "self.output_next"),
        ),
        _mutant(
            "tell_a_release_before_it_left",
            "an output that was let out counts as released, although it may still wait in its host and die with it",
            Change("release_told_a_heartbeat_later", "value", "({it})[1], ({it})[1]"),
        ),
        _mutant(
            "leave_out_what_is_not_told_as_released",
            "a checkpoint carries only the outputs that are still held",
            Change("untold_outputs_carried", ">", "False"),
        ),
        _mutant(
            "replay_nothing",
            "a takeover runs from the last checkpoint and leaves the log out",
            Change("log_replayed", "else", "()"),
        ),
        _mutant(
            "skip_a_cut_although_pages_were_written",
            "a cut that nothing waits for is skipped, and what the guest has written since the last one is forgotten",
            Change("skipped_if_nothing_was_written", "and 2", "True"),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "forget_pages_of_the_last_round",
            "the first cut leaves out pages that a round collected and did not copy",
            Change("uncopied_pages_cut", "else", "{left}"),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        _mutant(
            "commit_without_devices",
            "an epoch is committed with the devices of the one before",
            Change("devices_committed", "value", "self.devices or {it}"),
        ),
        _mutant(
            "commit_what_is_not_whole",
            "a part of an epoch that is missing is not missed",
            Change("all_batches_committed", "keyword batches", "{it}[1:]"),
            _NO_DIGEST_THERE,
            _NO_DIGEST_HERE,
        ),
        # --- disks ---------------------------------------------------------------------------------------------------
        _mutant(
            "acknowledge_a_flush_that_is_not_durable",
            "an epoch that holds a flush is acknowledged as soon as it is committed in memory",
            Change("durable_is_acknowledged", "else", "(committed.epoch or 0, digest)"),
        ),
        _mutant(
            "leave_a_flush_out_of_its_epoch",
            "the standby is not told that the guest has flushed",
            Change("flush_is_told", "value", "{it} and False"),
        ),
        _mutant(
            "let_out_what_rests_on_a_flush_that_is_not_durable",
            "who takes over lets outputs out although its disk lacks what the guest had flushed before",
            Change("taken_over_flush_is_durable", "test", "False"),
        ),
        _mutant(
            "let_out_behind_a_flush_by_the_log_alone",
            "an output leaves once the log is safe, although the guest flushed before it",
            Change("output_needs_the_flush_before_it", "<", "False"),
        ),
        _mutant(
            "speak_alone_of_a_flush_that_only_the_lost_standby_had",
            "who has lost its standby lets outputs out although its own disk lacks what it told of",
            Change("lost_standbys_flush_is_durable", "", "pass"),
        ),
        _mutant(
            "hand_over_before_the_own_disk_has_what_was_told",
            "a SWITCH is proposed by a host whose disk lacks what it told of",
            Change("handed_over_flush_is_durable", "", "pass"),
        ),
        _mutant(
            "answer_flushes_ahead_when_alone",
            "who has lost its standby goes on answering flushes before its disk has them",
            Change("covered_beside_a_named_standby", "value", "self.is_covered or ({it})"),
        ),
        _mutant(
            "answer_flushes_ahead_before_the_add",
            "flushes are answered before the disk has them although the record does not name the standby yet",
            Change("covered_beside_a_named_standby", "value", "({it}) or (keeps and self.link in JOINING)"),
        ),
        # --- switching over ----------------------------------------------------------------------------------------
        _mutant(
            "run_on_while_the_switch_is_open",
            "the guest runs on while the SWITCH is proposed and nobody knows whether it is in force",
            _RUN_ON,
            _NO_MEASURE,
        ),
        _mutant(
            "run_when_prepared",
            "the standby runs as soon as it has loaded what it is asked to prepare",
            Change("prepared_is_not_active", "", 'standby.core.end_role(RoleEvent.TAKEN, "prepared")'),
        ),
        _mutant(
            "call_off_what_is_proposed",
            "a switchover that takes long is called off although it may be in force",
            Change("proposed_switch_stays", "and 1", "True"),
            Change("switchover_goes_on_before_it_is_proposed", "test", "True"),
            Change("call_off_by_the_table", "", "active.link = LinkState.PROTECTED"),
        ),
        # --- stopping ----------------------------------------------------------------------------------------------
        _mutant(
            "stop_while_a_proposal_is_open",
            "a host that stops goes at once, although what it has proposed may still come into force",
            Change(
                "open_proposal_awaited",
                "",
                'if active.link is LinkState.DROPPING: stop.end("", is_in_order=True)\n{it}',
            ),
        ),
        _mutant(
            "end_the_guest_beside_its_standby",
            "a host that stops vacates the record although its standby could go on",
            Change("standby_goes_on", "test", "True"),
        ),
        _mutant(
            "drop_the_standby_of_a_guest_that_failed",
            "a capture that fails, because the guest has, drops the only one who could go on",
            Change("failed_guest_is_its_standbys", "test", "False"),
            Change("unsent_drop_withdrawn", "and 2", "False"),
        ),
        _mutant(
            "stand_by_with_a_guest_that_failed",
            "only a guest that runs is asked whether it has failed: a host stands by with one that can never run",
            Change("failed_guest_ends_its_host", "value", "{it} if self.is_running else None"),
        ),
        _mutant(
            "send_the_drop_of_a_failed_guest",
            "a standby that is suspected in the step in which the guest is found to have failed is dropped",
            Change("unsent_drop_withdrawn", "and 2", "False"),
        ),
        _mutant(
            "go_without_vacating",
            "a host that stops, and ran the guest alone, leaves the record as it is",
            Change("vacated_before_it_goes", "", 'active.core.stop.end("", is_in_order=True)\nreturn\n{it}'),
        ),
        _mutant(
            "wait_for_a_guest_that_has_ended",
            "a standby that was stopped as the guest ended for good asks to join it from then on",
            Change("end_of_the_guest_heard", "test", "True"),
        ),
        _mutant(
            "take_each_stop_for_an_end",
            "a host that stops, and ran the guest alone, leaves a record that says that the guest has ended for good",
            Change("only_an_end_is_marked", "value", "True"),
        ),
        _mutant(
            "discard_before_an_add_can_have_come",
            "a whole standby that reads once that it is no member throws its state away",
            _NO_WAIT_TO_BE_NAMED,
        ),
        _mutant(
            "stop_a_standby_that_may_be_active",
            "a standby that is prepared for a switchover goes although the SWITCH may come into force",
            Change("prepared_standby_stays", "value", "False"),
            Change("goodbye_answered", "value", "0"),
        ),
    )
)
