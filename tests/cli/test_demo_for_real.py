import json
import subprocess
import sys


def test_guest_survives_its_host_and_nothing_is_lost() -> None:
    command = [sys.executable, "-P", "-m", "ftvm", "demo", "--kills", "2", "--json"]

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


def test_unknown_engine_ends_with_the_list_and_no_traceback() -> None:
    command = [sys.executable, "-P", "-m", "ftvm", "demo", "--engine", "warp"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 2
    assert "choose one of: remus" in ended.stderr
    assert "Traceback" not in ended.stderr
