"""What gdb asks of a time machine, packet by packet: registers, memory, breakpoints, watches, steps both ways.

An ordinary gdb-multiarch, and every front end on it, uses it as a target that can run backwards. The past is
read-only: what would change it is refused. `monitor` commands go to an instruction or to the last write of an address;
as gdb keeps registers in a cache over them, commands.gdb has commands of gdb's own that forget it.

Pure but for the time machine: bytes in, bytes out. gdbserver.py has the socket. Safe on whatever a client sends.
Source: "Debugging with GDB", appendix E (packets, stop replies) and chapter 6 (reverse execution).
"""

from collections.abc import Callable
from typing import Final

from ftvm.errors import ConfigError, FtvmError
from ftvm.history.gdbpackets import PACKET_BYTES_MAX
from ftvm.history.hooks import Hit, HitKind
from ftvm.history.timeline import Arrival, TimeMachine

__all__ = ["Stub"]

_NAMES: Final = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1"),
    *(f"a{number}" for number in range(8)),
    *(f"s{number}" for number in range(2, 12)),
    *("t3", "t4", "t5", "t6", "pc"),
)
_TYPES: Final = {"ra": "code_ptr", "pc": "code_ptr", "sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr"}
_CSRS: Final = {
    "mstatus": 0x300, "mie": 0x304, "mtvec": 0x305, "mscratch": 0x340, "mepc": 0x341, "mcause": 0x342, "mtval": 0x343,
    "mip": 0x344,
}  # fmt: skip
_WORD_BYTES: Final = 8
_ERROR: Final = b"E01"
_OK: Final = b"OK"
_UNKNOWN: Final = b""
_READ_ONLY: Final = b"E.the past cannot be changed"
_THREAD: Final = b"thread:1;"
_HELP: Final = (
    "where              at which instruction the machine stands\n"
    "goto N             go to right before instruction N\n"
    "last-write A [N]   go to right before the last write of the N bytes at address A (default 8)\n"
    "After goto and last-write gdb's registers are old: use ftvm-goto and ftvm-last-write of commands.gdb.\n"
)


def _register_xml(name: str) -> str:
    return f'<reg name="{name}" bitsize="64" type="{_TYPES.get(name, "int")}"/>'


_TARGET_XML: Final = (
    '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">'
    "<architecture>riscv:rv64</architecture>"
    f'<feature name="org.gnu.gdb.riscv.cpu">{"".join(map(_register_xml, _NAMES))}</feature>'
    f'<feature name="org.gnu.gdb.riscv.csr">{"".join(map(_register_xml, _CSRS))}</feature></target>'
).encode()


