from pathlib import Path

import pytest

from ftvm.interfaces import Transport
from ftvm.testing.transport import check_transport
from ftvm.transport.keys import generate_keys
from ftvm.transport.memory import MemoryNetwork
from ftvm.transport.zeromq import ZeroMqTransport


def test_memory_transport_keeps_the_contract() -> None:
    def make_pair() -> tuple[Transport, Transport]:
        network = MemoryNetwork()
        listener = network.transport("listener", key="theirs")
        return network.transport(peers=["listener"], key="ours"), listener

    check_transport(make_pair)


@pytest.mark.parametrize("has_keys", [True, False], ids=["curve", "plain"])
def test_zeromq_over_tcp_keeps_the_contract(has_keys: bool) -> None:
    ours, theirs = generate_keys(2) if has_keys else (None, None)

    def make_pair() -> tuple[Transport, Transport]:
        listener = ZeroMqTransport("tcp://127.0.0.1:0", [], theirs)
        return ZeroMqTransport(None, [str(listener.endpoint)], ours), listener

    check_transport(make_pair)


def test_zeromq_over_ipc_keeps_the_contract(tmp_path: Path) -> None:
    def make_pair() -> tuple[Transport, Transport]:
        listener = ZeroMqTransport(f"ipc://{tmp_path}/wire", [], None)
        return ZeroMqTransport(None, [f"ipc://{tmp_path}/wire"], None), listener

    check_transport(make_pair)
