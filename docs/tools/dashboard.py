"""Draw docs/dashboard.svg: the panels of examples/deploy/grafana-dashboard.json over a real run of two hosts.

    pip install '.[metrics]'
    python docs/tools/dashboard.py [--into docs/dashboard.svg]

Two hosts serve the demo's guest to its client; both pages of metrics are read twice a second, one host is killed with
SIGKILL and comes back. Titles, units and places are the dashboard's; so are the expressions, which promql.py evaluates.
This is no Grafana: it draws lines and legends alone.
"""

import argparse
import contextlib
import json
import re
import socket
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

from promql import SCRAPE_SECONDS, Labels, Scrape, evaluate

from ftvm.lab.hostprocesses import HostProcesses
from ftvm.lab.processes import Children
from ftvm.lab.stage import HOSTS, HostCommands, Stage, free_ports
from ftvm.units import seconds_to_nanos

DASHBOARD = Path(__file__).parents[2] / "examples" / "deploy" / "grafana-dashboard.json"
RUN_SECONDS, KILL_AT, BACK_AT = 40.0, 16.0, 24.0
RATE_SCRAPES = 4
"""What a rate is taken over: $__rate_interval is four scrapes in Grafana, too."""
COLOURS = ("#1f77b4", "#e07b00", "#2a9d3a", "#c8322f", "#7d56b0", "#7a5446", "#d165ae", "#707070", "#a0a000", "#12a5b5")
COLUMN, ROW = 52, 32
LEFT, TOP, PLOT = 64, 40, 106
"""Pixels: a cell of the dashboard's grid; where in a panel the plot begins, and its height. The legend is below."""


def lines_of(panel: dict[str, Any], scrapes: Sequence[Scrape]) -> dict[str, list[float | None]]:
    """Return each line of a panel by its legend, a value for each scrape. Raises ValueError that names the panel."""
    lines: dict[str, list[float | None]] = {}
    for target, n in product(panel["targets"], range(len(scrapes))):
        try:
            values = evaluate(target["expr"], scrapes[max(0, n - RATE_SCRAPES) : n + 1])
        except ValueError as error:
            raise ValueError(f"panel {panel['title']!r}: {error}") from error
        for series, value in values.items():
            line = lines.setdefault(_legend(target["legendFormat"], series), [None] * len(scrapes))
            if line[n] is not None:
                raise ValueError(f"panel {panel['title']!r}: two lines have one legend, {target['legendFormat']!r}")
            line[n] = value
    return lines


def _legend(form: str, series: Labels) -> str:
    return re.sub(r"{{(\w+)}}", lambda part: dict(series).get(part[1], ""), form)


def as_svg(panels: Sequence[dict[str, Any]], scrapes: Sequence[Scrape], marks: dict[str, float]) -> str:
    """Return the picture; `marks` says what happened when, in seconds."""
    width = 24 * COLUMN
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW
    drawn = "\n".join(_panel(panel, lines_of(panel, scrapes), marks) for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="12" '
        f'font-family="DejaVu Sans,Helvetica,Arial,sans-serif">\n<title>The dashboard over a real run</title>\n'
        f'<rect width="{width}" height="{height}" fill="#eceef1"/>\n{drawn}\n</svg>\n'
    )


