"""What the rig's failover script calls wrong: all that a takeover could lose of a guest is found in its console."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftvm.lab.lines import say

SCRIPT = Path(__file__).with_name("rigscripts") / "failover.py"
BOOT = "boot 01234567-89ab-cdef-0123-456789abcdef kvm-clock 1\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("failover", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def beats(first: int, last: int, *, late: float = 0.0, bad: int = 0) -> str:
    """Return a console with so many beats, one a second."""
    return "".join(
        f"beat {number} up {number + late:.2f} real {1000 + number} end\r\n"
        f"[   {number + late:.6f}] stamp {number} end\r\nwork: {number} bad {bad} spun 0\r\n"
        for number in range(first, last + 1)
    )


def wrong_in(script: ModuleType, *consoles: str) -> list[str]:
    seen: dict[str, Any] = script.judge(list(consoles))
    found: list[str] = seen["wrong"]
    return found


def test_a_guest_that_lives_on_is_right_even_if_outputs_leave_twice(script: ModuleType) -> None:
    assert wrong_in(script, BOOT + beats(1, 5), beats(4, 9)) == []


def test_a_line_that_the_kernel_spoke_into_is_read_whole(script: ModuleType) -> None:
    mixed = "beat 6 up 6.00[    6.000000] stamp 6 end\r\n real 1006 end\r\nwork: 6 bad 0 spun 0\r\n"

    assert wrong_in(script, BOOT + beats(1, 5) + mixed, beats(7, 9)) == []


@pytest.mark.parametrize(
    ("consoles", "words"),
    [
        ((BOOT + beats(1, 5), beats(6, 9, late=-4)), "the clock printk goes back or jumps"),
        ((BOOT + beats(1, 5), beats(6, 9, late=-4)), "the clock uptime goes back or jumps"),
        ((BOOT + beats(1, 5), beats(6, 9, late=100)), "the clock uptime goes back or jumps"),
        ((BOOT + beats(1, 5), beats(7, 9)), "beats are missing: [6]"),
        ((BOOT + beats(1, 5), beats(5, 9, late=1)), "beat 5 was told twice"),
        ((BOOT + beats(1, 5), BOOT.replace("0123-", "9999-") + beats(1, 5)), "booted 2 times"),
        ((BOOT + beats(1, 5), beats(6, 9, bad=1)), "1 words of memory are wrong"),
        ((BOOT + "beat 1 up 1.00 real 1001 end\n",), "no look at words of memory"),
    ],
)
def test_what_a_takeover_lost_is_found(script: ModuleType, consoles: tuple[str, ...], words: str) -> None:
    assert any(words in found for found in wrong_in(script, *consoles))


def booting(*stamps: float) -> str:
    """Return what a kernel says while it boots, one line a stamp."""
    return "".join(f"[   {stamp:.6f}] line of {stamp}\r\n" for stamp in stamps)


def test_lines_of_the_kernel_that_leave_again_after_a_takeover_are_right(script: ModuleType) -> None:
    consoles = [booting(0.1, 0.2, 0.3) + "[    0.4", "00000] half a line\r\n" + booting(0.3, 0.35, 0.5)]

    assert script.judge_lines(consoles) == []


def test_a_kernel_that_says_nothing_for_long_while_it_boots_is_right(script: ModuleType) -> None:
    assert script.judge_lines([booting(48.6, 82.8), booting(82.8, 83.0, 120.0)]) == []


def test_a_kernel_that_says_all_again_when_its_console_comes_is_right(script: ModuleType) -> None:
    assert script.judge_lines([booting(0.0, 0.1), booting(0.1, 0.2, 2.8, 0.0, 0.1, 0.2, 2.8, 2.9)]) == []


@pytest.mark.parametrize("late", [-14.0, 31.0])
def test_a_kernel_whose_stamps_go_back_or_jump_while_it_boots_is_found(script: ModuleType, late: float) -> None:
    consoles = [booting(*range(20), 20.0, 20.1, 20.2), booting(20.2, 20.3 + late, 20.4 + late)]

    found = script.judge_lines(consoles)

    assert len(found) == 1
    assert "on host 1 the kernel's stamps go from 20.2" in found[0]


def test_answers_are_counted_as_the_client_tells_them(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for acknowledged in (0, 9, 10):
        say({"status": {"at": 5, "requests_acknowledged": acknowledged, "repeats": 3}})
    said = capsys.readouterr().out

    assert script.answers_in("") == 0
    assert script.answers_in(said) == script.answers_in(said + '{"status": {"at": 6') == 10


GOOD: dict[str, Any] = {"requests_acknowledged": 9, "unanswered": 0, "findings": []}


def test_a_disk_with_all_its_records_and_a_client_with_all_its_answers_are_right(script: ModuleType) -> None:
    assert script.judge_disk("disk 20 records same\r\ndisk 40 records same\r\n") == []
    assert script.judge_disk("disk 20 records s[    6.000000] stamp 6 end\r\name\r\n") == []
    assert script.judge_client(GOOD) == []


@pytest.mark.parametrize("text", ["", "disk 20 records same\r\ndisk 40 records differ\r\n"])
def test_a_disk_that_lost_a_record_or_was_not_looked_at_is_found(script: ModuleType, text: str) -> None:
    assert len(script.judge_disk(text)) == 1


@pytest.mark.parametrize("change", [{"requests_acknowledged": 0}, {"unanswered": 2}, {"findings": ["lost: key 3"]}])
def test_a_client_that_lost_an_answer_or_had_none_is_found(script: ModuleType, change: dict[str, Any]) -> None:
    assert len(script.judge_client(GOOD | change)) == 1
