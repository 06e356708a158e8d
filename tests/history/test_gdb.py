"""gdb on a time machine: what it asks is answered, whatever it sends; and an ordinary gdb goes both ways."""

import contextlib
import re
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ftvm.history
from ftvm.errors import ConfigError, LimitExceeded
from ftvm.guests.riscv.machine import RAM_BASE
from ftvm.history.gdbpackets import INTERRUPT, PACKET_BYTES_MAX, PacketReader, pack
from ftvm.history.gdbserver import WAITING_MAX, GdbServer
from ftvm.history.gdbstub import Stub
from ftvm.history.recording import Recording
from ftvm.history.timeline import TimeMachine

from ..guests.riscv.assembly import LI_WORDS, addi, jal, li, store
from .past import built_with_symbols, kv_past, recorded_words

COUNTER = RAM_BASE + 0x8000
LOOP = RAM_BASE + 4 * LI_WORDS


def looping() -> Recording:
    machine = recorded_words([*li(5, COUNTER), addi(1, 1, 1), store(1, 5), jal(0, -8)])
    machine.run(3_000)
    return machine.recording()


@pytest.fixture
def past() -> Iterator[TimeMachine]:
    with TimeMachine(looping(), spacing=500) as machine:
        yield machine


# --- packets ---


def test_a_packet_is_read_as_it_was_packed_however_it_is_cut() -> None:
    stream = pack(b"g") + b"+" + pack(b"m80000000,8") + INTERRUPT

    for size in (1, 2, 3, len(stream)):
        reader = PacketReader()
        packets = [packet for at in range(0, len(stream), size) for packet in reader.feed(stream[at : at + size])]
        assert packets == [b"g", b"m80000000,8", INTERRUPT]
        assert reader.take_acks() == b"++"


def test_a_packet_with_a_wrong_checksum_is_asked_for_again() -> None:
    reader = PacketReader()

    assert reader.feed(b"$g#00") == []
    assert reader.take_acks() == b"-"


def test_escaped_bytes_are_read_as_meant() -> None:
    assert PacketReader().feed(pack(b"X}\x03}\x04")) == [b"X#$"]


def test_a_packet_without_end_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="more than the limit"):
        PacketReader().feed(b"$" + b"x" * (PACKET_BYTES_MAX + 1))


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_bytes_can_be_fed(parts: list[bytes]) -> None:
    reader = PacketReader()

    for part in parts:
        reader.feed(part)
        reader.take_acks()


# --- answers ---


def test_registers_and_memory_are_shown(past: TimeMachine) -> None:
    past.go(LI_WORDS + 2)
    stub = Stub(past)

    assert stub.answer(b"p1") == b"0100000000000000"
    assert stub.answer(b"p20") == (LOOP + 8).to_bytes(8, "little").hex().encode()
    assert stub.answer(b"m%x,8" % COUNTER) == b"0100000000000000"
    assert len(stub.answer(b"g")) == 16 * (33 + 8)


@pytest.mark.parametrize("packet", [b"G00", b"P1=00", b"M80000000,1:00", b"X80000000,1:a"])
def test_the_past_is_not_changed(past: TimeMachine, packet: bytes) -> None:
    assert Stub(past).answer(packet) == b"E.the past cannot be changed"


def test_steps_and_hits_are_told_in_both_directions(past: TimeMachine) -> None:
    stub = Stub(past)
    stub.answer(b"Z0,%x,4" % LOOP)
    forward = [stub.answer(b"c"), stub.answer(b"s"), stub.answer(b"bs")]
    stub.answer(b"z0,%x,4" % LOOP)
    stub.answer(b"Z2,%x,8" % COUNTER)
    watched = [stub.answer(b"c"), stub.answer(b"bc")]

    assert forward == [b"T05hwbreak:;thread:1;", b"T05thread:1;", b"T05thread:1;"]
    assert watched == [b"T05watch:%x;thread:1;" % COUNTER] * 2
    assert past.register(32) == LOOP + 4


def test_both_ends_of_history_are_told(past: TimeMachine) -> None:
    stub = Stub(past)

    assert stub.answer(b"bs") == b"T05replaylog:begin;thread:1;"
    assert stub.answer(b"bc") == b"T05replaylog:begin;thread:1;"
    assert stub.answer(b"c") == b"T05replaylog:end;thread:1;"
    assert stub.answer(b"s") == b"T05replaylog:end;thread:1;"


def monitor(stub: Stub, line: bytes) -> str:
    return bytes.fromhex(stub.answer(b"qRcmd," + line.hex().encode()).decode()).decode()


