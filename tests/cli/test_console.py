"""`ftvm console`: keys go to the guest, its words come here, and the terminal is as it was afterwards."""

import itertools
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.cli.console import TypedKeys, _carry
from ftvm.service.console import ConsoleLine

from .conftest import Run

PATIENCE_S = 60.0
ESCAPE = b"\x1d"


@given(typed=st.binary(), cuts=st.lists(st.integers(0, 50)))
def test_all_that_is_typed_goes_to_the_guest_but_words_to_ftvm(typed: bytes, cuts: list[int]) -> None:
    plain = typed.replace(ESCAPE, b"")
    keys, places = TypedKeys(ESCAPE), sorted({min(cut, len(plain)) for cut in cuts} | {0, len(plain)})

    passed = b"".join(keys.take(plain[at:end]) for at, end in itertools.pairwise(places))

    assert passed == plain
    assert not keys.is_over


def test_the_escape_key_twice_goes_to_the_guest_once_and_before_another_key_with_it() -> None:
    assert TypedKeys(ESCAPE).take(b"a" + ESCAPE + ESCAPE + b"b" + ESCAPE + b"c") == b"a" + ESCAPE + b"b" + ESCAPE + b"c"


def test_the_escape_key_and_a_full_stop_end_it_and_what_is_behind_is_nobodys() -> None:
    keys = TypedKeys(ESCAPE)

    assert keys.take(b"exit\r" + ESCAPE) + keys.take(b".rm -rf /\r") == b"exit\r"
    assert keys.is_over


@pytest.mark.parametrize("escape", ["]", "^", "^é", "^]]"])
def test_an_escape_key_that_cannot_be_is_named(ftvm: Run, escape: str) -> None:
    outcome = ftvm("console", "vm1", "--escape", escape)

    assert outcome.status == 2
    assert "write ^ and a key, e.g. ^]" in outcome.err


