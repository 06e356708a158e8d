"""The other guest programs' ELF files as they ship, on every board: what they say and how they end."""

import re
from pathlib import Path
from typing import Any

import pytest

Boot = Any


def test_hello_greets_and_ends_well(boot: Boot) -> None:
    output, code = boot("hello").wait()

    assert output.splitlines()[0] == "hello: this is boot 1"
    assert "hello: 16 MiB of memory" in output
    assert code == 0


def test_ticks_counts_every_beat_and_none_comes_early(boot: Boot) -> None:
    output, code = boot("ticks", "beats=30 ms=2").wait()

    assert output.splitlines()[:4] == ["ticks: a beat every 2 ms", *(f"ticks: beat {n}" for n in (10, 20, 30))]
    assert code == 0


def test_journal_goes_on_where_the_last_run_ended(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512 * 64))

    first, first_code = boot("journal", "records=20", disk=disk).wait()
    second, second_code = boot("journal", "records=20", disk=disk).wait()

    assert "journal: 20 durable\njournal: read back 20 records, all as written" in first
    assert "journal: found 20 records on a disk of 64 sectors" in second
    assert "journal: read back 40 records, all as written" in second
    assert (first_code, second_code) == (0, 0)


def test_journal_takes_a_torn_record_for_the_end(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512 * 64))
    boot("journal", "records=20", disk=disk).wait()
    content = bytearray(disk.read_bytes())
    content[512 * 12 + 300] ^= 1
    disk.write_bytes(content)

    output, code = boot("journal", "records=2", disk=disk).wait()

    assert "journal: found 12 records" in output
    assert "journal: read back 14 records, all as written" in output
    assert code == 0


def test_journal_says_that_the_disk_is_full(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512 * 8))

    output, code = boot("journal", "records=20", disk=disk).wait()

    assert output.endswith("journal: 8 durable\njournal: the disk is full\n")
    assert code == 1


@pytest.mark.parametrize("program", ["journal", "entropy"])
def test_a_missing_device_is_said(boot: Boot, program: str) -> None:
    output, code = boot(program).wait()

    assert f"{program}: no virtio" in output
    assert code == 1


def test_entropy_prints_what_it_drew_and_the_sum_over_it(boot: Boot) -> None:
    output, code = boot("entropy", "draws=8", has_entropy=True).wait()

    draws = re.findall(r"^entropy: ([0-9a-f]{64})$", output, re.MULTILINE)
    total = 0
    for byte in bytes.fromhex("".join(draws)):
        total = (total * 31 + byte) % 2**64
    assert len(set(draws)) == 8
    assert output.endswith(f"entropy: looks random, sum {total:016x}\n")
    assert code == 0


def test_console_numbers_its_lines_and_sums_what_it_wrote(boot: Boot) -> None:
    output, code = boot("console", "lines=500 listen=0").wait()

    *lines, last = output.splitlines(keepends=True)
    written = 0
    for number, line in enumerate(lines, start=1):
        assert line == f"console: line {number} after {written}\n"
        written += sum(line.encode())
    assert (len(lines), last, code) == (500, "console: done\n", 0)


def test_console_repeats_what_is_typed_until_quit(boot: Boot) -> None:
    board = boot("console", "lines=0")
    assert board.line() == "console: listening\n"

    board.type(b"some words\n" + b"x" * 200 + b"\nquit\n")
    output, code = board.wait()

    assert output == f"heard: some words\nheard: {'x' * 127}\nconsole: done\n"
    assert code == 0


@pytest.mark.parametrize("pattern", ["sequential", "random", "hot"])
def test_dirty_finds_every_write_it_did(boot: Boot, pattern: str) -> None:
    arguments = f"pages=500 rate=0 writes=20000 words=3 pattern={pattern}"

    output, code = boot("dirty", arguments).wait()

    first, last = output.splitlines()
    assert first == f"dirty: 500 pages, 0 writes/s, 3 words each, {pattern}"
    assert last == "dirty: 20000 writes, 60000 words expected, 60000 found"
    assert code == 0


def test_dirty_says_each_second_how_far_it_is(boot: Boot) -> None:
    output, code = boot("dirty", "pages=100 rate=20000 writes=25000").wait()

    assert output.splitlines()[1:] == ["dirty: 20000 writes", "dirty: 25000 writes, 25000 words expected, 25000 found"]
    assert code == 0


@pytest.mark.parametrize("arguments", ["pages=0", "pages=20000", "words=513", "rate=100000001"])
def test_dirty_refuses_what_it_cannot_do(boot: Boot, arguments: str) -> None:
    output, code = boot("dirty", f"{arguments} writes=1").wait()

    assert "an argument is out of range" in output
    assert code == 2


def test_an_argument_that_is_no_number_counts_as_not_given(boot: Boot) -> None:
    output, code = boot("dirty", "pages=2x words=99999999999999999999 writes=1 rate=0").wait()

    assert output.startswith("dirty: 1024 pages, 0 writes/s, 1 words each, sequential\n")
    assert code == 0
