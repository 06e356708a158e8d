"""The picture of what ran: a page with nothing from outside, an SVG, lcov's text."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ftvm.errors import ConfigError
from ftvm.history.coverage import Coverage, FunctionRun, Slice, Span, cover
from ftvm.history.lines import Function
from ftvm.history.picture import save_picture, source_of, to_html, to_lcov, to_svg
from ftvm.history.timeline import TimeMachine

from .past import GUESTS, built_with_symbols, kv_past

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def run_of(name: str, file: str, line: int) -> FunctionRun:
    function = Function(name=name, address=0x80000000 + line, size_bytes=8)
    return FunctionRun(function=function, instructions=100, entries=10, file=file, line=line)


SMALL = Coverage(
    program="small.elf",
    first=0,
    last=200,
    functions=(run_of("main", "main.c", 3), run_of("help", "lib/help.c", 7)),
    lines={"main.c": {3: 10, 4: 10, 5: 0}, "lib/help.c": {7: 10}},
    segments=(Span(0, 100, 0), Span(100, 150, 1), Span(150, 200, 0)),
    slices=(Slice(0, 200, {("main.c", 3): 10}),),
    marks=((20, "net0"),),
    window_ticks=200,
    elsewhere=0,
)


def test_lcov_has_each_line_and_function_with_its_count() -> None:
    text = to_lcov(SMALL)

    assert (
        "SF:main.c\nFN:3,main\nFNDA:10,main\nFNF:1\nFNH:1\nDA:3,10\nDA:4,10\nDA:5,0\nLF:3\nLH:2\nend_of_record\n"
        in text
    )
    assert text.count("end_of_record") == 2


def test_the_svg_has_a_row_for_each_function_that_ran() -> None:
    root = ElementTree.fromstring(to_svg(SMALL))

    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"main", "help"} <= set(texts)
    assert sum(1 for _ in root.iter("{http://www.w3.org/2000/svg}path")) == 2


OTHER = replace(
    SMALL,
    name="epoch 7",
    first=500,
    last=800,
    functions=(run_of("late", "late.c", 9), run_of("main", "main.c", 3)),
    lines={"main.c": {3: 30, 4: 0, 5: 0}, "late.c": {9: 2}},
    segments=(Span(0, 90, 1), Span(90, 300, 0)),
    slices=(Slice(0, 300, {("late.c", 9): 2}),),
    window_ticks=300,
)


def test_two_stretches_stand_side_by_side_in_the_svg_with_one_row_for_a_function_of_both() -> None:
    root = ElementTree.fromstring(to_svg(SMALL, OTHER))

    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [name for name in texts if name in ("main", "help", "late")] == ["main", "help", "late"]
    assert any(str(text).startswith("epoch 7: ") for text in texts)
    starts = [
        re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)", element.attrib["d"])
        for element in root.iter("{http://www.w3.org/2000/svg}path")
    ]
    (main, _, other_main, late) = [[tuple(map(float, box)) for box in boxes] for boxes in starts]
    assert main[0][1] == other_main[0][1] != late[0][1]  # one row
    assert max(right for _, _, right in main) < other_main[0][0]  # to the right of all that ran in the first
    assert main[0][2] - main[0][0] == pytest.approx((other_main[0][2] - other_main[0][0]) * 100 / 90, abs=0.3)


def test_functions_of_two_stretches_are_numbered_together_in_the_page() -> None:
    data = data_of(to_html(SMALL, beside=OTHER))

    functions = data["functions"]
    assert isinstance(functions, list)
    assert [(name, counts) for name, _, _, _, *counts in functions] == [
        ("main", [[100, 10], [100, 10]]),
        ("help", [[100, 10], [0, 0]]),
        ("late", [[0, 0], [100, 10]]),
    ]


def test_the_page_has_nothing_from_outside() -> None:
    page = to_html(SMALL, beside=OTHER)

    assert re.findall(r"(?:src|href)\s*=|https?://|@import|url\(", page) == []


def data_of(page: str) -> dict[str, object]:
    found = re.search(r"^const D = (.*);$", page, re.MULTILINE)
    assert found is not None
    return dict(json.loads(found[1]))


def test_a_name_cannot_end_the_script_or_open_an_element() -> None:
    evil = "</script><script>alert(1)</script>"
    page = to_html(replace(SMALL, program=evil, functions=(run_of(evil, evil, 1),) * 2))

    assert page.count("<script>") == 1
    assert evil not in page
    assert data_of(page)["program"] == evil
    ElementTree.fromstring(to_svg(replace(SMALL, program=evil, functions=(run_of(evil, evil, 1),) * 2)))


def test_sources_are_found_by_ever_fewer_of_their_folders(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "help.c").write_text("int help;\n")

    assert source_of("/build/somewhere/lib/help.c", [tmp_path / "gone", tmp_path]) == ["int help;"]
    assert source_of("other.c", [tmp_path]) == []


def test_a_picture_is_written_by_the_name_of_its_file(tmp_path: Path) -> None:
    for name, begin in (("p.html", "<!doctype html>"), ("p.svg", "<svg"), ("p.lcov", "SF:")):
        save_picture(SMALL, tmp_path / name)
        assert (tmp_path / name).read_text().startswith(begin)

    with pytest.raises(ConfigError, match=r"side by side in a .html or .svg file, not in p.lcov"):
        save_picture(SMALL, tmp_path / "p.lcov", beside=OTHER)
    with pytest.raises(ConfigError, match=r"html, .svg or .lcov file, not p.png"):
        save_picture(SMALL, tmp_path / "p.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_picture(SMALL, tmp_path / "gone" / "p.svg")


# --- in a browser ---


def rendered(page: Path, query: str = "") -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={page.parent}/u"]
    done = subprocess.run([*command, f"file://{page}{query}"], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: chromium)")
def test_a_browser_shows_functions_counts_and_sources(tmp_path: Path) -> None:
    program = built_with_symbols(tmp_path)
    with TimeMachine(kv_past(60, image=program.read_bytes()), program=program) as past:
        coverage = cover(past, past.end - 100_000, past.end)
    save_picture(coverage, tmp_path / "kv.html", sources=[GUESTS])

    shown = rendered(tmp_path / "kv.html")

    assert "ms of a recorded execution, every instruction</h1>" in shown
    assert f"<b>{coverage.instructions:,}</b> instructions counted" in shown
    assert shown.count('<tr data-f="') == len(coverage.functions) + 1  # and the script's own
    assert "checksum_add" in shown
    assert "for (; i + 1 &lt; span.bytes; i += 2)" in shown  # the hottest function's source
    body = re.sub(r"<script>.*?</script>", "", shown, flags=re.DOTALL)
    assert re.findall(r"NaN|undefined", body) == []


@pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: chromium)")
def test_a_browser_shows_two_stretches_with_their_counts_in_two_columns(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("\n\nint main(void)\n{ return help(); }\n/* end */\n")
    save_picture(SMALL, tmp_path / "two.html", sources=[tmp_path], beside=OTHER)

    shown = rendered(tmp_path / "two.html")

    assert "two stretches of a recorded execution, side by side</h1>" in shown
    assert "<b>epoch 7</b>: <b>300</b> instructions counted" in shown
    assert shown.count('<tr data-f="') == 3 + 1  # and the script's own
    main = re.search(r'<div class="row[^"]*at" id="L3">(.*?)</div>', shown)
    assert main is not None
    assert re.findall(r'class="count">([^<]*)<', main[1]) == ["10", "30"]
    alone = re.search(r'<div class="(row[^"]*)" id="L4">(.*?)</div>', shown)
    assert alone is not None
    assert "differs" in alone[1]
    assert re.findall(r'class="count">([^<]*)<', alone[2]) == ["10", "·"]
    body = re.sub(r"<script>.*?</script>", "", shown, flags=re.DOTALL)
    assert re.findall(r"NaN|undefined", body) == []
