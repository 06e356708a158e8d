"""Where control sockets are, and that nobody but their owner can use them at any time."""

import os
import socket
import stat
from pathlib import Path

import pytest

from ftvm.errors import ConfigError, TransportError
from ftvm.service.socketfiles import (
    SOCKETS_MAX,
    control_folder,
    listen_privately,
    own_endpoint,
    prepare_folder,
    sockets_in,
)

NO_PROCESS = 2**22 + 1
"""More than any process id."""


@pytest.mark.parametrize(
    ("environment", "uid", "folder"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/ftvm"),
        ({"XDG_RUNTIME_DIR": "relative"}, 0, "/run/ftvm"),
        ({}, 0, "/run/ftvm"),
        ({}, 7, "/tmp/ftvm-7"),
    ],
)
def test_each_user_has_a_folder(environment: dict[str, str], uid: int, folder: str) -> None:
    assert control_folder(environment, uid) == Path(folder)


def test_a_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "new")

    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_answered_with_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(TransportError, match=r"set XDG_RUNTIME_DIR, choose a socket with --control"):
        prepare_folder(tmp_path / "file" / "ftvm")


def test_a_folder_that_somebody_else_laid_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ftvm").symlink_to(tmp_path / "theirs")

    with pytest.raises(TransportError, match="is a link, or belongs to another user"):
        prepare_folder(tmp_path / "ftvm")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ftvm").mkdir()
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)

    with pytest.raises(TransportError, match=rf"another user \(uid {owner}\)"):
        prepare_folder(tmp_path / "ftvm")


def test_of_a_folder_full_of_sockets_only_so_many_are_looked_at(tmp_path: Path) -> None:
    listen_privately(f"ipc://{tmp_path}/0.sock").close()
    for number in range(1, SOCKETS_MAX + 10):
        os.link(tmp_path / "0.sock", tmp_path / f"{number}.sock")

    assert len(sockets_in(tmp_path)) == SOCKETS_MAX


def test_a_guest_of_any_name_gets_a_path_within_the_folder(tmp_path: Path) -> None:
    assert own_endpoint(tmp_path, "a/../b", pid=7) == f"ipc://{tmp_path}/a%2F..%2Fb.7.sock"


def test_a_socket_is_its_owners_only_although_the_umask_is_wide(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with listen_privately(f"ipc://{tmp_path}/s"):
            mode = stat.S_IMODE((tmp_path / "s").stat().st_mode)
    finally:
        os.umask(old)

    assert mode == 0o600


def test_a_socket_in_use_is_not_taken_away(tmp_path: Path) -> None:
    with (
        listen_privately(f"ipc://{tmp_path}/s"),
        pytest.raises(TransportError, match="another process listens there"),
    ):
        listen_privately(f"ipc://{tmp_path}/s")


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")

    with pytest.raises(TransportError, match="is not a socket"):
        listen_privately(f"ipc://{tmp_path}/s")

    assert (tmp_path / "s").read_text() == "precious"


def test_a_socket_that_nobody_answers_at_is_replaced(tmp_path: Path) -> None:
    listen_privately(f"ipc://{tmp_path}/s").close()

    with listen_privately(f"ipc://{tmp_path}/s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_control_socket_is_never_on_the_network() -> None:
    with pytest.raises(ConfigError, match="write ipc:///PATH"):
        listen_privately("tcp://127.0.0.1:7777")


def test_what_killed_processes_left_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    mine, dead, other = tmp_path / f"vm.{os.getpid()}.sock", tmp_path / f"vm.{NO_PROCESS}.sock", tmp_path / "vm.sock"
    for path in (mine, dead, other):
        listen_privately(f"ipc://{path}").close()

    prepare_folder(tmp_path)

    assert sockets_in(tmp_path) == sorted([mine, other])


def test_no_folder_is_no_sockets(tmp_path: Path) -> None:
    assert sockets_in(tmp_path / "none") == []
