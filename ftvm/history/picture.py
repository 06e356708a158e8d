"""What ran in a stretch of the past as a picture: a page that one can zoom into, an SVG, or lcov's text.

Two stretches of one program may stand side by side: time runs in both from their begin, a function has one row in both,
and the counts stand in two columns.

The page is one file with nothing from outside: it may be mailed, and looked at where there is no network. Sources are
looked for below the folders given; where one is not found, its lines are shown by number.
"""

import base64
import html
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ftvm.errors import ConfigError
from ftvm.history.coverage import Coverage, FunctionRun, Span

__all__ = ["save_picture", "to_html", "to_lcov", "to_svg"]

_SEGMENT: Final = struct.Struct("<IIH")
_SOURCE_BYTES_MAX: Final = 4 << 20
_TICKS_PER_MS: Final = 100_000
_CODE_STRETCH_BYTES: Final = 1 << 16
"""What a linker puts so near to each other comes mostly from one folder."""
_COLOURS: Final = (
    "#f9a03f",
    "#3fb8f9",
    "#a78bfa",
    "#4ade80",
    "#f472b6",
    "#facc15",
    "#7c8aa5",
    "#22d3ee",
    "#fb7185",
    "#a3e635",
)


def save_picture(
    coverage: Coverage, path: Path, *, sources: Sequence[Path] = (), beside: Coverage | None = None
) -> None:
    """Write a picture to `path`: .html, .svg or .lcov (or .info) by its name. Raises ConfigError.

    beside  another stretch of the same program, to stand beside it; not in .lcov
    """
    match path.suffix:
        case ".html":
            content = to_html(coverage, sources, beside)
        case ".svg":
            content = to_svg(coverage, beside)
        case ".lcov" | ".info" if beside is not None:
            raise ConfigError(f"two stretches stand side by side in a .html or .svg file, not in {path.name}")
        case ".lcov" | ".info":
            content = to_lcov(coverage)
        case _:
            raise ConfigError(f"a picture is a .html, .svg or .lcov file, not {path.name}")
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as wrong:
        raise ConfigError(f"the picture {path} cannot be written: {wrong.strerror}") from wrong


@dataclass(slots=True, kw_only=True)
class _Row:
    """A function of a picture: where it stands, and of each part (instructions, entries), by the part's number."""

    name: str
    file: str
    line: int
    address: int
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)


class _Parts:
    """One stretch or two, whose functions have common numbers. `spans` are the parts' segments by these."""

    def __init__(self, coverage: Coverage, beside: Coverage | None) -> None:
        self.parts = (coverage,) if beside is None else (coverage, beside)
        self.window_ticks = max(part.window_ticks for part in self.parts)
        self.spans: list[list[Span]] = []
        known: dict[int, int] = {}
        self.functions: list[_Row] = []
        for number, part in enumerate(self.parts):
            numbers = [self._place_of(run, known, number) for run in part.functions]
            self.spans.append([Span(one.begin, one.end, numbers[one.function]) for one in part.segments])
        self.colours = _colours_of(self.functions)
        """One of each function."""
        self.rows = list(dict.fromkeys(span.function for spans in self.spans for span in spans))
        """The functions in the order in which they first ran."""

    def _place_of(self, run: FunctionRun, known: dict[int, int], part: int) -> int:
        address = run.function.address
        if address not in known:
            known[address] = len(self.functions)
            self.functions.append(_Row(name=run.function.name, file=run.file, line=run.line, address=address))
        self.functions[known[address]].counts[part] = (run.instructions, run.entries)
        return known[address]


# --- the page ---


def to_html(coverage: Coverage, sources: Sequence[Path] = (), beside: Coverage | None = None) -> str:
    """Return the page."""
    page = files("ftvm.history").joinpath("picture.html").read_text(encoding="utf-8")
    # "<" is the one character by which text in a script could end it
    data = json.dumps(_data(_Parts(coverage, beside), sources), separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"{coverage.program}: {_milliseconds(coverage)} ms of a recorded execution")
    return page.replace("<!--TITLE-->", title).replace("/*DATA*/null", data)


