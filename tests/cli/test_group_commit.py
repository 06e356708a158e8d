"""`ftvm ctl engine kemari --group-commit`: outputs share a checkpoint, from an order on, while the guest runs."""

import json

import pytest

from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.runtime.protection import Protection

from .conftest import Run


def test_ctl_has_outputs_share_a_checkpoint_under_the_engine_that_can(ftvm: Run, host: Protection) -> None:
    """Regression: the setting was there at the start alone, and an order took it off for good."""
    told = [
        json.loads(ftvm("ctl", "engine", "kemari", *words, "--json").out)["engine_settings"]
        for words in (["--group-commit", "0.2"], ["--group-commit", "0"], ["--group-commit", "100"])
    ]
    kept = json.loads(ftvm("ctl", "interval", "10", "--json").out)["engine_settings"]

    assert told == ["interval 25 ms, group commit 0.2 ms", "interval 25 ms", "interval 25 ms, group commit 100 ms"]
    assert kept == "interval 10 ms, group commit 100 ms"
    assert host._node.driver.engines == (Kemari(0.01, 0.1), Kemari(0.01, 0.1))


@pytest.mark.parametrize("milliseconds", ["-1", "nan", "100.5"])
def test_ctl_tells_of_a_wrong_group_in_the_unit_that_it_takes(ftvm: Run, host: Protection, milliseconds: str) -> None:
    outcome = ftvm("ctl", "engine", "kemari", "--group-commit", milliseconds)

    assert outcome.status == 2
    assert f"--group-commit {milliseconds}: write milliseconds, from 0 to 100" in outcome.err
    assert host.status().engine == "remus"


@pytest.mark.parametrize("engine", ["remus", "hybrid", "lockstep"])
@pytest.mark.parametrize("milliseconds", ["0", "0.2"])
def test_ctl_refuses_a_group_with_an_engine_that_takes_none(
    ftvm: Run, host: Protection, engine: str, milliseconds: str
) -> None:
    outcome = ftvm("ctl", "engine", engine, "--group-commit", milliseconds)

    assert outcome.status == 2
    assert f"engine {engine} has no group commit; only under kemari" in outcome.err
    assert host._node.driver.engines == (Remus(0.025), Remus(0.025))
