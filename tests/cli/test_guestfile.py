"""A guest file in the place of options: all its mistakes at once, each with its line; the command line counts."""

import json
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from ftvm.cli.kinds import KINDS, all_settings, read_host
from ftvm.cli.main import ftvm as ftvm_command
from ftvm.cli.run import run
from ftvm.cli.standby import standby
from ftvm.engines.names import engines_for
from ftvm.engines.remus import Remus
from ftvm.interfaces import Capability
from ftvm.protocol.active.active_state import interval_ms_of
from ftvm.transport.keys import write_keypair

from .conftest import Run
from .guestfiles import SOUND, complaints, settings, write

# --- file and command line ---------------------------------------------------------------------------------------


def test_a_file_is_as_good_as_options(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("run", write(tmp_path, SOUND))

    assert outcome.status in (1, 2)
    assert "the arbiter has no record of guest 'vm1': run `ftvm init`" in outcome.err


def test_the_command_line_counts_where_both_say_something(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("run", write(tmp_path, SOUND), "--guest", "vm2")

    assert "the arbiter has no record of guest 'vm2'" in outcome.err


def test_an_option_hides_the_mistake_that_it_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND + 'engine = "warp"\n')

    assert settings(path, engine="kemari").problems == {}


def test_relative_paths_count_from_the_folder_of_the_file_and_options_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    for name in ("there/a", "there/b", "here/c"):
        write_keypair(tmp_path / name)
    (there / "disk.img").write_bytes(bytes(4096))
    path = write(
        there,
        SOUND.replace('"hello"', '"own.elf"')
        + 'key = "a.key"\nallow = ["b.pub"]\npeer = ["tcp://127.0.0.1:9=b.pub"]\ndisk = "disk.img"\n',
    )
    monkeypatch.chdir(here)

    told = settings(Path("../there/vm1.toml"), boots=False)
    overridden = settings(path, boots=False, allow=["c.pub"])

    folder = here / "../there"
    assert told.problems == {}
    assert told["key"] == str(folder / "a.key")
    assert told["allow"] == [str(folder / "b.pub")]
    assert told["peer"] == [f"tcp://127.0.0.1:9={folder}/b.pub"]
    assert told["disk"] == str(folder / "disk.img")
    assert told["program"] == str(folder / "own.elf")
    assert (overridden["allow"], overridden.problems) == (["c.pub"], {})


def test_an_arbiters_files_count_from_the_folder_of_the_file_too(tmp_path: Path) -> None:
    """Also one that is no URL is told of, not tripped over."""
    (tmp_path / "pass word").write_text("secret")
    (tmp_path / "pass word").chmod(0o600)
    url = "etcd://me@127.0.0.1:1/vm?password_file=pass%20word"
    path = write(tmp_path, SOUND.replace("file://{folder}", url))

    told = settings(path)

    assert told.problems == {}
    assert told["arbiter"] == f"etcd://me@127.0.0.1:1/vm?password_file={tmp_path}/pass+word"
    assert set(settings(write(tmp_path, SOUND.replace("file://{folder}", "etcd://[::1"))).problems) == {"arbiter"}


def test_a_program_that_comes_with_ftvm_is_no_path(tmp_path: Path) -> None:
    assert settings(write(tmp_path, SOUND))["program"] == "hello"


def test_the_programs_file_of_a_standby_need_not_be_there(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND.replace("hello", "own.elf"))

    assert set(settings(path, boots=True).problems) == {"program"}
    assert settings(path, boots=False).problems == {}


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_all_wrong_values_are_told_at_once_with_their_lines_and_nothing_is_started(ftvm: Run, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'listen = "smoke"\npeer = ["tcp://nowhere"]\narbiter = "ftp://x"\nmemory = "lots"\nengine = "warp"\n'
        'mac = "soft"\nsilence = 0\nkey = "none.key"\nnic = "wire"\nprogram = "doom"\ncontrol = "tcp://127.0.0.1:1"\n'
        f'guest = "{"x" * 65}"\nmetrics = "here"\nallow = ["none.pub"]\non-backup-loss = "weep"\n'
        'on-divergence = "shrug"\nheartbeat = -1\nlog-format = "prose"\ndisk = "none.img"\nentropy = "no"\n',
    )

    outcome = ftvm("run", path)

    assert outcome.status == 2
    assert "20 settings are wrong" in outcome.err
    assert f"  {path}:15: on-backup-loss: 'weep': write one of solo, halt\n" in outcome.err
    told = {tuple(line.removeprefix(f"  {path}:").split(": ")[:2]) for line in outcome.err.splitlines()[1:]}
    lines = [line.partition(" ")[0] for line in path.read_text().splitlines()]
    assert told == {(str(number), name) for number, name in enumerate(lines, 1)}
    assert list(tmp_path.iterdir()) == [path]


def test_a_setting_is_not_judged_by_another_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'intervall = 3\nlisten = 5\narbiter = "file://{folder}"\nengine = "warp"\nprogram = "hello"\n'
        'heartbeat = "x"\nsilence = 100\nnic = 7\nmac = "52:54:00:00:00:01"\n',
    )

    assert list(settings(path).problems) == ["intervall", "listen", "engine", "heartbeat", "nic"], "in the file's order"


