"""A live pair, two real processes with keys, beside somebody who breaks every rule: strangers, and a member gone bad.

After each attack the same two replicas are in the record, epochs go on being committed with equal digests on both
sides, the processes have not grown, and what a member did wrong stands in the log under its name.
"""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.block
import msgpack
import pytest
import zmq

from ftvm._native.memory import batch_digest
from ftvm.arbiters.file import FileRecordStore
from ftvm.checkpoint import Buffer, Checkpoint, Geometry, PageBatch, RegionShape
from ftvm.encode.headed import seal
from ftvm.encode.messages import Ack, Copy, Envelope, EpochPart, Greeting, Join, Leave, Message, Ping, SessionId
from ftvm.encode.wire import encode
from ftvm.interfaces import Record
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Children
from ftvm.lab.stage import free_ports
from ftvm.transport.keys import load_public, write_keypair
from ftvm.units import PageCount, bytes_to_pages

from .peer import STRANGER_ATTACKS, HostilePeer

PATIENCE_SECONDS = 60
STEP_NS = 20_000_000
GROWTH_BYTES_MAX = 48 << 20
MEMORY = "8M"
Frames = list[Buffer]


class LiveHost:
    """One process, and what it says."""

    def __init__(self, endpoint: str, public: str) -> None:
        self.endpoint, self.public = endpoint, public
        self.status: JsonLine = {}
        self.misdeeds: list[str] = []
        self.refusals: list[str] = []
        self.pid = 0

    def hear(self, line: JsonLine) -> None:
        self.status = line.get("status", self.status)
        if line.get("event") == "PeerMisbehaved":
            self.misdeeds.append(str(line["error"]))
        if line.get("event") == "ConnectionRefused":
            self.refusals.append(str(line["reason"]))

    @property
    def memory_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise AssertionError("the process has ended")


class LivePair:
    """Primary and standby, an arbiter folder, and the keys of a third who is allowed as well."""

    def __init__(self, folder: Path) -> None:
        self.children = Children()
        for name in ("a", "b", "member"):
            write_keypair(folder / name)
        (folder / "arbiter").mkdir()
        self.folder = folder
        self.store = FileRecordStore(folder / "arbiter")
        self.member_public = load_public(folder / "member.pub")
        self.member_secret = (folder / "member.key").read_text().split()[-1]
        ports = free_ports(socket.SOCK_STREAM, 2)
        self.hosts = {
            name: LiveHost(f"tcp://127.0.0.1:{port}", load_public(folder / f"{name}.pub"))
            for name, port in zip("ab", ports, strict=True)
        }

    def protect(self) -> None:
        self.start("a", "run", "--create")
        self.start("b", "standby")
        self.until(lambda: self.record().standby is not None and self.hosts["b"].status.get("role") == "standby")

    def start(self, name: str, role: str, *words: str) -> None:
        other = "b" if name == "a" else "a"
        options = {
            "--listen": self.hosts[name].endpoint,
            "--peer": f"{self.hosts[other].endpoint}={self.folder / other}.pub",
            "--arbiter": f"file://{self.folder / 'arbiter'}",
            "--key": f"{self.folder / name}.key",
            "--program": "ticks",
            "--append": "ms=5 beats=0",
            "--nic": "udp:{}:{}".format(*free_ports(socket.SOCK_DGRAM, 2)),
            "--memory": MEMORY,
            "--heartbeat": "200",
            "--silence": "5000",
        }
        allowed = [word for peer in (other, "member") for word in ("--allow", f"{self.folder / peer}.pub")]
        command = [sys.executable, "-P", "-m", "ftvm", role, *(word for pair in options.items() for word in pair)]
        child = self.children.start(name, [*command, *allowed, *words, "--json"], self.hosts[name].hear)
        self.hosts[name].pid = child.process.pid

    def record(self) -> Record:
        return self.store.read("guest")

    def pump(self) -> None:
        self.children.pump(STEP_NS)
        self.children.check()

    def until(self, is_true: Callable[[], object]) -> None:
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while not is_true():
            assert time.monotonic() < ends_at, f"it does not come about; the hosts: {self.hosts}"
            self.pump()

    def go_on(self, epochs: int) -> None:
        """Let so many more epochs be committed and compared."""
        a, b = self.hosts["a"], self.hosts["b"]
        compared, epoch = a.status.get("digests_compared", 0), b.status.get("epoch", 0)
        self.until(lambda: a.status["digests_compared"] >= compared + epochs and b.status["epoch"] >= epoch + epochs)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePair]:
    pair = LivePair(tmp_path_factory.mktemp("pair"))
    try:
        pair.protect()
        yield pair
    finally:
        pair.children.close()


