"""`ftvm vmm check` names the promise that a monitor breaks: the tiny monitor with one line of it changed."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.lab.monitors import MonitorCheck, check_monitor
from ftvm.testing import ContractBroken

from ..guests.vmm.monitors import SOURCES, build, shared_folder

LATER = "return 1; /* the guest stops for good: it may run elsewhere by now */"
STOPS, ANSWERS = (
    "        self->is_running = false;\n",
    "        error = ftvm_vmm_answer(&self->link, request, NULL, NULL, 0);\n",
)
REFUSES = 'return "these are no registers of a key-value machine";'


@pytest.fixture
def wanted(tmp_path: Path) -> MonitorCheck:
    return MonitorCheck(
        socket=str(tmp_path / "door"),
        command=(),
        inputs=[("net0", b"x" * 35)],
        is_deterministic=True,
        examples=1,
        moment_seconds=0.008,
        memory_bytes_max=8 << 20,
        connect_seconds=30,
    )


def test_the_tiny_monitor_keeps_all_promises(wanted: MonitorCheck, tmp_path_factory: pytest.TempPathFactory) -> None:
    monitor = build(shared_folder(tmp_path_factory))

    check_monitor(replace(wanted, command=[str(monitor), wanted.socket]))

    assert not Path(wanted.socket).exists()


@pytest.mark.parametrize(
    ("line", "instead", "promise"),
    [
        (STOPS + ANSWERS, ANSWERS, "stands still"),
        (LATER, "for (;;) run_turn(self);", "The end of the connection stops the guest for good"),
        (
            "self->seed = load_word(devices + 12);",
            "self->seed += 0;",
            "A copy is bit-identical|A blank monitor becomes",
        ),
        ("if (self.link.boots)", "", "A monitor that is not to boot leaves its memory zero"),
        (REFUSES, "return NULL;", "Devices that do not load are refused"),
        ("F_SEAL_SHRINK | F_SEAL_GROW", "F_SEAL_GROW", "A monitor hands over what can be protected: .*sealed"),
    ],
)
def test_a_broken_promise_is_named(wanted: MonitorCheck, tmp_path: Path, line: str, instead: str, promise: str) -> None:
    changed = 0
    for source in SOURCES.iterdir():
        if source.is_file():
            text = source.read_text()
            changed += text.count(line)
            (tmp_path / source.name).write_text(text.replace(line, instead))
    assert changed == 1
    subprocess.run(
        ["make", "-s", "-C", tmp_path, f"OUT={tmp_path}", "CC=gcc", "CFLAGS=-O1 -Wno-error"], check=True, timeout=300
    )

    with pytest.raises(ContractBroken, match=promise):
        check_monitor(replace(wanted, command=[str(tmp_path / "monitor"), wanted.socket], examples=4))


def test_a_monitor_that_never_comes_is_named(wanted: MonitorCheck) -> None:
    with pytest.raises(ContractBroken, match="no monitor connected to"):
        check_monitor(replace(wanted, command=["true"], connect_seconds=0.2))


def test_a_monitor_that_ended_before_it_came_is_told_with_its_exit_status(wanted: MonitorCheck) -> None:
    """Regression: it was waited for all the same."""
    with pytest.raises(
        ContractBroken, match=r"no monitor connected to .*; the command had ended with status 3"
    ) as found:
        check_monitor(replace(wanted, command=["sh", "-c", "exit 3"], connect_seconds=2))

    assert "within" not in found.value.detail  # it did not wait to the end


def test_a_command_that_is_not_there_is_wrong_usage(wanted: MonitorCheck) -> None:
    with pytest.raises(ConfigError, match="nowhere/monitor: no such program"):
        check_monitor(replace(wanted, command=["nowhere/monitor"]))
