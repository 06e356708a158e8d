import errno
import os
import random
from pathlib import Path
from unittest import mock

import pytest

from ftvm.errors import HistoryError
from ftvm.store.crypt import AesSealer
from ftvm.store.segment import HEADER_BYTES, SegmentReader, SegmentWriter, scan
from ftvm.testing.powercut import PowerCuts


def contents(path: Path) -> list[bytes]:
    reader = SegmentReader(path)
    try:
        return [reader.record(offset) for offset, _ in scan(reader)]
    finally:
        reader.close()


def written(path: Path, *records: bytes) -> list[tuple[int, int]]:
    writer = SegmentWriter(path)
    places = [writer.append(record) for record in records]
    writer.sync()
    writer.close()
    return places


def test_records_come_back_in_order_and_by_place(tmp_path: Path) -> None:
    records = [b"one", b"", random.Random(1).randbytes(70_000)]

    places = written(tmp_path / "a", *records)

    assert contents(tmp_path / "a") == records
    reader = SegmentReader(tmp_path / "a")
    assert [reader.record(offset) for offset, _ in places] == records
    assert list(scan(reader)) == places
    reader.close()


def test_a_segment_torn_at_any_byte_gives_the_whole_records_before_it(tmp_path: Path) -> None:
    records = [b"first", b"second record", b"3"]
    places = written(tmp_path / "a", *records)
    whole = (tmp_path / "a").read_bytes()

    for length in range(HEADER_BYTES, len(whole) + 1):
        (tmp_path / "torn").write_bytes(whole[:length])

        ends = [offset + size for offset, size in places]
        assert contents(tmp_path / "torn") == records[: sum(end <= length for end in ends)]


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_a_segment_whose_head_is_torn_is_refused(tmp_path: Path, length: int) -> None:
    written(tmp_path / "a", b"x")
    (tmp_path / "torn").write_bytes((tmp_path / "a").read_bytes()[:length])

    with pytest.raises(HistoryError, match="no segment"):
        SegmentReader(tmp_path / "torn")


def test_a_changed_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    ((offset, size),) = written(tmp_path / "a", b"some content")
    whole = (tmp_path / "a").read_bytes()

    for at in range(HEADER_BYTES, len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0x40
        (tmp_path / "changed").write_bytes(changed)
        reader = SegmentReader(tmp_path / "changed")
        with pytest.raises(HistoryError, match="damaged or cut off"):
            reader.record(offset)
        reader.close()
    assert size == len(whole) - HEADER_BYTES


def test_what_an_earlier_file_left_behind_is_not_taken_for_a_record(tmp_path: Path) -> None:
    written(tmp_path / "a", b"old one", b"old two")
    written(tmp_path / "b", b"new one")
    old = (tmp_path / "a").read_bytes()
    new = (tmp_path / "b").read_bytes()

    (tmp_path / "b").write_bytes(new + old[len(new) :])

    assert contents(tmp_path / "b") == [b"new one"]


def test_a_record_is_taken_only_where_it_was_written(tmp_path: Path) -> None:
    """Mutant: the digest is of the content alone, and what stood elsewhere in the file is taken for the present."""
    (first, length), _ = written(tmp_path / "a", b"one", b"two")
    whole = (tmp_path / "a").read_bytes()

    (tmp_path / "a").write_bytes(whole[: first + length] + whole[first : first + length])

    assert contents(tmp_path / "a") == [b"one"]


def test_a_write_that_takes_part_only_is_finished(tmp_path: Path) -> None:
    real = os.pwrite

    with mock.patch.object(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at)):
        written(tmp_path / "a", b"a record of many parts")

    assert contents(tmp_path / "a") == [b"a record of many parts"]


def test_a_full_disk_is_named_and_nothing_more_is_written(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "a")
    writer.append(b"safe")
    writer.sync()
    full = OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(os, "pwrite", side_effect=full), pytest.raises(HistoryError, match="the disk is full"):
        writer.append(b"lost")

    with pytest.raises(HistoryError, match="an earlier write failed"):
        writer.append(b"later")
    with pytest.raises(HistoryError, match="failed before"):
        writer.sync()
    writer.close()
    assert contents(tmp_path / "a") == [b"safe"]


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "a")
    writer.append(b"perhaps lost")

    with (
        mock.patch.object(os, "fdatasync", side_effect=OSError(errno.EIO, "Input/output error")),
        pytest.raises(HistoryError, match="cannot be synced"),
    ):
        writer.sync()

    with pytest.raises(HistoryError, match="failed before"):
        writer.sync()
    writer.close()


def test_what_was_synced_survives_every_power_cut(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    cuts = PowerCuts(folder)
    with cuts.recorded():
        writer = SegmentWriter(folder / "a")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)
        for number in range(4):
            writer.append(b"record %d" % number * 60)
            writer.sync()
            cuts.mark(number)
        writer.close()

    def recover(disk: Path, marks: tuple[object, ...]) -> None:
        found = contents(disk / "a") if marks else []
        assert found[: len(marks)] == [b"record %d" % number * 60 for number in range(len(marks))]

    cuts.check(recover, draws=400)


def test_a_sealed_record_cannot_be_read_moved_or_changed(tmp_path: Path) -> None:
    sealer = AesSealer(bytes(range(32)))
    writer = SegmentWriter(tmp_path / "a", sealer=sealer)
    places = [writer.append(b"the password"), writer.append(b"the password")]
    writer.sync()
    writer.close()
    content = (tmp_path / "a").read_bytes()

    reader, stranger = (
        SegmentReader(tmp_path / "a", sealer=sealer),
        SegmentReader(tmp_path / "a", sealer=AesSealer(bytes(32))),
    )

    assert b"password" not in content
    first, second = (content[offset : offset + size] for offset, size in places)
    assert first != second
    assert [reader.record(offset) for offset, _ in places] == [b"the password"] * 2
    with pytest.raises(HistoryError, match="another key"):
        stranger.record(places[0][0])
    with pytest.raises(HistoryError, match="does not decrypt"):
        sealer.open(reader.body(places[0][0]) or b"", b"another place")
    reader.close()
    stranger.close()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "a", b"x")

    with pytest.raises(HistoryError, match="cannot be created"):
        SegmentWriter(tmp_path / "a")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"gone.seg cannot be read"):
        SegmentReader(tmp_path / "gone.seg")
