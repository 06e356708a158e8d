"""What ran in a stretch of the past: exact counts, and which function when."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.history.coverage import WINDOW_TICKS, Coverage, cover
from ftvm.history.recording import Recording
from ftvm.history.timeline import TimeMachine

from .past import built_with_symbols, kv_past

REQUESTS = 60


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_with_symbols(tmp_path_factory.mktemp("kv"))


@pytest.fixture(scope="module")
def kv(program: Path) -> Recording:
    return kv_past(REQUESTS, image=program.read_bytes())


@pytest.fixture(scope="module")
def whole(kv: Recording, program: Path) -> Coverage:
    with TimeMachine(kv, program=program) as past:
        return cover(past, past.start, past.end)


def test_each_instruction_is_counted(kv: Recording, whole: Coverage) -> None:
    assert whole.instructions == kv.end.retired
    assert sum(run.instructions for run in whole.functions) == kv.end.retired
    assert whole.elsewhere == 0


def test_a_function_was_entered_as_often_as_a_breakpoint_there_is_met(kv: Recording, whole: Coverage) -> None:
    """The second count: of the breakpoint's hits, by another way through the interpreter."""
    entered = {run.function.name: run for run in whole.functions}
    assert entered["kv_answer"].entries == REQUESTS

    with TimeMachine(kv) as past:
        for name in ("checksum_add", "kv_table_put", "virtio_queue_take"):
            past.go(past.start)
            past.set_break(entered[name].function.address)
            past.hooks.take_hit()
            past._replay(past.end, on_hits="note")
            hit = past.hooks.take_hit()
            past.clear_hooks()

            assert hit is not None
            assert hit.count == entered[name].entries


def test_a_line_that_runs_once_a_request_has_as_many_counts(whole: Coverage) -> None:
    counts = Counter(whole.lines["kv/kv.c"].values())

    assert counts[REQUESTS] > 5
    assert max(counts) < 10 * REQUESTS


def test_lines_that_did_not_run_are_known(whole: Coverage) -> None:
    assert 0 in whole.lines["kv/kv.c"].values()


def test_functions_follow_each_other_in_time_without_overlap(whole: Coverage) -> None:
    assert all(a.begin < a.end <= b.begin for a, b in pairwise(whole.segments))
    assert whole.segments[-1].end <= whole.window_ticks
    assert whole.window_ticks >= WINDOW_TICKS


def test_the_time_in_functions_is_what_was_executed_and_not_what_was_waited(kv: Recording, program: Path) -> None:
    with TimeMachine(kv, program=program) as past:
        past.go(past.end // 2)
        begin = past.position
        part = cover(past, past.end // 2, past.end // 2 + 20_000)
        past.go(past.end // 2 + 20_000)
        end = past.position

    busy = sum(segment.end - segment.begin for segment in part.segments)
    waited = end.idled - begin.idled
    assert busy == 20_000
    assert part.window_ticks == busy + waited
    per_function = Counter[int]()
    for segment in part.segments:
        per_function[segment.function] += segment.end - segment.begin
    told = {number: run.instructions for number, run in enumerate(part.functions)}
    assert sum(abs(per_function[number] - told[number]) for number in told) <= 2 * len(part.segments)


@pytest.fixture(scope="module")
def serving(kv: Recording, program: Path) -> Coverage:
    """The end, without the boot: requests come."""
    with TimeMachine(kv, program=program) as past:
        return cover(past, past.end - 200_000, past.end)


def test_inputs_are_marked_where_they_came(serving: Coverage) -> None:
    assert {channel for _, channel in serving.marks} == {"net0"}
    assert all(0 <= tick <= serving.window_ticks for tick, _ in serving.marks)


def test_slices_of_the_window_add_up_to_it(serving: Coverage) -> None:
    assert [one.begin for one in serving.slices] == [0, *(one.end for one in serving.slices[:-1])]
    assert serving.slices[-1].end == serving.window_ticks
    assert len(serving.slices) > 5
    for line, count in serving.lines["net/checksum.c"].items():
        of_slices = sum(one.lines.get(("net/checksum.c", line), 0) for one in serving.slices)
        assert of_slices >= count  # it is the highest of several places in each slice by itself


def test_nothing_between_two_instructions_is_refused(kv: Recording, program: Path) -> None:
    with TimeMachine(kv, program=program) as past:
        with pytest.raises(ConfigError, match="nothing lies between instruction 500 and 500"):
            cover(past, 500, 500)
        with pytest.raises(ConfigError, match="the past goes from 0 to"):
            cover(past, past.end, past.end + 10)


def test_a_cover_without_a_program_says_what_to_give(kv: Recording) -> None:
    with TimeMachine(kv) as past, pytest.raises(ConfigError, match="its ELF file with symbols"):
        cover(past, 0, 10)


def test_covering_leaves_the_past_as_it_was(kv: Recording, program: Path) -> None:
    with TimeMachine(kv, program=program) as past:
        cover(past, 1_000, 50_000)
        past.go(past.end)

        assert past.position == kv.end


def test_a_time_machine_covers_and_draws(kv: Recording, program: Path, tmp_path: Path) -> None:
    with TimeMachine(kv, program=program) as past:
        past.cover(past.end - 50_000, past.end).save(tmp_path / "p.svg")

    assert (tmp_path / "p.svg").read_text().startswith("<svg")