def _data(picture: _Parts, sources: Sequence[Path]) -> dict[str, Any]:
    names = sorted({name for part in picture.parts for name in part.lines})
    numbers = {name: number for number, name in enumerate(names)}
    nothing = (0, 0)
    return {
        "program": picture.parts[0].program,
        "window": picture.window_ticks,
        "functions": [
            [row.name, numbers.get(row.file, -1), row.line, colour]
            + [list(row.counts.get(part, nothing)) for part in range(len(picture.parts))]
            for row, colour in zip(picture.functions, picture.colours, strict=True)
        ],
        "files": [[name, source_of(name, sources)] for name in names],
        "parts": [_part_data(part, spans, numbers) for part, spans in zip(picture.parts, picture.spans, strict=True)],
    }


def _part_data(part: Coverage, spans: Sequence[Span], numbers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": part.name,
        "first": part.first,
        "last": part.last,
        "window": part.window_ticks,
        "elsewhere": part.elsewhere,
        "segments": base64.b64encode(
            b"".join(_SEGMENT.pack(one.begin, one.end, one.function) for one in spans)
        ).decode(),
        "marks": [[tick, channel] for tick, channel in part.marks],
        "lines": [[numbers[name], sorted(lines.items())] for name, lines in sorted(part.lines.items())],
        "slices": [
            [one.begin, one.end, [[numbers[name], line, count] for (name, line), count in one.lines.items()]]
            for one in part.slices
        ],
    }


def _colours_of(functions: Sequence[_Row]) -> list[str]:
    """Return a colour for each function: one for each folder of sources; without sources, for each stretch of code."""
    groups = [
        str(PurePosixPath(row.file).parent) if row.file else f"{row.address // _CODE_STRETCH_BYTES:x}"
        for row in functions
    ]
    colours = {group: _COLOURS[number % len(_COLOURS)] for number, group in enumerate(sorted(set(groups)))}
    return [colours[group] for group in groups]


def source_of(name: str, sources: Sequence[Path]) -> list[str]:
    """Return the lines of a source file, looked for by ever fewer of its leading folders; none if it is not found."""
    parts = PurePosixPath(name).parts
    for folder in sources:
        for skipped in range(len(parts)):
            path = folder.joinpath(*parts[skipped:])
            try:
                if path.is_file() and path.stat().st_size <= _SOURCE_BYTES_MAX:
                    return path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue  # another folder may have it; without it, the lines go by number
    return []


def _milliseconds(coverage: Coverage) -> str:
    return f"{coverage.window_ticks / _TICKS_PER_MS:.1f}"


# --- the SVG ---

_WIDTH, _LEFT, _TOP, _FOOT, _GAP, _CAPTION = 1200, 190, 34, 30, 24, 20
_ROW_MAX, _AREA_MAX, _LABEL_MIN = 14.0, 900.0, 9.0
"""In pixels; with very many functions rows grow thin, and go without a name."""