def test_monitor_commands_go_to_an_instruction_and_to_a_last_write(past: TimeMachine) -> None:
    stub = Stub(past)

    assert monitor(stub, b"goto 1500").startswith("instruction 1500 of 3000, pc 0x")
    assert "before the write" in monitor(stub, b"last-write %d" % COUNTER)
    assert past.moment.retired < 1_500
    assert "nothing wrote to the 4 bytes at 0x80009000" in monitor(stub, b"last-write 0x80009000 4")
    assert "are not in the machine's memory" in monitor(stub, b"last-write 0")
    assert "is not a number" in monitor(stub, b"goto there")
    assert "goto N" in monitor(stub, b"fly")
    assert "instruction 3001 is not in the past, which goes from 0 to 3000" in monitor(stub, b"goto 3001")


HEADS = b"g p m Z0, Z2, z2, s bs bc c q qRcmd, qXfer:features:read:target.xml: v vCont;c H D".split()
HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda head, tail: head + tail,
        st.sampled_from(HEADS),
        st.one_of(st.binary(max_size=20), st.from_regex(rb"\A[0-9a-f]{0,17},[0-9a-f]{0,17}\Z")),
    ),
)


@given(packets=st.lists(HOSTILE, max_size=20))
@example(packets=[b"Z0,10000000000000000,0", b"Z2,10000000000000000,-1", b"Z0,-2,0"])
@settings(max_examples=60, deadline=None)
def test_whatever_a_client_sends_is_answered_and_changes_nothing(packets: list[bytes]) -> None:
    with TimeMachine(looping(), spacing=500) as past:
        stub = Stub(past)
        for packet in packets:
            assert len(stub.answer(packet)) <= PACKET_BYTES_MAX

        past.clear_hooks()
        past.go(past.end)
        assert past.register(1) == (3_000 - LI_WORDS + 2) // 3


