"""Plays ``ftvm keygen``, ``run`` and ``standby`` for tests of the demo: same command line, same JSON lines.

There is no machine and no replication: the "guest" is a dictionary that the host saves in the arbiter's folder before
it answers, and a standby that finds the active process gone reads it from there. How it misbehaves is the word in
FTVM_STUB: "forget" (takes over with an empty memory), "sleep" (never takes over), "fail" (a standby ends at once).
"""

import argparse
import json
import os
import pickle
import selectors
import sys
import time
import tomllib
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ftvm.checkpoint import Output
from ftvm.guests.datagram import DatagramWorld, cable_ends
from ftvm.lab.kv import Operation, Reply, ReplyStatus, Request
from ftvm.lab.station import Station, UdpAddress
from ftvm.units import Nanos

GUEST_END = UdpAddress(ip=IPv4Address("10.77.0.2"), port=7000)
CLIENT_END = UdpAddress(ip=IPv4Address("10.77.0.9"), port=40_000)


class Memory:
    """All that the guest knows."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.last: dict[int, Reply] = {}
        self.uptime = 0
        self.writes = 0

    def answer(self, payload: bytes) -> bytes:
        request = Request.decode(payload)
        last = self.last.get(request.client)
        if last is not None and last.number == request.number:
            return last.encode()
        self.uptime += 1
        status, value = ReplyStatus.OK, b""
        if request.operation is Operation.PUT:
            self.values[request.key] = request.value
            self.writes += 1
        elif request.key in self.values:
            value = self.values[request.key]
        else:
            status = ReplyStatus.NOT_FOUND
        reply = Reply(
            status=status,
            client=request.client,
            number=request.number,
            uptime=self.uptime,
            boot=1,
            writes=self.writes,
            value=value,
        )
        self.last[request.client] = reply
        return reply.encode()


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


class Host:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.folder = Path(settings["arbiter"].removeprefix("file://"))
        self.name = Path(settings["key"]).stem
        self.world = DatagramWorld(*cable_ends(settings["nic"]), mac=settings["mac"])
        self.station = Station(mac=bytes.fromhex(settings["mac"].replace(":", "")), here=GUEST_END, peer=CLIENT_END)
        self.memory = Memory()
        self.epoch = 0
        self.said_at = 0.0

    def status(self, role: str) -> None:
        if time.monotonic() - self.said_at < 0.05:
            return
        self.said_at = time.monotonic()
        standby = self.folder / "standby"
        say(
            status={
                "role": role,
                "generation": self.epoch,
                "epoch": self.epoch,
                "standby": standby.read_text() if role == "active" and standby.exists() else None,
                "lag_ms": 0.5,
            }
        )

    def stand_by(self) -> None:
        (self.folder / "standby").write_text(self.name)
        while is_alive(int((self.folder / "active").read_text() or 0)) or os.environ.get("FTVM_STUB") == "sleep":
            self.status("standby")
            say(event="Committed", epoch=1, dirty_pages=3, sent_bytes=100, pause_ns=0)
            time.sleep(0.02)
        if os.environ.get("FTVM_STUB") != "forget":
            self.memory = pickle.loads((self.folder / "memory").read_bytes())
        (self.folder / "standby").unlink()
        say(event="RoleChanged", role="active", replica_id="x", reason="took over")
        say(event="TookOver", detection_ns=1_000_000, arbiter_ns=1, load_ns=1, outputs_emitted_again=0)
        self.world.announce()

    def serve(self) -> None:
        (self.folder / "active").write_text(str(os.getpid()))
        selector = selectors.DefaultSelector()
        selector.register(self.world.fds()[0], selectors.EVENT_READ)
        while True:
            self.status("active")
            self.world.announce()  # again and again: a late frame of the dead host may have led the switch astray
            selector.select(0.05)
            for _, frame in self.world.receive(64):
                heard = self.station.hear(frame)
                answers = [
                    frame
                    for payload in heard.payloads
                    for frame in self.station.send(self.memory.answer(payload), Nanos(0))
                ]
                self.save()
                for number, out in enumerate((*heard.frames, *answers)):
                    self.world.release(Output(number=number, channel="net0", payload=out))

    def save(self) -> None:
        aside = self.folder / f"memory.{os.getpid()}"
        aside.write_bytes(pickle.dumps(self.memory))
        aside.rename(self.folder / "memory")
        self.epoch += 1
        say(event="Committed", epoch=self.epoch, dirty_pages=2, sent_bytes=100, pause_ns=150_000)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("file", help="the guest file; of keygen, the name of the keys")
    parser.add_argument("--create", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.role == "keygen":
        Path(f"{options.file}.key").touch()
        Path(f"{options.file}.pub").touch()
        return
    if options.role == "standby" and os.environ.get("FTVM_STUB") == "fail":
        sys.exit("the stub was told to fail")
    host = Host(tomllib.loads(Path(options.file).read_text()))
    if options.role == "standby":
        while not (host.folder / "active").exists():
            time.sleep(0.01)
        host.stand_by()
    host.serve()


main()
