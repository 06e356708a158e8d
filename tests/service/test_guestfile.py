"""A guest file is read whole, and each of its keys is found where it stands."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.service.guestfile import GuestFile, _lines_of, read_guest_file, unfit, unknown

KEYS = ("listen", "peer", "interval", "memory")


def read(tmp_path: Path, text: str) -> GuestFile:
    path = tmp_path / "vm1.toml"
    path.write_text(text)
    return read_guest_file(path)


def test_values_arrive_as_they_were_written(tmp_path: Path) -> None:
    told = read(tmp_path, 'listen = "x"\npeer = ["a", "b"]\ninterval = 2.5\ncreate = true\n')

    assert told.values == {"listen": "x", "peer": ["a", "b"], "interval": 2.5, "create": True}
    assert told.folder == tmp_path


def test_a_key_is_placed_at_its_line_and_a_missing_one_in_the_file(tmp_path: Path) -> None:
    told = read(tmp_path, '# a host\n\nlisten = "x"\n')

    assert told.place("listen") == f"{tmp_path}/vm1.toml:3"
    assert told.place("arbiter") == f"{tmp_path}/vm1.toml"


def test_what_looks_like_a_key_within_a_value_is_no_key(tmp_path: Path) -> None:
    told = read(
        tmp_path,
        'a = """\nmemory = 3\n"""\npeer = [\n  "x",  # guest = 1\n  "memory = 4",\n]\r\nmemory = 5\n'
        "[engine]\nname = 1\n[[disk]]\nguest = 2\n",
    )

    assert told.lines == {"a": 1, "peer": 4, "memory": 8, "engine": 9, "disk": 11}


STATEMENTS = st.sampled_from(
    ["{} = 1", '{} = "x = 2"', "{} = '''\ny = 3\n'''", "{} = [\n  1,\n\n  2, # ]\n]", '{}.z = "\\n"', "{} = []  # ["]
)
BETWEEN = st.sampled_from(["", "# a = 1", "\n"])


@given(st.lists(st.tuples(BETWEEN, STATEMENTS), max_size=8))
def test_every_key_is_found_at_its_line_whatever_stands_around_it(pieces: list[tuple[str, str]]) -> None:
    text, expected = "", {}
    for number, (before, statement) in enumerate(pieces):
        text += before + "\n"
        expected[f"key{number}"] = text.count("\n") + 1
        text += statement.format(f"key{number}") + "\n"

    assert _lines_of(text) == expected


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("a", "texts", """'a': write a list of strings: ["a"]"""),
        (True, "number", "True: write a number"),
        (1, "flag", "1: write true or false"),
        (64, "text", '64: write a string in quotes, e.g. "64M"'),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_would_be_right(value: object, kind: str, wanted: str) -> None:
    assert unfit(value, kind) == wanted


@pytest.mark.parametrize(("value", "kind"), [("a", "text"), (["a"], "texts"), (2, "number"), (2.5, "number")])
def test_a_value_of_its_kind_fits(value: object, kind: str) -> None:
    assert unfit(value, kind) is None


def test_an_unknown_key_is_told_with_the_nearest_or_all() -> None:
    assert unknown("lisen", KEYS) == "unknown setting 'lisen'; did you mean 'listen'?"
    assert unknown("zzz", KEYS) == "unknown setting 'zzz'; the settings are interval, listen, memory, peer"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = 1\nlisten = ", r"is not TOML: .*\(at end of document\)|is not TOML: .*line 2"),
        (b"\xff", "is not TOML"),
        (b"#" * (2 << 20), "not a guest file"),
    ],
)
def test_what_is_no_guest_file_is_said_to_be_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "vm1.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        read_guest_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vm1.toml cannot be read: No such file"):
        read_guest_file(tmp_path / "vm1.toml")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1" + 400 * "0"])
def test_a_number_that_no_setting_can_be_is_no_number(tmp_path: Path, number: str) -> None:
    told = read(tmp_path, f"interval = {number}\n")

    assert "write a number" in str(unfit(told.values["interval"], "number"))


@pytest.mark.parametrize(("line", "kind"), [('x = "a\\u0000b"', "text"), ('x = ["a", "\\u0000"]', "texts")])
def test_a_text_with_what_no_path_can_hold_is_no_text(tmp_path: Path, line: str, kind: str) -> None:
    told = read(tmp_path, line + "\n")

    assert re.search(r"\\x00.*: write a ", str(unfit(told.values["x"], kind)))
