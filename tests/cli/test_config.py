"""`--config`: a file in the place of options; the command line counts where both say something."""

import json
from pathlib import Path

import click
import pytest

from ftvm.cli.configoption import keys_of
from ftvm.cli.primary import primary
from ftvm.cli.standby import standby

from .conftest import Run


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "vm1.toml"
    path.write_text(text)
    return path


def test_a_file_is_as_good_as_options(ftvm: Run, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        f'listen = "tcp://127.0.0.1:0"\narbiter = "file://{tmp_path}"\nguest = "vm1"\nmemory = "8M"\n'
        'program = "hello"\n',
    )

    outcome = ftvm("primary", "--config", config)

    assert outcome.status in (1, 2)
    assert "the arbiter has no record of guest 'vm1': run `ftvm init`" in outcome.err


def test_the_command_line_counts_where_both_say_something(ftvm: Run, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        f'listen = "tcp://127.0.0.1:0"\narbiter = "file://{tmp_path}"\nguest = "vm1"\nmemory = "8M"\n'
        'program = "hello"\n',
    )

    outcome = ftvm("primary", "--config", config, "--guest", "vm2")

    assert "the arbiter has no record of guest 'vm2'" in outcome.err


def test_all_wrong_values_are_told_at_once_and_nothing_is_started(ftvm: Run, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        'listen = "smoke"\npeer = ["tcp://nowhere"]\narbiter = "ftp://x"\nmemory = "lots"\nengine = "warp"\n'
        'mac = "soft"\nsilence = 0\nkey = "none.key"\nnic = "wire"\nprogram = "doom"\ncontrol = "tcp://127.0.0.1:1"\n'
        f'guest = "{"x" * 65}"\nmetrics = "here"\nallow = ["none.pub"]\non-backup-loss = "weep"\n'
        'on-divergence = "shrug"\ninterval = 0\nlatency = 3\nheartbeat = -1\nlog-format = "prose"\n',
    )

    outcome = ftvm("primary", "--config", config)

    assert outcome.status == 2
    assert "19 settings are wrong" in outcome.err
    assert "  on-backup-loss: on-backup-loss 'weep': write one of solo, halt\n" in outcome.err
    told = [line.split(":")[0].strip() for line in outcome.err.splitlines()[1:]]
    wanted = (
        "guest listen peer arbiter key memory program nic mac engine silence control metrics "
        "allow on-backup-loss on-divergence interval heartbeat log-format"
    )
    assert sorted(told) == sorted(wanted.split())
    assert list(tmp_path.iterdir()) == [config]


def test_what_cannot_be_read_is_told_together_with_values_that_cannot_be(ftvm: Run, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        f'intervall = 3\nlisten = 5\narbiter = "file://{tmp_path}"\nengine = "warp"\nprogram = "hello"\n'
        'heartbeat = "x"\nsilence = 100\nnic = 7\nmac = "52:54:00:00:00:01"\n',
    )

    outcome = ftvm("primary", "--config", config)

    told = [line.split(":")[0].strip() for line in outcome.err.splitlines()[1:]]
    assert outcome.status == 2
    assert told == ["intervall", "listen", "heartbeat", "nic", "engine"], "and not silence or mac, judged with them"


def test_all_that_is_needed_is_asked_for_at_once(ftvm: Run) -> None:
    outcome = ftvm("primary", "--program", "hello")

    assert outcome.status == 2
    assert "--listen" in outcome.err
    assert "--arbiter" in outcome.err


def test_a_key_that_is_none_is_wrong_usage(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("standby", "--config", write(tmp_path, "intervall = 3\n"))

    assert outcome.status == 2
    assert "there is no key 'intervall'; did you mean 'interval'?" in outcome.err


@pytest.mark.parametrize("missing", ["listen", "arbiter"])
def test_what_is_needed_and_not_said_is_asked_for(ftvm: Run, tmp_path: Path, missing: str) -> None:
    lines = {"listen": 'listen = "tcp://127.0.0.1:0"\n', "arbiter": f'arbiter = "file://{tmp_path}"\n'}
    del lines[missing]

    outcome = ftvm("primary", "--config", write(tmp_path, "".join(lines.values())))

    assert outcome.status == 2
    assert f"--{missing}" in outcome.err


def test_one_file_serves_a_host_in_either_role() -> None:
    assert keys_of(primary) == keys_of(standby)


def test_an_operators_word_for_one_start_is_no_setting() -> None:
    assert {"create", "json", "config", "help"} & set(keys_of(primary)) == set()


def test_every_option_of_a_host_is_a_key() -> None:
    options = {each.opts[0][2:] for each in standby.params if isinstance(each, click.Option)}

    assert options - {"json", "config"} == set(keys_of(standby))


def test_log_format_json_writes_json_lines_on_stderr(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm(
        *("primary", "--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{tmp_path}", "--memory", "8M", "--create"),
        *("--program", "hello", "--log-format", "json"),
    )

    lines = [json.loads(line) for line in outcome.err.splitlines() if line.startswith("{")]
    assert {line["event"] for line in lines} >= {"RoleChanged", "RecordLearned"}
