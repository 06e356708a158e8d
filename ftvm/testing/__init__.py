"""Public conformance kits: does your guest, transport, arbiter or engine keep its contract?

`Pair` plays two hosts with your guest, step by step.
`PowerCuts` is for code that stores: does it recover from whatever a power cut may leave of its files?
`check_guest`, `check_engine` and `FailoverMachine` need hypothesis (the extra `test`); the others do not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ftvm.testing.arbiter import check_arbiter
from ftvm.testing.contract import ContractBroken
from ftvm.testing.pair import Pair
from ftvm.testing.powercut import PowerCuts
from ftvm.testing.transport import check_transport

if TYPE_CHECKING:
    from ftvm.testing.engine import check_engine
    from ftvm.testing.failover import FailoverMachine
    from ftvm.testing.guest import check_guest

__all__ = [
    "ContractBroken",
    "FailoverMachine",
    "Pair",
    "PowerCuts",
    "check_arbiter",
    "check_engine",
    "check_guest",
    "check_transport",
]

_HOMES: Final = {
    "FailoverMachine": "ftvm.testing.failover",
    "check_engine": "ftvm.testing.engine",
    "check_guest": "ftvm.testing.guest",
}


def __getattr__(name: str) -> Any:
    """Import a kit that needs hypothesis when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ftvm.testing' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as wrong:
        if wrong.name != "hypothesis":
            raise
        raise ImportError(f"ftvm.testing.{name} needs hypothesis: pip install 'ftvm[test]'") from None


def __dir__() -> list[str]:
    return __all__
