"""A guest with a disk, from a guest file on each of two hosts, whose first host is killed: it goes on where it was."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WAIT_SECONDS = 60
RECORDS = 60
GUEST_FILE = f"""
kind = "riscv"
guest = "log"
listen = "ipc://{{folder}}/{{here}}.ipc"
peer = ["ipc://{{folder}}/{{there}}.ipc"]
arbiter = "file://{{folder}}/arbiter"
control = "none"
memory = "8M"
program = "journal"
disk = "{{here}}.img"
append = "records={RECORDS} batch=1 ms=50"
silence = 1500
"""


@contextmanager
def host(*words: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "ftvm", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_SECONDS)


def said(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    heard = []
    for line in process.stderr:
        heard.append(line)
        if words in line:
            return
    raise AssertionError(f"the host ended and never said {words!r}: {heard}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "arbiter").mkdir()
    for here, there in (("a", "b"), ("b", "a")):
        (tmp_path / f"{here}.toml").write_text(GUEST_FILE.format(folder=tmp_path, here=here, there=there))
        with (tmp_path / f"{here}.img").open("wb") as disk:
            disk.truncate(1 << 20)
    return tmp_path


def test_a_journal_on_a_disk_outlives_its_host(folder: Path) -> None:
    with host("run", folder / "a.toml", "--create") as first, host("standby", folder / "b.toml") as second:
        said(first, "protected: ")

        first.kill()
        said(second, "took over")
        console, _ = second.communicate(timeout=WAIT_SECONDS)

    assert second.returncode == 0
    assert f"journal: read back {RECORDS} records, all as written" in console
    image = str(folder / "b.img")
    again = subprocess.run(
        [sys.executable, "-P", "-m", "ftvm", "machine", "run", "journal", "--disk", image, "--append", "records=1"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    assert f"journal: read back {RECORDS + 1} records, all as written" in again.stdout


def test_a_host_whose_disk_has_another_size_is_refused_with_both(folder: Path) -> None:
    with (folder / "b.img").open("wb") as disk:
        disk.truncate(1 << 21)

    with host("run", folder / "a.toml", "--create") as first, host("standby", folder / "b.toml") as second:
        said(first, "now active")
        _, error = second.communicate(timeout=WAIT_SECONDS)

    assert second.returncode != 0
    assert "disk 1 MiB / 2 MiB" in error


@pytest.fixture
def devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, with a loop device behind each image; what lies beside them is in `disks`."""
    monkeypatch.setenv("FTVM_DISKS", str(folder / "disks"))
    made: list[str] = []
    try:
        for here in "ab":
            image, behind = folder / f"{here}.img", folder / f"{here}.behind"
            image.rename(behind)
            ran = subprocess.run(["losetup", "-f", "--show", str(behind)], capture_output=True, text=True, check=True)
            made.append(ran.stdout.strip())
            image.symlink_to(made[-1])
            guest = folder / f"{here}.toml"
            guest.write_text(guest.read_text().replace(f"records={RECORDS} ", f"records={4 * RECORDS} "))
        yield folder
    except (OSError, subprocess.CalledProcessError) as wrong:
        pytest.skip(f"needs loop devices, and root: {wrong}")
    finally:
        for device in made:
            subprocess.run(["losetup", "-d", device], check=True)


def test_a_journal_on_block_devices_outlives_each_of_its_hosts_in_turn(devices: Path) -> None:
    with host("run", devices / "a.toml", "--create") as first, host("standby", devices / "b.toml") as second:
        said(first, "protected: ")
        first.kill()
        said(second, "took over")
        first.wait(WAIT_SECONDS)
        with host("standby", devices / "a.toml") as third:
            said(second, "protected: ")
            second.kill()
            said(third, "took over")
            console, _ = third.communicate(timeout=WAIT_SECONDS)

    assert third.returncode == 0
    assert f"journal: read back {4 * RECORDS} records, all as written" in console
    beside = {path.name for path in devices.iterdir() if path.suffix not in (".ipc", ".toml")}
    assert beside == {"a.behind", "a.img", "b.behind", "b.img", "arbiter", "disks"}
    assert len(list(devices.glob("disks/*/disk.label"))) == 2
