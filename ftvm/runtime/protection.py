"""The public face: protect a guest, stand by for one.

Both start a host: a thread that steps the driver, a transport, an arbiter's worker. `protect` returns once the guest
runs here; `Standby.wait` returns once this host has taken over. Roles change, the object stays: after a switchover a
Protection is the standby of the other host, and `wait_active` tells when the guest is back. Leaving the `with` block
hands the guest to the standby, if it is in step, then says goodbye, so that the other host need not wait for silence.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self, TypedDict, Unpack

from ftvm.arbiters.urls import open_record_store
from ftvm.config import Limits, Timing
from ftvm.engines.names import engines_for, require
from ftvm.engines.remus import Remus
from ftvm.errors import BrokenError, ConfigError, GuestEnded
from ftvm.events import Event
from ftvm.history.history import History
from ftvm.interfaces import Clock, Engine, Guest, RecordStore, World
from ftvm.protocol.core import Settings
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.closing import close_behind
from ftvm.runtime.identity import Identity
from ftvm.runtime.names import check_node, machine_name
from ftvm.runtime.node import Node
from ftvm.runtime.recording import recorder_for
from ftvm.runtime.services import HostService
from ftvm.runtime.sigterm import ending_on_sigterm
from ftvm.runtime.status import Status
from ftvm.runtime.urgency import why_not_urgent
from ftvm.transport.keys import Keys
from ftvm.transport.zeromq import ZeroMqTransport

__all__ = ["HostHandle", "HostOptions", "Protection", "Standby", "check_guest_id", "protect"]

_GUEST_ID_CHARS_MAX: Final = 64
"""The wire's limit: a longer one would reach no peer."""
_GUEST_ID: Final = re.compile(r"\w[\w.-]*")


class HostOptions(TypedDict, total=False):
    """More arguments of `protect` and `Standby`, all optional.

    keys        CURVE keys; needed for every endpoint that is not loopback or ipc
    engine      when to take checkpoints while the guest runs on this host; Remus(interval=0.025) if not given
    world       where released outputs go and inputs come from; nowhere if not given
    guest_id    names the guest at the arbiter and in every message; "guest" if not given
    node        names this host for people: in the record, in status and events; the machine's host name if not given
    halts_alone if the standby is lost: True pauses the guest, and nothing leaves, until another standby has joined
                (durability); False, the default, lets it run on alone (availability). A guest that never had a standby,
                or that was just taken over, runs alone either way
    ends_diverged if this host is a backup that executes the log, and its guest diverges: True ends this host with a
                GuestError, so that somebody looks into it, and the guest runs unprotected meanwhile; False, the
                default, joins again with a fresh copy
    timing      when silence becomes suspicion
    limits      the bound of everything that can grow
    on_event    called with each event, from the host's thread; must not block
    services    what the host's loop serves beside the guest, e.g. a ControlSocket; closed with the host
    clock       where the time comes from; the monotonic clock if not given
    history     where this host records the guest's past while it stands by; nothing is recorded if not given. It is
                taken over, and closed with the host. Recording never delays the pair; if it fails, an event says so
    is_urgent   True gives the host's loop and its wire real-time priority, if this process may have it, so that a wait
                for a processor on a busy machine does not look like a dead host; False, the default, changes nothing
    """

    keys: Keys | None
    engine: Engine | None
    world: World | None
    guest_id: str
    node: str
    halts_alone: bool
    ends_diverged: bool
    timing: Timing
    limits: Limits
    on_event: Callable[[Event], None] | None
    services: Sequence[HostService]
    clock: Clock
    history: History
    is_urgent: bool


