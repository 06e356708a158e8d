import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError, HistoryError
from ftvm.store.crypt import PLAIN, AesSealer, load_key, make_key

SEALER = AesSealer(bytes(32))


@given(st.binary(max_size=2_000), st.binary(max_size=40))
def test_what_was_sealed_opens_at_its_place(content: bytes, place: bytes) -> None:
    assert SEALER.open(SEALER.seal(content, place), place) == content
    assert PLAIN.open(PLAIN.seal(content, place), place) == content


@given(st.binary(max_size=200))
def test_no_other_bytes_open(content: bytes) -> None:
    with pytest.raises(HistoryError):
        SEALER.open(content, b"")


def test_a_key_is_written_for_its_owner_and_read_back(tmp_path: Path) -> None:
    make_key(tmp_path / "key")

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "key").key_id == load_key(tmp_path / "key").key_id
    with pytest.raises(ConfigError, match="cannot be written"):
        make_key(tmp_path / "key")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(tmp_path / "key")


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "0" * 62])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)

    with pytest.raises(ConfigError):
        load_key(tmp_path / "key")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone cannot be read"):
        load_key(tmp_path / "gone")


def test_without_the_package_it_says_what_to_install() -> None:
    with (
        mock.patch.dict(sys.modules, {"cryptography.hazmat.primitives.ciphers.aead": None}),
        pytest.raises(ConfigError, match=r"ftvm\[history\]"),
    ):
        AesSealer(bytes(32))


def test_a_key_is_on_the_device_before_it_is_used(tmp_path: Path) -> None:
    synced: list[int] = []
    with mock.patch("os.fsync", side_effect=lambda descriptor: synced.append(os.fstat(descriptor).st_ino)):
        make_key(tmp_path / "key")

    assert synced == [(tmp_path / "key").stat().st_ino, tmp_path.stat().st_ino]
