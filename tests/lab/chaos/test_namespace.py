"""Each in a separate process: a test process that isolated itself could not go back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.lab.chaos.namespace import isolate

CODE = """
import os, socket, sys
from pathlib import Path
from ftvm.lab.chaos.namespace import isolate, mount_disk, remount_disk
why_not = isolate()
if why_not is not None:
    print(why_not); sys.exit(77)
disk = Path(sys.argv[1])
mount_disk(disk, 1 << 20)
socket.create_server(("127.0.0.1", 7)).close()
"""

FULL = """
try:
    (disk / "ballast").write_bytes(bytes(2 << 20))
except OSError as wrong:
    print(wrong.strerror)
"""

READ_ONLY = """
remount_disk(disk, is_read_only=True)
try:
    (disk / "record").write_bytes(b"x")
except OSError as wrong:
    print(wrong.strerror)
remount_disk(disk, is_read_only=False)
(disk / "record").write_bytes(b"x")
"""


def in_namespace(code: str, disk: Path) -> str:
    command = [sys.executable, "-P", "-c", CODE + code, str(disk)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode == 77:
        pytest.skip(f"no namespaces here: {ended.stdout.strip()}")
    assert ended.stderr == ""
    return ended.stdout.strip()


def test_a_small_disk_can_be_filled(tmp_path: Path) -> None:
    assert in_namespace(FULL, tmp_path) == "No space left on device"


def test_a_small_disk_can_be_made_read_only_and_writable_again(tmp_path: Path) -> None:
    assert in_namespace(READ_ONLY, tmp_path) == "Read-only file system"


def test_nothing_of_it_is_seen_outside(tmp_path: Path) -> None:
    in_namespace('(disk / "record").write_bytes(b"x")', tmp_path)

    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_who_is_not_root_is_told_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert isolate() == "not root"
