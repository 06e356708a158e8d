"""The committed state changes by whole, verified checkpoints or not at all: on real memory, with real digests."""

from array import array
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import NativeMemory, batch_digest
from ftvm.checkpoint import Checkpoint, GuestPosition, LogKind, LogRecord, Output, OutputTable, PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import BadFrame, DigestMismatch, FtvmError, LimitExceeded, RemoteProtocolError
from ftvm.logtable import LogTable
from ftvm.protocol.standby.commit import CommittedState
from ftvm.units import PAGE_BYTES

from ...encode.delta import delta_encode

PAGES = 4
OUTPUTS_LIMIT = 6


def seal(indices: bytes, lengths: bytes, payload: bytes) -> PageBatch:
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=len(indices) // 4, indices=indices, lengths=lengths, payload=payload, digest=digest)


def make_batch(pages: dict[int, bytes], before: bytes) -> PageBatch:
    """Return a batch that turns the pages of `before` into `pages`."""
    deltas = {
        index: delta_encode(page, before[index * PAGE_BYTES : (index + 1) * PAGE_BYTES])
        for index, page in sorted(pages.items())
    }
    return seal(
        array("I", deltas).tobytes(),
        array("H", [len(delta) for delta in deltas.values()]).tobytes(),
        b"".join(deltas.values()),
    )


def digest_of(content: bytes) -> int:
    return CommittedMemory(NativeMemory([bytearray(content)])).memory_digest


@dataclass(frozen=True)
class Photograph:
    """All that a takeover would run from."""

    memory: bytes
    digest: int
    epoch: int | None
    devices: bytes
    engine: str
    output_next: int
    log_index: int
    outputs: tuple[Output, ...]


class Backup:
    """A backup with real memory, at epoch 3, and the checkpoint that leads to epoch 4."""

    def __init__(self) -> None:
        self.ram = bytearray(PAGES * PAGE_BYTES)
        self.committed = CommittedState(CommittedMemory(NativeMemory([self.ram])), Limits(outputs_held=OUTPUTS_LIMIT))
        self.committed.commit(self.checkpoint(3, {0: b"\x11" * PAGE_BYTES, 2: b"\x22" * PAGE_BYTES}, output_count=2))
        self.next = self.checkpoint(4, {1: b"\x33" * PAGE_BYTES, 2: b"\x44" * PAGE_BYTES}, output_count=1)

    def checkpoint(self, epoch: int, pages: dict[int, bytes], *, output_count: int) -> Checkpoint:
        after = bytearray(self.ram)
        for index, page in pages.items():
            after[index * PAGE_BYTES : (index + 1) * PAGE_BYTES] = page
        first = self.committed.output_next
        outputs = tuple(
            Output(number=number, channel="c", payload=b"%d" % number) for number in range(first, first + output_count)
        )
        return Checkpoint(
            epoch=epoch,
            base=epoch - 1,
            engine="remus",
            batches=tuple(make_batch({index: page}, bytes(self.ram)) for index, page in sorted(pages.items())),
            devices=b"devices %d" % epoch,
            outputs=outputs,
            output_next=first + output_count,
            log_index=epoch * 10,
            memory_digest=digest_of(bytes(after)),
            dirty_pages=len(pages),
        )

    def photograph(self) -> Photograph:
        state = self.committed
        return Photograph(
            bytes(self.ram),
            state.memory.memory_digest,
            state.epoch,
            state.devices,
            state.engine,
            state.output_next,
            state.log_index,
            tuple(state.outputs),
        )

    def refuses(self, checkpoint: Checkpoint, error: type[FtvmError], match: str | None = None) -> None:
        """Show that a checkpoint is refused, leaves everything as it was, and does not hinder the right one."""
        before = self.photograph()
        with pytest.raises(error, match=match):
            self.committed.commit(checkpoint)
        assert self.photograph() == before
        assert before.digest == digest_of(before.memory)
        self.committed.commit(self.next)
        assert self.committed.epoch == 4


def test_a_commit_makes_all_of_a_checkpoint_the_state() -> None:
    backup = Backup()

    backup.committed.commit(backup.next)

    after = backup.photograph()
    assert (after.epoch, after.devices, after.log_index, after.output_next) == (4, b"devices 4", 40, 4)
    assert after.digest == backup.next.memory_digest == digest_of(after.memory)
    assert after.memory[PAGE_BYTES : 3 * PAGE_BYTES] == b"\x33" * PAGE_BYTES + b"\x44" * PAGE_BYTES
    assert [output.number for output in after.outputs] == [1, 2, 3]


