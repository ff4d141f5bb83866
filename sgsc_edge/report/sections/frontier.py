"""Size against the metric: the points of a frontier, and the tries of a search for a floor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sgsc_edge.inspection.text import printable
from sgsc_edge.report.charts import LineChart, Point, line_chart
from sgsc_edge.report.frontier import PARTS, Frontier, FrontierPoint, Reference
from sgsc_edge.report.search import Search
from sgsc_edge.report.text import metric, percent

_THIS = "compressed"
_SENTENCE = 200
_TRIES = {"short tries": False, "thorough tries": True}
_PARTS = {"watch": "Watch", "certify": "Certify", "test": "Test"}


@dataclass(frozen=True)
class FrontierRow:
    """One model: what it is called, its folder if it has one, figures in words, and its verdict if any.

    ``kind`` is passed, failed or not_measured, ``note`` why; ``here`` marks the point whose report this is.
    """

    name: str
    folder: str | None
    nbytes: str
    against: str
    figures: tuple[str, ...]
    flips: str
    kind: str | None
    note: str
    here: bool = False


@dataclass(frozen=True)
class FrontierView:
    """The curve of each part that was measured, and a row for each model, the largest first."""

    metric: str
    charts: tuple[LineChart, ...]
    parts: tuple[str, ...]
    rows: tuple[FrontierRow, ...]


def frontier_view(frontier: Frontier, manifest: str | None = None) -> FrontierView:
    """From ``frontier.json``; ``manifest``: hash of the point whose report this is."""
    name = frontier.metric
    parts = tuple(part for part in PARTS if any(_value(one, part) is not None for one in frontier.points))
    charts = (_chart(frontier, part) for part in parts)
    full = next((one.bytes for one in frontier.references), None)
    rows = [_reference_row(one, parts, name, full) for one in frontier.references]
    rows += [_point_row(one, parts, name, full, manifest) for one in frontier.points]
    return FrontierView(
        metric=name,
        charts=tuple(chart for chart in charts if chart is not None),
        parts=tuple(_PARTS[part] for part in parts),
        rows=tuple(rows),
    )


def _chart(frontier: Frontier, part: str) -> LineChart | None:
    points: list[Point] = sorted(
        (float(one.bytes), value)
        for one in frontier.points
        if one.bytes is not None and (value := _value(one, part)) is not None
    )
    if not points:
        return None
    series: dict[str, list[Point]] = {_THIS: points}
    for one in frontier.references:
        level = _value(one, part)
        if level is not None:
            series[f"{one.name}: {one.bytes:,} B"] = [(x, level) for x in dict.fromkeys(_ends(points))]
    return _by_bytes(frontier.metric, part, "parameters", series, (_THIS,))


def _by_bytes(
    name: str, part: str, what: str, series: Mapping[str, list[Point]], measured: tuple[str, ...]
) -> LineChart | None:
    return line_chart(
        f"{name.capitalize()} on {part}",
        series,
        x_label=f"bytes of {what}",
        log_x=True,
        dotted=measured,
        at_most=1.0 if name == "accuracy" else math.inf,
    )


def _ends(points: list[Point]) -> tuple[float, float]:
    return points[0][0], points[-1][0]


def _value(one: FrontierPoint | Reference, part: str) -> float | None:
    if one.figures is None:
        return None
    value: float | None = getattr(one.figures, part)
    return value


def _reference_row(one: Reference, parts: tuple[str, ...], name: str, full: int | None) -> FrontierRow:
    return FrontierRow(
        name=one.name,
        folder=None,
        nbytes=f"{one.bytes:,}",
        against=_share(one.bytes, full),
        figures=tuple(metric(name, _value(one, part)) for part in parts),
        flips="",
        kind=None,
        note="reference",
    )


def _point_row(
    one: FrontierPoint, parts: tuple[str, ...], name: str, full: int | None, manifest: str | None
) -> FrontierRow:
    return FrontierRow(
        name=one.label,
        folder=None if one.verdict is None else one.label,
        nbytes="–" if one.bytes is None else f"{one.bytes:,}",
        against="–" if one.bytes is None else _share(one.bytes, full),
        figures=tuple(metric(name, _value(one, part)) for part in parts),
        flips="–" if one.flips is None else str(one.flips),
        kind=None if one.verdict is None else one.verdict.lower(),
        note=_missed(one) if one.verdict is not None else f"not built: {_said(one.error or 'see the error')}",
        here=manifest is not None and one.manifest == manifest,
    )


def _missed(one: FrontierPoint) -> str:
    """The first gate that a point missed, and how many others."""
    more = len(one.missed) - 1
    return _said(one.missed[0]) + (f", and {more} more" if more > 0 else "") if one.missed else ""


def _said(text: str) -> str:
    """A sentence from a file."""
    return printable(text, _SENTENCE)


def _share(nbytes: int, full: int | None) -> str:
    return "–" if full is None else percent(nbytes / full, 1)


# --- a search for a floor ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialRow:
    """One try in words; ``left``: bytes of the model that it left under the budget ``nbytes``."""

    nbytes: str
    left: str
    above: str
    kind: str
    figure: str
    error: str
    outcome: str
    chosen: bool


@dataclass(frozen=True)
class SearchView:
    """What was asked for, how it ended, and every try in the order they were made."""

    sentence: str
    reached: bool
    chart: LineChart | None
    rows: tuple[TrialRow, ...]


def search_view(search: Search) -> SearchView:
    """From ``search.json``."""
    name = search.metric
    higher = name == "accuracy"
    side = "at least" if higher else "at most"
    floor, chosen = metric(name, search.floor), search.chosen
    article = "an" if name.startswith("a") else "a"
    asked = f"{article} {name} on {search.samples:,} watch samples of {side} {floor}"
    own = "" if chosen.bytes is None else f" (its model takes {chosen.bytes:,})"
    if search.reached:
        sentence = f"{chosen.budget:,} bytes{own} is the smallest budget that was found to keep {asked}."
    else:
        best = metric(name, chosen.watch)
        sentence = f"No budget kept {asked}; {chosen.budget:,} bytes{own} came nearest, with {best}."
    retried = {trial.budget for trial in search.trials if trial.thorough}

    def holds(value: float) -> bool:
        return value >= search.floor if higher else value <= search.floor

    rows = tuple(
        TrialRow(
            nbytes=f"{trial.budget:,}",
            left="–" if trial.bytes is None else f"{trial.bytes:,}",
            above="the float model" if trial.above is None else f"{trial.above:,} B",
            kind="thorough" if trial.thorough else "short",
            figure=metric(name, trial.watch),
            error=metric(name, trial.error),
            outcome=("holds" if holds(trial.watch) else "misses")
            + (", made again" if not trial.thorough and trial.budget in retried else ""),
            chosen=trial.chosen,
        )
        for trial in search.trials
    )
    series: dict[str, list[Point]] = {}
    for kind, thorough in _TRIES.items():
        series[kind] = sorted(
            (float(trial.budget), trial.watch) for trial in search.trials if trial.thorough is thorough
        )
    every = [x for points in series.values() for x, _ in points]
    series["floor"] = [(x, search.floor) for x in dict.fromkeys((min(every), max(every)))]
    chart = _by_bytes(name, "watch", "the budget", series, tuple(_TRIES))
    return SearchView(sentence, search.reached, chart, rows)
