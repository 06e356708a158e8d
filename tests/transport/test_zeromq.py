import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from ftvm.config import Limits
from ftvm.errors import ClosedError, ConfigError, LimitExceeded, TransportError
from ftvm.interfaces import Delivery, Lane
from ftvm.transport import zeromq
from ftvm.transport.keys import generate_keys
from ftvm.transport.zeromq import FRAMES_MAX, ZeroMqTransport

from ..leftovers import nothing_left_behind

ROUNDS = 10_000
STEP_NS = 5_000_000


class Bench:
    """Transports that are driven together and closed at the end."""

    def __init__(self) -> None:
        self.ends: list[ZeroMqTransport] = []
        self.came: dict[ZeroMqTransport, list[Delivery]] = {}

    def add(self, end: ZeroMqTransport) -> ZeroMqTransport:
        self.ends.append(end)
        self.came[end] = []
        return end

    def turn(self) -> None:
        if not self.ends:
            select.select((), (), (), STEP_NS / 1e9)
        for end in self.ends:
            end.wait(STEP_NS // len(self.ends), [])
            self.came[end].extend(end.poll(64).deliveries)

    def until(self, is_reached: Callable[[], bool]) -> None:
        for _ in range(ROUNDS):
            if is_reached():
                return
            self.turn()
        pytest.fail("did not come about")

    def close(self, end: ZeroMqTransport) -> None:
        self.ends.remove(end)
        end.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for end in bench.ends:
        end.close()


def pair(bench: Bench) -> tuple[ZeroMqTransport, ZeroMqTransport]:
    listening, dialling = generate_keys(2)
    listener = bench.add(ZeroMqTransport("tcp://127.0.0.1:0", [], listening))
    dialler = bench.add(ZeroMqTransport(None, [str(listener.endpoint)], dialling))
    return dialler, listener


def test_peer_that_dialled_in_is_named_after_its_key(bench: Bench) -> None:
    listening, dialling = generate_keys(2)
    listener = bench.add(ZeroMqTransport("tcp://127.0.0.1:0", [], listening))
    dialler = bench.add(ZeroMqTransport(None, [str(listener.endpoint)], dialling))

    bench.until(lambda: dialler.send(dialler.dialled[0], Lane.DATA, [b"hello"]))
    bench.until(lambda: bool(bench.came[listener]))
    bench.until(lambda: listener.send(bench.came[listener][0].peer, Lane.DATA, [b"welcome"]))
    bench.until(lambda: bool(bench.came[dialler]))

    (hello,), (welcome,) = bench.came[listener], bench.came[dialler]
    assert (hello.key, hello.peer.rpartition("/")[0]) == (dialling.public, dialling.public)
    assert (welcome.key, welcome.peer) == (listening.public, listener.endpoint)


def test_both_lanes_of_a_dialler_carry_one_name_and_another_dialler_another(bench: Bench) -> None:
    dialler, listener = pair(bench)
    other = bench.add(ZeroMqTransport(None, dialler.dialled, dialler._keys))

    for end in (dialler, other):
        for lane in Lane:
            bench.until(lambda end=end, lane=lane: end.send(end.dialled[0], lane, [b"x"]))  # type: ignore[misc]
    bench.until(lambda: len(bench.came[listener]) == 4)

    names = [delivery.peer for delivery in bench.came[listener]]
    assert sorted(map(names.count, set(names))) == [2, 2]


def test_name_of_a_dialler_holds_across_a_reconnect(bench: Bench, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    listener = bench.add(ZeroMqTransport(endpoint, [], None))
    dialler = bench.add(ZeroMqTransport(None, [endpoint], None))
    bench.until(lambda: dialler.send(endpoint, Lane.DATA, [b"x"]))
    bench.until(lambda: bool(bench.came[listener]))
    bench.close(listener)

    bench.until(lambda: not dialler.send(endpoint, Lane.DATA, [b"lost"]))
    again = bench.add(ZeroMqTransport(endpoint, [], None))
    bench.until(lambda: dialler.send(endpoint, Lane.DATA, [b"y"]))
    bench.until(lambda: bool(bench.came[again]))

    assert bench.came[again][0].peer == bench.came[listener][0].peer
    assert bytes(bench.came[again][0].frames[0]) == b"y"


def test_nothing_is_queued_for_a_peer_that_is_away(bench: Bench, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/nobody"
    dialler = bench.add(ZeroMqTransport(None, [endpoint], None))

    assert not dialler.send(endpoint, Lane.CONTROL, [b"into the void"], token=1)
    assert dialler.poll(1).let_go == ()


def test_messages_with_a_foreign_routing_id_are_dropped_and_counted(bench: Bench, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    listener = bench.add(ZeroMqTransport(endpoint, [], None))
    honest = bench.add(ZeroMqTransport(None, [endpoint], None))
    routing_ids = [b"x", b"a" * 32, b"A" * 32 + b".d", b"a" * 32 + b".e", b"a" * 32 + b".d\n", b"a" * 31 + b".d", b""]
    with zmq.Context() as context:
        strangers = [context.socket(zmq.DEALER) for _ in routing_ids]
        for stranger, routing_id in zip(strangers, routing_ids, strict=True):
            if routing_id:
                stranger.set(zmq.ROUTING_ID, routing_id)
            stranger.connect(endpoint)
            stranger.send_multipart([b"let", b"me"])

        bench.until(lambda: listener.counters.malformed == len(routing_ids))
        for stranger in strangers:
            stranger.close()

    assert bench.came[listener] == []
    bench.until(lambda: honest.send(endpoint, Lane.DATA, [b"hello"]))
    bench.until(lambda: len(bench.came[listener]) == 1)


def test_message_of_too_many_frames_is_dropped_and_counted(bench: Bench, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    listener = bench.add(ZeroMqTransport(endpoint, [], None))
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.set(zmq.ROUTING_ID, b"a" * 32 + b".d")
        stranger.connect(endpoint)
        stranger.send_multipart([b""] * FRAMES_MAX)
        stranger.send_multipart([b""] * (FRAMES_MAX + 1))
        stranger.send_multipart([b""] * (FRAMES_MAX * 2))
        bench.until(lambda: listener.counters.malformed == 2)

    assert [len(delivery.frames) for delivery in bench.came[listener]] == [FRAMES_MAX]


def test_messages_that_are_none_of_ours_are_told_once(bench: Bench, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    listener = bench.add(ZeroMqTransport(endpoint, [], None))
    before = listener.take_refusals()
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.connect(endpoint)
        for count in (3, 6):
            for _ in range(3):
                stranger.send_multipart([b"let", b"me"])
            bench.until(lambda count=count: listener.counters.malformed == count)  # type: ignore[misc]

    told = listener.take_refusals()

    assert before == ()
    assert told == (f"something other than ftvm sends to {endpoint}: its messages are dropped",)
    assert listener.take_refusals() == ()


def test_what_the_other_side_would_refuse_is_not_sent(bench: Bench) -> None:
    small = Limits(batch_bytes=1 << 16, devices_bytes=1 << 16, outputs_held_bytes=1 << 16)
    dialler = bench.add(ZeroMqTransport(None, ["tcp://127.0.0.1:9"], None, small))

    with pytest.raises(LimitExceeded, match="bytes of one frame"):
        dialler.send(dialler.dialled[0], Lane.DATA, [bytes(1 << 18)])
    with pytest.raises(LimitExceeded, match="frames of one message"):
        dialler.send(dialler.dialled[0], Lane.DATA, [b""] * (FRAMES_MAX + 1))


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://192.0.2.1:7000", "tcp://other:7000", "tcp://[::]:0"]
)
def test_no_keys_is_refused_where_other_machines_can_reach(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="keys are needed: make a pair on each host by `ftvm keygen NAME`"):
        ZeroMqTransport(endpoint, [], None)


def test_dialling_another_machine_without_keys_is_refused() -> None:
    with pytest.raises(ConfigError, match="keys are needed"):
        ZeroMqTransport("tcp://127.0.0.1:0", ["tcp://192.0.2.1:7000"], None)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://127.1.2.3:*"])
def test_no_keys_is_accepted_on_loopback(bench: Bench, endpoint: str) -> None:
    listener = bench.add(ZeroMqTransport(endpoint, [], None))

    assert str(listener.endpoint).startswith("tcp://127.")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "7000",
        "tcp://",
        "tcp://host",
        "tcp://host:port",
        "tcp://h:70000",
        "udp://h:1",
        "ipc://relative",
        "tcp://a;b:1",
    ],
)
def test_bad_endpoint_is_a_config_error_that_names_it(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ZeroMqTransport(None, [endpoint], None)

    assert repr(endpoint) in str(caught.value)


def test_nowhere_to_listen_and_nobody_to_dial_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="nowhere to listen, and no peer to dial"):
        ZeroMqTransport(None, [], None)


def test_peer_named_twice_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        ZeroMqTransport(None, ["tcp://127.0.0.1:7000"] * 2, None)


def test_busy_port_is_told_with_the_remedy() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        endpoint = f"tcp://127.0.0.1:{holder.getsockname()[1]}"

        with pytest.raises(TransportError, match="another process listens there; stop it, or choose another port"):
            ZeroMqTransport(endpoint, [], None)


def test_address_of_another_host_is_told_with_the_remedy() -> None:
    keys, _other = generate_keys(2)

    with pytest.raises(TransportError, match=r"this host has no such address.*0\.0\.0\.0 for all"):
        ZeroMqTransport("tcp://192.0.2.1:7000", [], keys)


def test_name_that_does_not_resolve_is_told_with_the_remedy() -> None:
    keys, _other = generate_keys(2)

    with pytest.raises(TransportError, match=r"host name 'no-such-host.invalid' cannot be resolved"):
        ZeroMqTransport(None, ["tcp://no-such-host.invalid:7000"], keys)


def test_ipc_path_where_another_listens_is_not_stolen(bench: Bench, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    bench.add(ZeroMqTransport(endpoint, [], None))

    with pytest.raises(TransportError, match="another process listens there"):
        ZeroMqTransport(endpoint, [], None)


def test_closing_gives_an_ipc_path_back_and_takes_nobody_elses(bench: Bench, tmp_path: Path) -> None:
    first = ZeroMqTransport(f"ipc://{tmp_path}/wire", [], None)
    os.unlink(tmp_path / "wire")
    bench.add(ZeroMqTransport(f"ipc://{tmp_path}/wire", [], None))
    other = ZeroMqTransport(f"ipc://{tmp_path}/other", [], None)

    first.close()
    other.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["wire"]


def test_ipc_socket_left_by_a_dead_process_is_replaced(bench: Bench, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/wire")

    bench.add(ZeroMqTransport(f"ipc://{tmp_path}/wire", [], None))


def test_file_at_an_ipc_path_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")

    with pytest.raises(TransportError, match="exists and is not a socket"):
        ZeroMqTransport(f"ipc://{tmp_path}/precious", [], None)

    assert (tmp_path / "precious").read_text() == "kept"


def test_libzmq_with_known_holes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq.zmq, "zmq_version_info", lambda: (4, 3, 2))

    with pytest.raises(ConfigError, match=r"has known holes: at least 4\.3\.3 is needed"):
        ZeroMqTransport("tcp://127.0.0.1:0", [], None)


def test_closed_transport_says_so(bench: Bench) -> None:
    dialler, _listener = pair(bench)
    bench.close(dialler)

    with pytest.raises(ClosedError):
        dialler.poll(1)


def test_last_words_before_a_close_arrive(bench: Bench) -> None:
    dialler, listener = pair(bench)
    for lane in Lane:
        bench.until(lambda lane=lane: dialler.send(dialler.dialled[0], lane, [b"hello"]))  # type: ignore[misc]
    bench.until(lambda: len(bench.came[listener]) == 2)

    for number in range(10):
        assert dialler.send(dialler.dialled[0], Lane.CONTROL, [b"leave", str(number).encode()])
    bench.close(dialler)
    bench.until(lambda: len(bench.came[listener]) == 12)

    assert [bytes(last.frames[1]) for last in bench.came[listener][2:]] == [
        str(number).encode() for number in range(10)
    ]


def test_close_does_not_wait_for_a_peer_that_reads_nothing(bench: Bench) -> None:
    dialler, listener = pair(bench)
    bench.until(lambda: dialler.send(dialler.dialled[0], Lane.DATA, [b"hello"]))
    bench.until(lambda: bool(bench.came[listener]))
    load = bytearray(1 << 20)
    token = 0
    while dialler.send(dialler.dialled[0], Lane.DATA, [load], token):
        token += 1

    bench.close(dialler)

    assert token > 0
    bench.until(lambda: is_released(load))


def is_released(load: bytearray) -> bool:
    try:
        load.clear()
    except BufferError:  # pyzmq's collector is a moment behind libzmq
        return False
    return True


def test_failed_construction_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with nothing_left_behind():
        with pytest.raises(TransportError):
            ZeroMqTransport("tcp://127.0.0.1:0", ["tcp://no-such-host.invalid:1"], generate_keys(2)[0])
        with pytest.raises(TransportError):
            ZeroMqTransport(f"ipc://{tmp_path}/file", [], None)
