"""What a standby recorded under hybrid or lockstep is executed again to the same memory, forwards and backwards."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ftvm.cli.main import ftvm as command
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError, GuestError, HistoryError
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.history.history import History
from ftvm.history.stored import StoredPast
from ftvm.history.timeline import TimeMachine
from ftvm.interfaces import Engine

from ..runtime.test_recording import Pair, wait_until
from .past import built_with_symbols


def ticking() -> RiscvGuest:
    """A guest that does a little each millisecond."""
    return RiscvGuest(read_program("ticks"), memory_bytes=2 << 20, command_line="ms=1 beats=0")


def record(folder: Path, engine: Engine, *, records_both: bool = False) -> Path:
    other = History.open(folder / "other", create=True) if records_both else None
    pair = Pair(folder, engine, History.open(folder / "past", create=True), ticking, other)
    with History.open(folder / "past") as looking:
        wait_until(lambda: len(list(looking.epochs())) > (2 if engine.executes else 10))
    pair.close()
    return folder / "past"


@pytest.fixture(
    scope="module",
    params=[Hybrid(interval=0.05), Lockstep(interval=0.05), Remus(interval=0.05), Kemari(interval=0.005)],
    ids=lambda engine: engine.name,
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("past"), request.param, records_both=not request.param.executes)


@pytest.fixture
def history(folder: Path) -> Iterator[History]:
    with History.open(folder) as opened:
        yield opened


def test_the_past_of_a_pair_is_executed_again_to_each_epoch(history: History) -> None:
    stored = StoredPast(history)
    with TimeMachine(stored) as past:
        for epoch in [each for each in history.epochs() if each.number >= stored.first][::4]:
            assert epoch.position is not None
            past.go(epoch.position.retired)
            guest = RiscvGuest(None, memory_bytes=stored.shape.ram_bytes)
            try:
                history.restore(epoch.number, guest)
                if guest.position == past.position:
                    assert guest.memory[0].buffer == past._machine.ram.buffer
                else:  # it waits there: the epoch was cut between two inputs of that instruction
                    assert guest.position.retired == past.position.retired
            finally:
                guest.close()
        past.go(past.end)
        assert past.position == stored.end


def test_a_past_that_ends_in_another_memory_than_the_recorded_one_is_refused(history: History) -> None:
    stored = StoredPast(history)
    stored.digest ^= 1

    with TimeMachine(stored) as past, pytest.raises(GuestError, match="memory is not the one of the recording's end"):
        past.go(past.end)


def test_steps_lead_backwards_from_the_end(history: History) -> None:
    with TimeMachine(StoredPast(history)) as past:
        past.go(past.end)
        end = past.moment
        for _ in range(5):
            past.step_back()

        assert past.moment.retired == end.retired - 5


def test_two_epochs_are_covered_side_by_side_each_from_its_own_state(
    folder: Path, history: History, tmp_path: Path
) -> None:
    program = built_with_symbols(tmp_path, "ticks")
    stored = StoredPast(history)
    found = [each for each in history.epochs() if each.number > stored.first and each.stream == stored._stream]
    spans = [
        (each.number, each.position.retired - stored.position_of(history.entry(each.number).base).retired)
        for each in found
        if each.position is not None
    ]
    (one, ran_in_one), *_, (other, ran_in_other) = [span for span in spans if span[1]]
    line = ["history", "cover", str(folder), "--elf", str(program), "-o", str(tmp_path / "p.html"), "--json"]

    told = CliRunner().invoke(command, [*line, "--epoch", str(one), "--epoch", str(other)], catch_exceptions=False)

    counted = json.loads(told.stdout)
    assert (counted["instructions"], counted["beside"]["instructions"]) == (ran_in_one, ran_in_other)
    assert f'"name":"epoch {other}"' in (tmp_path / "p.html").read_text()


def test_an_epoch_is_found_by_its_number(history: History) -> None:
    stored = StoredPast(history)

    assert stored.position_of(stored.last) == stored.end
    with pytest.raises(HistoryError, match="epoch 99999"):
        stored.position_of(99999)


def test_a_stretch_can_be_chosen_by_its_epochs(history: History) -> None:
    numbers = [epoch.number for epoch in history.epochs()]

    stored = StoredPast(history, first=numbers[-4], last=numbers[-2])

    with TimeMachine(stored) as past:
        assert (stored.first, stored.last) == (numbers[-4], numbers[-2])
        assert past.start == history.entry(numbers[-4]).position.retired  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="is not before"):
        StoredPast(history, first=numbers[-2], last=numbers[-2])
    with pytest.raises(HistoryError, match="epoch 99999"):
        StoredPast(history, last=99999)


def test_where_one_host_alone_records_what_to_do_is_named(tmp_path: Path) -> None:
    with (
        History.open(record(tmp_path, Remus(interval=0.025))) as past,
        pytest.raises(HistoryError, match="record under lockstep"),
    ):
        StoredPast(past)


def test_the_programs_bytes_are_in_the_first_state(history: History) -> None:
    with TimeMachine(StoredPast(history)) as past:
        code = past.read(0x80000000, 4096)

    assert code is not None
    assert code[:64] in read_program("ticks")


def test_the_command_line_takes_the_folder_of_a_history(folder: Path, history: History, tmp_path: Path) -> None:
    program = built_with_symbols(tmp_path, "ticks")

    def ftvm(*arguments: object) -> Result:
        return CliRunner().invoke(command, ["history", *map(str, arguments)])

    done = ftvm("cover", folder, "--elf", program, "-o", tmp_path / "p.lcov")
    numbers = [epoch.number for epoch in history.epochs()]
    part = ftvm(
        "cover", folder, "--elf", program, "-o", tmp_path / "q.lcov", "--from-epoch", numbers[len(numbers) // 2]
    )
    no_epoch = ftvm("debug", program.with_suffix(".rec"), "--at-epoch", 3)
    wrong = ftvm("cover", program, "--elf", program, "-o", tmp_path / "q.lcov", "--from-epoch", 3)

    assert (done.exception, part.exception) == (None, None)
    assert int(done.stdout.split()[0]) > int(part.stdout.split()[0]) > 0
    assert "cannot be read" in str(no_epoch.exception)
    assert "is not the folder of a history" in str(wrong.exception)
