import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.errors import SwitchoverFailed
from ftvm.service.controlline import ControlLine

TIMEOUT = 10.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "a.sock"))
        listening.listen()
        yield listening


def test_an_answer_that_is_polled_for_comes_when_it_is_whole_and_is_not_waited_for(
    host: socket.socket, tmp_path: Path
) -> None:
    line = ControlLine(tmp_path / "a.sock", TIMEOUT)
    end, _ = host.accept()
    line.say({"do": "switchover"})

    asked = json.loads(end.recv(100))
    before = line.poll()
    end.sendall(b'{"ok": 1}\n')
    whole = line.poll()

    assert asked["do"] == "switchover"
    assert (before, whole) == (None, 1)
    line.close()
    end.close()


def test_an_error_that_is_polled_for_is_raised(host: socket.socket, tmp_path: Path) -> None:
    line = ControlLine(tmp_path / "a.sock", TIMEOUT)
    end, _ = host.accept()
    end.sendall(b'{"error": {"type": "SwitchoverFailed", "message": "the standby is slow"}}\n')

    with pytest.raises(SwitchoverFailed, match="the standby is slow"):
        line.poll()

    line.close()
    end.close()
