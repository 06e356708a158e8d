"""The settings that hosts of all kinds of guests have: a row for each."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ftvm.arbiters.etcdhttp import locate_files
from ftvm.arbiters.urls import check_record_url
from ftvm.cli.hostparts import TAP, check_history, keys_of, listed, timing_of
from ftvm.cli.serviceoptions import check_control, check_metrics
from ftvm.cli.settings import HostSettings, Setting, in_folder
from ftvm.cli.values import DEFAULT_MAC, millis_to_nanos, parse_memory
from ftvm.config import HEARTBEATS_MIN
from ftvm.engines.interval import check_interval
from ftvm.engines.names import ENGINES, engine_named, engines_for
from ftvm.errors import ConfigError
from ftvm.guests.blockdevice import data_bytes
from ftvm.guests.datagram import cable_ends, mac_bytes
from ftvm.guests.imagefile import image_bytes
from ftvm.runtime.names import check_node
from ftvm.runtime.protection import check_guest_id
from ftvm.store.retention import Keep
from ftvm.transport.endpoints import parse_endpoint
from ftvm.transport.keys import Keys, load_public, load_secret

__all__ = ["DISK", "MAC", "MEMORY", "NIC", "SHARED", "TRACKER", "disk_bytes", "disk_data_bytes", "disk_sizes"]


def _judged(judge: Callable[[Any], object]) -> Callable[[Any], Any]:
    """Return a `parse` that returns the written value unchanged, if `judge` does not raise."""

    def parse(written: Any) -> Any:
        judge(written)
        return written

    return parse


def _each(values: Iterable[str], judge: Callable[[str], object]) -> None:
    """Raise one ConfigError that names all wrong values."""
    wrong: list[str] = []
    for value in values:
        try:
            judge(value)
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("; ".join(wrong))


def _needs(name: str, what: str) -> Callable[[HostSettings], None]:
    def check(settings: HostSettings) -> None:
        if settings[name] is None:
            raise ConfigError(f"missing: write {what}")

    return check


def _judge_peer(peer: str) -> None:
    endpoint, is_given, file = peer.partition("=")
    parse_endpoint(endpoint)
    if is_given:
        load_public(file)


def _check_peers(settings: HostSettings) -> None:
    keys: Keys | None = None
    with suppress(ConfigError):  # reported for key and allow
        keys = keys_of(settings)
    if keys is not None:
        _each((peer.partition("=")[0] for peer in settings["peer"]), keys.server_of)
    own = settings["listen"]
    if own is not None and any(peer.partition("=")[0] == own for peer in settings["peer"]):
        raise ConfigError(f"{own} is this host's own address: write the other host's")


def _locate_peers(peers: list[str], folder: Path) -> list[str]:
    parts = (peer.partition("=") for peer in peers)
    return [f"{endpoint}={in_folder(file, folder)}" if is_given else endpoint for endpoint, is_given, file in parts]


def _check_key(settings: HostSettings) -> None:
    if settings["key"] is None:
        keys_of(settings)


def _check_allow(settings: HostSettings) -> None:
    if settings["key"] is None:
        return
    if not settings["allow"] and not any("=" in peer for peer in settings["peer"]):
        raise ConfigError("missing: key needs it; give at least one peer's .pub file")
    keys = keys_of(settings)
    if keys is not None and keys.public in keys.allowed:
        raise ConfigError(f"the key of {settings['key']} itself is among them: give the other host's .pub file")


def _judge_nic(nic: str) -> None:
    if not nic.startswith(TAP):
        cable_ends(nic)


def disk_sizes(settings: HostSettings) -> tuple[int, ...]:
    """Return the size of each disk's image; raises ConfigError if one cannot be a disk."""
    return tuple(image_bytes(path) for path in listed(settings["disk"]))


def disk_bytes(settings: HostSettings) -> int:
    """Return the size of all disks' images together; raises ConfigError if one cannot be a disk."""
    return sum(disk_sizes(settings))


