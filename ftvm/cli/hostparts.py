"""Builds what the settings of a host describe: guest, world, keys, engine, and services for the operator."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TypedDict

from ftvm.cli.serviceoptions import open_services
from ftvm.cli.settings import HostSettings
from ftvm.cli.values import DEFAULT_MAC, millis_to_nanos
from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import ConfigError
from ftvm.guests.cards import PumpedCard, PumpWorld
from ftvm.guests.datagram import CableWorld, DatagramWorld, cable_ends
from ftvm.guests.tap import TapPort
from ftvm.history.history import History
from ftvm.interfaces import Engine, Guest, World
from ftvm.runtime.names import machine_name
from ftvm.runtime.protection import HostOptions
from ftvm.runtime.world import CallbackWorld
from ftvm.service.console import ConsoleWorld
from ftvm.service.control import ControlSocket
from ftvm.store.crypt import load_key as load_history_key
from ftvm.store.store import CATALOGUE
from ftvm.transport.keys import Keys, load_keys

__all__ = [
    "PUMP",
    "TAP",
    "Addresses",
    "addresses",
    "card",
    "check_history",
    "engine_of",
    "keys_of",
    "listed",
    "look_at_history",
    "look_at_network",
    "macs",
    "opened",
    "peer_endpoints",
    "pumped_cables",
    "pumped_cards",
    "timing_of",
    "world_of",
]

TAP: Final = "tap:"
"""How a network that is an interface of this host begins; any other is a cable of datagrams."""
PUMP: Final = "pump:"
"""How the network of a card begins whose frames are moved in C: by an interface, or any of the other kinds."""


class Addresses(TypedDict):
    """What `protect` and `Standby` take as their own arguments."""

    listen: str
    peers: tuple[str, ...]
    arbiter: str


def addresses(settings: HostSettings) -> Addresses:
    """Return where this host listens, its peers and its arbiter."""
    return {"listen": settings["listen"], "peers": peer_endpoints(settings), "arbiter": settings["arbiter"]}


def peer_endpoints(settings: HostSettings) -> tuple[str, ...]:
    """Return the peers without their keys."""
    return tuple(peer.partition("=")[0] for peer in settings["peer"])


def engine_of(settings: HostSettings) -> Engine:
    """Return the engine; raises ConfigError if it cannot be such."""
    latency = None if settings["latency"] is None else settings["latency"] / 1000
    group = None if settings["group-commit"] is None else settings["group-commit"] / 1000
    return engine_named(settings["engine"], settings["interval"] / 1000, latency, group)


def keys_of(settings: HostSettings) -> Keys | None:
    """Load the keys, if any were named; raises ConfigError."""
    parts = (peer.partition("=") for peer in settings["peer"])
    named = {endpoint: file for endpoint, is_given, file in parts if is_given}
    if settings["key"] is None:
        if settings["allow"] or named:
            raise ConfigError("missing: peers have keys, so give this host's own key file, e.g. a.key")
        return None
    return load_keys(settings["key"], settings["allow"], named)


def timing_of(settings: HostSettings) -> Timing:
    """Return when silence becomes suspicion; raises ConfigError."""
    return Timing(
        heartbeat_ns=millis_to_nanos(settings["heartbeat"]),
        backup_limit_ns=millis_to_nanos(settings["silence"]),
        primary_limit_ns=millis_to_nanos(settings["silence"] * 5 / 3),
    )


def macs(settings: HostSettings) -> tuple[str, ...]:
    """Return the address of each of the guest's network cards: those that are given, then what counts on from there."""
    found = listed(settings["mac"]) or [DEFAULT_MAC]
    count = len(listed(settings["nic"]))
    while len(found) < count:
        found.append(_next_mac(found[-1]))
    return tuple(found[:count])


def card(settings: HostSettings) -> str | None:
    """Return the address of the guest's only network card, None if it has none."""
    return next(iter(macs(settings)), None)


def pumped_cables(settings: HostSettings) -> list[str]:
    """Return the cables of the guest's cards that are to be pumped."""
    return [nic.removeprefix(PUMP) for nic in listed(settings["nic"]) if nic.startswith(PUMP)]


