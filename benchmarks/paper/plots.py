"""Curves of a metric by size as SVG files in docs/images, sizes on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.paper.statistics import Spread
from benchmarks.record import IMAGES, Picture
from sgsc_edge.artifacts import write_bytes
from sgsc_edge.report.charts import nice_ticks

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 46
_LEGEND = 18
_STYLES = (("#1f5fa8", ""), ("#b5482a", "7 4"), ("#3a7d44", "2 4"), ("#6b4c9a", "9 3 2 3"))
"""Colour and dashes: lines differ by both."""


@dataclass(frozen=True)
class Curve:
    """A name, and (size, metric) points; ``shown`` is whether the axis must reach all of them."""

    name: str
    points: tuple[tuple[float, Spread], ...]
    shown: bool = True


def plot(
    name: str,
    title: str,
    x_label: str,
    curves: Sequence[Curve],
    *,
    level: float | None = None,
    level_name: str = "",
) -> Picture:
    """Write docs/images/``name``; bars are a standard deviation each way, ``level`` a horizontal line."""
    IMAGES.mkdir(exist_ok=True)
    write_bytes(IMAGES / name, svg(title, x_label, curves, level=level, level_name=level_name).encode())
    return Picture(name, title)


def svg(
    title: str, x_label: str, curves: Sequence[Curve], *, level: float | None = None, level_name: str = ""
) -> str:
    """The picture as text; without points it says that nothing was measured."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return _page(title, [_text(_LEFT, _HEIGHT / 2, "not measured", "start")])
    reached = [point for curve in curves if curve.shown for point in curve.points] or points
    ends = [value for _, one in reached for value in (one.mean - one.deviation, one.mean + one.deviation)]
    ends += [] if level is None else [level]
    ticks = nice_ticks(min(ends), max(ends))
    sizes = [size for size, _ in points]
    low, high = math.log(min(sizes)) - 0.1, math.log(max(sizes)) + 0.1
    bottom = _HEIGHT - _BOTTOM - _LEGEND * len(curves)

    def x_at(size: float) -> float:
        return _LEFT + (math.log(size) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y_at(value: float) -> float:  # what the axis does not reach is cut off at its ends
        value = min(max(value, ticks[0]), ticks[-1])
        return bottom - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - _TOP)

    def leaves(curve: Curve) -> bool:
        return any(not ticks[0] <= one.mean <= ticks[-1] for _, one in curve.points)

    parts = []
    for tick in ticks:
        parts.append(_line(f"M{_LEFT} {y_at(tick):.1f}H{_WIDTH - _RIGHT}", "#ddd"))
        parts.append(_text(_LEFT - 8, y_at(tick) + 4, f"{tick:g}", "end"))
    for size in _round_sizes(sizes):
        parts.append(_text(x_at(size), bottom + 18, f"{size:g}", "middle"))
    parts.append(_text(_WIDTH - _RIGHT, bottom + 34, x_label, "end"))
    if level is not None:
        parts.append(_line(f"M{_LEFT} {y_at(level):.1f}H{_WIDTH - _RIGHT}", "#555", "1 3"))
        parts.append(_text(_LEFT + 4, y_at(level) - 4, level_name, "start"))
    for number, curve in enumerate(curves):
        colour, dashes = _STYLES[number % len(_STYLES)]
        path = "M" + "L".join(f"{x_at(size):.1f} {y_at(one.mean):.1f}" for size, one in curve.points)
        parts.append(_line(path, colour, dashes))
        for size, one in curve.points:
            bar = f"V{y_at(one.mean + one.deviation):.1f}"
            parts.append(_line(f"M{x_at(size):.1f} {y_at(one.mean - one.deviation):.1f}{bar}", colour))
            parts.append(f'<circle cx="{x_at(size):.1f}" cy="{y_at(one.mean):.1f}" r="3" fill="{colour}"/>')
        at = bottom + 34 + _LEGEND * number
        parts += [
            _line(f"M{_LEFT} {at - 4}H{_LEFT + 30}", colour, dashes),
            _text(_LEFT + 38, at, curve.name + (" (cut off)" if leaves(curve) else ""), "start"),
        ]
    return _page(title, parts)


def _round_sizes(sizes: Sequence[float]) -> list[float]:
    """1, 2, 5 times powers of ten between the smallest and the largest size.

    >>> _round_sizes([1.4, 21.0])
    [2.0, 5.0, 10.0, 20.0]
    """
    powers = range(math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes))) + 1)
    every = (factor * 10.0**power for power in powers for factor in (1, 2, 5))
    return [size for size in every if min(sizes) <= size <= max(sizes)]


def _page(title: str, parts: Iterable[str]) -> str:
    inner = "\n".join(["", *parts, ""])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="#222">\n<title>{escape(title)}</title>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n'
        f"{_text(_LEFT, 22, title, 'start')}{inner}</svg>\n"
    )


def _line(path: str, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
