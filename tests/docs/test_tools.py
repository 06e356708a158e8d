"""What makes the manual of our pages and docstrings: lists, links and the picture that moves."""

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

TOOLS = Path(__file__).parents[2] / "docs" / "tools"


@pytest.fixture(autouse=True, scope="module")
def _tools_can_be_imported() -> Iterator[None]:
    sys.path.insert(0, str(TOOLS))
    sys.modules.setdefault("griffe", SimpleNamespace(Extension=object, Object=object))  # type: ignore[arg-type]
    yield
    sys.path.remove(str(TOOLS))


def tool(name: str) -> ModuleType:
    return import_module(name)


def test_an_aligned_list_becomes_a_list_and_all_else_stays() -> None:
    said = "Do it.\n\nkeys     needed for all that is\n         not loopback\nengine   when to cut\n\nReturns x.\n"

    made = tool("aligned").as_markdown(said)

    assert made == ("Do it.\n\n* `keys`: needed for all that is not loopback\n* `engine`: when to cut\n\nReturns x.")


def test_a_sentence_with_a_gap_is_no_list() -> None:
    said = "Do it  well.\nThen stop."

    assert tool("aligned").as_markdown(said) == said


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("see [the kv](../examples/kv.h).", "see the kv (`examples/kv.h`)."),
        ("see [examples/kv.h](../examples/kv.h)", "see examples/kv.h"),
        ("see [the kv](../examples/kv.h#a-part)", "see the kv (`examples/kv.h`)"),
        ("see [it](setup.md#the-network), ![p](demo.svg)", "see [it](setup.md#the-network), ![p](demo.svg)"),
    ],
)
def test_a_link_out_of_the_site_becomes_text(said: str, shown: str) -> None:
    assert tool("outside").on_page_markdown(said) == shown


def picture(rows: list[list[str]]) -> str:
    record = tool("record")
    looks = [
        record.Look(float(at), tuple((record.Span(0, text),) if text else () for text in texts))
        for at, texts in enumerate(rows)
    ]
    return str(record.as_svg(looks, "a <title>"))


texts = st.sampled_from(["", "one", "a < b & c", "─╮"])


@given(
    rows=st.integers(1, 4).flatmap(lambda count: st.lists(st.lists(texts, min_size=count, max_size=count), min_size=1))
)
def test_a_picture_is_xml_and_draws_each_row_once_for_each_time_it_changed(rows: list[list[str]]) -> None:
    tree = ElementTree.fromstring(picture(rows))

    drawn = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    columns = list(zip(*rows, strict=True))
    runs = [[text for n, text in enumerate(column) if n == 0 or text != column[n - 1]] for column in columns]
    assert sorted(drawn) == sorted(text for run in runs for text in run if text)


def test_a_row_is_seen_as_long_as_it_stood() -> None:
    made = picture([["one"], ["one"], ["two"]])

    assert 'keyTimes="0;0.2500" values="1;0"' in made
    assert 'keyTimes="0;0.2500" values="0;1"' in made


def test_the_picture_of_the_manual_shows_a_demo_that_lost_nothing() -> None:
    shown = (TOOLS.parent / "demo.svg").read_text(encoding="utf-8")

    assert "KILLED" in shown
    assert "nothing was lost" in shown
