"""Whatever call fails, once or from then on, on either side: no invariant breaks, the guest lives, the error is named.

SQLite's way: fail the first call of a kind, then the second, and so on until a run meets no fault. FTVM_FULL=1 tries
every one, else they are tried ever more sparsely.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.engines.names import ENGINES

from .seams import SEAMS, Fault, install
from .trial import Trial


def numbers() -> Iterator[int]:
    """Which call to fail next."""
    if os.environ.get("FTVM_FULL"):
        yield from itertools.count(1)
    number = 1
    while True:
        yield number
        number += 1 + number // 2


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("host", ["a", "b", "c"])
@pytest.mark.parametrize("seam", SEAMS)
def test_guest_lives_and_no_invariant_breaks_whatever_call_fails(
    seam: str, host: str, lasts: bool, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nth in numbers():
        fault = Fault(seam, host, nth, lasts)
        directory = tmp_path / str(nth)
        directory.mkdir()

        with monkeypatch.context() as patch:
            install(patch, fault)
            trial = Trial(fault, directory, engine)
            trial.play()
            try:
                trial.check()
            except AssertionError as wrong:
                raise AssertionError(f"{fault} ({fault.calls[:3]}): {wrong}") from wrong
            finally:
                trial.close()

        if not fault.is_met:
            return
