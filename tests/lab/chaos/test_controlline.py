import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.errors import BrokenError
from ftvm.lab.chaos.controlline import ControlLine


@pytest.fixture
def host(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "A.sock"))
        listening.listen()
        yield listening


def test_the_answer_comes_when_it_is_whole_and_is_not_waited_for(host: socket.socket, tmp_path: Path) -> None:
    line = ControlLine(tmp_path / "A.sock", {"do": "switchover"})
    end, _ = host.accept()

    asked = json.loads(end.recv(100))
    before = line.poll()
    end.sendall(b'{"ok": ')
    in_part = line.poll()
    end.sendall(b"1}\n")
    whole = line.poll()

    assert asked == {"do": "switchover"}
    assert (before, in_part, whole) == (None, None, {"ok": 1})
    line.close()
    end.close()


def test_a_host_that_is_gone_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match=r"nobody answers at the control socket .*A\.sock"):
        ControlLine(tmp_path / "A.sock", {"do": "switchover"})