class HostHandle:
    """A running host, whatever its present role. A context manager."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def status(self) -> Status:
        """Return the status now: role, generation, epoch, lag, pauses, counters."""
        return self._node.status_from_outside()

    def events(self, timeout: float = 0.0) -> Iterator[Event]:
        """Yield the events that have come since the last call, oldest first; wait up to `timeout` s for the first."""
        return self._node.take_events(timeout)

    def check(self) -> None:
        """Raise what ended this host, if anything did."""
        self._node.raise_failure()

    def close(self) -> None:
        """Stop this host cleanly: hand its guest, if it runs here, to the standby; say goodbye; close everything.

        The guest goes on at the standby within two seconds. Without a standby it ends, and the record is vacated. Takes
        at most eight seconds, five more while a request to the arbiter hangs, and ten more while the guest's process
        does: it is given up then (see `hurry`). Idempotent. Raises BrokenError if something could not be closed, or if
        the record may still name this host; all the rest is done even so.
        """
        self._node.close()

    def hurry(self) -> None:
        """Give up, from now on, a guest whose process (QEMU, a monitor) has not answered for a second.

        Its standby takes over. From any thread and from signal handlers; for who waits for `close`, and will no longer.
        """
        self._node.hurry()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        close_behind(self.close, error)


class Protection(HostHandle):
    """A guest that runs on this host, protected as soon as a standby has joined.

    After `switchover`, or if another host takes over, this host stands by; it is the same object all the time.
    """

    def wait_protected(self, timeout: float | None = None) -> bool:
        """Wait until the record names a standby; return False after `timeout` seconds."""
        return self._node.wait_for(lambda: self._node.driver.view().record.standby is not None, timeout)

    def switchover(self, timeout: float = 10.0) -> None:
        """Hand the guest over to the standby; return once it runs there and this host is its standby.

        Clients notice a short pause at most. Raises LocalProtocolError if this host is not active or has no standby in
        step. Raises SwitchoverFailed, and the guest goes on here, if nothing could be proposed in `timeout` seconds,
        the standby cannot run the guest, or the arbiter says that it could not write. Once the change is proposed, only
        the arbiter can end it: if it is silent just then, SwitchoverFailed says so, and the guest is paused until it
        answers.
        """
        self._node.hand_over(timeout)

    def wait_active(self, timeout: float | None = None) -> bool:
        """Wait until the guest runs on this host (again); return False after `timeout` seconds."""
        return self._node.wait_for(lambda: self._node.driver.is_active, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this host ends. Returns False after `timeout` seconds, raises what ended it.

        SIGTERM, if your program does not handle it, closes this host as `close` does: the guest goes to the standby;
        then the program ends with status 0 (SystemExit). So it is for this wait in the main thread, no other time.
        """
        with ending_on_sigterm(self.close):
            return self._node.wait_for(lambda: False, timeout)

    def set_engine(self, engine: Engine) -> None:
        """Change the engine while the guest runs, without losing protection. From any thread.

        The change goes to the backup with the next checkpoint, which is cut at once, and is in force once that is
        committed: both hosts then emit `EngineChanged`, and `status().engine` names the engine. Without a backup it is
        in force at once. A host that takes over keeps the engine, but not its parameters: it uses those it was started
        with, or the engine's defaults if it was started with another one. If this host dies before the change is in
        force, the change is lost.

        Raises ConfigError if the engine does not fit the guest or the standby does not know it, LocalProtocolError if
        the guest no longer runs here; nothing changes then.
        """
        self._node.host.call(lambda: self._node.driver.set_engine(engine))


class Standby(HostHandle):
    """A host that stands by. Build its guest like the primary's, with blank memory.

    It joins the active host among `peers` (and asks until one answers), follows it, and takes over if that falls
    silent. See `protect` for the arguments.
    """

    def __init__(
        self,
        guest: Guest,
        *,
        listen: str,
        peers: Sequence[str],
        arbiter: str | RecordStore,
        **options: Unpack[HostOptions],
    ) -> None:
        super().__init__(_start(guest, listen, peers, arbiter, options, creates=False, starts=False))

    def wait(self, timeout: float | None = None) -> Protection | None:
        """Wait until this host has taken over; None after `timeout` seconds. Raises what ended the host.

        SIGTERM is as in `Protection.wait`: this host says goodbye, and the program ends.
        """
        node = self._node
        with ending_on_sigterm(self.close):
            return Protection(node) if node.wait_for(lambda: node.driver.is_active, timeout) else None


