"""The release before and the tree work together: a pair may be updated one host after the other.

Real processes: each way round the two become a pair, the primary is killed, and the guest goes on at the standby;
`ftvm status` of each tells how the other's host fares. A change of the wire that breaks this shows here at once.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from ftvm.runtime.status import FIRST_FIELDS

from ..cli.hostpair import events_until
from ..golden.files import path_of, read_golden
from .conftest import TREE, Release

WAIT_SECONDS: Final = 60
SHARED: Final = ("--memory", "8M", "--heartbeat", "100", "--silence", "3000", "--json")
COMPLAINTS: Final = {"PeerMisbehaved", "JoinRefused", "ConnectionRefused", "HostFailed"}


class Host:
    """A process of one release."""

    def __init__(self, release: Release, folder: Path, name: str, *arguments: str) -> None:
        self.release = release
        self.control = f"ipc://{folder}/{name}.sock"
        self.seen: list[str] = []
        where = ("--arbiter", f"file://{folder}/record", "--control", self.control)
        with (folder / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [release.python, "-P", "-m", "ftvm", *arguments, *where, *SHARED],
                env=release.environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first event of a kind that it tells from now on."""
        told = events_until(self.process, event)
        self.seen += [str(each.get("event", "")) for each in told]
        return told[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ftvm-compat-") as made:
        (Path(made) / "record").mkdir()
        yield Path(made)


def status_by(asker: Release, host: Host) -> dict[str, Any]:
    """Return what `ftvm status` of one release tells of a host."""
    command = [asker.python, "-P", "-m", "ftvm", "status", "--json", "--control", host.control]
    asked = subprocess.run(
        command, env=asker.environment(), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert asked.returncode in (0, 1), asked.stderr  # 1 where the guest is unprotected
    (told,) = json.loads(asked.stdout)
    return dict(told)


@pytest.mark.parametrize("is_tree_first", [True, False], ids=["tree is the primary", "tree is the standby"])
def test_a_pair_of_two_releases_is_protected_and_survives_a_takeover(
    is_tree_first: bool, before: Release, folder: Path
) -> None:
    here, there = (TREE, before) if is_tree_first else (before, TREE)
    with ExitStack() as stack:
        listening = f"ipc://{folder}/a"
        primary = Host(here, folder, "a.ctl", "primary", "--listen", listening, "--create", "--program", "console")
        stack.callback(primary.kill)
        primary.wait_for("RoleChanged")
        standby = Host(there, folder, "b.ctl", "standby", "--listen", f"ipc://{folder}/b", "--peer", listening)
        stack.callback(standby.kill)
        primary.wait_for("Protected")
        told_before = [status_by(asker, host) for asker in (here, there) for host in (primary, standby)]

        primary.kill()
        standby.wait_for("TookOver")
        told_after = [status_by(asker, standby) for asker in (here, there)]

    assert [told["role"] for told in told_before] == ["active", "standby"] * 2
    assert [(told["role"], told["takeovers"], told["failure"]) for told in told_after] == [("active", 1, None)] * 2
    assert all(told.keys() >= set(FIRST_FIELDS) for told in told_before + told_after)
    assert not COMPLAINTS & {*primary.seen, *standby.seen}


READS_AND_WRITES: Final = """
import json, sys
from ftvm.config import Limits
from ftvm.encode.wire import decode, encode
for name, frames in json.load(sys.stdin).items():
    frames = [bytes.fromhex(frame) for frame in frames]
    again = [bytes(frame) for frame in encode(*decode(frames, Limits()))]
    print(name, "is as it was" if again == frames else "is written as something else")
"""


def test_the_release_before_reads_and_writes_the_golden_bytes_of_its_version(before: Release) -> None:
    """So that these were not only what this tree takes for version 1."""
    goldens = read_golden("wire-1")
    asked = json.dumps({name: [frame.hex() for frame in frames] for name, frames in goldens.items()})

    told = subprocess.run(
        [before.python, "-P", "-c", READS_AND_WRITES],
        env=before.environment(),
        input=asked,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )

    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [f"{name} is as it was" for name in goldens], path_of("wire-1")
