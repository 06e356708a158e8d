"""`ftvm check`: could a host start here with these settings? If not, how to correct what is wrong.

Each check tries one thing as a start would, undoes it, and yields findings. A failure keeps a host from starting or
from taking over; a warning works, but less well than it could. Knows nothing of command lines.
"""

import mmap
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.arbiters.etcdhttp import parse_etcd_url
from ftvm.arbiters.urls import folder_of, open_record_store
from ftvm.capture.trackers.userfault import UserfaultTracker
from ftvm.errors import ConfigError, FtvmError
from ftvm.guests.disk.files import require_free
from ftvm.guests.disk.label import read_label
from ftvm.runtime.urgency import why_not_urgent
from ftvm.transport.endpoints import EndpointUrl, parse_endpoint, resolve
from ftvm.transport.keys import Keys
from ftvm.transport.zeromq import ZeroMqTransport
from ftvm.units import PAGE_BYTES

__all__ = [
    "Finding",
    "Level",
    "check_arbiter",
    "check_arbiter_place",
    "check_device",
    "check_endpoint",
    "check_image",
    "check_memory",
    "check_opens",
    "check_peers",
    "check_tools",
    "check_tracking",
    "check_urgency",
    "is_here",
]

CONNECT_SECONDS: Final = 1.0
SHARED_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "gfs2", "ocfs2", "lustre", "beegfs", "9p", "virtiofs", "afs"}
)
"""Those that another host can see, too. Anything in user space (fuse) may be."""

BESIDE_BYTES: Final = 512 << 20
"""Needed beside the guest's memory and its shadow (docs/setup.md): at most 256 MiB of staging (`Limits`), and the
processes of ftvm and of a QEMU, 16 bytes a page in them."""


