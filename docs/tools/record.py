"""Make docs/demo.svg, a picture that moves, from a real run of `ftvm demo` in a separate terminal.

    pip install pyte
    python docs/tools/record.py [--kills 2] [--into docs/demo.svg]

The demo runs in a pseudo-terminal; pyte, a terminal emulator, says what is on the screen a few times a second. Of each
row only what changes is drawn again, so the picture stays small. Nothing is edited: what it shows has happened.
"""

import argparse
import os
import pty
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from html import escape
from itertools import groupby
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

COLUMNS, ROWS = 100, 37
LOOK_SECONDS = 0.25
LAST_SECONDS = 6.0
"""How long the end stands before the picture begins again."""
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 8.0, 17, 14
COLOURS = {"green": "#4ec96f", "cyan": "#56c8d8", "brown": "#e0c050", "red": "#d04848", "default": "#d8d8d8"}
BACKGROUND = "#16181d"
FONT = 'font-size="13" font-family="DejaVu Sans Mono,Menlo,Consolas,monospace"'


@dataclass(frozen=True)
class Span:
    """A piece of a row in one style, from a column on."""

    column: int
    text: str
    colour: str = "default"
    behind: str = "default"
    is_bold: bool = False


Row = tuple[Span, ...]


@dataclass(frozen=True)
class Look:
    """What was on the screen, from a moment on, in seconds."""

    at: float
    rows: tuple[Row, ...]


def rows_of(screen: Any) -> tuple[Row, ...]:
    """Return what a screen of pyte shows."""
    return tuple(_row(screen.buffer[number]) for number in range(screen.lines))


def _row(line: Any) -> Row:
    cells = [line[column] for column in range(COLUMNS)]
    spans = []
    styled = groupby(range(COLUMNS), key=lambda column: (cells[column].fg, cells[column].bg, cells[column].bold))
    for (colour, behind, is_bold), columns in styled:
        among = list(columns)
        text = "".join(cells[column].data for column in among)
        if text.strip() or behind != "default":
            spans.append(Span(among[0], text.rstrip() if behind == "default" else text, colour, behind, is_bold))
    return tuple(spans)


def shown(looks: Sequence[Look], until: float) -> Iterator[tuple[int, Row, float, float]]:
    """Yield (row number, row, from, until) for each piece of time in which a row stayed as it was."""
    for number in range(max(len(look.rows) for look in looks)):
        begin, row = looks[0].at, looks[0].rows[number]
        for look in looks[1:]:
            if look.rows[number] != row:
                yield number, row, begin, look.at
                begin, row = look.at, look.rows[number]
        yield number, row, begin, until


def as_svg(looks: Sequence[Look], title: str) -> str:
    """Return the picture: it plays in as many seconds as it took, then stands, then begins again."""
    until = looks[-1].at + LAST_SECONDS
    width = int(COLUMNS * CHAR_WIDTH + 2 * MARGIN)
    height = len(looks[0].rows) * LINE_HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" xml:space="preserve" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
    ]
    for number, row, begin, end in shown(looks, until):
        if row:
            drawn = "".join(_drawn(span, number) for span in row)
            parts.append(f"<g>{drawn}{_times(begin, end, until)}</g>")
    return "\n".join([*parts, "</svg>", ""])


def _drawn(span: Span, number: int) -> str:
    left, top = MARGIN + span.column * CHAR_WIDTH, MARGIN + number * LINE_HEIGHT
    length = len(span.text) * CHAR_WIDTH
    behind = ""
    if span.behind != "default":
        colour = COLOURS.get(span.behind, BACKGROUND)
        behind = f'<rect x="{left:g}" y="{top}" width="{length:g}" height="{LINE_HEIGHT}" fill="{colour}"/>'
    weight = ' font-weight="bold"' if span.is_bold else ""
    fill = COLOURS.get(span.colour, "#ffffff")
    place = f'x="{left:g}" y="{top + 13}" textLength="{length:g}" fill="{fill}"'
    return f"{behind}<text {place}{weight}>{escape(span.text)}</text>"


def _times(begin: float, end: float, until: float) -> str:
    """Return when a row is to be seen, as an animation; empty if always."""
    moments = [(moment / until, opacity) for moment, opacity in ((begin, 1), (end, 0)) if 0 < moment < until]
    if not moments:
        return ""
    first = 0 if begin > 0 else 1
    times = ";".join(["0", *(f"{moment:.4f}" for moment, _ in moments)])
    values = ";".join([str(first), *(str(opacity) for _, opacity in moments)])
    return (
        f'<animate attributeName="opacity" dur="{until:.2f}s" repeatCount="indefinite" calcMode="discrete" '
        f'keyTimes="{times}" values="{values}"/>'
    )


def record(command: Sequence[str]) -> list[Look]:
    """Run a command in a separate terminal; return what it showed. Fails if the command does."""
    import pyte  # only this needs it

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    looks: list[Look] = []
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment) as running:
        os.close(slave)
        began = time.monotonic()
        while True:
            try:
                piece = os.read(master, 1 << 16) if select.select([master], [], [], LOOK_SECONDS)[0] else b""
            except OSError:
                break  # the other end is closed
            stream.feed(piece)
            _look(looks, time.monotonic() - began, rows_of(screen))
    os.close(master)
    looks.append(Look(time.monotonic() - began, rows_of(screen)))
    if running.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {running.returncode}")
    return [Look(0.0, looks[0].rows), *looks[1:]]


def _look(looks: list[Look], at: float, rows: tuple[Row, ...]) -> None:
    """Keep what is on the screen, unless the last look was a moment ago; a screen that is being drawn counts not."""
    if any(rows) and (not looks or at - looks[-1].at >= LOOK_SECONDS):
        looks.append(Look(at, rows))


def main() -> None:
    """Record as the command line asks."""
    parser = argparse.ArgumentParser(description="Record a run of `ftvm demo` as a picture that moves")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "demo.svg")
    asked = parser.parse_args()
    looks = record([sys.executable, "-m", "ftvm", "demo", "--kills", str(asked.kills)])
    asked.into.write_text(as_svg(looks, "ftvm demo: hosts are killed, the guest lives on"), encoding="utf-8")


if __name__ == "__main__":
    main()