# --- the socket ---


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("1234", "must be unix:PATH or tcp:HOST:PORT"),
        ("tcp:0.0.0.0:0", "on this host alone"),
        ("tcp:10.1.2.3:0", "on this host alone"),
        ("tcp:example.org:0", "with a loopback address"),
        ("tcp:127.0.0.1:gdb", "with a loopback address"),
        ("tcp:127.0.0.1:99999", "with a loopback address"),
        ("unix:/nowhere/at/all", "cannot be at"),
    ],
)
def test_a_socket_that_others_could_reach_or_that_cannot_be_is_refused(
    past: TimeMachine, where: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        GdbServer(past, where)


def test_a_unix_socket_is_for_its_owner_alone_and_gone_when_closed(past: TimeMachine, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = GdbServer(past, f"unix:{path}")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.close()
    assert not path.exists()


@contextlib.contextmanager
def serving(past: TimeMachine) -> Iterator[GdbServer]:
    server = GdbServer(past, "tcp:127.0.0.1:0")
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        thread.join(timeout=60)
        server.close()
        assert not thread.is_alive()


def address_of(server: GdbServer) -> tuple[str, int]:
    host, _, port = server.target.rpartition(":")
    return host, int(port)


JUNK = {"gone": b"", "endless": b"$" + b"x" * 100_000, "noise": b"\x00\xff" * 1_000, "torn": b"$g#67$"}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_a_client_that_sends_garbage_and_leaves_ends_its_session_alone(past: TimeMachine, junk: bytes) -> None:
    with (
        serving(past) as server,
        socket.create_connection(address_of(server), timeout=30) as client,
        contextlib.suppress(OSError),
    ):
        client.sendall(junk)

    with serving(past) as server, socket.create_connection(address_of(server), timeout=30) as client:
        client.sendall(pack(b"qC") + pack(b"D"))
        assert b"QC1" in b"".join(iter(lambda: client.recv(100), b""))


def endless() -> Recording:
    machine = recorded_words([addi(1, 1, 1), jal(0, -4)])
    machine.run(1)
    forever = machine.recording()
    return Recording(
        shape=forever.shape, state=forever.state, pages=forever.pages, inputs=(), end=type(forever.end)(1 << 60, 0)
    )


def test_a_client_that_floods_a_running_machine_is_hung_up_on() -> None:
    """Regression: its packets were kept, without a limit, for when the machine stands."""
    with (
        TimeMachine(endless(), spacing=1_000_000) as past,
        serving(past) as server,
        socket.create_connection(address_of(server), timeout=60) as client,
    ):
        client.sendall(pack(b"c"))

        with contextlib.suppress(ConnectionError):
            client.sendall(pack(b"?") * (WAITING_MAX + 2))

        assert is_hung_up_on(client)


def is_hung_up_on(client: socket.socket) -> bool:
    """Read to the end of a connection; false if it stays open."""
    try:
        while client.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_a_long_run_is_interrupted_by_the_client() -> None:
    with (
        TimeMachine(endless(), spacing=1_000_000) as past,
        serving(past) as server,
        socket.create_connection(address_of(server), timeout=60) as client,
    ):
        client.sendall(pack(b"c"))
        client.sendall(INTERRUPT)
        reply = b""
        while b"T02" not in reply:
            reply += client.recv(100)
        client.sendall(pack(b"D"))


def test_a_time_machine_serves_gdb_at_a_place_of_its_own(past: TimeMachine, tmp_path: Path) -> None:
    path = tmp_path / "s"
    thread = threading.Thread(target=past.serve_gdb, args=(f"unix:{path}",))
    thread.start()
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(str(path)) != 0:  # it is there before it listens
            assert thread.is_alive()
            thread.join(timeout=0.01)
        client.sendall(pack(b"D"))
        thread.join(timeout=60)

    assert not thread.is_alive()
    assert not path.exists()


# --- an ordinary gdb ---

GDB = shutil.which("gdb-multiarch")
needs_gdb = pytest.mark.skipif(GDB is None, reason="needs gdb-multiarch (Debian: gdb-multiarch)")
COMMANDS = Path(ftvm.history.__file__).parent / "commands.gdb"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_with_symbols(tmp_path_factory.mktemp("kv"))


@pytest.fixture(scope="module")
def kv(program: Path) -> Recording:
    return kv_past(40, image=program.read_bytes())


@pytest.fixture
def gdb(kv: Recording, program: Path, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Return a function that gives an ordinary gdb some commands, at the end of the past, and returns what it said."""

    def ask(commands: str) -> str:
        with TimeMachine(kv, program=program, spacing=20_000) as past:
            past.go(past.end)
            with serving(past) as server:
                script = tmp_path / "commands"
                script.write_text(
                    "set confirm off\nset pagination off\nset width 0\nset remotetimeout 60\n"
                    f"file {program}\nsource {COMMANDS}\ntarget remote {server.target}\n{commands}\ndetach\n"
                )
                assert GDB is not None
                done = subprocess.run(
                    [GDB, "-nx", "-q", "-batch", "-x", str(script)],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
                )  # fmt: skip
        assert "detached" in done.stdout, done.stdout
        return done.stdout

    return ask


@needs_gdb
def test_gdb_goes_back_to_breakpoints_and_to_both_ends(gdb: Callable[[str], str]) -> None:
    said = gdb(
        "break kv_table_put\nreverse-continue\nmonitor where\nreverse-continue\nmonitor where\ndelete\n"
        "reverse-continue\nmonitor where\ncontinue\nmonitor where"
    )

    assert said.count("Breakpoint 1, kv_table_put") == 2
    assert said.count("No more reverse-execution history.") == 2
    places = [int(line.split()[1]) for line in said.splitlines() if line.startswith("instruction ")]
    assert places[1] < places[0] < places[3]
    assert places[2] == 0


@needs_gdb
def test_gdb_steps_back_by_instruction_line_and_function(gdb: Callable[[str], str]) -> None:
    said = gdb(
        "break kv_table_put\nreverse-continue\nnext\nnext\nmonitor where\nreverse-stepi\nmonitor where\n"
        "reverse-next\nreverse-step\nbacktrace 1\nreverse-finish\nmonitor where\nfinish\nstep"
    )

    places = [int(line.split()[1]) for line in said.splitlines() if line.startswith("instruction ")]
    assert places[1] == places[0] - 1
    assert places[2] < places[1]
    assert "Cannot" not in said, said


@needs_gdb
def test_gdb_finds_who_wrote_a_variable_last(gdb: Callable[[str], str]) -> None:
    said = gdb("print kv.writes\nwatch kv.writes\nreverse-continue\nprint kv.writes\nbacktrace 1")

    assert "Hardware watchpoint 2: kv.writes" in said or "Hardware watchpoint 1: kv.writes" in said
    values = [int(line.rpartition("= ")[2]) for line in said.splitlines() if line.startswith("$")]
    assert values[1] == values[0] - 1
    assert "put (" in said


@needs_gdb
def test_the_commands_for_gdb_show_the_place_that_they_go_to(gdb: Callable[[str], str]) -> None:
    """gdb keeps registers over a monitor command: the commands forget them."""
    said = gdb("print $pc\nftvm-goto 50000\nprint $pc\nmonitor where\nftvm-last-write kv.writes\nprint $pc\nftvm-where")

    shown = [int(found, 16) for found in re.findall(r"^\$\d+ = .*?(0x[0-9a-f]+)", said, re.MULTILINE)]
    told = [int(found, 16) for found in re.findall(r"^instruction .* pc (0x[0-9a-f]+)", said, re.MULTILINE)]
    assert told[0] == told[1] == shown[1]
    assert told[2] == told[3] == shown[2]
