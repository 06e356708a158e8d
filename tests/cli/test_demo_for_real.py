import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.kvm.machine import check_device

PATIENT = ("--seconds", "200")
"""It ends once all kills are done; by default each has 20 s, which a busy machine may need for more."""


def test_guest_survives_its_host_and_nothing_is_lost() -> None:
    command = [sys.executable, "-P", "-m", "ftvm", "demo", "--kills", "2", *PATIENT, "--json"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)

    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    outcome = json.loads(line)
    assert outcome["trouble"] is None
    assert outcome["findings"] == []
    assert (outcome["kills"], len(outcome["takeover_ms"])) == (2, 2)
    assert (outcome["acknowledged_lost"], outcome["contradicted"], outcome["unanswered"]) == (0, 0, 0)
    assert outcome["requests_acknowledged"] > 100
    assert outcome["checkpoints"] > 0
    assert outcome["digests_compared"] > 0
    assert 0 < outcome["bytes_sent"] < outcome["bytes_raw"]
    assert ended.returncode == 0


def test_a_stock_linux_under_qemu_survives_its_host_its_qemu_and_both(tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None or not any(Path("/boot").glob("vmlinuz-*-cloud-amd64")):
        pytest.skip("needs QEMU: apt install qemu-system-x86 linux-image-cloud-amd64 busybox-static")
    command = [sys.executable, "-P", "-m", "ftvm", "demo", "--guest", "qemu", "--kills", "3", *PATIENT, "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)

    outcome = json.loads(ended.stdout)
    assert outcome["trouble"] is None
    assert (outcome["kills"], len(outcome["takeover_ms"])) == (3, 3)
    assert (outcome["acknowledged_lost"], outcome["contradicted"], outcome["unanswered"]) == (0, 0, 0)
    assert outcome["digests_compared"] > 0
    assert (ended.stderr, ended.returncode) == ("", 0)


@pytest.mark.parametrize("engine", ["remus", "kemari"])
def test_a_guest_on_the_processor_survives_its_host_and_nothing_is_lost(engine: str) -> None:
    try:
        check_device()
    except ConfigError as wrong:
        pytest.skip(f"needs KVM: {wrong}")
    command = [
        sys.executable,
        "-P",
        "-m",
        "ftvm",
        "demo",
        "--kind",
        "kvm",
        "--engine",
        engine,
        "--kills",
        "2",
        *PATIENT,
        "--json",
    ]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)

    outcome = json.loads(ended.stdout)
    assert outcome["trouble"] is None
    assert outcome["findings"] == []
    assert (outcome["kills"], len(outcome["takeover_ms"])) == (2, 2)
    assert (outcome["acknowledged_lost"], outcome["contradicted"], outcome["unanswered"]) == (0, 0, 0)
    assert outcome["requests_acknowledged"] > 100
    assert outcome["digests_compared"] > 0
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_unknown_engine_ends_with_the_list_and_no_traceback() -> None:
    command = [sys.executable, "-P", "-m", "ftvm", "demo", "--engine", "warp"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 2
    assert "choose one of: remus" in ended.stderr
    assert "Traceback" not in ended.stderr
