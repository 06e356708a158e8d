"""The picture of the dashboard is drawn from the dashboard's own panels, each of which can be evaluated."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from ftvm.service.metrics import HISTOGRAMS

from ..service.test_metrics import ALL

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "docs" / "tools"
PANELS: list[dict[str, Any]] = json.loads((ROOT / "examples/deploy/grafana-dashboard.json").read_text())["panels"]
BYTES_MAX = 150_000


@pytest.fixture(autouse=True, scope="module")
def _tools_can_be_imported() -> Iterator[None]:
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


def tool(name: str) -> ModuleType:
    return import_module(name)


def series(value: float, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
    return {frozenset(labels.items()): value}


def told(name: str, *values: float, **labels: str) -> list[dict[str, Any]]:
    """Return scrapes in which one series has these values."""
    return [{name: series(value, **labels)} for value in values]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_each_panel_can_be_drawn_and_asks_for_metrics_that_a_host_exports(panel: dict[str, Any]) -> None:
    of_the_process = {metric.name for metric in ProcessCollector(registry=CollectorRegistry()).collect()}
    exported = ALL | of_the_process | {"process_cpu_seconds_total"} | {f"{name}_bucket" for name in HISTOGRAMS}

    asked = {name for target in panel["targets"] for name in tool("promql").metrics_of(target["expr"])}
    empty = {name: {} for name in asked}

    assert asked
    assert asked <= exported
    assert tool("dashboard").lines_of(panel, [empty, empty]) == {}
    assert "<text" in tool("dashboard").as_svg([panel], [empty], {"kill": 1.0})


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_no_two_lines_of_a_panel_have_one_legend(panel: dict[str, Any]) -> None:
    names = {name for target in panel["targets"] for name in tool("promql").metrics_of(target["expr"])}
    labels = [
        {"guest": "vm1", "instance": host, "role": "active", "state": "joining", "event": "Solo", "le": "+Inf"}
        for host in ("A", "B")
    ]
    scrapes = [
        {name: {**series(n, **labels[0]), **series(n, **labels[1])} for name in names} for n in (1.0, 1.0)
    ]  # no value changes, as == asks for 1

    assert tool("dashboard").lines_of(panel, scrapes) is not None


def test_a_panel_that_cannot_be_evaluated_is_named() -> None:
    panel = {"title": "Odd", "targets": [{"expr": "topk(3, ftvm_lag_seconds)", "legendFormat": ""}]}

    with pytest.raises(ValueError, match=r"panel 'Odd': no way to evaluate 'topk\(3, ftvm_lag_seconds\)'"):
        tool("dashboard").lines_of(panel, [{}])


def test_two_lines_with_one_legend_are_refused() -> None:
    panel = {"title": "Odd", "targets": [{"expr": "up_seconds", "legendFormat": "{{guest}}"}]}
    both = {"up_seconds": {**series(1, guest="vm1", instance="A"), **series(2, guest="vm1", instance="B")}}

    with pytest.raises(ValueError, match="panel 'Odd': two lines have one legend"):
        tool("dashboard").lines_of(panel, [both])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("x_total", 4.0),
        ('x_total{guest=~"$guest", host="a"}', 4.0),
        ('x_total{host!="a"}', None),
        ("x_total == 4", 4.0),
        ("x_total == 5", None),
        ("rate(x_total[$__rate_interval])", 8.0),
        ("increase(x_total[$__rate_interval])", 8.0),
        ("x_total and on (host) x_total", 4.0),
        ("x_total and on (host) y_total", None),
    ],
)
def test_a_form_is_evaluated_as_prometheus_does_and_a_count_that_fell_began_again(
    expression: str, value: float | None
) -> None:
    scrapes = told("x_total", 1, 5, 4, host="a")

    assert tool("promql").evaluate(expression, scrapes) == ({} if value is None else series(value, host="a"))


def test_groups_are_summed_and_a_quantile_lies_within_its_bucket() -> None:
    page = {
        "x_bucket": {
            frozenset({("le", le), ("host", host)}): count
            for host in "ab"
            for le, count in (("1.0", 1.0), ("2.0", 5.0), ("+Inf", 5.0))
        }
    }

    summed = tool("promql").evaluate("sum by (le) (x_bucket)", [page])
    median = tool("promql").evaluate("histogram_quantile(0.5, sum by (le) (x_bucket))", [page])

    assert summed == {frozenset({("le", le)}): count for le, count in (("1.0", 2.0), ("2.0", 10.0), ("+Inf", 10.0))}
    assert median == {frozenset(): 1.375}


def test_the_picture_of_the_manual_has_each_panel_of_the_dashboard() -> None:
    picture = TOOLS.parent / "dashboard.svg"

    texts = [text.text for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]

    assert {panel["title"] for panel in PANELS} <= set(texts)
    assert picture.stat().st_size <= BYTES_MAX