class Level(Enum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `remedy` is empty if there is nothing to correct."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def check_tracking() -> Iterator[Finding]:
    """Check whether the kernel can track what another process writes, as QEMU guests need."""
    subject = "dirty page tracking"
    memory = NativeMemory([memoryview(mmap.mmap(-1, 4 * PAGE_BYTES))])
    try:
        UserfaultTracker(memory).close()
    except ConfigError as wrong:
        remedy = "use Linux 6.7 or later, or the built-in machine, which tracks its own writes"
        yield Finding(level=Level.WARNING, subject=subject, text=str(wrong), remedy=remedy)
        return
    yield Finding(level=Level.OK, subject=subject, text="the kernel has userfaultfd with WP_ASYNC, and PAGEMAP_SCAN")


def check_urgency() -> Iterator[Finding]:
    """Check whether the host's loop may have real-time priority."""
    wrong = why_not_urgent()
    if wrong is not None:
        text = (
            f"the host's loop has no real-time priority ({wrong}): on a busy machine it may be late, and taken for dead"
        )
        remedy = "allow it (LimitRTPRIO=1 in the systemd unit, or CAP_SYS_NICE), or set a longer silence"
        yield Finding(level=Level.WARNING, subject="priority", text=text, remedy=remedy)
        return
    yield Finding(level=Level.OK, subject="priority", text="the host's loop gets real-time priority")


def check_memory(guest_bytes: int, shadow_bytes: int, available_bytes: int | None = None) -> Iterator[Finding]:
    """Check whether what the guest takes in memory, its shadow and what is needed beside it fit."""
    needed = guest_bytes + shadow_bytes + BESIDE_BYTES
    available = _available_bytes() if available_bytes is None else available_bytes
    beside = f"{BESIDE_BYTES >> 20} MiB for what is in flight and the processes"
    text = f"needs up to {needed >> 20} MiB (the guest's memory, the shadow of it and of the disk, and {beside})"
    if needed > available:
        told = f"{text}; only {available >> 20} MiB are available"
        remedy = "give the guest less memory or a smaller disk, or free memory: a host that runs out of it is killed"
        yield Finding(level=Level.WARNING, subject="memory", text=told, remedy=remedy)
    else:
        yield Finding(level=Level.OK, subject="memory", text=f"{text}, and {available >> 20} MiB are available")


def check_endpoint(listen: str, keys: Keys | None) -> Iterator[Finding]:
    """Listen as a host would, with its keys."""
    try:
        ZeroMqTransport(listen=listen, peers=(), keys=keys).close()
    except FtvmError as wrong:
        is_setting = isinstance(wrong, ConfigError)
        remedy = "set key and allow" if is_setting else "choose another port, or stop the process that has it"
        yield Finding(level=Level.FAILURE, subject="listen", text=str(wrong), remedy=remedy)
        return
    secured = "with keys" if keys is not None else "without keys, reachable from this machine only"
    yield Finding(level=Level.OK, subject="listen", text=f"can listen on {listen}, {secured}")


def check_peers(peers: Sequence[str], keys: Keys | None, *, is_needed: bool) -> Iterator[Finding]:
    """Check whether each peer has an address, a known key, and answers."""
    if not peers:
        level = Level.FAILURE if is_needed else Level.WARNING
        text = "no peer is set" + ("" if is_needed else ": this host cannot rejoin after another host has taken over")
        yield Finding(level=level, subject="peer", text=text, remedy="set peer to the other host")
    for peer in peers:
        try:
            if keys is not None:
                keys.server_of(peer)
            place = parse_endpoint(peer)
            resolve(place)
        except FtvmError as wrong:
            remedy = "correct the name; if several keys are allowed, write the peer as ENDPOINT=FILE.pub"
            yield Finding(level=Level.FAILURE, subject="peer", text=str(wrong), remedy=remedy)
            continue
        yield _answering(place)


def _answering(place: EndpointUrl) -> Finding:
    if place.scheme == "tcp":
        try:
            socket.create_connection((place.host, place.port), CONNECT_SECONDS).close()
        except OSError as wrong:
            why = wrong.strerror or str(wrong)
            return Finding(
                level=Level.WARNING,
                subject="peer",
                text=f"{place.text} does not answer ({why})",
                remedy="no harm if the other host has not started yet; else check its listen and the firewalls",
            )
    return Finding(
        level=Level.OK, subject="peer", text=f"{place.text} {'answers' if place.scheme == 'tcp' else 'is valid'}"
    )


def check_arbiter(url: str, guest_id: str) -> Iterator[Finding]:
    """Read the guest's record."""
    try:
        store = open_record_store(url)
        try:
            record = store.read(guest_id)
        finally:
            store.close()
    except FtvmError as wrong:
        remedy = "without the arbiter no host can start or take over: make it reachable from both hosts"
        yield Finding(level=Level.FAILURE, subject="arbiter", text=str(wrong), remedy=remedy)
        return
    if record.generation == 0:
        text = f"{url} answers; it has no record of guest {guest_id!r}"
        init = f"ftvm init --arbiter {shlex.quote(url)} --guest {shlex.quote(guest_id)}"
        remedy = f"run `{init}` once, or start the first host with `ftvm run --create`"
        yield Finding(level=Level.WARNING, subject="arbiter", text=text, remedy=remedy)
        return
    who = f"active {record.active or 'none'}, standby {record.standby or 'none'}"
    yield Finding(level=Level.OK, subject="arbiter", text=f"{url} answers: generation {record.generation}, {who}")


def check_device(path: str) -> Iterator[Finding]:
    """Check whether a disk that is a block device could be opened here; of a file nothing is said."""
    if Path(path).is_block_device():
        yield from check_opens(
            "disk", f"{path} and the folder of its label can be opened", lambda: require_free(Path(path))
        )


def check_image(path: str, url: str, guest_id: str) -> Iterator[Finding]:
    """Compare what a disk's image says of itself with the guest's record."""
    label = read_label(Path(path))
    if label is None or not label.lineage:
        text = f"{path} says nothing of its content: ftvm has not used it yet"
        yield Finding(level=Level.OK, subject="disk", text=text)
        return
    try:
        store = open_record_store(url)
        try:
            record = store.read(guest_id)
        finally:
            store.close()
    except FtvmError:
        return  # told of the arbiter
    newest = record.generation - (record.active is None)  # to vacate a record takes a generation
    text = f"{path}: {label}"
    if label.generation >= newest and label.runs:
        text += "; the record knows no newer one"
        if record.standby is not None and not label.is_clean:
            text += ", but if both hosts died at once, the standby's has what its clients were told"
        yield Finding(level=Level.OK, subject="disk", text=text)
        return
    if label.generation < newest:
        text += f"; older: the record has come to generation {newest} since"
    remedy = (
        "if both hosts are dead, compare the images by `ftvm disk show` on both, and start the guest on the host with "
        "the newer; a standby's image is overwritten"
    )
    yield Finding(level=Level.WARNING, subject="disk", text=text, remedy=remedy)


def check_arbiter_place(url: str, mounts: str | None = None) -> Iterator[Finding]:
    """Check whether the arbiter would survive the loss of this host; of a folder that is not there nothing is said."""
    remedy = "put it on storage that both hosts reach, or use an etcd with members elsewhere"
    dies = "if this host dies, so does the arbiter, and the other host cannot take over"
    if url.startswith("file:"):
        if not os.path.isdir(folder_of(url)):
            return  # what would be mounted there is not known
        kind = _file_system_of(folder_of(url), mounts)
        if kind is not None and kind not in SHARED_FILE_SYSTEMS and not kind.startswith("fuse"):
            text = f"{url} is on a local file system ({kind}): {dies}"
            yield Finding(level=Level.WARNING, subject="arbiter's place", text=text, remedy=remedy)
            return
    elif url.startswith("etcd"):
        hosts = [host for host, _ in parse_etcd_url(url).members]
        if all(is_here(host) for host in hosts):
            text = f"every member of {url} is on this host: {dies}"
            yield Finding(level=Level.WARNING, subject="arbiter's place", text=text, remedy=remedy)
            return
    yield Finding(level=Level.OK, subject="arbiter's place", text="it does not depend on this host alone")


def check_opens(subject: str, text: str, open_and_close: Callable[[], object]) -> Iterator[Finding]:
    """Open something as a host would, and close it again; `text` is the finding if that works."""
    try:
        open_and_close()
    except FtvmError as wrong:
        remedy = "choose another one, or stop the process that uses it"
        yield Finding(level=Level.FAILURE, subject=subject, text=str(wrong), remedy=remedy)
        return
    yield Finding(level=Level.OK, subject=subject, text=text)


def check_tools(kind: str, look: Callable[[], str | None]) -> Iterator[Finding]:
    """Check whether the programs for a guest of this kind are installed."""
    try:
        found = look()
    except FtvmError as wrong:
        yield Finding(level=Level.FAILURE, subject=kind, text=str(wrong))
        return
    yield Finding(level=Level.OK, subject=kind, text=found or f"what a {kind} guest needs is installed")


def _file_system_of(folder: str, mounts: str | None) -> str | None:
    """Return the kind of file system that a folder is on, by the longest mount point that holds it."""
    if mounts is None:
        mounts = Path("/proc/self/mounts").read_text(errors="replace")
    real = os.path.realpath(folder)
    best, kind = "", None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
        is_above = real == point or real.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def is_here(host: str) -> bool:
    """Tell whether a name is an address of this machine: whether a socket can be bound to it."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, _, _, address in found:
        with socket.socket(family, kind) as probe:
            try:
                probe.bind(address)
            except OSError:
                return False
    return True


def _available_bytes() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found is not None else 0