def test_a_guest_that_no_host_here_has_is_named(ftvm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    outcome = ftvm("console", "vm1")

    assert outcome.status != 0
    assert "no host answers" in outcome.err


def test_a_guest_that_is_lost_in_the_middle_is_a_failure_and_no_wrong_usage(
    ftvm: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: exit status 2, as of a wrong option."""
    theirs, ours = socket.socketpair()
    theirs.close()
    found = iter([ours, None])
    monkeypatch.setattr("ftvm.cli.console._reach", lambda *_, **__: next(found))
    monkeypatch.setattr("ftvm.cli.console._carry", lambda line, *_, **__: bool(line.recv(1)))

    outcome = ftvm("console", "vm1")

    assert outcome.status == 1
    assert "runs on no host of this machine any more" in outcome.err


class Terminal:
    """A terminal with a program on it."""

    def __init__(self, *words: object) -> None:
        self.ours, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.said = b""
        self._program = subprocess.Popen(
            [sys.executable, *map(str, words)],
            preexec_fn=lambda: os.login_tty(self._theirs),
            pass_fds=(self._theirs,),
        )

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def wait_for(self, words: bytes) -> None:
        while words not in self.said:
            assert select.select([self.ours], (), (), PATIENCE_S)[0], self.said
            self.said += os.read(self.ours, 65_536)

    def end(self) -> int:
        return self._program.wait(PATIENCE_S)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._theirs) == self.before

    def close(self) -> None:
        self._program.kill()
        self._program.wait()
        os.close(self.ours)
        os.close(self._theirs)


@pytest.fixture
def guest_and_line(tmp_path: Path) -> Iterator[tuple[socket.socket, ConsoleLine]]:
    """The host's end of a console's connection, and the other."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "vm1.console"))
        listening.listen()
        line = ConsoleLine(tmp_path / "vm1.sock", is_read_only=False)
        host = listening.accept()[0]
        with host:
            yield host, line
        line.close()


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> Iterator[None]:
    """Have the standard input be a pipe with this content, which has ended."""
    reads, writes = os.pipe()
    os.write(writes, content)
    os.close(writes)
    with os.fdopen(reads) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield


def test_who_only_looks_on_needs_no_standard_input(
    guest_and_line: tuple[socket.socket, ConsoleLine],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Regression: `ftvm console --read-only` ended at once behind a closed standard input, as in a unit or with &."""
    host, line = guest_and_line
    host.sendall(b"beat 1\n")
    threading.Timer(0.2, lambda: (host.sendall(b"beat 2\n"), host.close())).start()

    with piped(monkeypatch, b""):
        is_over = _carry(line, TypedKeys(ESCAPE), is_read_only=True)

    assert not is_over  # the host hung up, the user did not
    assert capfd.readouterr().out == "beat 1\nbeat 2\n"


def test_what_the_guest_answers_to_a_pipe_is_shown(
    guest_and_line: tuple[socket.socket, ConsoleLine],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Regression: `echo ls | ftvm console vm1` showed nothing, not even what the guest had said before."""
    host, line = guest_and_line
    monkeypatch.setattr("ftvm.cli.console._ANSWER_SECONDS", PATIENCE_S)
    threading.Thread(target=lambda: (host.sendall(b"you typed " + host.recv(9)), host.close())).start()

    with piped(monkeypatch, b"ls\n"):
        _carry(line, TypedKeys(ESCAPE), is_read_only=False)

    assert capfd.readouterr().out == "you typed ls\n"


def test_a_console_ends_a_while_after_what_is_typed(
    guest_and_line: tuple[socket.socket, ConsoleLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, line = guest_and_line
    monkeypatch.setattr("ftvm.cli.console._ANSWER_SECONDS", 0.01)

    with piped(monkeypatch, b"ls\n"):
        is_over = _carry(line, TypedKeys(ESCAPE), is_read_only=False)

    assert is_over


@contextmanager
def terminal(*words: object) -> Iterator[Terminal]:
    made = Terminal(*words)
    try:
        yield made
    finally:
        made.close()


def run_words(folder: Path) -> list[str]:
    (folder / "arbiter").mkdir()
    words = "ftvm run --program console --create --memory 8M --listen tcp://127.0.0.1:0 --arbiter"
    return [*words.split(), f"file://{folder}/arbiter"]


def test_what_is_typed_reaches_the_guest_and_its_answer_the_terminal(tmp_path: Path) -> None:
    control = f"ipc://{tmp_path}/c.sock"
    host = subprocess.Popen(
        [sys.executable, "-m", *run_words(tmp_path), "--control", control],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert host.stdout is not None
        while b"active" not in (line := host.stdout.readline()):
            assert line
        with terminal("-m", "ftvm", "console", "--control", control) as console:
            console.wait_for(b"then . ends it")
            console.type(b"hello\r")
            console.wait_for(b"hello")
            console.type(ESCAPE + b".")
            assert console.end() == 0
            assert console.is_as_before()
        with terminal("-m", "ftvm", "console", "--control", control, "--read-only") as looker:
            looker.wait_for(b"hello")
    finally:
        host.terminate()
        host.communicate(timeout=PATIENCE_S)


def test_what_was_typed_at_a_host_is_not_left_to_the_shell(tmp_path: Path) -> None:
    """A shell would run it as a command, on the host, perhaps as root."""
    ftvm = [sys.executable, "-m", *run_words(tmp_path), "--append", "lines=1 listen=0", "--control", "none"]
    shell = (
        "import os, select, subprocess, sys\n"
        "print('ready', flush=True); os.read(0, 99)\n"
        f"subprocess.run({ftvm!r})\n"
        "print('something' if select.select([0], (), (), 0)[0] else 'nothing', 'is left', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with terminal("-c", shell) as console:
        console.wait_for(b"ready")
        console.type(b"go\nreboot\n")
        console.wait_for(b" is left")

        assert b"nothing is left" in console.said