def protect(
    guest: Guest,
    *,
    listen: str,
    arbiter: str | RecordStore,
    peers: Sequence[str] = (),
    create: bool = False,
    timeout: float = 30.0,
    **options: Unpack[HostOptions],
) -> Protection:
    """Run `guest` on this host and protect it.

    listen    where standbys connect: "tcp://ADDRESS:PORT" or "ipc://PATH"
    arbiter   "file:///DIRECTORY" that both hosts share, or your own RecordStore
    peers     hosts to join if another host has taken over from this one
    create    create the arbiter's record if it does not exist (else run `ftvm init` first)
    timeout   seconds to wait for the arbiter
    options   see ftvm.HostOptions

    Returns once the guest runs. Raises ConfigError, TransportError, BrokenError, and Fenced if the guest is active
    elsewhere; the guest is closed then.
    """
    node = _start(guest, listen, peers, arbiter, options, creates=create, starts=True)
    try:
        if not node.wait_for(lambda: node.driver.is_active, timeout):
            why = node.driver.view().arbiter_error or "it has not answered"
            raise BrokenError(f"the arbiter has not let this host start within {timeout} s: {why}")
    except GuestEnded:
        pass  # it has run, and come to its end before this thread looked: `check` says so
    except BaseException as wrong:  # Ctrl-C, too: the record may name this host by now
        close_behind(node.close, wrong)
        raise
    return Protection(node)


def check_guest_id(guest_id: str) -> None:
    """Raise ConfigError unless this can be a guest's id."""
    if not 0 < len(guest_id) <= _GUEST_ID_CHARS_MAX:
        raise ConfigError(f"guest id {guest_id[:80]!r} has {len(guest_id)} characters, not 1 to 64")
    if not _GUEST_ID.fullmatch(guest_id):  # it names files, units and arguments of commands
        allowed = "write letters, digits, dots, dashes and underscores, and no dot or dash first"
        raise ConfigError(f"guest id {guest_id!r}: {allowed}")


def _start(
    guest: Guest,
    listen: str,
    peers: Sequence[str],
    arbiter: str | RecordStore,
    options: HostOptions,
    *,
    creates: bool,
    starts: bool,
) -> Node:
    with ExitStack() as undo:
        _close_if_not_started(undo, guest, options)
        if not starts and not peers:
            raise ConfigError("a standby needs at least one peer to join")
        engine = options.get("engine") or Remus()
        require(engine, guest.can)
        check_guest_id(guest_id := options.get("guest_id", "guest"))
        check_node(name := options.get("node") or machine_name())
        limits = options.get("limits") or Limits()
        store = open_record_store(arbiter) if isinstance(arbiter, str) else arbiter
        undo.callback(store.close)
        is_urgent = options.get("is_urgent", False) and why_not_urgent() is None
        transport = ZeroMqTransport(
            listen=listen, peers=peers, keys=options.get("keys"), limits=limits, is_urgent=is_urgent
        )
        undo.callback(transport.close)
        recorder_of = recorder_for(options.get("history"), guest, guest_id, undo, node=name)
        settings = Settings(
            guest_id=guest_id,
            geometry=guest.geometry,
            engine=engine,
            engines=engines_for(guest.can, engine),
            dialled=transport.dialled,
            creates=creates,
            halts_alone=options.get("halts_alone", False),
            ends_diverged=options.get("ends_diverged", False),
            is_observed=recorder_of is not None,
            timing=options.get("timing") or Timing(),
            limits=limits,
        )
        node = Node(
            guest,
            world=options.get("world"),
            transport=transport,
            store=store,
            settings=_with_disks(settings, guest, starts=starts),
            clock=options.get("clock") or MonotonicClock(),
            starts=starts,
            on_event=options.get("on_event"),
            services=options.get("services", ()),
            is_urgent=is_urgent,
            identity=Identity(node=name, listen=transport.endpoint or listen, arbiter=_named(arbiter)),
            recorder_of=recorder_of,
        )
        undo.pop_all()
    return node


def _close_if_not_started(undo: ExitStack, guest: Guest, options: HostOptions) -> None:
    """Have what was handed over closed, if the host does not start."""
    undo.callback(guest.close)
    world = options.get("world")
    if world is not None:
        undo.callback(world.close)
    for service in options.get("services", ()):
        undo.callback(service.close)


def _named(arbiter: str | RecordStore) -> str:
    """Return how to call an arbiter: its URL, else its class."""
    return arbiter if isinstance(arbiter, str) else type(arbiter).__name__


def _with_disks(settings: Settings, guest: Guest, *, starts: bool) -> Settings:
    """Return the settings with the names of what keeps the guest's disks; where it boots, a lineage begins."""
    stores = [region.store for region in guest.memory if region.store is not None]
    return replace(
        settings,
        images=tuple(store.identity for store in stores if store.identity),
        lineage=secrets.token_hex(8) if starts and stores else "",
        has_content=any(store.has_content for store in stores),
        keeps_disks=bool(stores),
    )
