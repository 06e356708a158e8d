"""Two hosts whose arbiters are two folders: the likeliest mistake on two machines, and what each of them says of it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore

from .hostpair import WAIT_SECONDS, events_until, host, port_of_nobody


class Separate:
    """Hosts that dial each other, each with its own arbiter's folder."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._ports = [port_of_nobody(), port_of_nobody()]

    def start(self, number: int, *command: str) -> "subprocess.Popen[str]":
        mine, other = self._ports[number], self._ports[1 - number]
        self.place(number).mkdir()
        options = ("--listen", f"tcp://127.0.0.1:{mine}", "--peer", f"tcp://127.0.0.1:{other}")
        where = ("--arbiter", f"file://{self.place(number)}", "--control", f"ipc://{self.control(number)}")
        return self._stack.enter_context(host(*command, *options, *where))

    def place(self, number: int) -> Path:
        return self._folder / f"place{number}"

    def control(self, number: int) -> Path:
        return self._folder / f"{number}.sock"


@pytest.fixture
def separate(tmp_path: Path) -> Iterator[Separate]:
    with ExitStack() as stack:
        yield Separate(stack, tmp_path)


def status(control: Path) -> tuple[int, str]:
    asked = [sys.executable, "-P", "-m", "ftvm", "status", "--control", f"ipc://{control}"]
    answered = subprocess.run(asked, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    return answered.returncode, answered.stdout


def test_a_standby_that_reads_another_folder_is_not_copied_to_and_both_hosts_say_why(separate: Separate) -> None:
    """Regression: 68 first copies of 16,384 pages in 12 seconds, and not a word of the arbiter."""
    first = separate.start(0, "run", "--create", "--program", "console")
    second = separate.start(1, "standby")

    told = [events_until(process, "PlacesDiffer") for process in (first, second)]
    asked = [status(separate.control(number)) for number in (0, 1)]

    for events in told:
        assert "give both the same --arbiter" in str(events[-1]["reason"])
        assert {"CopyProgress", "SessionEnded"} & {event.get("event") for event in events} == set()
    for code, line in asked:
        assert code == 1
        assert "in different places" in line


def test_two_hosts_that_each_made_a_record_both_stop_and_say_why(separate: Separate) -> None:
    """Regression: two actives, each naming the other as its peer, and nobody said a word."""
    both = [separate.start(number, "run", "--create", "--program", "console") for number in (0, 1)]

    ended = [process.communicate(timeout=WAIT_SECONDS)[1] for process in both]

    assert [process.returncode for process in both] == [2, 2]
    assert all("has only just made its record, and stops" in said for said in ended)
    records = [FileRecordStore(separate.place(number)).read("guest") for number in (0, 1)]
    assert [(record.generation, record.active) for record in records] == [(2, None), (2, None)]