@pytest.mark.parametrize(("base", "epoch"), [(2, 4), (4, 5), (0, 4), (3, 3), (3, 2), (2, 3)])
def test_a_checkpoint_that_does_not_extend_what_is_here_is_refused(base: int, epoch: int) -> None:
    backup = Backup()

    backup.refuses(replace(backup.next, base=base, epoch=epoch), BadFrame, "extends")


def test_the_same_checkpoint_twice_is_refused() -> None:
    backup = Backup()
    backup.committed.commit(backup.next)
    before = backup.photograph()

    with pytest.raises(BadFrame):
        backup.committed.commit(backup.next)

    assert backup.photograph() == before


def test_another_memory_digest_is_refused() -> None:
    backup = Backup()

    backup.refuses(replace(backup.next, memory_digest=backup.next.memory_digest ^ 1), DigestMismatch)


def test_a_batch_that_is_missing_or_twice_there_is_refused() -> None:
    for batches in (slice(1), slice(1, 2), slice(0)):
        backup = Backup()
        backup.refuses(replace(backup.next, batches=backup.next.batches[batches]), DigestMismatch)
    backup = Backup()
    backup.refuses(replace(backup.next, batches=backup.next.batches * 2), BadFrame)


@given(st.data())
def test_a_changed_byte_anywhere_in_the_pages_leaves_everything_as_it_was(data: st.DataObject) -> None:
    backup = Backup()
    place = data.draw(st.integers(0, 1))
    batch = backup.next.batches[place]
    name = data.draw(st.sampled_from(["indices", "lengths", "payload"]))
    content = bytearray(getattr(batch, name))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    parts = {"indices": batch.indices, "lengths": batch.lengths, "payload": batch.payload, name: bytes(content)}
    is_resealed = data.draw(st.booleans())
    changed = seal(**parts) if is_resealed else replace(batch, **parts)  # type: ignore[arg-type]
    batches = [*backup.next.batches]
    batches[place] = changed
    before = backup.photograph()

    try:
        backup.committed.commit(replace(backup.next, batches=tuple(batches)))
    except RemoteProtocolError:
        assert backup.photograph() == before
        backup.committed.commit(backup.next)
    # A delta may say the same thing in other bytes; then the memory is what was captured, which is all that counts.
    assert backup.committed.memory.memory_digest == backup.next.memory_digest == digest_of(bytes(backup.ram))


@pytest.mark.parametrize("shift", [-1, 1, 5])
def test_a_gap_or_repeat_in_the_output_numbers_is_refused(shift: int) -> None:
    backup = Backup()

    backup.refuses(replace(backup.next, output_next=backup.next.output_next + shift), BadFrame, "is next")


def test_more_outputs_than_may_be_kept_are_refused() -> None:
    backup = Backup()
    many = tuple(Output(number=3 + place, channel="c", payload=b"") for place in range(OUTPUTS_LIMIT - 1))

    backup.refuses(replace(backup.next, outputs=many, output_next=3 + len(many)), LimitExceeded, "outputs kept")


def test_outputs_that_left_are_forgotten_and_those_above_are_kept() -> None:
    backup = Backup()

    backup.committed.forget_released(1)

    assert [output.number for output in backup.committed.outputs] == [2]


def test_outputs_that_left_between_two_checkpoints_take_those_before_them_along() -> None:
    """Regression: under hybrid, outputs leave once the log is safe, and the next checkpoint does not carry them. A
    backup that had not yet heard so kept those before, and came to a takeover with a gap in its outputs."""
    backup = Backup()
    logged = (
        LogRecord(index=30 + number, kind=LogKind.OUTPUT, position=GuestPosition(number, 0), amount=2 + number)
        for number in (1, 2)
    )
    backup.committed.append(LogTable.of(tuple(logged)))
    fifth = Output(number=5, channel="c", payload=b"5")

    backup.committed.commit(replace(backup.next, outputs=(fifth,), output_next=6))

    assert backup.photograph().outputs == (fifth,)


def test_a_claim_to_have_released_what_is_not_committed_is_refused() -> None:
    backup = Backup()
    before = backup.photograph()

    with pytest.raises(BadFrame, match="output 3 was released, but only those up to 2 are safe here"):
        backup.committed.forget_released(3)

    assert backup.photograph() == before


def test_a_first_copy_after_a_commit_is_refused() -> None:
    backup = Backup()
    before = backup.photograph()

    with pytest.raises(BadFrame, match="after epoch 3"):
        backup.committed.copy(backup.next.batches[0])

    assert backup.photograph() == before