def test_a_mistake_of_several_lines_stands_apart_among_others(ftvm: Run, tmp_path: Path) -> None:
    path = write(tmp_path, 'kind = "qemu"\nlisten = "smoke"\narguments = ["-m", "4G", "-netdev", "tap,id=n"]\n')

    outcome = ftvm("run", path)

    assert f"\n  {path}:3: arguments: 2 QEMU arguments cannot be accepted:\n    QEMU argument -m 4G" in outcome.err


def test_a_key_that_is_none_is_told_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    told = settings(write(tmp_path, SOUND + "\nintervall = 3\n"))

    assert complaints(told) == [
        f"{tmp_path}/vm1.toml:7: intervall: unknown setting 'intervall'; did you mean 'interval'?"
    ]


def test_an_operators_word_for_one_start_is_no_setting(tmp_path: Path) -> None:
    told = settings(write(tmp_path, SOUND + "create = true\njson = true\n"))

    assert "`ftvm run --create`, or `ftvm init`" in str(told.problems["create"])
    assert "--json" in str(told.problems["json"])


@pytest.mark.parametrize("missing", ["listen", "arbiter"])
def test_what_is_needed_and_not_said_is_asked_for(tmp_path: Path, missing: str) -> None:
    text = "".join(line + "\n" for line in SOUND.splitlines() if not line.startswith(missing))

    told = settings(write(tmp_path, text))

    (complaint,) = complaints(told)
    assert complaint.startswith(f"{tmp_path}/vm1.toml: {missing}: missing: write where ")


def test_all_that_is_needed_is_asked_for_at_once(ftvm: Run) -> None:
    outcome = ftvm("run", "--program", "hello")

    assert outcome.status == 2
    assert "  listen: missing" in outcome.err
    assert "  arbiter: missing" in outcome.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine": "kemari", "latency": 5.0}, "--latency: engine kemari takes no latency target"),
        ({"group-commit": 0.2}, "--group-commit: engine remus has no group commit"),
        (
            {"engine": "kemari", "group-commit": 101.0},
            "--group-commit: kemari: a group commit of 101 ms is not from 0 to 100 ms",
        ),
        ({"latency": 0.0}, "--latency: remus: a latency target of 0 ms is not from"),
        ({"engine": "warp"}, "--engine: 'warp': write one of remus, kemari, lockstep, hybrid"),
        ({"interval": 0.0}, "--interval: remus: an interval of 0 ms is not from"),
        ({"nic": "udp:a:b"}, "--nic: 'udp:a:b' is not a cable: write udp:LOCALPORT:REMOTEPORT"),
        ({"nic": "pump:vm2"}, "--nic: 'pump:vm2' is not a cable: write udp:LOCALPORT:REMOTEPORT"),
        ({"mac": "52:54:00:00:00:01"}, "--mac: 52:54:00:00:00:01 needs nic: without a cable"),
        ({"peer": ["tcp://127.0.0.1:0"]}, "--peer: tcp://127.0.0.1:0 is this host's own address"),
        ({"silence": 40.0}, "--silence: 40 ms, with a heartbeat of 50 ms: it must be at least four heartbeats, 200 ms"),
        ({"arbiter": "etcd://[::1"}, "--arbiter: arbiter 'etcd://[::1' is not a URL: Invalid IPv6 URL"),
        ({"arbiter": "memory:x"}, "--arbiter: arbiter 'memory:x' exists in one process only"),
        ({"program": "journal"}, "disk: program journal needs a disk"),
        ({"program": "kv"}, "nic: program kv needs a network card"),
    ],
)
def test_what_cannot_be_is_refused_in_the_users_words(tmp_path: Path, options: dict[str, object], reason: str) -> None:
    path = write(tmp_path, SOUND)

    told = read_host(path, options, boots=True)

    (complaint,) = complaints(told)
    assert complaint.removeprefix(f"{path}: ").startswith(reason)


def test_a_hosts_own_key_is_none_of_a_peer(tmp_path: Path) -> None:
    write_keypair(tmp_path / "a")
    (tmp_path / "copy.pub").write_bytes((tmp_path / "a.pub").read_bytes())

    told = settings(write(tmp_path, SOUND + 'key = "a.key"\nallow = ["copy.pub"]\n'))

    assert "itself is among them" in str(told.problems["allow"])


