"""A mark names one line, and a part of it one piece of syntax, wherever the line has moved, or is an error."""

import ast
from pathlib import Path

import pytest

from ftvm.errors import InternalError
from ftvm.sim import marks

CODE = """\
class C:
    def f(self, x):
        if x > 1 and x < 9:  # rule: bounded
            g(x, 2, key=3)  # rule: called
        # rule: chosen
        # and more of it
        y = 1 if x else 2
        match x:
            case 1 if y:  # rule: guarded
                pass
        return g(
            x,  # rule: alone
            deep=x,  # rule: named
        )
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "code.py").write_text(CODE)
    monkeypatch.setattr(marks, "ROOT", tmp_path)
    monkeypatch.setattr(marks, "marks", marks.marks.__wrapped__)
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "part", "source"),
    [
        ("bounded", "test", "x > 1 and x < 9"),
        ("bounded", "and 2", "x < 9"),
        ("bounded", "left of >", "x"),
        ("bounded", "right of <", "9"),
        ("called", "", "g(x, 2, key=3)"),
        ("called", "argument 2", "2"),
        ("called", "keyword key", "3"),
        ("chosen", "value", "1 if x else 2"),
        ("chosen", "else", "2"),
        ("guarded", "test", "y"),
        ("alone", "", "x"),
        ("named", "value", "x"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_part_of_a_marked_line_is_found(mark: str, part: str, source: str) -> None:
    place = marks.find(mark)

    assert (place.module, place.function) == ("ftvm.sub.code", "C.f")
    assert ast.unparse(marks.part_of(place, part)) == source


@pytest.mark.parametrize(
    ("mark", "part"), [("bounded", ">="), ("bounded", "and 3"), ("called", "argument 9"), ("guarded", "")]
)
@pytest.mark.usefixtures("package")
def test_a_part_that_is_not_there_is_an_error(mark: str, part: str) -> None:
    with pytest.raises(InternalError, match=r"times where it is marked"):
        marks.part_of(marks.find(mark), part)


def test_a_mark_that_is_nowhere_or_in_two_places_is_an_error_that_names_them(package: Path) -> None:
    (package / "other.py").write_text("x = 1  # rule: called\n")

    with pytest.raises(InternalError, match=r"gone.* nowhere"):
        marks.find("gone")
    with pytest.raises(InternalError, match=r"called.*other.py:1, sub/code.py:4"):
        marks.find("called")


def test_a_mark_on_no_statement_is_an_error(package: Path) -> None:
    (package / "other.py").write_text("x = (\n    1\n)  # rule: astray\n")

    with pytest.raises(InternalError, match=r"astray.* on no statement"):
        marks.find("astray")


def test_a_mark_in_a_package_is_found_in_the_module_that_runs(package: Path) -> None:
    """Regression: the copy of a package by the name of its file was broken, and nobody ran that."""
    (package / "sub" / "__init__.py").write_text("def f():\n    return 1  # rule: faced\n")

    assert marks.find("faced").module == "ftvm.sub"