def goes_on(pair: LivePair, attack: Callable[[], None]) -> None:
    """Attack; then nothing may have changed, and nothing may have grown."""
    pair.go_on(5)
    record = pair.record()
    before = {name: host.memory_bytes for name, host in pair.hosts.items()}

    attack()
    pair.go_on(5)

    assert pair.record() == record
    for name, host in pair.hosts.items():
        assert host.memory_bytes - before[name] < GROWTH_BYTES_MAX
        assert host.status["failure"] is None


# --- what a member can say -------------------------------------------------------------------------------------------


def envelope(pair: LivePair, *, session: SessionId | None = None, guest_id: str = "guest") -> Envelope:
    """Pretend to be the active, in what may be its session."""
    record = pair.record()
    return Envelope(guest_id=guest_id, sender=str(record.active), session=session, record=record, released=0)


def in_session(pair: LivePair, message: Message) -> Frames:
    record = pair.record()
    return encode(envelope(pair, session=SessionId(1, str(record.active), record.generation - 1)), message)


def batch(**changes: object) -> PageBatch:
    parts = {"indices": b"\0\0\0\0", "lengths": b"\2\0", "payload": b"\0\0", "count": 1, "unpacked_bytes": 0} | changes
    digest = batch_digest(parts["indices"], parts["lengths"], parts["payload"])  # type: ignore[arg-type]
    return PageBatch(digest=digest, **parts)  # type: ignore[arg-type]


def end() -> Checkpoint:
    return Checkpoint(
        epoch=1 << 40,
        base=(1 << 40) - 1,
        engine="remus",
        batches=(),
        devices=b"",
        outputs=(),
        output_next=1,
        log_index=0,
        memory_digest=0,
        dirty_pages=0,
    )


def join(pair: LivePair, number: int) -> Frames:
    region = RegionShape(name="ram", page_count=PageCount(bytes_to_pages(8 << 20)))
    asked = Join(geometry=Geometry(machine="riscv/1", regions=(region,)), engines=("remus",), staging_bytes=1 << 28)
    record = pair.record()
    return encode(Envelope(guest_id="guest", sender=f"fresh{number}", session=None, record=record, released=0), asked)


def header(pair: LivePair, place: int, value: object) -> Frames:
    fields = msgpack.unpackb(bytes(encode(envelope(pair), Ping(number=1))[0])[:-16])
    fields[place] = value
    return [seal(msgpack.packb(fields))]


def bomb() -> PageBatch:
    packed = lz4.block.compress(bytes(64 << 20), store_size=False)
    return batch(payload=packed[: 512 << 10], unpacked_bytes=1 << 20)


NAMED: dict[str, tuple[Callable[[LivePair], Frames], str]] = {
    "noise": (lambda _: [b"noise"], "BadFrame"),
    "another version": (lambda pair: header(pair, 0, 99), "VersionMismatch"),
    "an unknown kind": (lambda pair: header(pair, 1, 99), "BadFrame"),
    "a deep header": (lambda _: [seal(b"\x91" * 50_000 + b"\xc0")], "BadFrame"),
    "a header of empty maps": (lambda _: [seal(b"\xdd\x00\x00\xff\x00" + b"\x80" * 0xFF00)], "BadFrame"),
    "a header beyond the limit": (lambda _: [bytes(65 << 10)], "BadFrame"),
    "numbers that are too large": (lambda pair: header(pair, 6, (1 << 64) - 1), "BadFrame"),
    "frames where none belong": (
        lambda pair: [*encode(envelope(pair), Leave(reason="go")), bytes(1000)],
        "BadFrame",
    ),
    "too many frames": (lambda pair: [*encode(envelope(pair), Ping(number=1)), *[b""] * 40], "BadFrame"),
}
"""What cannot be read: named in the log."""

UNREAD: dict[str, Callable[[LivePair], Frames]] = {
    "a replayed session": lambda pair: in_session(
        pair, EpochPart(sequence=0, epoch=1, part=0, batch=None, checkpoint=end())
    ),
    "an acknowledgement of all": lambda pair: in_session(
        pair, Ack(received=1 << 40, epoch=1 << 40, log_index=1 << 40, memory_digest=0)
    ),
    "a goodbye in the active's name": lambda pair: in_session(pair, Leave(reason="trust me")),
    "a page index out of range": lambda pair: in_session(
        pair, Copy(sequence=0, round=0, batch=batch(indices=b"\xff\xff\xff\xff"))
    ),
    "oversized lengths": lambda pair: in_session(pair, Copy(sequence=0, round=0, batch=batch(count=1 << 27))),
    "a decompression bomb": lambda pair: in_session(pair, Copy(sequence=0, round=0, batch=bomb())),
    "frames out of order": lambda pair: list(reversed(in_session(pair, Copy(sequence=0, round=0, batch=batch())))),
    "half a checkpoint": lambda pair: in_session(
        pair, EpochPart(sequence=0, epoch=2, part=0, batch=batch(), checkpoint=None)
    ),
    "a guest that is not here": lambda pair: encode(envelope(pair, guest_id="x"), Ping(number=1)),
}
"""What could be read, of a session that is not the sender's: dropped."""


