import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli.keygen import keygen
from ftvm.errors import ConfigError
from ftvm.transport.keys import load_public


def test_keygen_writes_a_pair_and_says_which_file_is_for_whom(tmp_path: Path) -> None:
    result = CliRunner().invoke(keygen, [str(tmp_path / "host")])

    assert result.exit_code == 0
    assert "host.key (secret: keep it here)" in result.output
    assert load_public(tmp_path / "host.pub")


@pytest.mark.parametrize("name", ["d.key", "d.pub"])
def test_keygen_takes_the_name_of_a_key_file_for_the_name_of_the_pair(tmp_path: Path, name: str) -> None:
    CliRunner().invoke(keygen, [str(tmp_path / name)])

    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.key", "d.pub"]


def test_keygen_json_names_the_public_key_and_both_files(tmp_path: Path) -> None:
    name = str(tmp_path / "host")

    result = CliRunner().invoke(keygen, [name, "--json"])

    assert json.loads(result.output) == {
        "public": load_public(f"{name}.pub"),
        "public_file": f"{name}.pub",
        "secret_file": f"{name}.key",
    }


@pytest.mark.parametrize("name", ["", "keys/", "keys/.", "..", ".key"])
def test_keygen_makes_no_files_without_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()

    result = CliRunner().invoke(keygen, [name])

    assert isinstance(result.exception, ConfigError)
    assert [path.name for path in tmp_path.rglob("*")] == ["keys"]


def test_keygen_leaves_an_existing_key_alone(tmp_path: Path) -> None:
    name = str(tmp_path / "host")
    CliRunner().invoke(keygen, [name])

    again = CliRunner().invoke(keygen, [name])

    assert isinstance(again.exception, ConfigError)
