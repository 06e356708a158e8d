"""What the tests of the guest programs share: a peer on the guest's network, the host build, QEMU as the machine."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCES = Path(__file__).parents[3] / "examples" / "guests"
PROGRAMS = Path(__file__).parents[3] / "ftvm" / "guests" / "riscv" / "programs"
BROADCAST = b"\xff" * 6
WAIT_SECONDS = 20


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over data that holds a right one."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Reply(NamedTuple):
    """A reply of the key-value server, taken apart as kv_protocol.h says."""

    status: int
    client: int
    number: int
    uptime: int
    boot: int
    writes: int
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A host at 10.77.0.1 that talks to the guest at 10.77.0.2: builds frames, takes answers apart and checks them."""

    mac: bytes = bytes.fromhex("020000000001")
    ip: bytes = bytes([10, 77, 0, 1])
    guest_mac: bytes = bytes.fromhex("020000000007")
    guest_ip: bytes = bytes([10, 77, 0, 2])

    def frame(self, ethernet_type: int, payload: bytes, *, to: bytes | None = None) -> bytes:
        return (to or self.guest_mac) + self.mac + struct.pack(">H", ethernet_type) + payload

    def arp(self, *, operation: int = 1, target: bytes | None = None, mac: bytes | None = None) -> bytes:
        packet = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        packet += (mac or self.mac) + self.ip + bytes(6) + (target or self.guest_ip)
        return self.frame(0x0806, packet, to=BROADCAST)

    def ip_packet(self, protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
        words = 5 + len(options) // 4
        lead = struct.pack(">BBHHHBB", 0x40 | words, 0, 4 * words + len(payload), 1, fragment, 64, protocol)
        rest = self.ip + self.guest_ip + options
        return lead + struct.pack(">H", checksum(lead + b"\0\0" + rest)) + rest + payload

    def udp(self, payload: bytes, *, port: int = 7000, source_port: int = 5555, with_checksum: bool = True) -> bytes:
        lead = struct.pack(">HHH", source_port, port, 8 + len(payload))
        pseudo = self.ip + self.guest_ip + struct.pack(">BBH", 0, 17, 8 + len(payload))
        total = (checksum(pseudo + lead + b"\0\0" + payload) or 0xFFFF) if with_checksum else 0
        return lead + struct.pack(">H", total) + payload

    def datagram(self, payload: bytes) -> bytes:
        return self.frame(0x0800, self.ip_packet(17, self.udp(payload)))

    def ping(self, data: bytes) -> bytes:
        lead, rest = b"\x08\0", struct.pack(">HH", 77, 1) + data
        message = lead + struct.pack(">H", checksum(lead + b"\0\0" + rest)) + rest
        return self.frame(0x0800, self.ip_packet(1, message))

    def request(
        self, operation: int, key: bytes = b"", value: bytes = b"", *, client: int = 1, number: int = 1
    ) -> bytes:
        """A frame that carries a well-formed request."""
        lead = struct.pack(">IBBHQQHH", 0x46544B56, 1, operation, len(key), client, number, len(value), 0)
        return self.datagram(lead + key + value)

    def datagram_in(self, frame: bytes) -> bytes:
        """The UDP payload of an answer; every length, address and checksum on the way is right."""
        assert frame[:14] == self.mac + self.guest_mac + b"\x08\0"
        packet, udp = frame[14:], frame[34:]
        assert packet[0] == 0x45
        assert struct.unpack(">H", packet[2:4])[0] == len(packet)
        assert checksum(packet[:20]) == 0
        assert packet[9] == 17
        assert packet[12:20] == self.guest_ip + self.ip
        assert struct.unpack(">HHH", udp[:6]) == (7000, 5555, len(udp))
        assert checksum(packet[12:20] + struct.pack(">BBH", 0, 17, len(udp)) + udp) == 0
        return udp[8:]

    def reply_in(self, frame: bytes) -> Reply:
        payload = self.datagram_in(frame)
        magic, version, status, value_bytes, *rest = struct.unpack(">IBBHQQQQQ", payload[:48])
        assert (magic, version, value_bytes) == (0x46544B52, 1, len(payload) - 48)
        return Reply(status, *rest, payload[48:])


@pytest.fixture(scope="session")
def peer() -> Peer:
    return Peer()


class HostBuild:
    """The server's network half, built for the host with sanitizers: what goes in comes out at once."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def answer(self, frame: bytes) -> bytes:
        """The answer to `frame`; empty if there is none."""
        return self._exchange(struct.pack(">H", len(frame)) + frame)

    def announcement(self) -> bytes:
        return self._exchange(b"\xff\xff")

    def _exchange(self, data: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()
        length = self._process.stdout.read(2)
        assert len(length) == 2, "the program died; its last words are above"
        return self._process.stdout.read(struct.unpack(">H", length)[0])

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("clang") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for the host (gcc or clang)")
    program = tmp_path_factory.mktemp("kv") / "kv_on_host"
    names = ["kv/kv.c", "kv/kv_clients.c", "kv/kv_table.c", "board/text.c"]
    names += [f"net/{noun}.c" for noun in ("arp", "checksum", "icmp", "ipv4", "stack", "udp")]
    flags = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [Path(__file__).with_name("kv_on_host.c"), *(SOURCES / name for name in names)]
    subprocess.run([compiler, *flags, f"-I{SOURCES}", *sources, "-o", program], check=True, timeout=120)
    return program


@pytest.fixture(scope="session")
def make_server(host_program: Path) -> Callable[[], HostBuild]:
    return lambda: HostBuild(host_program)


@pytest.fixture
def server(host_program: Path) -> Iterator[HostBuild]:
    server = HostBuild(host_program)
    yield server
    server.close()


class Machine:
    """A program on QEMU's `virt` board, its console on a pipe, its network on a pair of datagram sockets."""

    def __init__(self, program: Path, folder: Path, arguments: list[str]) -> None:
        self._guest, ours, self._monitor = folder / "guest", folder / "ours", folder / "monitor"
        self.wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.bind(str(ours))
        self.wire.settimeout(WAIT_SECONDS)
        network = f"dgram,id=n0,local.type=unix,local.path={self._guest},remote.type=unix,remote.path={ours}"
        command = ["qemu-system-riscv64", "-machine", "virt", "-m", "64M", "-bios", "none", "-display", "none"]
        command += ["-serial", "stdio", "-monitor", f"unix:{self._monitor},server=on,wait=off"]
        command += ["-global", "virtio-mmio.force-legacy=false", "-kernel", str(program), "-netdev", network]
        command += ["-device", "virtio-net-device,netdev=n0,mac=02:00:00:00:00:07", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def line(self) -> str:
        """The next line of the console."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def exchange(self, frame: bytes) -> bytes:
        self.wire.sendto(frame, str(self._guest))
        return self.wire.recv(2000)

    def reset(self) -> None:
        """Press the reset button: the machine starts again, its memory stays."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            monitor.sendall(b"system_reset\n")
            monitor.settimeout(WAIT_SECONDS)
            while b"system_reset" not in monitor.recv(4096):
                pass

    def wait(self) -> tuple[str, int]:
        """Wait for the end: the rest of the console, and the exit code."""
        output, _ = self.process.communicate(timeout=WAIT_SECONDS)
        return output.decode(), self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.wire.close()


@pytest.fixture
def boot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Machine]]:
    """boot(name, *arguments) starts program `name` on QEMU."""
    if shutil.which("qemu-system-riscv64") is None:
        pytest.skip("needs qemu-system-riscv64 (Debian: qemu-system-misc)")
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> Machine:
            folder = tmp_path_factory.mktemp("qemu")
            machine = Machine(PROGRAMS / f"{name}.elf", folder, list(arguments))
            stack.callback(machine.close)
            return machine

        yield start
