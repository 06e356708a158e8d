"""The conformance kit for guests, on a QEMU; and what a machine that came from elsewhere must still be able to do."""

import shutil
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ftvm.guests.qemu import QemuGuest, guest
from ftvm.testing.guest import check_guest
from ftvm.testing.transcript import Said, Transcript, load_picture, take_picture

from .tiny import LETTERS, tiny_guest

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def installed() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")


def is_right(said: Sequence[Said]) -> bool:
    text = b"".join(one.payload for one in said)
    return not text or text in LETTERS * (len(text) // len(LETTERS) + 2)


def wait_for_words(running: QemuGuest, sink: Transcript, more: int) -> None:
    """Let the guest run until it has said more."""
    wanted = len(b"".join(one.payload for one in sink.said)) + more
    running.resume()
    for _ in range(int(PATIENCE_S * 100)):
        if len(b"".join(one.payload for one in sink.said)) >= wanted:
            break
        threading.Event().wait(0.01)
    running.pause()
    assert len(b"".join(one.payload for one in sink.said)) >= wanted


@pytest.mark.parametrize("saves_apart", [True, False])
def test_qemu_keeps_the_contract_of_a_guest(saves_apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that must be migrated to have its devices saved."""
    if not saves_apart:
        monkeypatch.setattr(guest, "can_save_apart", lambda _: False)
    numbers = count()

    check_guest(
        lambda: tiny_guest(tmp_path, next(numbers)),
        inputs=st.tuples(st.sampled_from(["console", "net0"]), st.binary(min_size=1, max_size=100)),
        let_run=lambda _guest: threading.Event().wait(0.05) and None,
        is_right=is_right,
        examples=2,
        steps=5,
        patience_seconds=PATIENCE_S,
    )


def test_a_loaded_machine_can_be_reset_and_saved_again(tmp_path: Path) -> None:
    booted, sink = tiny_guest(tmp_path, 0), Transcript()
    booted.attach(sink)
    wait_for_words(booted, sink, 5)
    picture = take_picture(booted)
    booted.close()
    first, first_sink = tiny_guest(tmp_path, 1, boots=False), Transcript()
    first.attach(first_sink)
    load_picture(first, picture)
    wait_for_words(first, first_sink, 3)

    first_sink.said.clear()
    first.monitor.execute("system_reset")
    wait_for_words(first, first_sink, 20)
    again = take_picture(first)
    first.close()
    second, second_sink = tiny_guest(tmp_path, 2, boots=False), Transcript()
    second.attach(second_sink)
    load_picture(second, again)
    wait_for_words(second, second_sink, 5)
    second.close()

    said = b"".join(one.payload for one in first_sink.said)
    assert LETTERS[:5] in said
    assert is_right(second_sink.said)