def test_the_first_epoch_may_have_any_base_and_any_first_output() -> None:
    backup = Backup()
    backup.committed.clear()
    pages = {0: b"\x55" * PAGE_BYTES}
    first = replace(backup.checkpoint(9, pages, output_count=1), base=8, output_next=41)
    first = replace(first, outputs=(replace(first.outputs[0], number=40),))

    backup.committed.commit(first)

    assert (backup.committed.epoch, backup.committed.output_next) == (9, 41)


def test_clearing_leaves_zero_memory_and_no_epoch() -> None:
    backup = Backup()

    backup.committed.clear()

    after = backup.photograph()
    assert (after.epoch, after.devices, after.output_next, after.outputs) == (None, b"", 1, ())
    assert not any(after.memory)
    assert after.digest == digest_of(after.memory)


# --- the log ---------------------------------------------------------------------------------------------------------


def records(first: int, last: int) -> LogTable:
    """Return log records of one byte each."""
    position = GuestPosition(retired=0, idled=0)
    return LogTable.of(
        [
            LogRecord(index=index, kind=LogKind.INPUT, position=position, payload=b"x")
            for index in range(first, last + 1)
        ]
    )


@pytest.mark.parametrize("first", [30, 32])
def test_a_gap_or_repeat_in_the_log_is_refused(first: int) -> None:
    backup = Backup()

    with pytest.raises(BadFrame, match=f"log record {first} came after 30"):
        backup.committed.append(records(first, 40))

    assert (backup.committed.log_index, len(backup.committed.log)) == (30, 0)


def test_no_log_is_kept_before_there_is_a_state_that_it_goes_on_from() -> None:
    backup = Backup()
    backup.committed.clear()

    with pytest.raises(BadFrame, match="epoch None"):
        backup.committed.append(records(1, 1))


@pytest.mark.parametrize("limits", [Limits(log_records=3), Limits(log_bytes=3)])
def test_more_log_than_may_be_kept_is_refused(limits: Limits) -> None:
    backup = Backup()
    backup.committed.limits = limits
    backup.committed.append(records(31, 33))

    with pytest.raises(LimitExceeded):
        backup.committed.append(records(34, 34))

    assert backup.committed.log_index == 33


def test_a_checkpoint_that_covers_less_log_than_was_kept_is_refused() -> None:
    """What was acknowledged of the log is safe: a state from before it would take that back."""
    backup = Backup()
    backup.committed.append(records(31, 41))
    before = backup.photograph()

    with pytest.raises(BadFrame, match="covers log record 40, not 41"):
        backup.committed.commit(backup.next)

    assert backup.photograph() == before


def test_a_checkpoint_lets_go_of_the_log_that_it_covers() -> None:
    backup = Backup()
    backup.committed.append(records(31, 40))

    backup.committed.commit(backup.next)

    assert (len(backup.committed.log), backup.committed.log.payload_bytes) == (0, 0)


def test_a_mark_that_was_agreed_with_lets_go_of_the_log_before_it_alone() -> None:
    backup = Backup()
    backup.committed.append(records(31, 45))

    backup.committed.agree(backup.next)

    assert [record.index for record in backup.committed.log] == [41, 42, 43, 44, 45]
    assert (backup.committed.log_index, backup.committed.log.payload_bytes) == (45, 5)


def test_clearing_leaves_no_log() -> None:
    backup = Backup()
    backup.committed.append(records(31, 40))

    backup.committed.clear()

    assert (backup.committed.log_index, len(backup.committed.log), backup.committed.log.payload_bytes) == (0, 0, 0)


def test_of_what_the_guest_makes_here_only_what_is_not_known_to_have_left_is_kept() -> None:
    backup = Backup()
    backup.committed.forget_released(2)

    made = OutputTable.of([Output(number=number, channel="c", payload=b"") for number in (3, 4)])

    backup.committed.made(made, released=3)
    backup.committed.made(OutputTable.of([]), released=3)

    assert [output.number for output in backup.committed.outputs] == [4]
    assert backup.committed.output_next == 5


def test_more_outputs_made_here_than_may_be_kept_are_refused() -> None:
    backup = Backup()

    made = [Output(number=number, channel="c", payload=b"") for number in range(3, 3 + OUTPUTS_LIMIT)]

    with pytest.raises(LimitExceeded):
        backup.committed.made(OutputTable.of(made), released=0)
