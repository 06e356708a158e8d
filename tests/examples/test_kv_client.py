"""The client of the key-value guest speaks its protocol, and asks again until it is answered."""

import importlib.util
import socket
import threading
from pathlib import Path
from types import ModuleType

import pytest

from ftvm.lab.kv import Operation, Reply, ReplyStatus, Request

CLIENT = Path(__file__).parents[2] / "examples" / "kv_client.py"


@pytest.fixture
def kv_client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kv_client", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_request_is_asked_again_until_it_is_answered(kv_client: ModuleType) -> None:
    asked = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        guest.bind(("127.0.0.1", 0))
        guest.settimeout(30)

        def serve() -> None:
            for _ in range(2):  # the first is lost
                data, sender = guest.recvfrom(2048)
                asked.append(Request.decode(data))
            facts = {"client": asked[-1].client, "number": asked[-1].number, "uptime": 1, "boot": 2, "writes": 3}
            guest.sendto(Reply(status=ReplyStatus.OK, value=b"world", **facts).encode(), sender)

        serving = threading.Thread(target=serve)
        serving.start()
        status, value = kv_client.ask(guest.getsockname(), "get", b"hello")
        serving.join()

    assert (status, value) == ("ok", b"world")
    assert asked[0] == asked[1]
    assert (asked[0].operation, asked[0].key) == (Operation.GET, b"hello")


def test_nobody_there_is_said(kv_client: ModuleType) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(SystemExit, match=r"no answer from 127\.0\.0\.1"):
            kv_client.ask(silent.getsockname(), "stat", tries=1)


def test_words_that_are_no_request_show_how(kv_client: ModuleType) -> None:
    with pytest.raises(SystemExit, match="put KEY VALUE"):
        kv_client.main(["fly"])
