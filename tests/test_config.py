"""Settings are checked once, when built."""

from dataclasses import fields

import pytest

from ftvm.config import Limits, Timing
from ftvm.errors import ConfigError
from ftvm.units import Nanos

MS = 1_000_000


def test_the_defaults_are_valid_and_the_backup_suspects_first() -> None:
    timing = Timing()

    assert timing.backup_limit_ns < timing.primary_limit_ns
    Limits()


@pytest.mark.parametrize("name", ["primary_limit_ns", "backup_limit_ns"])
def test_a_silence_limit_below_four_heartbeats_is_refused_and_says_how_much_it_must_be(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is 199999999 ns: it must be at least four heartbeats \(200000000"):
        Timing(**{name: Nanos(200 * MS - 1)})


@pytest.mark.parametrize("heartbeat", [0, -1])
def test_a_heartbeat_of_nothing_is_refused(heartbeat: int) -> None:
    with pytest.raises(ConfigError, match="heartbeat"):
        Timing(heartbeat_ns=Nanos(heartbeat))


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("value", [(1 << 16) - 1, (4 << 20) + 1])
def test_a_batch_size_that_zeromq_would_carry_badly_is_refused(value: int) -> None:
    with pytest.raises(ConfigError, match="batch_bytes"):
        Limits(batch_bytes=value)
