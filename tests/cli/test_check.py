"""`ftvm check`: the whole of it, on a file that is right and on files that are wrong."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.service import checks
from ftvm.transport.keys import write_keypair

from .conftest import Run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_keypair(tmp_path / name)
    path = tmp_path / "vm1.toml"
    path.write_text(
        f'listen = "tcp://127.0.0.1:0"\npeer = ["tcp://127.0.0.1:9"]\narbiter = "file://{tmp_path}"\nguest = "vm1"\n'
        f'memory = "8M"\nprogram = "console"\nkey = "{tmp_path}/a.key"\nallow = ["{tmp_path}/b.pub"]\n'
    )
    return path


def test_a_sound_configuration_would_start_and_is_warned_of_what_will_disappoint(ftvm: Run, config: Path) -> None:
    outcome = ftvm("check", config)

    assert outcome.status == 0
    assert "FAILURE" not in outcome.out
    assert "ok      settings: valid" in outcome.out
    assert "warning peer: tcp://127.0.0.1:9 does not answer" in outcome.out
    assert "has no record of guest 'vm1'" in outcome.out


def test_checking_leaves_everything_as_it_was(ftvm: Run, config: Path) -> None:
    before = sorted(path.name for path in config.parent.rglob("*") if path.name != "ftvm")

    ftvm("check", config)

    assert sorted(path.name for path in config.parent.rglob("*") if path.name != "ftvm") == before


def test_json_has_level_subject_text_and_remedy(ftvm: Run, config: Path) -> None:
    told = json.loads(ftvm("check", config, "--json").out)

    assert all(set(finding) == {"level", "subject", "text", "remedy"} for finding in told)
    subjects = ["settings", "listen", "peer", "arbiter", "arbiter's place", "nic", "service", "memory"]
    assert [finding["subject"] for finding in told] == [*subjects, "riscv", "dirty page tracking", "priority"]


def test_a_key_that_others_can_read_is_a_failure_that_says_how_to_mend_it(ftvm: Run, config: Path) -> None:
    (config.parent / "a.key").chmod(0o644)

    outcome = ftvm("check", config)

    assert outcome.status == 1
    assert "FAILURE key: " in outcome.out
    assert "chmod" in outcome.out


def test_the_file_is_to_be_mended_only_where_it_is_what_is_wrong(
    ftvm: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "ftvm.service.metrics", raising=False)
    monkeypatch.delattr("ftvm.service.metrics", raising=False)
    (config.parent / "a.key").chmod(0o644)
    config.write_text(config.read_text().replace('"8M"', '"lots"') + 'metrics = "127.0.0.1:0"\n')

    told = {finding["subject"]: finding for finding in json.loads(ftvm("check", config, "--json").out)}

    assert told["memory"]["remedy"] == f"correct it at {config}:5"
    assert "pip install 'ftvm[metrics]'" in told["metrics"]["text"]
    assert told["metrics"]["remedy"] == told["key"]["remedy"] == ""


def test_several_wrong_settings_are_all_found_and_the_rest_is_still_looked_at(ftvm: Run, config: Path) -> None:
    config.write_text(config.read_text().replace('"8M"', '"lots"').replace('"vm1"', '""') + 'engine = "warp"\n')

    outcome = ftvm("check", config)

    assert outcome.status == 1
    for subject in ("guest", "memory", "engine"):
        assert f"FAILURE {subject}: " in outcome.out
    assert "ok      listen: " in outcome.out
    assert "warning not checked: arbiter, service, memory\n" in outcome.out


def test_a_value_that_is_none_of_those_there_are_is_found_with_all_others(ftvm: Run, config: Path) -> None:
    config.write_text(config.read_text() + 'on-backup-loss = "weep"\nlog-format = "prose"\ninterval = 0\n')

    outcome = ftvm("check", config)

    assert outcome.status == 1
    for subject in ("on-backup-loss", "log-format", "interval"):
        assert f"FAILURE {subject}: " in outcome.out


def test_a_program_that_serves_over_a_network_needs_a_card_where_it_is_started(ftvm: Run, config: Path) -> None:
    config.write_text(config.read_text().replace('"console"', '"kv"'))

    as_primary, as_standby = ftvm("check", config), ftvm("check", config, "--role", "standby")

    assert as_primary.status == 1
    assert "warning not checked: nic\n" in as_primary.out
    assert "FAILURE nic: program kv needs a network card: give it a cable, udp:" in as_primary.out
    assert "ok      nic" not in as_primary.out
    assert "FAILURE nic" not in as_standby.out


def test_with_several_keys_each_peer_must_be_given_with_its_own(ftvm: Run, config: Path) -> None:
    write_keypair(config.parent / "c")
    folder = config.parent
    text = config.read_text().replace('b.pub"', f'b.pub", "{folder}/c.pub"')
    config.write_text(text)

    unsaid = ftvm("check", config)
    config.write_text(text.replace("127.0.0.1:9", f"127.0.0.1:9={folder}/c.pub"))
    said = ftvm("check", config)

    assert unsaid.status == 1
    assert "2 keys are allowed; say which of them answers there: --peer tcp://127.0.0.1:9=FILE.pub" in unsaid.out
    assert said.status == 0


def test_a_standby_without_a_peer_would_fail_and_a_primary_not(ftvm: Run, config: Path) -> None:
    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith("peer")))

    assert ftvm("check", config).status == 0
    assert ftvm("check", config, "--role", "standby").status == 1


def test_a_file_that_cannot_be_read_is_wrong_usage(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("check", tmp_path / "none.toml")

    assert outcome.status == 2
    assert "none.toml cannot be read" in outcome.err


def test_a_key_that_is_none_is_found_with_the_rest(ftvm: Run, config: Path) -> None:
    config.write_text(config.read_text().replace('listen = "tcp', 'lisen = "tcp') + "memory2 = 3\n")

    outcome = ftvm("check", config, "--json")

    told = {finding["subject"]: finding for finding in json.loads(outcome.out)}
    assert outcome.status == 1
    assert "did you mean 'listen'?" in told["lisen"]["text"]
    assert "did you mean 'memory'?" in told["memory2"]["text"]
    assert told["listen"]["text"].startswith("missing: write where peers connect")
    assert told["memory"]["level"] == "ok"


def as_qemu(config: Path, more: str) -> None:
    config.write_text(config.read_text().replace('program = "console"\n', 'kind = "qemu"\n') + more)


def test_a_qemu_that_is_not_installed_is_a_failure(ftvm: Run, config: Path) -> None:
    as_qemu(config, 'qemu = "qemu-that-is-none"\n')

    outcome = ftvm("check", config)

    assert outcome.status == 1
    assert "FAILURE qemu: qemu-that-is-none: no such program" in outcome.out


def test_the_flag_for_a_qemu_of_old_does_nothing_where_the_file_says_its_kind(ftvm: Run, config: Path) -> None:
    as_qemu(config, "")

    plain, flagged = ftvm("check", config), ftvm("check", config, "--qemu")

    def but_memory(out: str) -> list[str]:
        return [line for line in out.splitlines() if "MiB are available" not in line]

    assert (flagged.status, but_memory(flagged.out)) == (plain.status, but_memory(plain.out))
    assert "`ftvm check --qemu` is now `ftvm check`" in flagged.err


def test_the_flag_for_a_qemu_of_old_says_the_kind_of_a_file_of_old(ftvm: Run, config: Path) -> None:
    config.write_text(config.read_text().replace('program = "console"\n', 'tracker = "auto"\n'))

    as_built_in, flagged = ftvm("check", config), ftvm("check", config, "--qemu")

    assert "FAILURE tracker: only a guest of kind qemu or kvm or vmm has it" in as_built_in.out
    assert "tracker" not in flagged.out


def test_a_machine_that_qemu_cannot_be_is_found_before_it_is_started(ftvm: Run, config: Path) -> None:
    (config.parent / "disk.img").write_bytes(bytes(1000))
    as_qemu(config, 'disk = "disk.img"\narguments = ["-device", "vfio-pci,host=01:00.0"]\n')
    config.write_text(config.read_text().replace('"8M"', '"1000K"'))

    outcome = ftvm("check", config)

    assert outcome.status == 1
    assert "FAILURE memory: memory of 1024000 bytes: QEMU takes whole MiB" in outcome.out
    assert (
        f"FAILURE disk: the disk {config.parent}/disk.img has 1000 bytes: its size must be a multiple of 4096"
        in outcome.out
    )
    assert "FAILURE arguments: " in outcome.out
    assert f"correct it at {config}:10" in outcome.out


def test_each_of_several_cards_is_opened_and_the_one_that_is_no_tap_is_named(ftvm: Run, config: Path) -> None:
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("needs root, and /dev/net/tun")
    taps = [f"ftk{os.getpid()}x{number}" for number in range(2)]
    as_qemu(config, f'nic = ["pump:{taps[0]}", "pump:{taps[1]}"]\n')

    sound = ftvm("check", config)
    config.write_text(config.read_text().replace(taps[1], "lo"))
    wrong = ftvm("check", config)

    assert "ok      nic: the guest's network can be opened" in sound.out
    assert "FAILURE nic: the tap device lo cannot be used" in wrong.out
    assert not Path(f"/sys/class/net/{taps[0]}").exists(), "closed again"


@pytest.mark.parametrize(("runs", "processors"), [('program = "work"', 0), ("processors = 2", 2)])
def test_kvm_is_looked_at_for_a_guest_on_the_processor_and_for_as_many_as_it_has(
    ftvm: Run, config: Path, monkeypatch: pytest.MonkeyPatch, runs: str, processors: int
) -> None:
    asked: list[int] = []

    def told(*, processors: int) -> str:
        asked.append(processors)
        return "AuthenticAMD-26-2-1/0123456789abcdef"

    config.write_text(config.read_text().replace('program = "console"', f'kind = "kvm"\n{runs}'))
    monkeypatch.setattr("ftvm.cli.kinds.kvm.check_device", told)

    outcome = ftvm("check", config)

    assert asked == [processors]
    assert "ok      kvm: /dev/kvm works: AuthenticAMD-26-2-1/0123456789abcdef" in outcome.out


def test_a_host_without_kvm_fails_the_check_and_is_told_what_to_do(
    ftvm: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(config.read_text().replace('program = "console"', 'kind = "kvm"\nprogram = "work"'))

    def no_right(**_: int) -> str:
        raise ConfigError("no right to use /dev/kvm (Permission denied): add this user to its group, most often `kvm`")

    monkeypatch.setattr("ftvm.cli.kinds.kvm.check_device", no_right)

    outcome = ftvm("check", config)

    assert outcome.status == 1
    assert "FAILURE kvm: no right to use /dev/kvm (Permission denied): add this user to its group" in outcome.out


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU: apt install qemu-system-x86")
def test_kvm_is_looked_at_for_a_qemu_that_is_to_run_on_it(
    ftvm: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(config.read_text().replace('program = "console"', 'kind = "qemu"\naccel = "kvm"'))
    monkeypatch.setattr("ftvm.cli.kinds.qemu.check_device", lambda: "AuthenticAMD-26-2-1/0123456789abcdef")

    outcome = ftvm("check", config)

    assert "ok      qemu: /dev/kvm works: AuthenticAMD-26-2-1/0123456789abcdef" in outcome.out


@pytest.mark.parametrize("kind", ["riscv", "qemu"])
def test_what_a_disk_has_counts_as_memory_once_and_its_holes_do_not(ftvm: Run, config: Path, kind: str) -> None:
    with (config.parent / "disk.img").open("wb") as disk:
        disk.write(b"x" * (4 << 20))
        disk.truncate(1 << 34)
    config.write_text(config.read_text() + 'disk = "disk.img"\n')
    if kind == "qemu":
        as_qemu(config, "")

    outcome = ftvm("check", config)

    assert f"memory: needs up to {2 * 8 + 4 + 512} MiB (the guest's memory, the shadow" in outcome.out


def test_a_device_that_could_not_be_opened_is_a_failure_in_either_role(
    ftvm: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_block_device", lambda _: True)
    monkeypatch.setattr(checks, "require_free", refuse)
    (config.parent / "disk.img").write_bytes(bytes(4096))
    config.write_text(config.read_text() + 'disk = "disk.img"\n')

    as_primary, as_standby = ftvm("check", config), ftvm("check", config, "--role", "standby")

    for outcome in (as_primary, as_standby):
        assert outcome.status == 1
        assert f"FAILURE disk: the disk {config.parent}/disk.img is in use" in outcome.out


def refuse(path: Path) -> None:
    raise ConfigError(f"the disk {path} is in use")