def test_a_record_within_one_process_is_refused_by_init_too(ftvm: Run) -> None:
    outcome = ftvm("init", "--arbiter", "memory:x")

    assert outcome.status == 2
    assert "exists in one process only" in outcome.err
    assert "memory:NAME" not in outcome.err


# --- settings and options -----------------------------------------------------------------------------------------


def test_one_file_serves_a_host_in_either_role() -> None:
    def keys(command: click.Command) -> set[str]:
        return {str(each.name) for each in command.params} - {"create"}

    assert keys(run) == keys(standby)


def test_every_setting_is_an_option_but_qemus_arguments() -> None:
    options = {each.opts[0][2:] for each in standby.params if isinstance(each, click.Option)}

    assert options - {"json", "config"} == set(all_settings()) - {"arguments"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_default_of_a_kind_is_valid(kind: str) -> None:
    told = read_host(None, {"kind": kind, "listen": "tcp://127.0.0.1:0", "arbiter": "file:///x"}, boots=False)

    assert told.problems == {}


@pytest.mark.parametrize(
    ("begun", "wanted"),
    [
        ("run --engine r", "remus"),
        ("run --kind q", "qemu"),
        ("run vm", "vm1.toml"),
        ("ctl engine h", "hybrid"),
        ("machine run h", "hello"),
    ],
)
def test_shells_complete_words_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SOUND)
    *before, last = begun.split()

    found = ShellComplete(ftvm_command, {}, "ftvm", "_FTVM_COMPLETE").get_completions(before, last)

    assert wanted in [each.value for each in found] or [each.type for each in found] == ["file"]


def test_help_names_every_kind_that_has_a_setting_unless_all_have_it() -> None:
    """Regression: of two kinds with the same text one was named, or none."""
    helps = {each.opts[0]: str(each.help) for each in standby.params if isinstance(each, click.Option)}

    assert helps["--entropy"].endswith("Kinds riscv, kvm.")
    assert "Kinds qemu, kvm, vmm." in helps["--tracker"]
    assert helps["--disk"].startswith("Kinds riscv, kvm: A virtio disk")
    assert "Kind qemu: A virtio disk" in helps["--disk"]
    assert "Kind" not in helps["--engine"] + helps["--guest"]


def test_help_tells_at_what_interval_a_takeover_goes_on_under_an_engine_that_the_host_was_not_given() -> None:
    others = engines_for(frozenset(Capability), Remus())
    defaults = ", ".join(f"{name} {interval_ms_of(engine):g}" for name, engine in others.items())

    (row,) = (row for name, rows in all_settings().items() for _, row in rows if name == "interval")

    assert f"A host that takes over with another engine uses that one's default: {defaults}." in row.help


# --- old names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "now"),
    [
        (["primary"], "`ftvm primary` is now `ftvm run`"),
        (["qemu", "run"], "`ftvm qemu run` is now `ftvm run --kind qemu`"),
        (["qemu", "standby"], "`ftvm qemu standby` is now `ftvm standby --kind qemu`"),
    ],
)
def test_a_command_of_old_works_and_says_its_new_name(ftvm: Run, command: list[str], now: str) -> None:
    outcome = ftvm(*command, "--memory", "lots")

    assert outcome.err.startswith(f"ftvm: {now}; the old way is gone in 0.3\n")
    assert "--memory: memory 'lots'" in outcome.err


def test_a_command_of_old_takes_its_file_as_before(ftvm: Run, tmp_path: Path) -> None:
    path = write(tmp_path, SOUND)

    primary, standby = (ftvm(name, "--config", path, "--memory", "x") for name in ("primary", "standby"))

    assert "`--config FILE` is now `ftvm run FILE`" in primary.err
    assert "`--config FILE` is now `ftvm standby FILE`" in standby.err
    assert primary.err.count("--memory: memory 'x'") == standby.err.count("--memory: memory 'x'") == 1


def test_what_stands_behind_the_dashes_is_qemus_and_never_a_file(ftvm: Run) -> None:
    outcome = ftvm("run", "--kind", "qemu", "--memory", "x", "--", "-m", "4G")

    assert "--memory: memory 'x'" in outcome.err
    assert "behind --: arguments: " in outcome.err


def test_log_format_json_writes_json_lines_on_stderr(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("run", write(tmp_path, SOUND + 'log-format = "json"\n'), "--create")

    lines = [json.loads(line) for line in outcome.err.splitlines() if line.startswith("{")]
    assert {line["event"] for line in lines} >= {"RoleChanged", "RecordLearned"}