def _panel(panel: dict[str, Any], lines: dict[str, list[float | None]], marks: dict[str, float]) -> str:
    place, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
    width, height = place["w"] * COLUMN - 8, place["h"] * ROW - 8
    right, top = width - 84, max((v for line in lines.values() for v in line if v is not None), default=0) or 1.0
    parts = [f'<rect width="{width}" height="{height}" rx="4" fill="#fff"/>', _text(10, 19, panel["title"], "600")]
    for share in (0.0, 0.5, 1.0):
        y = TOP + PLOT * (1 - share)
        parts += [
            f'<path d="M{LEFT} {y}h{right}" stroke="#ddd"/>',
            _text(60, y + 4, shown(top * share, unit), end=True),
        ]
    for second in range(0, int(RUN_SECONDS) + 1, 10):
        parts.append(_text(LEFT + right * second / RUN_SECONDS, TOP + PLOT + 15, f"{second} s", middle=True))
    for text, second in marks.items():
        x = LEFT + right * second / RUN_SECONDS
        parts.append(f'<path d="M{x:.0f} {TOP}v{PLOT}" stroke="#888" stroke-dasharray="3"/>')
        parts.append(_text(x, TOP - 3, text, middle=True))
    columns = 2 if all(len(legend) * 7 + 30 < width / 2 for legend in lines) else 1
    for n, (legend, line) in enumerate(sorted(lines.items())):
        colour = COLOURS[n % len(COLOURS)]
        x, y = 12 + n % columns * (width // 2 - 6), TOP + PLOT + 34 + n // columns * 14
        last = f": {shown(next(v for v in reversed(line) if v is not None), unit)}" if panel["type"] == "stat" else ""
        path = f'<path d="{_path(line, right, top)}" fill="none" stroke="{colour}" stroke-width="1.7"'
        parts.append(f'{path} stroke-linecap="round"/><path d="M{x} {y - 4}h12" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(x + 17, y, legend + last))
    return f'<g transform="translate({place["x"] * COLUMN + 4} {place["y"] * ROW + 4})">{"".join(parts)}</g>'


def _path(line: Sequence[float | None], width: int, top: float) -> str:
    """Return a line's path, with a gap where it has no value."""
    path, pen = "", "M"
    for n, value in enumerate(line):
        if value is None:
            pen = "M"
            continue
        path += f"{pen}{LEFT + width * n * SCRAPE_SECONDS / RUN_SECONDS:.1f} {TOP + PLOT * (1 - value / top):.1f}"
        path, pen = path + ("h0" if pen == "M" else ""), "L"
    return path


def _text(x: float, y: float, text: str, weight: str = "400", *, end: bool = False, middle: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    bold = f' font-weight="{weight}"' if weight != "400" else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="#333"{anchor}{bold}>{escape(text)}</text>'


def shown(value: float, unit: str) -> str:
    """Return a value in a unit of Grafana, for people."""
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    named = {"s": " s", "Bps": "B/s", "bytes": "B", "ops": "/s", "short": ""}[unit]
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}{named}"
    return f"{value:.3g}{' ' if named.startswith('B') else ''}{named}"


def scrape(ports: dict[str, int]) -> Scrape:
    """Read what each host tells now; one that does not answer tells nothing. Its name is the label `instance`."""
    from prometheus_client.parser import text_string_to_metric_families  # only this needs it

    told: Scrape = {}
    for instance, port in ports.items():
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as page,
        ):
            for family in text_string_to_metric_families(page.read().decode()):
                for sample in family.samples:
                    labels = frozenset({**sample.labels, "instance": instance}.items())
                    told.setdefault(sample.name, {})[labels] = sample.value
    return told


def play(folder: Path, children: Children) -> list[Scrape]:
    """Run the demo's guest on two hosts, kill one, bring it back; return what both told."""
    commands, stage = HostCommands(), Stage.prepare(folder)
    ports = dict(zip(HOSTS, free_ports(socket.SOCK_STREAM, len(HOSTS)), strict=True))
    hosts = HostProcesses(children, stage)

    def start(name: str, role: str) -> None:
        hosts.start(name, role, commands, _ignore, ["--metrics", f"127.0.0.1:{ports[name]}"])

    hosts.make_keys(commands)
    children.start("the switch", stage.switch_command(), _ignore)
    start("A", "primary")
    children.start("the client", stage.client_command(1), _ignore, listens=True)
    hosts.wait_for(lambda: scrape(ports) or None, seconds_to_nanos(60), "host A tells its metrics")
    acts = [(BACK_AT, lambda: start("A", "standby")), (KILL_AT, hosts.running["A"].kill)]
    acts.append((2.0, lambda: start("B", "standby")))
    began, scrapes = time.monotonic(), []
    while (at := len(scrapes) * SCRAPE_SECONDS) <= RUN_SECONDS:
        hosts.pass_time(max(0.0, began + at - time.monotonic()))
        if acts and at >= acts[-1][0]:
            acts.pop()[1]()
        scrapes.append(scrape(ports))
    return scrapes


def _ignore(line: object) -> None:
    """Take what a process prints; the metrics tell enough."""


def main() -> None:
    """Run and draw as the command line asks."""
    parser = argparse.ArgumentParser(description="Draw the panels of the dashboard over a real run")
    parser.add_argument("--into", type=Path, default=Path(__file__).parents[1] / "dashboard.svg")
    asked = parser.parse_args()
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    with tempfile.TemporaryDirectory(prefix="ftvm-dashboard-") as folder, contextlib.closing(Children()) as children:
        scrapes = play(Path(folder), children)
    marks = {"kill": KILL_AT, "back": BACK_AT}
    asked.into.write_text(as_svg(panels, scrapes, marks), encoding="utf-8")


if __name__ == "__main__":
    main()
