"""The Linux guest of examples/linux, on every board."""

import os
from pathlib import Path
from typing import Any

import pytest

OK = 0
PUT, GET, STAT = 1, 2, 3


@pytest.fixture
def linux() -> Path:
    folder = os.environ.get("FTVM_LINUX")
    if folder is None:
        pytest.skip("needs the Linux guest: FTVM_LINUX=FOLDER, after python3 examples/linux/build.py FOLDER")
    return Path(folder) / "linux.elf"


def _line(board: Any) -> str:
    """The next line; Linux ends its lines as a terminal wants it."""
    return str(board.line()).rstrip("\r\n")


def _wait_for(board: Any, line: str) -> None:
    while _line(board) != line:
        pass


def test_it_counts_without_a_gap_and_repeats_what_is_typed(boot: Any, linux: Path) -> None:
    board = boot(linux)
    _wait_for(board, "linux: serving on 10.77.0.2:7000")

    counts = [_line(board) for _ in range(5)]
    board.type(b"some words\nquit\n")

    assert counts == [f"linux: count {n}" for n in range(1, 6)]
    _wait_for(board, "linux: heard some words")
    _wait_for(board, "linux: off")


def test_quit_ends_the_machine(boot: Any, linux: Path) -> None:
    board = boot(linux)
    _wait_for(board, "linux: serving on 10.77.0.2:7000")

    board.type(b"quit\n")
    output, code = board.wait()

    assert "linux: off" in output
    assert code == 0


def test_it_serves_keys_and_values_like_the_bare_metal_server(boot: Any, linux: Path, peer: Any) -> None:
    board = boot(linux)
    _wait_for(board, "linux: serving on 10.77.0.2:7000")

    assert board.exchange(peer.arp())[20:22] == b"\0\2"
    assert board.exchange(peer.ping(b"data"))[-4:] == b"data"
    first = board.exchange(peer.request(PUT, b"key", b"value", number=1))
    again = board.exchange(peer.request(PUT, b"key", b"value", number=1))
    value = peer.reply_in(board.exchange(peer.request(GET, b"key", number=2)))

    assert again[42:] == first[42:]
    assert (value.status, value.writes, value.value) == (OK, 1, b"value")
    assert value.uptime > peer.reply_in(first).uptime
