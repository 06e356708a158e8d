"""The options of a host: an engine as it was asked for, and refused before anything is opened if it cannot be."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli.primary import primary
from ftvm.engines.names import engines_for
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import Capability
from ftvm.protocol.pace import interval_ms_of


def test_help_tells_at_what_interval_a_takeover_goes_on_under_an_engine_that_the_host_was_not_given() -> None:
    others = engines_for(frozenset(Capability), Remus())
    defaults = ", ".join(f"{name} {interval_ms_of(engine):g}" for name, engine in others.items())

    told = " ".join(CliRunner().invoke(primary, ["--help"]).output.split())

    assert f"A host that takes over under another engine has that one's own: {defaults}." in told


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engine", "kemari", "--latency", "5"], "engine kemari takes no latency target"),
        (["--latency", "0"], "a latency target of 0.0 s is not from"),
        (["--engine", "warp"], "there is no engine 'warp'"),
        (["--interval", "0"], "an interval of 0.0 s is not from"),
        (["--nic", "udp:a:b"], "'udp:a:b' is not a cable: write udp:LOCALPORT:REMOTEPORT"),
        (["--mac", "52:54:00:00:00:01"], "needs --nic: without a cable the machine has no network card"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], reason: str, tmp_path: Path) -> None:
    where = ["--listen", "tcp://127.0.0.1:1", "--arbiter", f"file://{tmp_path}"]

    result = CliRunner().invoke(primary, [*where, *options])

    assert isinstance(result.exception, ConfigError)
    assert reason in str(result.exception)
    assert not list(tmp_path.iterdir())
