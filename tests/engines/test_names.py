"""Engines by name, and one made from another: what is not given stays as it is."""

from typing import Any, cast

import pytest

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.names import engine_changed, engine_named
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import Engine


@pytest.mark.parametrize(
    ("present", "change", "wanted"),
    [
        (Remus(0.02), {"interval": 0.01}, Remus(0.01)),
        (Remus(0.02, 0.005), {"interval": 0.01}, Remus(0.01, 0.005)),
        (Remus(0.02), {"latency": 0.005}, Remus(0.02, 0.005)),
        (Remus(0.02, 0.005), {"name": "kemari"}, Kemari(0.02)),
        (Hybrid(0.02), {"name": "remus", "interval": 0.01, "latency": 0.005}, Remus(0.01, 0.005)),
        (Kemari(0.02, 0.001), {"interval": 0.01}, Kemari(0.01, 0.001)),
        (Kemari(0.02), {"group": 0.002}, Kemari(0.02, 0.002)),
        (Remus(0.02), {"name": "kemari", "group": 0.002}, Kemari(0.02, 0.002)),
        (Lockstep(0.02), {"name": "lockstep"}, Lockstep(0.02)),
    ],
)
def test_without_a_name_what_is_not_given_stays_and_another_engine_keeps_the_interval(
    present: Engine, change: dict[str, Any], wanted: Engine
) -> None:
    assert engine_changed(present, **change) == wanted


@pytest.mark.parametrize(
    ("present", "change", "wanted"),
    [
        (Kemari(0.02, 0.001), {}, Kemari(0.02)),
        (Kemari(0.02, 0.001), {"interval": 0.01}, Kemari(0.01)),
        (Kemari(0.02, 0.001), {"group": 0.002}, Kemari(0.02, 0.002)),
        (Remus(0.02, 0.005), {}, Remus(0.02)),
        (Remus(0.02, 0.005), {"interval": 0.01}, Remus(0.01)),
        (Remus(0.02, 0.005), {"latency": 0.008}, Remus(0.02, 0.008)),
    ],
)
def test_the_present_engine_by_its_name_keeps_the_interval_alone(
    present: Engine, change: dict[str, Any], wanted: Engine
) -> None:
    """Regression: `ctl engine kemari` did not change to the strict kind, and no latency target could be taken off."""
    assert engine_changed(present, name=present.name, **change) == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "warp"}, "unknown engine 'warp'"),
        ({"latency": 0.005}, "kemari takes no latency target"),
        ({"interval": 99.0}, "is not from"),
        ({"group": 99.0}, "a group commit of 99000 ms is not from 0 to 100 ms"),
        ({"name": "hybrid", "group": 0.001}, "hybrid has no group commit"),
    ],
)
def test_a_change_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        engine_changed(Kemari(0.02), **change)


def test_an_engine_of_somebodys_own_is_left_to_its_owner() -> None:
    class Strange:
        name = "strange"

    with pytest.raises(ConfigError, match="engine strange is not one of"):
        engine_changed(cast("Engine", Strange()), interval=0.01)


def test_an_engine_whose_cuts_no_output_makes_takes_no_group() -> None:
    with pytest.raises(ConfigError, match="engine remus has no group commit"):
        engine_named("remus", 0.02, group=0.001)

    assert engine_named("kemari", 0.02, group=0.001) == Kemari(0.02, 0.001)
