import errno
import os
import stat
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.transport.keys import Keys, generate_keys, load_keys, load_public, write_keypair


def test_written_keys_load_and_belong_together(tmp_path: Path) -> None:
    ours, theirs = write_keypair(tmp_path / "ours"), write_keypair(tmp_path / "theirs")

    keys = load_keys(tmp_path / "ours.key", [tmp_path / "theirs.pub"])

    assert keys.public == ours == load_public(tmp_path / "ours.pub")
    assert keys.allowed == {theirs}
    assert keys.secret not in repr(keys)


def test_secret_key_file_is_its_owners_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_keypair(tmp_path / "host")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "host.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "host.pub").stat().st_mode) == 0o644


@pytest.mark.parametrize("taken", ["host.key", "host.pub"])
def test_existing_files_are_never_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")

    with pytest.raises(ConfigError, match=f"{taken} exists, and keys are never overwritten"):
        write_keypair(tmp_path / "host")

    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


def test_a_key_that_appears_meanwhile_is_not_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "host.pub").write_text("precious")
    monkeypatch.setattr(os.path, "lexists", lambda _: False)

    with pytest.raises(ConfigError, match=r"host\.pub exists, and keys are never overwritten"):
        write_keypair(tmp_path / "host")

    assert [path.name for path in tmp_path.iterdir()] == ["host.pub"]
    assert (tmp_path / "host.pub").read_text() == "precious"


def test_a_key_whose_name_cannot_be_made_durable_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(ConfigError, match=r"host\.key cannot be written: Input/output error"):
        write_keypair(tmp_path / "host")

    assert list(tmp_path.iterdir()) == []


def test_keys_that_cannot_be_written_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing/host\.key cannot be made: No such file or directory"):
        write_keypair(tmp_path / "missing" / "host")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
def test_secret_key_that_others_may_read_or_write_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    write_keypair(tmp_path / "host")
    (tmp_path / "host.key").chmod(mode)

    with pytest.raises(ConfigError, match=rf"mode {mode:04o}\): run `chmod 600 .*host\.key`"):
        load_keys(tmp_path / "host.key", [tmp_path / "host.pub"])


def test_a_public_key_in_the_place_of_the_secret_one_is_told_apart(tmp_path: Path) -> None:
    """Regression: the advice was to make the public key private."""
    write_keypair(tmp_path / "host")

    with pytest.raises(ConfigError, match=r"host\.pub is a public key, for the peers: give this host's secret key"):
        load_keys(tmp_path / "host.pub", [tmp_path / "host.pub"])


@pytest.mark.parametrize("content", ["", "ftvm-public-key", "ftvm-public-key short", "hello " * 50, "\0" * 400])
def test_file_that_holds_no_public_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.pub").write_text(content)

    with pytest.raises(ConfigError, match=r"bad\.pub is no ftvm public key file"):
        load_public(tmp_path / "bad.pub")


def test_secret_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    write_keypair(tmp_path / "host")

    with pytest.raises(ConfigError, match="is no ftvm public key file"):
        load_public(tmp_path / "host.key")


def test_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory; `ftvm keygen NAME` makes one"):
        load_public(tmp_path / "none.pub")


def test_keys_refuse_a_secret_of_another_pair() -> None:
    one, other = generate_keys(2)

    with pytest.raises(ConfigError, match="does not belong to the public key"):
        Keys(public=one.public, secret=other.secret, allowed=frozenset({other.public}))


def test_keys_refuse_an_empty_allow_list() -> None:
    one, _other = generate_keys(2)

    with pytest.raises(ConfigError, match="no peer's key is allowed"):
        Keys(public=one.public, secret=one.secret, allowed=frozenset())


def test_the_key_behind_an_endpoint_is_never_guessed() -> None:
    one, other, third = generate_keys(3)
    told = Keys(public=one.public, secret=one.secret, allowed=one.allowed, servers={"ipc:///a": other.public})

    assert told.server_of("ipc:///a") == other.public
    assert generate_keys(2)[0].server_of("ipc:///b")
    with pytest.raises(ConfigError, match=r"2 keys are allowed; say which .*: --peer ipc:///b=FILE\.pub, or `servers`"):
        told.server_of("ipc:///b")
    assert third.public in one.allowed
