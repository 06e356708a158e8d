"""What ran in a stretch of the past as a picture: a page that one can zoom into, an SVG, or lcov's text.

The page is one file with nothing from outside: it may be mailed, and looked at where there is no network. Sources are
looked for below the folders given; where one is not found, its lines are shown by number.
"""

import base64
import html
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
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


def save_picture(coverage: Coverage, path: Path, *, sources: Sequence[Path] = ()) -> None:
    """Write a picture to `path`: .html, .svg or .lcov (or .info) by its name. Raises ConfigError."""
    match path.suffix:
        case ".html":
            content = to_html(coverage, sources)
        case ".svg":
            content = to_svg(coverage)
        case ".lcov" | ".info":
            content = to_lcov(coverage)
        case _:
            raise ConfigError(f"a picture is a .html, .svg or .lcov file, not {path.name}")
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as wrong:
        raise ConfigError(f"the picture {path} cannot be written: {wrong.strerror}") from wrong


# --- the page ---


def to_html(coverage: Coverage, sources: Sequence[Path] = ()) -> str:
    """Return the page."""
    page = files("ftvm.history").joinpath("picture.html").read_text(encoding="utf-8")
    # "<" is the one character by which text in a script could end it
    data = json.dumps(_data(coverage, sources), separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"{coverage.program}: {_milliseconds(coverage)} ms of a recorded execution")
    return page.replace("<!--TITLE-->", title).replace("/*DATA*/null", data)


def _data(coverage: Coverage, sources: Sequence[Path]) -> dict[str, Any]:
    names = sorted(coverage.lines)
    numbers = {name: number for number, name in enumerate(names)}
    colours = colours_of(coverage.functions)
    return {
        "program": coverage.program,
        "first": coverage.first,
        "last": coverage.last,
        "window": coverage.window_ticks,
        "elsewhere": coverage.elsewhere,
        "functions": [
            [run.function.name, run.instructions, run.entries, numbers.get(run.file, -1), run.line, colour]
            for run, colour in zip(coverage.functions, colours, strict=True)
        ],
        "segments": base64.b64encode(
            b"".join(_SEGMENT.pack(one.begin, one.end, one.function) for one in coverage.segments)
        ).decode(),
        "marks": [[tick, channel] for tick, channel in coverage.marks],
        "files": [[name, sorted(coverage.lines[name].items()), source_of(name, sources)] for name in names],
        "slices": [
            [one.begin, one.end, [[numbers[name], line, count] for (name, line), count in one.lines.items()]]
            for one in coverage.slices
        ],
    }


def colours_of(functions: Sequence[FunctionRun]) -> list[str]:
    """Return a colour for each function: one for each folder of sources; without sources, for each stretch of code."""
    groups = [
        str(PurePosixPath(run.file).parent) if run.file else f"{run.function.address // _CODE_STRETCH_BYTES:x}"
        for run in functions
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

_WIDTH, _LEFT, _TOP, _FOOT = 1200, 190, 34, 30
_ROW_MAX, _AREA_MAX, _LABEL_MIN = 14.0, 900.0, 9.0
"""In pixels; with very many functions rows grow thin, and go without a name."""


def to_svg(coverage: Coverage) -> str:
    """Return the window as an SVG: a row for each function that ran in it, time to the right."""
    rows = {number: row for row, number in enumerate(rows_of(coverage.segments))}
    height = min(_ROW_MAX, _AREA_MAX / max(1, len(rows)))
    scale = (_WIDTH - _LEFT - 10) / max(1, coverage.window_ticks)
    bottom = _TOP + len(rows) * height
    colours = colours_of(coverage.functions)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + _FOOT:.0f}"',
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{bottom + _FOOT:.0f}" fill="#0b0f17"/>',
        f'<text x="10" y="18" fill="#cfd8e6" font-size="13">{html.escape(_caption(coverage))}</text>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - 10}" height="{bottom - _TOP:.1f}" fill="#111827"/>',
    ]
    for number, row in rows.items() if height >= _LABEL_MIN else ():
        name = html.escape(coverage.functions[number].function.name[:28])
        y = _TOP + row * height + 11
        parts.append(f'<text x="{_LEFT - 6}" y="{y:.1f}" fill="{colours[number]}" text-anchor="end">{name}</text>')
    if height < _LABEL_MIN:
        parts.append(
            f'<text x="{_LEFT - 6}" y="{_TOP + 11}" fill="#6b7a90" text-anchor="end">{len(rows)} functions</text>'
        )
    for number, path in _paths(coverage.segments, rows, scale, height):
        parts.append(f'<path d="{path}" fill="{colours[number]}"/>')
    parts += _axis(coverage.window_ticks, scale, bottom)
    return "\n".join([*parts, "</svg>\n"])


def rows_of(segments: Iterable[Span]) -> list[int]:
    """Return the functions in the order in which they first ran."""
    return list(dict.fromkeys(segment.function for segment in segments))


def _paths(segments: Iterable[Span], rows: dict[int, int], scale: float, height: float) -> Iterator[tuple[int, str]]:
    """Yield a path of boxes per function; boxes that would touch become one."""
    boxes: dict[int, list[list[float]]] = {number: [] for number in rows}
    for segment in segments:
        begin, end = _LEFT + segment.begin * scale, _LEFT + segment.end * scale
        row = boxes[segment.function]
        if row and begin <= row[-1][1] + 0.3:
            row[-1][1] = end
        else:
            row.append([begin, max(end, begin + 1.2)])
    for number, row in boxes.items():
        y, tall = _TOP + rows[number] * height + height / 7, max(1.0, height * 5 / 7)
        yield number, "".join(f"M{begin:.1f} {y:.1f}H{end:.1f}v{tall:.1f}H{begin:.1f}z" for begin, end in row)


def _axis(window_ticks: int, scale: float, y: float) -> Iterator[str]:
    step = max(1, round(window_ticks / 10 / _TICKS_PER_MS)) * _TICKS_PER_MS
    for tick in range(0, window_ticks, step):
        x = _LEFT + tick * scale
        told = f"{tick // _TICKS_PER_MS} ms"
        yield f'<text x="{x:.1f}" y="{y + 16:.1f}" fill="#6b7a90" text-anchor="middle">{told}</text>'


def _caption(coverage: Coverage) -> str:
    ran = sum(1 for lines in coverage.lines.values() for count in lines.values() if count)
    known = sum(map(len, coverage.lines.values()))
    return (
        f"{coverage.program}: {_milliseconds(coverage)} ms from instruction {coverage.first:,}, by function; "
        f"{coverage.instructions:,} instructions counted" + (f", {ran} of {known} lines ran" if known else "")
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
