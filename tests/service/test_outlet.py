"""An outlet takes everything at once; its reader gets whole lines, and is told of those that are missing."""

import fcntl
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.service.outlet import BUFFER_BYTES, Outlet, say_lost

WAIT_SECONDS = 30.0


class Pipe:
    """A small pipe with an outlet into it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.outlet = Outlet(self.writing)

    def read_to_the_end(self) -> bytes:
        """Read until the outlet has nothing left to write."""
        read = bytearray()

        def go_on() -> None:
            while data := os.read(self.reading, 1 << 16):
                read.extend(data)

        reader = threading.Thread(target=go_on)
        reader.start()
        assert self.outlet.drain(WAIT_SECONDS)
        self.outlet.close()
        os.close(self.writing)
        reader.join(WAIT_SECONDS)
        os.close(self.reading)
        return bytes(read)


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


def test_what_is_written_arrives_in_order(pipe: Pipe) -> None:
    for number in range(10_000):
        pipe.outlet.write(b"%d\n" % number)

    assert pipe.read_to_the_end() == b"".join(b"%d\n" % number for number in range(10_000))


def test_whoever_writes_does_not_wait_for_a_reader_and_the_buffer_is_bounded(pipe: Pipe) -> None:
    line = b"x" * 999 + b"\n"

    for _ in range(3 * BUFFER_BYTES // len(line)):
        assert pipe.outlet.write(line) == len(line)

    assert len(pipe.outlet._buffer) <= BUFFER_BYTES
    assert not pipe.outlet.drain(0.01)
    pipe.read_to_the_end()


def test_a_reader_that_is_back_is_told_how_many_lines_are_missing_and_where(pipe: Pipe) -> None:
    lines = [b"%07d %s\n" % (number, b"x" * 990) for number in range(3000)]
    for line in lines:
        pipe.outlet.write(line)

    read = pipe.read_to_the_end().splitlines(keepends=True)

    *kept, told = read
    assert kept == lines[: len(kept)]
    assert told == say_lost(len(lines) - len(kept)).encode() + b"\n"


def test_lines_are_lost_as_a_whole_and_what_comes_later_arrives(pipe: Pipe) -> None:
    pipe.outlet.write(b"a beginning")
    pipe.outlet.write(b"x" * BUFFER_BYTES)
    pipe.outlet.write(b" and its end\nanother that is lost\n")
    os.read(pipe.reading, 4096)
    while pipe.outlet._is_dropping:
        os.read(pipe.reading, 4096)
    pipe.outlet.write(b"a new one\n")

    assert pipe.read_to_the_end().endswith(b"a new one\n")


def test_what_cannot_be_written_is_lost_and_nobody_fails() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(full)

    for _ in range(100):
        outlet.write(b"x" * 100_000 + b"\n")

    assert outlet.drain(WAIT_SECONDS)
    os.close(full)


def test_a_file_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)

    pipe.outlet.write(b"x" * 100_000 + b"\n")

    assert len(pipe.read_to_the_end()) == 100_001


@given(st.lists(st.binary(min_size=1, max_size=400_000).map(lambda data: data.replace(b"f", b"e")), max_size=12))
def test_whatever_is_written_arrives_or_is_counted_line_by_line(chunks: list[bytes]) -> None:
    pipe = Pipe()
    for chunk in chunks:
        pipe.outlet.write(chunk)
    written = b"".join(chunks)

    read = pipe.read_to_the_end()

    arrived, mark, told = read.partition(b"ftvm: ")
    assert written.startswith(arrived if not mark else arrived.removesuffix(b"\n"))
    lost = int(told.split()[0]) if mark else 0
    missing = written.count(b"\n") - written[: len(arrived.removesuffix(b"\n"))].count(b"\n")
    assert lost <= max(missing, 1)
    if not mark:
        assert arrived == written
