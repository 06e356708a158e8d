"""A QEMU guest restored from a history stands at its epoch until gdb lets it go on; gdb sees and may change it."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftvm.history.gdbpackets import PacketReader, pack
from ftvm.history.history import History
from ftvm.runtime.alone import record

from ...guests.qemu.tiny import CODE, DISK_BYTES, tiny_guest
from ..conftest import Run

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")
PATIENCE_S = 60.0
COUNT = 0x8000
"""Where the guest counts (tests/guests/qemu/tiny.py)."""


@dataclass(frozen=True)
class Kept:
    folder: Path
    epoch: int
    memory: bytes
    guestfile: Path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The past of a guest of nobody else's, and a file that describes a guest like it."""
    folder = tmp_path_factory.mktemp("clone")
    with (
        record(tiny_guest(folder, 1), History.open(folder / "past", create=True), interval=0.05),
        History.open(folder / "past") as looking,
    ):
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.1)):
            if len(list(looking.epochs())) > 8:
                break
            pause.wait(0.1)
    with History.open(folder / "past") as past:
        epoch = list(past.epochs())[4].number
        blank = tiny_guest(folder, 2, boots=False)
        try:
            past.restore(epoch, blank)
            memory = bytes(blank.memory[0].buffer[: COUNT + 2])
        finally:
            blank.close()
    (folder / "clone.img").write_bytes(bytes(DISK_BYTES))
    guestfile = folder / "guest.toml"
    guestfile.write_text('kind = "qemu"\nmemory = "16M"\ndisk = "clone.img"\narguments = ["-rtc", "clock=vm"]\n')
    return Kept(folder, epoch, memory, guestfile)


class Gdb:
    """What gdb says to QEMU, in its own packets."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self.reader = PacketReader()

    def close(self) -> None:
        self.socket.close()

    def say(self, packet: bytes) -> None:
        self.socket.sendall(pack(packet))

    def ask(self, packet: bytes) -> bytes:
        self.say(packet)
        return self.hear()

    def hear(self) -> bytes:
        while True:
            content = self.socket.recv(4096)
            assert content, "QEMU has hung up"
            heard = self.reader.feed(content)
            self.socket.sendall(self.reader.take_acks())
            if heard:
                return heard[0]

    def count(self) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(b"m%x,2" % COUNT).decode()), "little")


@pytest.fixture
def clone(kept: Kept) -> Iterator[subprocess.Popen[str]]:
    arguments = ["history", "run", kept.folder / "past", kept.epoch, kept.guestfile]
    command = [sys.executable, "-m", "ftvm", *map(str, arguments), "--gdb", f"unix:{kept.folder}/gdb"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert "for gdb" in running.stdout.readline()
            assert f'gdb -ex "target remote {kept.folder}/gdb"' in running.stdout.readline()
            yield running
        finally:
            running.kill()


def test_gdb_finds_the_clone_at_its_epoch_runs_it_changes_it_and_ends_it(
    kept: Kept, clone: subprocess.Popen[str]
) -> None:
    assert (kept.folder / "gdb").stat().st_mode & 0o077 == 0
    with closing(Gdb(kept.folder / "gdb")) as gdb:
        go_through(gdb, kept)

    _, said = clone.communicate(timeout=PATIENCE_S)
    assert clone.returncode == 0, said
    assert not (kept.folder / "gdb").exists()


def go_through(gdb: Gdb, kept: Kept) -> None:
    assert gdb.ask(b"?").startswith((b"T05", b"S05"))
    before = gdb.count()
    assert before == int.from_bytes(kept.memory[COUNT:], "little")

    for _ in range(int(PATIENCE_S * 5)):
        gdb.say(b"c")
        threading.Event().wait(0.2)
        gdb.socket.sendall(b"\x03")
        assert gdb.hear().startswith((b"T02", b"S02"))
        if gdb.count() != before:
            break
    assert gdb.count() != before

    assert gdb.ask(b"M%x,2:3412" % COUNT) == b"OK"
    assert gdb.count() == 0x1234
    gdb.say(b"k")


def test_a_clone_that_gdb_runs_ends_with_an_interrupt(clone: subprocess.Popen[str]) -> None:
    clone.send_signal(signal.SIGINT)

    out, said = clone.communicate(timeout=PATIENCE_S)
    assert clone.returncode == 0, said
    assert "outputs as recorded" in out


def test_a_clone_with_a_disk_runs_from_it(ftvm: Run, kept: Kept) -> None:
    said = ftvm("history", "run", kept.folder / "past", kept.epoch, kept.guestfile, "--seconds", 1)

    assert said.status == 0, said.err
    assert "the clone ended" not in said.out
    assert (kept.folder / "clone.img").read_bytes()[:510].startswith(CODE)


def test_only_a_qemu_guest_is_run_by_gdb_and_only_from_this_host(ftvm: Run, kept: Kept, tmp_path: Path) -> None:
    from ...runtime.test_recording import record_console

    epoch = record_console(tmp_path)
    (tmp_path / "guest.toml").write_text('kind = "riscv"\nmemory = "2M"\nnic = "udp:9001:9000"\n')

    other = ftvm("history", "run", tmp_path / "past", epoch, tmp_path / "guest.toml", "--gdb", f"unix:{tmp_path}/gdb")
    away = ftvm("history", "run", kept.folder / "past", kept.epoch, kept.guestfile, "--gdb", "tcp:192.0.2.1:0")

    assert (other.status, away.status) == (2, 2)
    assert "ftvm history debug" in other.err
    assert "on this host alone" in away.err