def pumped_cards(settings: HostSettings) -> list[PumpedCard]:
    """Make the guest's cards that are to be pumped, all or none. Raises ConfigError, GuestError, TransportError."""
    with ExitStack() as undo:
        made = [undo.enter_context(closing(PumpedCard(cable))) for cable in pumped_cables(settings)]
        undo.pop_all()
    return made


def look_at_network(settings: HostSettings) -> None:
    """Raise ConfigError, GuestError or TransportError if the guest's network cannot be opened."""
    cards = pumped_cards(settings)
    for made in cards:
        made.close()
    if not cards:
        world_of(settings).close()


def listed(value: str | list[str] | None) -> list[str]:
    """Return the value of a setting that some kinds of guests have several times, as a list."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _next_mac(mac: str) -> str:
    """Return the address behind one, of the same maker."""
    maker, number = mac[:9], int(mac[9:].replace(":", ""), 16)
    return maker + ((number + 1) % (1 << 24)).to_bytes(3, "big").hex(":")


def world_of(settings: HostSettings, guest: Guest | None = None) -> World:
    """Build the outside: the network cable, and the console on stdout (on stderr where stdout carries JSON).

    A `guest` whose cards are pumped has the cables already.
    """
    out = sys.stderr if settings.is_json else sys.stdout

    def write(text: bytes) -> None:
        with suppress(OSError):  # a closed pipe or a full disk must not end the guest
            out.write(text.decode(errors="replace"))
            out.flush()

    mac = card(settings)
    if mac is None:
        return CallbackWorld(lambda output: write(output.payload))
    pumped: Mapping[str, PumpedCard] = getattr(guest, "cards", {})
    if pumped:
        pairs = zip(pumped.values(), macs(settings), strict=True)
        return PumpWorld(dict(zip(pumped, pairs, strict=True)), console=write)
    (nic,) = listed(settings["nic"])
    if nic.startswith(TAP):
        return CableWorld(TapPort(nic.removeprefix(TAP)), mac=mac, console=write)
    local, remote = cable_ends(nic)
    return DatagramWorld(local, remote, mac=mac, console=write)


@contextmanager
def opened(settings: HostSettings) -> Iterator[tuple[Guest, HostOptions]]:
    """Build all that `protect` and `Standby` take, and close it at the end; all or nothing.

    Check the settings first (settings.py).
    """
    with ExitStack() as stack:
        options = _plain_options(settings)
        guest = settings.kind.make(settings)
        stack.callback(guest.close)
        services = open_services(
            stack,
            guest_id=settings["guest"],
            control=settings["control"],
            metrics=settings["metrics"],
            is_ready_when_active=settings.boots,
        )
        world = world_of(settings, guest)
        stack.callback(world.close)
        for service in services:
            if isinstance(service, ControlSocket):
                world = ConsoleWorld(world, service.endpoint)
                stack.callback(world.close)
        history = open_history(settings)
        if history is not None:
            stack.callback(history.close)
            options["history"] = history
        yield guest, {**options, "world": world, "services": services}


def check_history(settings: HostSettings) -> None:
    """Raise ConfigError if the history's key is not one, or without a history."""
    if settings["history-key"] is not None:
        if settings["history"] is None:
            raise ConfigError("a key of a history needs the history: write history FOLDER")
        load_history_key(Path(settings["history-key"]))


def open_history(settings: HostSettings) -> History | None:
    """Open the history that the settings name, and make it if it is missing. Raises ConfigError, HistoryError."""
    if settings["history"] is None:
        return None
    return History.open(settings["history"], keep=settings["history-keep"], key=settings["history-key"], create=True)


def look_at_history(settings: HostSettings) -> None:
    """Raise ConfigError or HistoryError if the history that the settings name could not be recorded into."""
    if (Path(settings["history"]) / CATALOGUE).exists():
        with History.open(settings["history"], key=settings["history-key"]) as past:
            if past.guest_id not in (None, settings["guest"]):
                raise ConfigError(f"{past.folder} is the history of guest {past.guest_id!r}: name another folder")


def _plain_options(settings: HostSettings) -> HostOptions:
    return {
        "keys": keys_of(settings),
        "engine": engine_of(settings),
        "guest_id": settings["guest"],
        "node": settings["node"] or machine_name(),
        "timing": timing_of(settings),
        "halts_alone": settings["on-backup-loss"] == "halt",
        "ends_diverged": settings["on-divergence"] == "end",
        "is_urgent": True,
    }
