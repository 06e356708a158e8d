import pytest
import zmq

from ftvm.transport.curve import DialWatch, is_key, new_keypair, public_of, secure_client, secure_server


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


def test_a_peer_that_hangs_up_in_the_handshake_may_just_have_ended() -> None:
    """Regression: each killed or closed peer was told as one with a wrong key."""
    watch = DialWatch("tcp://127.0.0.1:7")

    watch.note(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    (reason,) = watch.take_refusals()

    assert "Perhaps it has just ended" in reason