def to_svg(coverage: Coverage, beside: Coverage | None = None) -> str:
    """Return the window as an SVG: a row for each function that ran in it, time to the right."""
    picture = _Parts(coverage, beside)
    rows = {number: row for row, number in enumerate(picture.rows)}
    height = min(_ROW_MAX, _AREA_MAX / max(1, len(rows)))
    top = _TOP + _CAPTION * (len(picture.parts) - 1)
    bottom = top + len(rows) * height
    width = (_WIDTH - _LEFT - 10 - _GAP * (len(picture.parts) - 1)) / len(picture.parts)
    scale = width / max(1, picture.window_ticks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _FOOT:.0f}"',
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{bottom + _FOOT:.0f}" fill="#0b0f17"/>',
    ]
    for number, row in rows.items() if height >= _LABEL_MIN else ():
        name = html.escape(picture.functions[number].name[:28])
        y = top + row * height + 11
        colour = picture.colours[number]
        parts.append(f'<text x="{_LEFT - 6}" y="{y:.1f}" fill="{colour}" text-anchor="end">{name}</text>')
    if height < _LABEL_MIN:
        parts.append(
            f'<text x="{_LEFT - 6}" y="{top + 11}" fill="#6b7a90" text-anchor="end">{len(rows)} functions</text>'
        )
    for place, (part, spans) in enumerate(zip(picture.parts, picture.spans, strict=True)):
        left = _LEFT + place * (width + _GAP)
        caption, y = html.escape(_caption(part)), 18 + _CAPTION * place
        parts.append(f'<text x="10" y="{y}" fill="#cfd8e6" font-size="13">{caption}</text>')
        parts.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{bottom - top:.1f}" fill="#111827"/>')
        for number, path in _paths(spans, rows, left, scale, top, height):
            parts.append(f'<path d="{path}" fill="{picture.colours[number]}"/>')
        parts += _axis(picture.window_ticks, left, scale, bottom)
    return "\n".join([*parts, "</svg>\n"])


def _paths(
    spans: Iterable[Span], rows: Mapping[int, int], left: float, scale: float, top: float, height: float
) -> Iterator[tuple[int, str]]:
    """Yield a path of boxes per function that ran; boxes that would touch become one."""
    boxes: dict[int, list[list[float]]] = {}
    for span in spans:
        begin, end = left + span.begin * scale, left + span.end * scale
        row = boxes.setdefault(span.function, [])
        if row and begin <= row[-1][1] + 0.3:
            row[-1][1] = end
        else:
            row.append([begin, max(end, begin + 1.2)])
    for number, row in boxes.items():
        y, tall = top + rows[number] * height + height / 7, max(1.0, height * 5 / 7)
        yield number, "".join(f"M{begin:.1f} {y:.1f}H{end:.1f}v{tall:.1f}H{begin:.1f}z" for begin, end in row)


def _axis(window_ticks: int, left: float, scale: float, y: float) -> Iterator[str]:
    step = max(1, round(window_ticks / 10 / _TICKS_PER_MS)) * _TICKS_PER_MS
    for tick in range(0, window_ticks, step):
        x = left + tick * scale
        told = f"{tick // _TICKS_PER_MS} ms"
        yield f'<text x="{x:.1f}" y="{y + 16:.1f}" fill="#6b7a90" text-anchor="middle">{told}</text>'


def _caption(coverage: Coverage) -> str:
    ran = sum(1 for lines in coverage.lines.values() for count in lines.values() if count)
    known = sum(map(len, coverage.lines.values()))
    return (
        f"{coverage.name or coverage.program}: {_milliseconds(coverage)} ms from instruction {coverage.first:,}, "
        f"by function; {coverage.instructions:,} instructions counted"
        + (f", {ran} of {known} lines ran" if known else "")
    )


# --- lcov ---


def to_lcov(coverage: Coverage) -> str:
    """Return the counts as lcov's tracefile, which genhtml and editors read. Source: geninfo(1), "FILES"."""
    parts = []
    for name, lines in sorted(coverage.lines.items()):
        runs = [run for run in coverage.functions if run.file == name]
        parts += [f"SF:{name}"]
        parts += [f"FN:{run.line},{run.function.name}" for run in runs]
        parts += [f"FNDA:{run.entries},{run.function.name}" for run in runs]
        parts += [f"FNF:{len(runs)}", f"FNH:{sum(1 for run in runs if run.entries)}"]
        parts += [f"DA:{line},{count}" for line, count in sorted(lines.items())]
        parts += [f"LF:{len(lines)}", f"LH:{sum(1 for count in lines.values() if count)}", "end_of_record"]
    return "".join(f"{part}\n" for part in parts)