class Stub:
    """One client's session. `answer` is called with each packet; `is_over` tells when the client has left."""

    def __init__(self, past: TimeMachine) -> None:
        self._past = past
        self.is_over = False
        self.wants_no_acks = False
        past.clear_hooks()
        self._commands: dict[bytes, Callable[[bytes], bytes]] = {
            b"g": lambda _: b"".join(self._register(number) for number in range(len(_NAMES) + len(_CSRS))),
            b"p": lambda rest: self._register(int(rest, 16)),
            b"m": self._read,
            b"Z": lambda rest: self._set_hook(rest, True),
            b"z": lambda rest: self._set_hook(rest, False),
            b"s": lambda rest: self._step(rest),
            b"c": lambda rest: _stop(*past.run_on(passes_break=False)) if not rest else _ERROR,
            b"b": self._backwards,
            b"?": lambda _: _stop("there", None),
            b"H": lambda _: _OK,
            b"T": lambda _: _OK,
            b"q": self._query,
            b"Q": self._query,
            b"v": self._verb,
            b"D": self._leave,
            b"k": self._leave,
        }
        self._commands |= dict.fromkeys((b"G", b"P", b"M", b"X"), lambda _: _READ_ONLY)

    def answer(self, packet: bytes) -> bytes:
        """Return the reply to a packet: empty if it is not known, an error if it makes no sense."""
        command = self._commands.get(packet[:1])
        if command is None:
            return _UNKNOWN
        try:
            return command(packet[1:])
        except (ValueError, OverflowError):
            return _ERROR

    # --- looking ---

    def _register(self, number: int) -> bytes:
        if 0 <= number < len(_NAMES):
            value: int | None = self._past.register(number)
        elif 0 <= number - len(_NAMES) < len(_CSRS):
            value = self._past.csr(list(_CSRS.values())[number - len(_NAMES)])
        else:
            return _ERROR
        return (value or 0).to_bytes(_WORD_BYTES, "little").hex().encode()

    def _read(self, rest: bytes) -> bytes:
        address, size = (int(number, 16) for number in rest.split(b","))
        content = self._past.read(address, min(size, (PACKET_BYTES_MAX - 64) // 2))
        return content.hex().encode() if content is not None else _ERROR

    # --- what to stop at ---

    def _set_hook(self, rest: bytes, is_wanted: bool) -> bytes:
        kind, place, size = rest.split(b";")[0].split(b",")
        address, size_bytes = int(place, 16), int(size, 16)
        if kind in (b"0", b"1"):
            return _OK if self._past.set_break(address, is_wanted) else _ERROR
        if kind == b"2":
            return _OK if self._past.set_watch(address, size_bytes, is_wanted) else _ERROR
        return _UNKNOWN

    # --- going ---

    def _step(self, rest: bytes) -> bytes:
        return _stop(*self._past.step()) if not rest else _ERROR

    def _backwards(self, rest: bytes) -> bytes:
        if rest == b"s":
            return _stop(*self._past.step_back())
        return _stop(*self._past.last_hit()) if rest == b"c" else _UNKNOWN

    # --- all else ---

    def _query(self, rest: bytes) -> bytes:
        name, _, argument = rest.partition(b":")
        if name == b"Supported":
            features = "ReverseStep+;ReverseContinue+;hwbreak+;QStartNoAckMode+;qXfer:features:read+"
            return f"PacketSize={PACKET_BYTES_MAX - 64:x};{features}".encode()
        if name == b"StartNoAckMode":
            self.wants_no_acks = True
            return _OK
        if name == b"Xfer" and argument.startswith(b"features:read:target.xml:"):
            return _part_of(_TARGET_XML, argument.rpartition(b":")[2])
        if rest.startswith(b"Rcmd,"):
            return self._monitor(bytes.fromhex(rest[len(b"Rcmd,") :].decode("ascii")).decode(errors="replace"))
        return {b"Attached": b"1", b"C": b"QC1", b"fThreadInfo": b"m1", b"sThreadInfo": b"l"}.get(name, _UNKNOWN)

    def _verb(self, rest: bytes) -> bytes:
        return self._leave(rest) if rest.startswith(b"Kill") else _UNKNOWN

    def _leave(self, _: bytes) -> bytes:
        self.is_over = True
        return _OK

    def _monitor(self, line: str) -> bytes:
        name, *arguments = line.split() or ["help"]
        try:
            said = self._command(name, [int(argument, 0) for argument in arguments])
        except ValueError:
            said = f"{line}: an argument is not a number\n"
        except FtvmError as wrong:
            said = f"{wrong}\n"
        return said.encode().hex().encode()

    def _command(self, name: str, arguments: list[int]) -> str:
        past = self._past
        match name, arguments:
            case "where", []:
                return f"{_where(past)}\n"
            case "goto", [instruction]:
                past.go(instruction)
                return f"{_where(past)}\n"
            case "last-write", [address]:
                return self._last_write(address, _WORD_BYTES)
            case "last-write", [address, size_bytes]:
                return self._last_write(address, size_bytes)
            case _:
                return _HELP

    def _last_write(self, address: int, size_bytes: int) -> str:
        if self._past.last_write(address, size_bytes) is None:
            raise ConfigError(f"nothing wrote to the {size_bytes} bytes at {address:#x} before this place")
        return f"{_where(self._past)}, before the write\n"


def _where(past: TimeMachine) -> str:
    return f"instruction {past.moment.retired} of {past.end}, pc {past.register(32):#x}"


def _part_of(content: bytes, where: bytes) -> bytes:
    at, size = (int(number, 16) for number in where.split(b","))
    size = min(size, PACKET_BYTES_MAX - 64)
    return (b"m" if at + size < len(content) else b"l") + content[at : at + size]


def _stop(arrival: Arrival, hit: Hit | None) -> bytes:
    """Return the stop reply: SIGTRAP, or SIGINT where the client broke in, and why."""
    if arrival == "interrupted":
        return b"T02" + _THREAD
    if arrival in ("begin", "end"):
        return b"T05replaylog:" + arrival.encode() + b";" + _THREAD
    if hit is None:
        return b"T05" + _THREAD
    reason = b"watch:%x;" % hit.address if hit.kind is HitKind.WATCH else b"hwbreak:;"
    return b"T05" + reason + _THREAD
