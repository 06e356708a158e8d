"""Draws grouped bars as an SVG file, with nothing but the standard library."""

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLOURS = ["#3b6fb6", "#8fb3e0", "#d9822b", "#4a9a5b", "#9b59b6", "#888888"]
BAR = 14
GAP = 10
LABELS = 170
WIDTH = 340
HEAD = 44
LEGEND = 30


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Bars as (group, series, value). On a logarithmic axis the least value has a short bar, not none."""

    title: str
    bars: list[tuple[str, str, float]]
    is_logarithmic: bool
    unit: str


def write_chart(path: Path, panels: list[Panel]) -> None:
    """Write the panels side by side, with one legend for all."""
    series = list(dict.fromkeys(name for panel in panels for _, name, _ in panel.bars))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(series)}
    height = HEAD + LEGEND + max(_panel_height(panel) for panel in panels)
    panel_width = LABELS + WIDTH + 80
    size = f'width="{panel_width * len(panels)}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, name in enumerate(series):
        parts.append(f'<rect x="{20 + 120 * place}" y="12" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{38 + 120 * place}" y="22">{escape(name)}</text>')
    for place, panel in enumerate(panels):
        parts += _draw(panel, panel_width * place, colours)
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _draw(panel: Panel, left: int, colours: dict[str, str]) -> list[str]:
    parts = [f'<text x="{left + 20}" y="{LEGEND + 26}" font-weight="bold">{escape(panel.title)}</text>']
    lengths = _lengths(panel)
    top, group_before = LEGEND + HEAD, ""
    for (group, series, value), length in zip(panel.bars, lengths, strict=True):
        if group != group_before:
            top += GAP if group_before else 0
            parts.append(f'<text x="{left + LABELS - 8}" y="{top + 11}" text-anchor="end">{escape(group)}</text>')
            group_before = group
        parts.append(
            f'<rect x="{left + LABELS}" y="{top}" width="{length:.1f}" height="{BAR - 2}" fill="{colours[series]}"/>'
        )
        parts.append(f'<text x="{left + LABELS + length + 5:.1f}" y="{top + 10}">{value:.2f}{panel.unit}</text>')
        top += BAR
    return parts


def _lengths(panel: Panel) -> list[float]:
    values = [value for _, _, value in panel.bars]
    if not values:
        return []
    if not panel.is_logarithmic:
        return [WIDTH * value / max(values) for value in values]
    floor = min(value for value in values if value > 0) / 2
    span = math.log(max(values) / floor)
    return [WIDTH * math.log(max(value, floor) / floor) / span for value in values]


def _panel_height(panel: Panel) -> int:
    groups = len({group for group, _, _ in panel.bars})
    return BAR * len(panel.bars) + GAP * groups + 20
