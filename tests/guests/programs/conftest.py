"""What the tests of the guest programs share: a peer on the guest's network, and the boards."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from os import urandom
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import pytest

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason

PROGRAMS = Path(__file__).parents[3] / "ftvm" / "guests" / "riscv" / "programs"
BROADCAST = b"\xff" * 6
WAIT_SECONDS = 120
RUN_INSTRUCTIONS_MAX = 100_000_000
MOVE_INSTRUCTIONS = 50_021
MOVES = 80


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


class Board(Protocol):
    """A machine that runs a program: its console, its network, its end."""

    def line(self) -> str:
        """The next line of the console."""
        ...

    def type(self, keys: bytes) -> None:
        """Type on the console."""
        ...

    def receive(self) -> bytes:
        """The next frame that the program sends."""
        ...

    def exchange(self, frame: bytes) -> bytes:
        """Send a frame to the program and return the next one it sends."""
        ...

    def wait(self) -> tuple[str, int]:
        """Wait for the end: the rest of the console, and the exit code."""
        ...

    def close(self) -> None: ...


class QemuBoard:
    """QEMU's `virt` board, its console on a pipe, its network on a pair of datagram sockets."""

    def __init__(self, elf: Path, folder: Path, arguments: str, disk: Path | None, has_entropy: bool) -> None:
        self._guest, ours, self._monitor = folder / "guest", folder / "ours", folder / "monitor"
        self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._wire.bind(str(ours))
        self._wire.settimeout(WAIT_SECONDS)
        network = f"dgram,id=n0,local.type=unix,local.path={self._guest},remote.type=unix,remote.path={ours}"
        command = ["qemu-system-riscv64", "-machine", "virt", "-m", "16M", "-bios", "none", "-display", "none"]
        command += ["-serial", "stdio", "-monitor", f"unix:{self._monitor},server=on,wait=off", "-kernel", str(elf)]
        command += ["-global", "virtio-mmio.force-legacy=false", "-netdev", network, "-append", arguments]
        command += ["-device", "virtio-net-device,netdev=n0,mac=02:00:00:00:00:07"]
        if disk is not None:
            command += ["-drive", f"file={disk},format=raw,if=none,id=d0", "-device", "virtio-blk-device,drive=d0"]
        if has_entropy:
            command += ["-device", "virtio-rng-device"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._keys, self._console = self._process.stdin, self._process.stdout

    def line(self) -> str:
        line = self._console.readline()
        assert line, "the program ended without another line"
        return line.decode()

    def type(self, keys: bytes) -> None:
        self._keys.write(keys)
        self._keys.flush()

    def receive(self) -> bytes:
        return self._wire.recv(2000)

    def exchange(self, frame: bytes) -> bytes:
        self._wire.sendto(frame, str(self._guest))
        return self.receive()

    def reset(self) -> None:
        """Press the reset button: the machine starts again, its memory stays."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            monitor.sendall(b"system_reset\n")
            monitor.settimeout(WAIT_SECONDS)
            while b"system_reset" not in monitor.recv(4096):
                pass

    def wait(self) -> tuple[str, int]:
        output, _ = self._process.communicate(timeout=WAIT_SECONDS)
        return output.decode(), self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._wire.close()


class BuiltInBoard:
    """The built-in machine, run step by step; waiting costs it no time.

    moves  how often all state is carried to a fresh machine on the way, as a takeover does
    """

    def __init__(self, elf: Path, arguments: str, disk: Path | None, has_entropy: bool, moves: int) -> None:
        disk_bytes = disk.stat().st_size if disk is not None else 0
        self._shape = MachineShape(
            ram_bytes=16 << 20, mac=bytes.fromhex("020000000007"), disk_bytes=disk_bytes, has_entropy=has_entropy
        )
        self._disk_file = disk
        self._machine = Machine(self._shape)
        program = parse_elf(elf.read_bytes(), ram_base=RAM_BASE, ram_bytes=self._shape.ram_bytes)
        self._machine.boot(program, command_line=arguments)
        if disk is not None and self._machine.disk is not None:
            self._machine.disk.write(0, disk.read_bytes())
        self._moves_left = moves
        self._console = ""
        self._keys = b""
        self._frames: list[bytes] = []

    def line(self) -> str:
        while "\n" not in self._console:
            self._step()
        line, _, self._console = self._console.partition("\n")
        return line + "\n"

    def type(self, keys: bytes) -> None:
        self._keys += keys

    def receive(self) -> bytes:
        while not self._frames:
            self._step()
        return self._frames.pop(0)

    def exchange(self, frame: bytes) -> bytes:
        while not self._machine.receive_frame(frame):
            self._step()
        return self.receive()

    def wait(self) -> tuple[str, int]:
        while self._step() is not StopReason.FINISHED:
            pass
        if self._disk_file is not None and self._machine.disk is not None:
            self._disk_file.write_bytes(self._machine.disk.buffer)
        return self._console, self._machine.exit_code

    def _step(self) -> StopReason:
        """Run for a while, take what was said, give what is wanted, let time pass."""
        assert self._machine.position.retired < RUN_INSTRUCTIONS_MAX, f"no end, no answer; console: {self._console}"
        stop = self._machine.run(MOVE_INSTRUCTIONS if self._moves_left else RUN_INSTRUCTIONS_MAX)
        for output in self._machine.take_outputs():
            if output.channel == "console":
                self._console += output.payload.decode()
            else:
                self._frames.append(output.payload)
        if self._moves_left and stop is not StopReason.FINISHED:
            self._moves_left -= 1
            self._move()
        if stop is StopReason.IDLE:
            self._feed()
        return stop

    def _feed(self) -> None:
        self._machine.receive_entropy(urandom(self._machine.entropy_wanted()))
        self._keys = self._keys[self._machine.receive_console(self._keys) :]
        ticks = self._machine.idle_max()
        if ticks is not None:
            self._machine.idle(ticks)

    def _move(self) -> None:
        """Carry all state to a fresh machine and go on there."""
        old, self._machine = self._machine, Machine(self._shape)
        self._machine.ram.buffer[:] = old.ram.buffer
        if old.disk is not None and self._machine.disk is not None:
            self._machine.disk.buffer[:] = old.disk.buffer
        self._machine.load(old.save())

    def close(self) -> None:
        pass


class Boot(Protocol):
    """Starts a program, by its name or its ELF file, on a board with these boot arguments and devices."""

    def __call__(
        self, program: str | Path, arguments: str = "", *, disk: Path | None = None, has_entropy: bool = False
    ) -> Any: ...


def elf_of(program: str | Path) -> Path:
    return program if isinstance(program, Path) else PROGRAMS / f"{program}.elf"


@pytest.fixture
def boot_on_qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    if shutil.which("qemu-system-riscv64") is None:
        pytest.skip("needs qemu-system-riscv64 (Debian: qemu-system-misc)")
    with ExitStack() as stack:

        def start(
            program: str | Path, arguments: str = "", *, disk: Path | None = None, has_entropy: bool = False
        ) -> Board:
            folder = tmp_path_factory.mktemp("qemu")
            board = QemuBoard(elf_of(program), folder, arguments, disk, has_entropy)
            stack.callback(board.close)
            return board

        yield start


@pytest.fixture(params=["qemu", "built-in", "built-in, moved often"])
def boot(request: pytest.FixtureRequest) -> Boot:
    """boot(program, arguments) starts a program on each board in turn: the same bytes must do the same on all."""
    if request.param == "qemu":
        return cast("Boot", request.getfixturevalue("boot_on_qemu"))
    moves = 0 if request.param == "built-in" else MOVES

    def start(
        program: str | Path, arguments: str = "", *, disk: Path | None = None, has_entropy: bool = False
    ) -> Board:
        return BuiltInBoard(elf_of(program), arguments, disk, has_entropy, moves)

    return start
