"""ftvm keeps a virtual machine running when its host dies.

A **primary** runs the guest; all that a takeover needs is shipped to a **backup** while the guest runs; no output
leaves the primary before the state that produced it is safe on the backup; and when the primary falls silent, an
**arbiter** lets exactly one side go on.

The tour, in the order in which one needs it:

1. A guest: your hypervisor behind the `Guest` interface (ftvm/interfaces.py), or a machine of ours: `RiscvGuest`, built
   in, or `KvmGuest`, on the processor. `track_memory` finds the pages written where a hypervisor does not;
   `ftvm.testing.check_guest` tells whether all is well.
2. A world: where released outputs go and inputs come from, `World`; `DatagramWorld` for a network, `CallbackWorld` for
   a function.
3. `protect(guest, ...)` on one host, `Standby(guest, ...)` on the other. Both need the same arbiter, and keys off
   loopback.
4. `protection.status()`, `protection.events()`: what is going on. All errors are in ftvm/errors.py, as a tree.
5. `ControlSocket` lets other processes ask, `connect().guests()` is what they ask with.

Reading order of the code: checkpoint.py and interfaces.py (the words), protocol/replica.py (the duties of who drives
it), protocol/active.py and protocol/standby.py (what happens), runtime/driver.py (who does it), capture/pages.py and
encode/apply.py (the bytes), _native/*.h (the C core's manuals), sim/world.py (how it is tested).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftvm.capture.trackers import Tracker, track_memory
    from ftvm.checkpoint import Bitmap, Geometry, GuestPosition, LogKind, LogRecord, Output, RegionShape
    from ftvm.config import Limits, Timing
    from ftvm.engines.hybrid import Hybrid
    from ftvm.engines.kemari import Kemari
    from ftvm.engines.lockstep import Lockstep
    from ftvm.engines.remus import Remus
    from ftvm.errors import (
        ArbiterError,
        BrokenError,
        ClosedError,
        ConfigError,
        Fenced,
        FtvmError,
        GuestEnded,
        GuestError,
        InternalError,
        LimitExceeded,
        LocalProtocolError,
        RemoteProtocolError,
        TrackingLost,
        TransportError,
    )
    from ftvm.guests.datagram import DatagramWorld
    from ftvm.guests.kvm.guest import KvmGuest
    from ftvm.guests.riscv.guest import RiscvGuest
    from ftvm.guests.riscv.programs import read_program
    from ftvm.interfaces import (
        Capability,
        Clock,
        Engine,
        ExactStopGuest,
        Guest,
        OutputSink,
        Record,
        RecordStore,
        Region,
        ReplayableGuest,
        World,
    )
    from ftvm.runtime.clock import MonotonicClock
    from ftvm.runtime.protection import Protection, Standby, protect
    from ftvm.runtime.status import Status
    from ftvm.runtime.world import CallbackWorld
    from ftvm.service.connection import Connection, GuestHandle, connect
    from ftvm.service.control import ControlSocket
    from ftvm.transport.keys import Keys, generate_keys, load_keys

__all__ = [
    "ArbiterError",
    "Bitmap",
    "BrokenError",
    "CallbackWorld",
    "Capability",
    "Clock",
    "ClosedError",
    "ConfigError",
    "Connection",
    "ControlSocket",
    "DatagramWorld",
    "Engine",
    "ExactStopGuest",
    "Fenced",
    "FtvmError",
    "Geometry",
    "Guest",
    "GuestEnded",
    "GuestError",
    "GuestHandle",
    "GuestPosition",
    "Hybrid",
    "InternalError",
    "Kemari",
    "Keys",
    "KvmGuest",
    "LimitExceeded",
    "Limits",
    "LocalProtocolError",
    "Lockstep",
    "LogKind",
    "LogRecord",
    "MonotonicClock",
    "Output",
    "OutputSink",
    "Protection",
    "Record",
    "RecordStore",
    "Region",
    "RegionShape",
    "RemoteProtocolError",
    "Remus",
    "ReplayableGuest",
    "RiscvGuest",
    "Standby",
    "Status",
    "Timing",
    "Tracker",
    "TrackingLost",
    "TransportError",
    "World",
    "connect",
    "generate_keys",
    "load_keys",
    "protect",
    "read_program",
    "track_memory",
]

_HOMES = {
    "ftvm.capture.trackers": ("Tracker", "track_memory"),
    "ftvm.checkpoint": ("Bitmap", "Geometry", "GuestPosition", "LogKind", "LogRecord", "Output", "RegionShape"),
    "ftvm.config": ("Limits", "Timing"),
    "ftvm.engines.hybrid": ("Hybrid",),
    "ftvm.engines.kemari": ("Kemari",),
    "ftvm.engines.lockstep": ("Lockstep",),
    "ftvm.engines.remus": ("Remus",),
    "ftvm.guests.datagram": ("DatagramWorld",),
    "ftvm.guests.kvm.guest": ("KvmGuest",),
    "ftvm.guests.riscv.guest": ("RiscvGuest",),
    "ftvm.guests.riscv.programs": ("read_program",),
    "ftvm.interfaces": (
        "Capability",
        "Clock",
        "Engine",
        "ExactStopGuest",
        "Guest",
        "OutputSink",
        "Record",
        "RecordStore",
        "Region",
        "ReplayableGuest",
        "World",
    ),
    "ftvm.runtime.clock": ("MonotonicClock",),
    "ftvm.runtime.protection": ("Protection", "Standby", "protect"),
    "ftvm.runtime.status": ("Status",),
    "ftvm.runtime.world": ("CallbackWorld",),
    "ftvm.service.connection": ("Connection", "GuestHandle", "connect"),
    "ftvm.service.control": ("ControlSocket",),
    "ftvm.transport.keys": ("Keys", "generate_keys", "load_keys"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import ftvm.errors` need not load ZeroMQ and the C core."""
    if name not in __all__:
        raise AttributeError(f"module 'ftvm' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF.get(name, "ftvm.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