def disk_data_bytes(settings: HostSettings) -> int:
    """Return how much of all disks' images is data and no hole; raises ConfigError if one cannot be a disk."""
    sizes = zip(disk_sizes(settings), listed(settings["disk"]), strict=True)
    return sum(min(size, data_bytes(os.stat(path), size)) for size, path in sizes)


def _check_mac(settings: HostSettings) -> None:
    if settings["mac"] and not settings["nic"]:
        given = ", ".join(listed(settings["mac"]))
        raise ConfigError(f"{given} needs nic: without a cable the machine has no network card")


def _check_engine(settings: HostSettings) -> None:
    able = engines_for(settings.kind.can, ENGINES[settings["engine"]](0.025))
    if settings["engine"] not in able:
        names = ", ".join(name for name in ENGINES if name in able)
        raise ConfigError(
            f"{settings['engine']} does not work with a {settings.kind.name} guest; choose one of: {names}"
        )


def _check_latency(settings: HostSettings) -> None:
    if settings["latency"] is not None:
        engine_named(settings["engine"], latency=settings["latency"] / 1000)


def _check_group(settings: HostSettings) -> None:
    if settings["group-commit"] is not None:
        engine_named(settings["engine"], group=settings["group-commit"] / 1000)


def _check_silence(settings: HostSettings) -> None:
    least = HEARTBEATS_MIN * settings["heartbeat"]
    if settings["silence"] < least:
        raise ConfigError(
            f"{settings['silence']:g} ms, with a heartbeat of {settings['heartbeat']:g} ms: it must be at least four "
            f"heartbeats, {least:g} ms, or a single late heartbeat looks like death"
        )
    timing_of(settings)


MEMORY: Final = Setting(
    name="memory", default="64M", metavar="SIZE", parse=parse_memory, help="The machine's RAM, e.g. 64M or 1G."
)
NIC: Final = Setting(
    name="nic",
    metavar="CABLE",
    parse=_judged(_judge_nic),
    help="The guest's network: udp:LOCALPORT:REMOTEPORT, a frame per datagram; or tap:NAME, an interface of this host; "
    "or, for a qemu guest, pump: before one of these, which moves frames in C, or pump:NAME, by root and at speed. "
    "Pumps may be repeated, for several cards.",
)
MAC: Final = Setting(
    name="mac",
    metavar="ADDRESS",
    parse=_judged(mac_bytes),
    check=_check_mac,
    help="The MAC address of its network card, of several cards each in turn; needs nic. Cards without one count on "
    f"from the last.  [default: {DEFAULT_MAC}]",
)
TRACKER: Final = Setting(
    name="tracker",
    default="auto",
    words=("auto", "userfault", "compare"),
    help="How to find the pages that the guest wrote.",
)
DISK: Final = Setting(name="disk", metavar="FILE", locate=in_folder, check=disk_bytes, help="A virtio disk.")

