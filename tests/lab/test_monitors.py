"""`ftvm vmm check` names the promise that a monitor breaks: the tiny monitor with one line of it changed."""

import re
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


@pytest.fixture(scope="module")
def brittle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the tiny monitor so that it breaks at a request: `env AT=number HOW=die|hang monitor SOCKET`."""
    folder = tmp_path_factory.mktemp("brittle")
    start = "    uint8_t devices[DEVICES_BYTES];\n    int error = 0;\n"
    breaks = """    if ((int)request->kind == atoi(getenv("AT"))) {
        fprintf(stderr, "first words\\nlast words\\n");
        if (strcmp(getenv("HOW"), "die") == 0) exit(3);
        for (;;) sleep(1);
    }
"""
    for source in SOURCES.iterdir():
        if source.is_file():
            text = source.read_text().replace(start, start + breaks)
            head = "#define _DEFAULT_SOURCE\n#include <stdlib.h>\n#include <unistd.h>\n" if breaks in text else ""
            (folder / source.name).write_text(head + text)
    assert breaks in (folder / "monitor.c").read_text()
    subprocess.run(["make", "-s", "-C", folder, f"OUT={folder}", "CC=gcc", "CFLAGS=-O1"], check=True, timeout=300)
    return folder / "monitor"


REQUESTS = ("pause", "resume", "save", "load", "dirty", "input", "announce", "end")
"""In the order of `ftvm_vmm_request`; behind one that has no answer the next is on its way before its end is seen."""


@pytest.mark.parametrize("name", REQUESTS[:-1])
def test_a_monitor_that_dies_at_a_request_is_named_with_its_end_and_last_words(
    name: str, wanted: MonitorCheck, brittle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Regression: a bare error, without what was asked or how the process ended."""
    command = ["env", f"AT={REQUESTS.index(name) + 1}", "HOW=die", str(brittle), wanted.socket]

    with pytest.raises(ContractBroken, match="A monitor stays connected") as found:
        check_monitor(replace(wanted, command=command, examples=4))

    seen = found.value.detail
    behind = f"{name}|pause|resume" if name in ("resume", "input", "announce") else name
    assert re.search(rf"monitor \(process \d+\) .* behind `({behind})`: ", seen)
    assert seen.endswith("; the command had ended with status 3; it said last: last words")
    assert "first words\nlast words\n" in capfd.readouterr().err


@pytest.mark.parametrize("name", REQUESTS[:-1])
def test_a_monitor_that_hangs_at_a_request_is_named_once_and_not_waited_for_again(
    name: str, wanted: MonitorCheck, brittle: Path
) -> None:
    command = ["env", f"AT={REQUESTS.index(name) + 1}", "HOW=hang", str(brittle), wanted.socket]

    with pytest.raises(ContractBroken, match="A monitor stays connected") as found:
        check_monitor(replace(wanted, command=command, examples=4, connect_seconds=2))

    asked = "pause" if name in ("resume", "input", "announce") else name
    assert re.search(rf"monitor \(process \d+\) did not answer `{asked}` within 2 s", found.value.detail)
    assert found.value.detail.endswith("; it said last: last words")


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
