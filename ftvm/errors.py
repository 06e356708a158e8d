"""Every error that ftvm raises. The type says whose fault it is, so that a caller knows what to do about it.

    FtvmError
    ├── ConfigError            you: an argument, a file or an option is wrong; nothing was started
    ├── LocalProtocolError     you: a call that the present state does not allow
    ├── RemoteProtocolError    the peer broke the protocol; its session ends, the committed state stays
    │   ├── BadFrame           bytes that are not what the protocol says
    │   ├── DigestMismatch     whole and well-formed, but not what the sender captured
    │   └── VersionMismatch    the peer speaks another version or protects another geometry
    ├── GuestError             the guest or its adapter failed
    │   ├── ImageError         a program or image that the machine cannot run
    │   ├── StateUnreadable    a part of the guest's state cannot be read here; the standby has it
    │   └── TrackingLost       dirty pages are no longer known; only a full copy helps
    ├── ClosedError            you closed it already
    ├── GuestEnded             nobody: the guest ended by itself, and nothing is left to protect
    ├── BrokenError            the outside broke it
    │   ├── ArbiterError       the arbiter cannot be reached, read or written
    │   │   └── NotApplied     nothing was done: the proposal has no effect, and will have none
    │   ├── TransportError     an endpoint cannot be bound, resolved or authenticated
    │   ├── HistoryError       a history cannot be read or written, or no longer has what was asked for
    │   └── SwitchoverFailed   a planned switchover failed; the guest goes on
    ├── LimitExceeded          a configured limit was passed
    ├── Fenced                 another replica is active: stop running the guest
    └── InternalError          a bug in ftvm

Messages are written for the person who must act on them; the fields carry the same facts for programs.
"""

__all__ = [
    "ArbiterError",
    "BadFrame",
    "BrokenError",
    "ClosedError",
    "ConfigError",
    "DigestMismatch",
    "Fenced",
    "FtvmError",
    "GuestEnded",
    "GuestError",
    "HistoryError",
    "ImageError",
    "InternalError",
    "LimitExceeded",
    "LocalProtocolError",
    "NotApplied",
    "RemoteProtocolError",
    "StateUnreadable",
    "SwitchoverFailed",
    "TrackingLost",
    "TransportError",
    "VersionMismatch",
]


class FtvmError(Exception):
    """The root: catch this to catch all that ftvm raises on purpose."""


class ConfigError(FtvmError):
    """An argument, option or file of yours is wrong; nothing was started."""


class LocalProtocolError(FtvmError):
    """You called something that the present state does not allow."""


class RemoteProtocolError(FtvmError):
    """The peer broke the protocol. Its session ends; the committed state is untouched."""


class BadFrame(RemoteProtocolError):
    """The peer sent bytes that are not what the protocol says."""


class DigestMismatch(RemoteProtocolError):
    """What arrived is well formed but is not what the sender captured."""


class VersionMismatch(RemoteProtocolError):
    """The peer speaks another version, or protects a guest of another shape."""

    def __init__(self, what: str, *, ours: object, theirs: object, remedy: str = "") -> None:
        hint = f"; {remedy}" if remedy else ""
        super().__init__(f"{what} differs: ours is {ours}, the peer's is {theirs}{hint}")
        self.what = what
        self.ours = ours
        self.theirs = theirs


class GuestError(FtvmError):
    """The guest or its adapter failed."""


class ImageError(GuestError):
    """A program or image that the machine cannot run."""


class StateUnreadable(GuestError):
    """A part of the guest's state, such as its disk, cannot be read here: no checkpoint can be made of it.

    A host with a standby leaves the guest to that, which has the whole state. Without one the guest goes on.
    """


class TrackingLost(GuestError):
    """Which pages were written is no longer known; only a full copy helps."""


class ClosedError(FtvmError):
    """You closed it already."""


class GuestEnded(FtvmError):
    """The guest ended by itself: nothing is wrong, and nothing is left to protect."""


class BrokenError(FtvmError):
    """The world outside broke what was in use."""


class ArbiterError(BrokenError):
    """The arbiter cannot be reached, read or written."""


class NotApplied(ArbiterError):
    """The arbiter was never asked to decide: this attempt at a proposal has no effect, now or ever."""


class TransportError(BrokenError):
    """An endpoint cannot be bound, resolved or authenticated."""


class HistoryError(BrokenError):
    """A history cannot be read or written, or no longer has what was asked for. The guest is not affected."""


class SwitchoverFailed(BrokenError):
    """A planned switchover failed, because of the standby or the arbiter. The guest goes on."""


class LimitExceeded(FtvmError):
    """A configured limit was passed."""

    def __init__(self, what: str, *, limit: int, wanted: int) -> None:
        super().__init__(f"{what}: {wanted} is more than the limit of {limit}")
        self.what = what
        self.limit = limit
        self.wanted = wanted


class Fenced(FtvmError):
    """Another replica is active: this one must not run the guest."""


class InternalError(FtvmError):
    """A bug in ftvm: please report it with the message and the traceback."""


def must(condition: object, what: str) -> None:
    """Raise InternalError, saying `what` must be so, unless it is: for what our own code has to see to.

    Where it matters most this stands at both ends: where something goes out, and where it is relied on.
    """
    if not condition:
        raise InternalError(f"this must be so, and is not: {what}")