SHARED: Final = (
    Setting(
        name="guest",
        default="guest",
        metavar="ID",
        parse=_judged(check_guest_id),
        help="The guest's name in the record.",
    ),
    Setting(
        name="node",
        metavar="NAME",
        parse=_judged(check_node),
        help="This host's name, for people: in the record, the log and the status.  [default: the machine's host name]",
    ),
    Setting(
        name="listen",
        metavar="ENDPOINT",
        parse=_judged(parse_endpoint),
        check=_needs("listen", "where peers connect, e.g. tcp://0.0.0.0:7777"),
        help="Where peers connect, e.g. tcp://0.0.0.0:7777. Required.",
    ),
    Setting(
        name="peer",
        written="texts",
        metavar="ENDPOINT[=FILE.pub]",
        parse=_judged(lambda peers: _each(peers, _judge_peer)),
        check=_check_peers,
        locate=_locate_peers,
        help="Another host of this guest, with its key if several are allowed. May be repeated.",
    ),
    Setting(
        name="arbiter",
        metavar="URL",
        parse=_judged(check_record_url),
        locate=lambda url, folder: locate_files(url, folder) if url.startswith("etcd") else url,
        check=_needs("arbiter", "where the arbiter's record is, e.g. file:///shared/vm1"),
        help="Where the arbiter keeps the record, e.g. file:///shared/vm1. Required.",
    ),
    Setting(
        name="key",
        metavar="FILE.key",
        parse=_judged(load_secret),
        check=_check_key,
        locate=in_folder,
        help="This host's secret key, from `ftvm keygen`.",
    ),
    Setting(
        name="allow",
        written="texts",
        metavar="FILE.pub",
        parse=_judged(lambda files: _each(files, load_public)),
        check=_check_allow,
        locate=lambda files, folder: [in_folder(file, folder) for file in files],
        help="A peer's public key. May be repeated.",
    ),
    MEMORY,
    NIC,
    MAC,
    Setting(
        name="engine",
        default="remus",
        words=tuple(ENGINES),
        check=_check_engine,
        help="When to take a checkpoint, and what an output waits for.",
    ),
    Setting(
        name="interval",
        written="number",
        default=25.0,
        metavar="MS",
        check=lambda settings: check_interval(settings["engine"], settings["interval"] / 1000),
        help="Time between checkpoints with this engine. A host that takes over with another engine uses that one's "
        "default: remus 25, kemari 25, lockstep 100, hybrid 100.",
    ),
    Setting(
        name="latency",
        written="number",
        metavar="MS",
        check=_check_latency,
        help="Adapt the interval so that an output waits about this long (remus only).",
    ),
    Setting(
        name="group-commit",
        written="number",
        metavar="MS",
        check=_check_group,
        help="Let an output wait this long for others to share its checkpoint, e.g. 0.2 (kemari only).  "
        "[default: each output has its own]",
    ),
    Setting(
        name="on-backup-loss",
        default="solo",
        words=("solo", "halt"),
        help="If the standby is lost: run on alone, or pause the guest until another standby has joined.",
    ),
    Setting(
        name="on-divergence",
        default="rejoin",
        words=("rejoin", "end"),
        help="If a standby's guest diverges under lockstep: join again with a fresh copy, or stop that host.",
    ),
    Setting(
        name="heartbeat",
        written="number",
        default=50.0,
        metavar="MS",
        parse=_judged(millis_to_nanos),
        help="Time between heartbeats.",
    ),
    Setting(
        name="silence",
        written="number",
        default=300.0,
        metavar="MS",
        parse=_judged(millis_to_nanos),
        check=_check_silence,
        help="How long the active may be silent until the standby takes over; the active waits 5/3 of it for the "
        "standby. At least four heartbeats. On a link with a jitter more is allowed, up to ten times of it.",
    ),
    Setting(
        name="control",
        metavar="ipc:///PATH",
        parse=_judged(check_control),
        help="Where `ftvm status` and `ftvm ctl` reach this host, or `none`.  [default: in your runtime folder]",
    ),
    Setting(
        name="metrics",
        metavar="HOST:PORT",
        parse=_judged(check_metrics),
        help="Serve Prometheus metrics there, e.g. 127.0.0.1:9753.",
    ),
    Setting(
        name="history",
        metavar="FOLDER",
        locate=in_folder,
        check=check_history,
        help="Record the guest's past there while this host stands by: see `ftvm history`.",
    ),
    Setting(
        name="history-keep",
        default=str(Keep()),
        metavar="RULE",
        parse=Keep.parse,
        help="What the history keeps for how long: every epoch, one a second, one a minute; and its bytes.",
    ),
    Setting(
        name="history-key",
        metavar="FILE",
        locate=in_folder,
        help="The key that the history is encrypted with, as `ftvm history keygen` makes it.",
    ),
    Setting(
        name="log-format",
        default="text",
        words=("text", "json"),
        help="How to log on stderr: lines of text, or JSON lines.",
    ),
)
