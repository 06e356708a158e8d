"""The key-value server's ELF file as it ships, on every board."""

from itertools import pairwise
from typing import Any

OK = 0
PUT, GET, STAT = 1, 2, 3


def test_it_says_where_it_serves_and_announces_its_address(boot: Any, peer: Any) -> None:
    board = boot("kv")

    assert board.line() == "kv: serving on 10.77.0.2:7000, boot 1\n"
    assert board.receive()[6:12] == peer.guest_mac


def test_a_boot_argument_sets_its_address(boot: Any) -> None:
    board = boot("kv", "quiet host=9")

    assert board.line() == "kv: serving on 10.77.0.9:7000, boot 1\n"


def test_it_answers_arp_ping_and_requests_between_sleeps(boot: Any, peer: Any) -> None:
    board = boot("kv")
    board.receive()

    assert board.exchange(peer.arp())[20:22] == b"\0\2"
    assert board.exchange(peer.ping(b"data"))[-4:] == b"data"
    replies = []
    for number in range(1, 101):
        board.exchange(peer.request(PUT, b"key %d" % (number % 7), b"value %d" % number, number=2 * number))
        replies.append(
            peer.reply_in(board.exchange(peer.request(GET, b"key %d" % (number % 7), number=2 * number + 1)))
        )

    assert [reply.value for reply in replies] == [b"value %d" % number for number in range(1, 101)]
    assert [reply.writes for reply in replies] == list(range(1, 101))
    assert all(a.uptime < b.uptime and a.boot == b.boot for a, b in pairwise(replies))


def test_a_reboot_that_keeps_memory_shows(boot_on_qemu: Any, peer: Any) -> None:
    board = boot_on_qemu("kv")
    board.receive()
    before = peer.reply_in(board.exchange(peer.request(PUT, b"k", b"v")))
    board.line()

    board.reset()
    assert board.line() == "kv: serving on 10.77.0.2:7000, boot 2\n"
    board.receive()
    after = peer.reply_in(board.exchange(peer.request(STAT)))

    assert (before.boot & 0xFFFF, after.boot & 0xFFFF) == (1, 2)
    assert after.writes == 0