def say(pair: LivePair, hostile: HostilePeer, *messages: Frames) -> None:
    member = hostile.member(pair.member_public, pair.member_secret)
    member.set(zmq.SNDTIMEO, 20_000)
    for message in messages:
        member.send_multipart([bytes(frame) for frame in message])


@pytest.mark.parametrize("what", NAMED)
def test_what_a_member_says_and_nobody_can_read_is_named_and_changes_nothing(pair: LivePair, what: str) -> None:
    make, error = NAMED[what]
    for host in pair.hosts.values():
        host.misdeeds.clear()
        with HostilePeer(host.endpoint, server_key=host.public) as hostile:

            def attack(host: LiveHost = host, hostile: HostilePeer = hostile) -> None:
                say(pair, hostile, make(pair))
                pair.until(lambda: host.misdeeds)

            goes_on(pair, attack)

        assert host.misdeeds[0].startswith(f"{error}: ")


@pytest.mark.parametrize("what", UNREAD)
def test_what_a_member_says_in_a_session_of_others_changes_nothing(pair: LivePair, what: str) -> None:
    for host in pair.hosts.values():
        with HostilePeer(host.endpoint, server_key=host.public) as hostile:
            goes_on(pair, lambda hostile=hostile: say(pair, hostile, *[UNREAD[what](pair)] * 50))  # type: ignore[misc]


def test_a_member_that_asks_to_join_again_and_again_is_refused_and_changes_nothing(pair: LivePair) -> None:
    host = pair.hosts["a"]
    with HostilePeer(host.endpoint, server_key=host.public) as hostile:
        goes_on(pair, lambda: say(pair, hostile, *(join(pair, number) for number in range(300))))


def hello(pair: LivePair, number: int) -> Frames:
    sender = Envelope(guest_id="guest", sender=f"m{number}", session=None, record=pair.record(), released=0)
    return encode(sender, Greeting(place=f"{number:032x}", role="active"))


def test_a_member_that_names_one_place_after_the_other_changes_nothing(pair: LivePair) -> None:
    for host in pair.hosts.values():
        with HostilePeer(host.endpoint, server_key=host.public) as hostile:
            flood = [hello(pair, number) for number in range(2_000)]
            goes_on(pair, lambda hostile=hostile, flood=flood: say(pair, hostile, *flood))  # type: ignore[misc]


@pytest.mark.parametrize("attack", STRANGER_ATTACKS.values(), ids=STRANGER_ATTACKS.keys())
def test_strangers_change_nothing(pair: LivePair, attack: Callable[[HostilePeer], None]) -> None:
    for host in pair.hosts.values():
        with HostilePeer(host.endpoint, server_key=host.public) as hostile:
            goes_on(pair, lambda hostile=hostile: attack(hostile))  # type: ignore[misc]


def test_a_flood_of_noise_is_told_a_few_times_and_then_ignored(pair: LivePair) -> None:
    host = pair.hosts["b"]
    host.misdeeds.clear()
    with HostilePeer(host.endpoint, server_key=host.public) as hostile:
        goes_on(pair, lambda: say(pair, hostile, *[[bytes(1 << 12)]] * 5_000))

    pair.until(lambda: "ignored for" in host.misdeeds[-1])
    assert len(host.misdeeds) < 30


def test_a_message_that_never_ends_is_hung_up_on_before_it_fills_the_memory(pair: LivePair) -> None:
    """The bound of the default limits is 320 MiB for all that is unread: here 700 MiB are on their way."""
    host = pair.hosts["a"]
    before, seen = host.memory_bytes, [0]

    def is_hung_up() -> bool:
        seen.append(host.memory_bytes - before)
        return any(reason.startswith("dropped the connection from 127.0.0.1:") for reason in host.refusals)

    with HostilePeer(host.endpoint, server_key=host.public) as hostile:
        member = hostile.member(pair.member_public, pair.member_secret)
        load = bytes(1 << 20)
        for _ in range(700):
            member.send(load, zmq.SNDMORE)
        member.send(b"")
        pair.until(is_hung_up)

    pair.go_on(5)
    assert max(seen) < 500 << 20
    assert host.memory_bytes - before < 200 << 20
