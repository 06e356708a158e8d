import errno
from typing import Any

import pytest
import zmq

from ftvm.errors import TransportError
from ftvm.transport.line import FRAMES_MAX, Line, open_socket


class FakeSocket:
    """Takes frames until told to fail; records what it was given."""

    def __init__(self, failures: dict[int, int]) -> None:
        self.failures = failures
        self.given: list[tuple[bytes, int]] = []
        self.tracked: list[int] = []

    def get(self, _option: int) -> int:
        return 0

    def send(self, part: bytes, flags: int, *, copy: bool, track: bool) -> None:
        self.given.append((part, flags))
        number = self.failures.get(len(self.given))
        if number is not None:
            raise zmq.ZMQError(number)
        assert copy != track
        if track:
            self.tracked.append(len(part))


def line_over(failures: dict[int, int]) -> tuple[FakeSocket, Any]:
    socket = FakeSocket(failures)
    line: Any = Line(socket)  # type: ignore[arg-type]
    return socket, line


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EHOSTUNREACH])
def test_message_refused_at_its_first_frame_is_not_taken(number: int) -> None:
    socket, line = line_over({1: number})

    trackers = line.push([b"a", b"b", b"c"], is_lent=False)

    assert trackers is None
    assert [part for part, _ in socket.given] == [b"a"]


def test_rest_of_a_message_cut_by_a_broken_connection_is_still_handed_over() -> None:
    socket, line = line_over({2: errno.EAGAIN})

    trackers = line.push([b"a", b"b", b"c"], is_lent=False)

    assert trackers == []
    assert [(part, bool(flags & zmq.SNDMORE)) for part, flags in socket.given] == [
        (b"a", True),
        (b"b", True),
        (b"c", False),
    ]


def test_small_parts_of_a_lent_message_are_copied_and_large_ones_tracked() -> None:
    socket, line = line_over({})

    line.push([b"a", bytes(1 << 20), b"c"], is_lent=True)
    line.push([bytes(1 << 20)], is_lent=False)

    assert socket.tracked == [1 << 20]


def test_any_other_failure_to_send_is_a_transport_error() -> None:
    _socket, line = line_over({1: errno.ENOTSOCK})

    with pytest.raises(TransportError, match="ZeroMQ cannot send"):
        line.push([b"a"], is_lent=False)


def test_message_of_any_number_of_frames_is_pulled_whole_and_kept_bounded() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://line")
        theirs.connect("inproc://line")
        line = Line(ours)
        for count in (1, FRAMES_MAX, FRAMES_MAX + 2, FRAMES_MAX * 3):
            theirs.send_multipart([b"x"] * count)
        theirs.send(b"end")

        lengths = []
        while line.has_message():
            lengths.append(len(line.pull()))

    assert lengths == [1, FRAMES_MAX, FRAMES_MAX + 2, FRAMES_MAX + 2, 1]


def test_message_that_came_unseen_during_a_send_is_found() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://line")
        theirs.connect("inproc://line")
        line = Line(ours)
        assert not line.has_message()

        theirs.send(b"x")
        line.push([b"y"], is_lent=False)  # this looks at the signal, after which the descriptor stays silent

        assert line.has_message()
        assert [frame.bytes for frame in line.pull()] == [b"x"]


def test_no_socket_has_the_heartbeat_that_aborts_the_process_of_a_busy_reader() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    with context, open_socket(context, zmq.ROUTER, frame_bytes_max=1 << 20, is_ipv6=False) as router:
        interval = router.get(zmq.HEARTBEAT_IVL)

    assert interval == 0
