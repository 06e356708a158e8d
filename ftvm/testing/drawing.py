"""How the kits have hypothesis try their promises: the same examples each time, no clock, nothing kept on disk."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

__all__ = ["try_with"]


def try_with(promise: Callable[..., None], examples: int, seed_number: int, **drawn: st.SearchStrategy[Any]) -> None:
    """Call `promise` with `examples` drawings; what it raises for the shortest one is raised here."""
    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
    )
    limits(seed(seed_number)(given(**drawn)(promise)))()
