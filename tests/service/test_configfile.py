"""A config file is read whole: what is wrong in it is told at once, each with its key and what would be right."""

from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.service.configfile import read_config, several

KEYS = {"listen": "text", "peer": "texts", "interval": "number", "count": "whole number", "create": "flag"}


def read(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "vm1.toml"
    path.write_text(text)
    return read_config(path, KEYS)


def test_values_arrive_as_they_were_written(tmp_path: Path) -> None:
    told = read(tmp_path, 'listen = "x"\npeer = ["a", "b"]\ninterval = 2.5\ncount = 3\ncreate = true\n')

    assert told == {"listen": "x", "peer": ["a", "b"], "interval": 2.5, "count": 3, "create": True}


def test_all_mistakes_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, 'lisen = "x"\npeer = "a"\ninterval = true\ncount = 2.5\ncreate = 1\n[engine]\nname = "remus"\n')

    lines = str(raised.value).splitlines()
    assert lines[0].endswith("vm1.toml: 6 settings are wrong:")
    assert lines[1] == "  lisen: there is no such key; did you mean 'listen'?"
    assert lines[2] == """  peer = 'a': write a list of texts, e.g. ["a.pub", "b.pub"]"""
    assert lines[3] == "  interval = True: write a number"
    assert lines[4] == "  count = 2.5: write a whole number"
    assert lines[5] == "  create = 1: write true or false"
    assert lines[6] == "  engine: there is no such key; there are count, create, interval, listen, peer"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"listen = ", "is not TOML"), (b"\xff", "is not TOML"), (b"#" * (2 << 20), "that is no config file")],
)
def test_what_is_no_config_file_is_said_to_be_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "vm1.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        read_config(path, KEYS)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vm1.toml cannot be read: No such file"):
        read_config(tmp_path / "vm1.toml", KEYS)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1" + 400 * "0"])
def test_a_number_that_no_setting_can_be_is_no_number(tmp_path: Path, number: str) -> None:
    with pytest.raises(ConfigError, match="write a number"):
        read(tmp_path, f"interval = {number}\n")


@pytest.mark.parametrize("line", ['listen = "a\\u0000b"', 'peer = ["a", "\\u0000"]'])
def test_a_text_with_what_no_path_can_hold_is_no_text(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"\\x00.*: write a "):
        read(tmp_path, line + "\n")


def test_one_problem_is_one_line() -> None:
    assert str(several(["mac: is odd"], "config x: ")) == "config x: mac: is odd"
