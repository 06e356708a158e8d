"""A config file is read whole: what is wrong in it is told at once, each with its key and what would be right."""

import re
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.service.configfile import ConfigFile, read_config

KEYS = {"listen": "text", "peer": "texts", "interval": "number", "count": "whole number", "create": "flag"}


def read(tmp_path: Path, text: str) -> ConfigFile:
    path = tmp_path / "vm1.toml"
    path.write_text(text)
    return read_config(path, KEYS)


def test_values_arrive_as_they_were_written(tmp_path: Path) -> None:
    told = read(tmp_path, 'listen = "x"\npeer = ["a", "b"]\ninterval = 2.5\ncount = 3\ncreate = true\n')

    assert told.values == {"listen": "x", "peer": ["a", "b"], "interval": 2.5, "count": 3, "create": True}
    assert told.misread == {}


def test_each_mistake_is_told_with_its_key_and_what_would_be_right_beside_the_values_that_can_be_read(
    tmp_path: Path,
) -> None:
    told = read(
        tmp_path,
        'listen = "x"\nlisen = "x"\npeer = "a"\ninterval = true\ncount = 2.5\ncreate = 1\n[engine]\nname = "remus"\n',
    )

    assert told.values == {"listen": "x"}
    prefix = f"config {tmp_path}/vm1.toml: "
    assert {key: str(wrong).removeprefix(prefix) for key, wrong in told.misread.items()} == {
        "lisen": "there is no key 'lisen'; did you mean 'listen'?",
        "peer": """peer = 'a': write a list of texts, e.g. ["a.pub", "b.pub"]""",
        "interval": "interval = True: write a number",
        "count": "count = 2.5: write a whole number",
        "create": "create = 1: write true or false",
        "engine": "there is no key 'engine'; there are count, create, interval, listen, peer",
    }


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
    told = read(tmp_path, f"interval = {number}\n")

    assert "write a number" in str(told.misread["interval"])
    assert told.values == {}


@pytest.mark.parametrize("line", ['listen = "a\\u0000b"', 'peer = ["a", "\\u0000"]'])
def test_a_text_with_what_no_path_can_hold_is_no_text(tmp_path: Path, line: str) -> None:
    (wrong,) = read(tmp_path, line + "\n").misread.values()

    assert re.search(r"\\x00.*: write a ", str(wrong))
