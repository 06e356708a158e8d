"""ftvm keeps a virtual machine running when its host dies.

A **primary** runs the guest; all that a takeover needs is shipped to a **backup** while the guest runs; no output
leaves the primary before the state that produced it is safe on the backup; and when the primary falls silent, an
**arbiter** lets exactly one side go on.

The tour, in the order in which one needs it:

1. A guest: your hypervisor behind the `Guest` interface (ftvm/interfaces.py), or a machine of ours: `RiscvGuest`, built
   in, or `KvmGuest`, on the processor; or `VmmGuest`, which a monitor in another process hands over. `track_memory`
   finds the pages written where a hypervisor does not; `ftvm.testing.check_guest` tells whether all is well.
2. A world: where released outputs go and inputs come from, `World`; `DatagramWorld` for a network, `CallbackWorld` for
   a function.
3. `protect(guest, ...)` on one host, `Standby(guest, ...)` on the other. Both need the same arbiter, and keys off
   loopback.
4. `protection.status()`, `protection.events()`: what is going on. All errors are in ftvm/errors.py, as a tree.
5. `ControlSocket` lets other processes ask, `connect().guests()` is what they ask with.

Reading order of the code: checkpoint.py and interfaces.py (the words), protocol/replica.py (the duties of who drives
it), protocol/active/ and protocol/standby/ (what happens), runtime/driver.py (who does it), capture/pages.py and
encode/apply.py (the bytes), _native/*.h (the C core's manuals), sim/simulation.py (how it is tested).
"""

import re
from importlib import import_module
from typing import Any, Final

_HOMES: Final[dict[str, str]] = {}
"""Where each public name is defined. The one table of them is the stub beside this file, which type checkers read."""

with open(f"{__file__.removesuffix('c')}i", encoding="ascii") as _stub:
    for _home, _name in re.findall(r"from (\S+) import (\w+)", _stub.read()):
        _HOMES[_name] = _home

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import ftvm.errors` need not load ZeroMQ and the C core."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ftvm' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
