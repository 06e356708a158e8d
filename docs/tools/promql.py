"""Evaluate those forms of PromQL that examples/deploy/grafana-dashboard.json uses, over what hosts told.

A selector, rate, increase, sum by, max by, histogram_quantile, == and `and on`; any other form is an error.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

SCRAPE_SECONDS = 0.5

Labels = frozenset[tuple[str, str]]
Series = dict[Labels, float]
Scrape = dict[str, Series]
"""What all hosts told at one moment: by the name of a metric, each series of it."""

SELECTOR = r"([a-z_]+)(?:\{([^{}]*)\})?"


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics that an expression asks for."""
    bare = re.sub(r"\b(?:by|on) \([^)]*\)|\{[^}]*\}|\[[^]]*\]", " ", expression)
    return {name for name in re.findall(r"[a-z_]+", bare) if "_" in name and name != "histogram_quantile"}


def evaluate(expression: str, seen: Sequence[Scrape]) -> Series:
    """Return an expression's series at the last of some scrapes. Raises ValueError for a form that it does not know."""
    for form, value in FORMS.items():
        if found := re.fullmatch(form, expression.strip()):
            return value(seen, *found.groups())
    raise ValueError(f"no way to evaluate {expression!r}: teach it to docs/tools/promql.py")


def _select(seen: Sequence[Scrape], name: str, matchers: str | None) -> Series:
    chosen = seen[-1].get(name, {}) if seen else {}
    for label, operator, wanted in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers or ""):
        if wanted != "$guest":  # all guests are chosen
            chosen = {k: v for k, v in chosen.items() if (dict(k).get(label) == wanted) == (operator != "!=")}
    return chosen


def _change(seen: Sequence[Scrape], function: str, name: str, matchers: str | None) -> Series:
    changed: Series = {}
    for series in _select(seen, name, matchers):
        told = [(n, scrape[name][series]) for n, scrape in enumerate(seen) if series in scrape.get(name, {})]
        if len(told) > 1:  # a count that fell is that of a new process
            grown = sum(new - old if new >= old else new for (_, old), (_, new) in pairwise(told))
            seconds = (told[-1][0] - told[0][0]) * SCRAPE_SECONDS
            changed[series] = grown / seconds if function == "rate" else grown
    return changed


def _among(seen: Sequence[Scrape], function: str, by: str, inner: str) -> Series:
    groups: dict[Labels, list[float]] = {}
    for series, value in evaluate(inner, seen).items():
        groups.setdefault(_only(series, by), []).append(value)
    return {group: {"sum": sum, "max": max}[function](values) for group, values in groups.items()}


def _only(series: Labels, labels: str) -> Labels:
    return frozenset(pair for pair in series if pair[0] in re.findall(r"\w+", labels))


def _quantile(seen: Sequence[Scrape], share: str, inner: str) -> Series:
    buckets: dict[Labels, list[tuple[float, float]]] = {}
    for series, value in evaluate(inner, seen).items():
        group = frozenset(pair for pair in series if pair[0] != "le")
        buckets.setdefault(group, []).append((float(dict(series)["le"]), value))
    return {group: _within(sorted(each), float(share)) for group, each in buckets.items() if max(each)[1] > 0}


def _within(buckets: Sequence[tuple[float, float]], share: float) -> float:
    wanted, below, count = share * buckets[-1][1], 0.0, 0.0
    for bound, upto in buckets:
        if upto >= wanted and upto > count:
            return below if bound == float("inf") else below + (bound - below) * (wanted - count) / (upto - count)
        below, count = bound, upto
    return below


def _equal(seen: Sequence[Scrape], inner: str, wanted: str) -> Series:
    return {series: value for series, value in evaluate(inner, seen).items() if value == float(wanted)}


def _both(seen: Sequence[Scrape], left: str, on: str, right: str) -> Series:
    there = {_only(series, on) for series in evaluate(right, seen)}
    return {series: value for series, value in evaluate(left, seen).items() if _only(series, on) in there}


FORMS: dict[str, Callable[..., Series]] = {
    r"(.+) and on \((.+?)\) (.+)": _both,
    r"(.+) == (\d+)": _equal,
    r"(sum|max) by \(([\w, ]+)\) \((.+)\)": _among,
    r"histogram_quantile\(([\d.]+), (.+)\)": _quantile,
    rf"(rate|increase)\({SELECTOR}\[\$__rate_interval\]\)": _change,
    SELECTOR: _select,
}
