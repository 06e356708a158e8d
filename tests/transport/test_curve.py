import pytest
import zmq

from ftvm.transport.curve import is_key, new_keypair, public_of, secure_client, secure_server


def test_secured_server_without_a_gate_lets_nobody_in() -> None:
    public, secret = new_keypair()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        secure_server(server, secret=secret)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        secure_client(client, public=public, secret=secret, server=public)
        client.linger = 0
        watch = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        client.connect(f"tcp://127.0.0.1:{port}")

        event = int.from_bytes(watch.recv_multipart()[0][:2], "little")
        client.disable_monitor()
        watch.close()

    assert event == zmq.EVENT_DISCONNECTED


def test_public_key_follows_from_the_secret_one() -> None:
    public, secret = new_keypair()

    assert is_key(public)
    assert is_key(secret)
    assert public_of(secret) == public


@pytest.mark.parametrize("text", ["", "x" * 39, "x" * 41, "~" * 40, "#" * 40, "\u00e9" * 40, " " * 40])
def test_text_that_is_no_key_is_told_apart(text: str) -> None:
    assert not is_key(text)
