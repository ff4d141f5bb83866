"""Geometry of the page's charts; ``templates/charts.html`` draws it as SVG.

Coordinates are in units of the view box. Every chart has a title and a description in words for those who do
not see it, and lines differ by their dashes as well as by their colours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sgsc_edge.report.text import compact

WIDTH, HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 22
_TICKS = 4
_MOST_TICKS = 6
_LEAST = 1e-30
"""Values that are nearer to each other are drawn as equal."""
_STRIP_WIDTH, STRIP_HEIGHT = 192, 30
_GAP_FROM = 3.0
"""Channels at least this wide are drawn apart."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its style (0, 1, 2: solid, dashed, dotted), its path and its points."""

    name: str
    style: int
    path: str
    dots: tuple[Point, ...]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """Lines over a common x axis; ``marks`` are x positions of events."""

    title: str
    description: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[float, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM
    top: int = _TOP


@dataclass(frozen=True)
class Strip:
    """Bits of a layer's channels, side by side: a bar as high as its bits, a cross where one was removed."""

    description: str
    bars: str
    removed: str
    width: int = _STRIP_WIDTH
    height: int = STRIP_HEIGHT


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    events: Sequence[float] = (),
    event_name: str = "",
    stems: bool = False,
    at_most: float = math.inf,
    log_x: bool = False,
    dotted: Collection[str] = (),
) -> LineChart | None:
    """A chart of series of (x, y), which rise in x; None where there is nothing to show.

    ``stems``: each point stands on an axis at 0, for counts at single moments. ``at_most``: what no value can
    exceed; the axis ends there. ``log_x``: equal ratios of x, which is > 0, are equally far apart.
    ``dotted``: names of series of which each point is a dot; of others the last one is.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    every = [point for points in series.values() for point in points]
    x_low, x_high = min(x for x, _ in every), max(x for x, _ in every)
    low = 0.0 if stems else min(y for _, y in every)
    y_ticks = tuple(tick for tick in nice_ticks(low, max(y for _, y in every)) if tick <= at_most)
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT

    def x_at(x: float) -> float:
        if x_high == x_low:
            share = 0.5
        elif log_x:
            share = math.log(x / x_low) / math.log(x_high / x_low)
        else:
            share = (x - x_low) / (x_high - x_low)
        return round(_LEFT + 6 + share * (right - _LEFT - 12), 1)

    def y_at(y: float) -> float:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(bottom - share * (bottom - _TOP), 1)

    lines = []
    for number, (name, points) in enumerate(series.items()):
        places = tuple((x_at(x), y_at(y)) for x, y in points)
        if stems:
            path = "".join(f"M{x:g} {bottom}V{y:g}" for x, y in places)
        else:
            path = "M" + " L".join(f"{x:g} {y:g}" for x, y in places)
        lines.append(Line(name, number, path, places if stems or name in dotted else places[-1:]))
    said = [
        f"{name} from {compact(points[0][1])} to {compact(points[-1][1])}" for name, points in series.items()
    ]
    description = f"Over {x_label} {compact(x_low)} to {compact(x_high)}: {'; '.join(said)}."
    if events:
        description += f" {event_name} at {', '.join(compact(x) for x in events)}."
    return LineChart(
        title=title,
        description=description,
        x_label=x_label,
        lines=tuple(lines),
        x_ticks=tuple(
            Tick(x_at(x), compact(x)) for x in (_ratio_ticks if log_x else _whole_ticks)(x_low, x_high)
        ),
        y_ticks=tuple(Tick(y_at(y), compact(y)) for y in y_ticks),
        marks=tuple(x_at(x) for x in events if x_low <= x <= x_high),
    )


def nice_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers, equally far apart, that enclose ``low`` and ``high``; two at least.

    >>> nice_ticks(0.03, 0.97), nice_ticks(8, 8), nice_ticks(6958, 17768)
    ((0.0, 0.25, 0.5, 0.75, 1.0), (7.0, 7.5, 8.0, 8.5, 9.0), (5000.0, 10000.0, 15000.0, 20000.0))
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)) or high - low < _LEAST:
        room = abs(low) / 8 if abs(low) > _LEAST else 1.0
        low, high = low - room, high + room
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(float(f"{step * number:.12g}") for number in range(first, last + 1))


def strip(bits: Sequence[int]) -> Strip:
    """The channels of one layer: their bits, 0 where one was removed."""
    channels = len(bits)
    each = _STRIP_WIDTH / channels
    gap = 1.0 if each >= _GAP_FROM else 0.0
    bars, removed = [], []
    for start, end, value in _runs(bits, merged=not gap):
        left, right = start * each, end * each - gap
        if value:
            height = STRIP_HEIGHT * min(value, 8) / 8
            bars.append(f"M{left:.4g} {STRIP_HEIGHT}V{STRIP_HEIGHT - height:.4g}H{right:.5g}V{STRIP_HEIGHT}Z")
        else:
            half = min((right - left) / 2, 2.0)
            middle, low = (left + right) / 2, STRIP_HEIGHT - 1
            removed.append(f"M{middle - half:.5g} {low - 2 * half:.5g}L{middle + half:.5g} {low:.5g}")
            removed.append(f"M{middle + half:.5g} {low - 2 * half:.5g}L{middle - half:.5g} {low:.5g}")
    return Strip(_in_words(bits), "".join(bars), "".join(removed))


def _runs(bits: Sequence[int], *, merged: bool) -> list[tuple[int, int, int]]:
    """(first, one past the last, bits) of channels, neighbours of equal bits together where ``merged``."""
    runs: list[tuple[int, int, int]] = []
    for number, value in enumerate(bits):
        if merged and runs and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], number + 1, value)
        else:
            runs.append((number, number + 1, value))
    return runs


def _in_words(bits: Sequence[int]) -> str:
    """``16 channels: 12 of 8 bits, 4 removed``."""
    found = [
        f"{bits.count(value)} of {value} bits" if value else f"{bits.count(value)} removed"
        for value in sorted(set(bits), reverse=True)
    ]
    return f"{len(bits)} channels: {', '.join(found)}"


def _whole_ticks(low: float, high: float) -> tuple[float, ...]:
    """At most six whole numbers from ``low`` to ``high``, both ends among them where there is room."""
    step = max(1, math.ceil((high - low) / 5))
    ticks = [low + step * number for number in range(int((high - low) / step) + 1)]
    if ticks[-1] != high and high - ticks[-1] > step / 2:
        ticks.append(high)
    elif ticks[-1] != high:
        ticks[-1] = high
    return tuple(ticks)


_ROUND = (1, 2, 5)
"""First digits of round numbers, about equally far apart by ratio."""


def _ratio_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers from ``low`` to ``high`` (> 0) at equal ratios, at most six; else the ends.

    >>> _ratio_ticks(2900, 12000), _ratio_ticks(3100, 4100), _ratio_ticks(10, 2e6)
    ((5000.0, 10000.0), (3100, 4100), (10.0, 100.0, 1000.0, 10000.0, 100000.0, 1000000.0))
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in (_ROUND, (1, 3), (1,)):
        ticks = [d * 10.0**power for power in range(first, last + 1) for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    return tuple(ticks[:_MOST_TICKS]) if len(ticks) > 1 else tuple(dict.fromkeys((low, high)))
