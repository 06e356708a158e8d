"""The guests of examples/ keep the contract, and live on when the processes that they run in are killed."""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import strategies as st

import ftvm
from ftvm.testing import ContractBroken, check_guest
from ftvm.testing.transcript import Said

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_unicorn = pytest.mark.skipif(find_spec("unicorn") is None, reason="needs unicorn (pip install ftvm[unicorn])")
GUESTS = ["counter_guest", "arena_guest", pytest.param("unicorn_guest", marks=needs_unicorn)]


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def is_counting(said: Sequence[Said]) -> bool:
    """Tell whether the ledger tells each tenth step."""
    return [int(one.payload.split()[1].strip(b",")) for one in said] == [10 * (n + 1) for n in range(len(said))]


def test_arena_guest_keeps_the_contract() -> None:
    from arena_guest import ArenaGuest

    inputs = st.tuples(st.just("ledger"), st.binary(max_size=9))
    check_guest(ArenaGuest, inputs=inputs, is_right=is_counting, is_deterministic=True, moment_seconds=0.015)


def test_counter_guest_keeps_the_contract_in_25_lines() -> None:
    from counter_guest import Counter

    lines = [line for line in (EXAMPLES / "counter_guest.py").read_text().splitlines() if line.strip()]

    assert len(lines) <= 25
    check_guest(Counter, is_deterministic=True, moment_seconds=0.015, examples=10)


def test_a_register_that_is_not_saved_is_found_though_the_guest_seldom_speaks() -> None:
    from arena_guest import ArenaGuest

    class ForgetsItsStep(ArenaGuest):  # type: ignore[misc]
        def save_devices(self) -> bytes:
            return b"ARNA"

        def load_devices(self, devices: bytes) -> None:
            if devices != b"ARNA":
                raise ftvm.GuestError(f"{len(devices)} bytes are no devices of an arena guest")

    with pytest.raises(ContractBroken, match="A copy goes the same way: output 0 of the guest is "):
        check_guest(ForgetsItsStep, is_deterministic=True)


@needs_unicorn
def test_unicorn_guest_keeps_the_contract() -> None:
    from unicorn_guest import UnicornGuest

    check_guest(UnicornGuest, is_deterministic=True, moment_seconds=0.015)


@pytest.mark.parametrize("name", GUESTS)
def test_guest_survives_the_death_of_its_hosts(name: str) -> None:
    example = EXAMPLES / f"{name}.py"

    ended = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=120, check=False)

    assert ended.stderr == ""
    assert ended.returncode == 0
    assert ended.stdout.count("is protected; it is killed now") == 2
    assert ended.stdout.splitlines()[-1].endswith("outputs, none lost, over two dead hosts")


def test_own_guest_takes_less_than_eighty_lines() -> None:
    text = (EXAMPLES / "arena_guest.py").read_text()

    assert len(text[text.index("class ArenaGuest") : text.index("if __name__")].splitlines()) < 80


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_use_public_names_alone(example: Path) -> None:
    text = example.read_text()

    assert not re.search(r"^\s*(from ftvm\b|import ftvm\.)", text, re.MULTILINE)
    assert set(re.findall(r"\bftvm\.(\w+)", text)) <= {*ftvm.__all__, "testing"}
