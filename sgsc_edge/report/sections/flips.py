"""The samples whose decision changed, as pictures, plots or text.

A sample is here where the compressed model or a runtime decides otherwise than float, and where a runtime
decides otherwise than the compressed model. Right decisions that were lost come first, and of these the
samples of must_keep. Of a sequence, the first decision that changed in the way that matters most is shown,
behind the text that it follows.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.certification.samples import GATED_PARTS, MUST_KEEP
from sgsc_edge.numerics import dequantize
from sgsc_edge.pictures import has_pictures, png, text_of, thumbnail, to_pixels
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.decided import FLOAT, Decided
from sgsc_edge.report.text import clean, count, joined, model_name

KINDS = ("lost", "differs", "won", "moved")
"""A right decision lost; runtimes that differ; a right decision won; another wrong decision."""

SHOWN = 36
SIDE = 96
"""Pixels of a picture's longer side at most, so that 36 of them stay below 1.5 MB."""

_PLOT_WIDTH, _PLOT_HEIGHT = 120, 60
_PLOT_POINTS = 120
_PLOT_LINES = 3
_SHOWN_TOKENS = 24


@dataclass(frozen=True)
class Decision:
    """What some models decided on a sample."""

    models: str
    name: str
    right: bool


@dataclass(frozen=True)
class Plot:
    """The values of a sample that is no image: paths, a line a channel, the first few of ``channels``."""

    paths: tuple[str, ...]
    channels: int
    description: str
    width: int = _PLOT_WIDTH
    height: int = _PLOT_HEIGHT


@dataclass(frozen=True)
class View:
    """What is seen of a sample: one of a data URI, a plot, and the text in front of a decision."""

    image: str | None = None
    plot: Plot | None = None
    text: str | None = None


@dataclass(frozen=True)
class FlipCard:
    """One sample: a PNG as a data URI, a plot, or text; its class, and who decided what."""

    id: str
    part: str
    label: str
    kind: str
    decisions: tuple[Decision, ...]
    view: View
    description: str


@dataclass(frozen=True)
class FlipsView:
    """The cards, of ``total`` samples that changed; ``summary`` says among whom they were looked for."""

    summary: str
    cards: tuple[FlipCard, ...]
    total: int


def flips_view(build: BuildFolder, by_part: dict[str, Decided]) -> FlipsView:
    """From the decisions on the sets that gate; ``by_part`` by their names."""
    found = [
        (_rank(part, kind), part, index, kind)
        for part in GATED_PARTS
        if part in by_part
        for index, kind in _changed(by_part[part])
    ]
    seen: set[str] = set()
    unique = []
    for row in sorted(found, key=lambda row: row[0]):  # stable: in the order of the sets
        name = by_part[row[1]].ids[row[2]]
        if name not in seen:  # a must_keep sample may be a certify sample, too
            seen.add(name)
            unique.append(row)
    shown = unique[:SHOWN]
    places = [(part, int(by_part[part].samples[index])) for _, part, index, _ in shown]
    views = (
        [_text(build, by_part[part], part, index) for _, part, index, _ in shown]
        if build.is_text
        else _views(build, places)
    )
    cards = tuple(
        _card(build, by_part[part], part, index, kind, view)
        for (_, part, index, kind), view in zip(shown, views, strict=True)
    )
    noun = "sequence" if build.is_text else "sample"
    return FlipsView(_summary(by_part, len(unique), len(cards), noun), cards, len(unique))


def _summary(by_part: dict[str, Decided], total: int, shown: int, noun: str) -> str:
    """How many samples changed. Decisions that are not known are said, and never count as agreement."""
    by_part = {part: found for part, found in by_part.items() if len(found.labels)}
    if not by_part:
        return "The sets that gate have no samples."
    parts = joined(list(by_part))
    float_open = [part for part, found in by_part.items() if FLOAT not in found.by_model]
    ran = any(found.runtimes for found in by_part.values())
    among = (
        ["float" + (" (where it is known)" if float_open else "")] if len(float_open) < len(by_part) else []
    )
    among += ["the compressed model", *(["every runtime that ran"] if ran else [])]
    gaps = f" What float decided on {joined(float_open)} is not known." if float_open else ""
    gaps += "" if ran else " No runtime ran."
    if len(among) == 1:
        return f"Nothing could be compared.{gaps}"
    if not total:
        return f"None. On every {noun} of {parts}, {joined(among)} decide alike.{gaps}"
    samples = f"{count(total, noun)} of {parts} {'is' if total == 1 else 'are'}"
    some = f"; the {shown} that matter most are shown" if shown < total else ""
    return f"{samples} not decided alike by {joined(among)}{some}.{gaps}"


def _changed(found: Decided) -> list[tuple[int, str]]:
    """(index, kind) of the samples that changed; of several kinds the first of :data:`KINDS`."""
    others = np.stack([found.by_model[name] for name in (COMPRESSED, *found.runtimes)])
    right = others == found.labels
    differs = (others != others[0]).any(axis=0)
    base = found.by_model.get(FLOAT)
    by_kind = {"differs": differs}
    if base is not None:
        float_right = base == found.labels
        by_kind["lost"] = float_right & ~right.all(axis=0)
        by_kind["won"] = ~float_right & right.any(axis=0)
        by_kind["moved"] = (others != base).any(axis=0)
    kinds: dict[int, str] = {}
    for kind in KINDS:
        for index in np.flatnonzero(by_kind.get(kind, ())).tolist():
            kinds.setdefault(index, kind)
    return sorted(kinds.items())


def _rank(part: str, kind: str) -> int:
    return KINDS.index(kind) + (0 if part == MUST_KEEP and kind == "lost" else 1)


def _card(build: BuildFolder, found: Decided, part: str, index: int, kind: str, view: View) -> FlipCard:
    label = int(found.labels[index])
    by_class: dict[int, list[str]] = {}
    base = {name: found.by_model[name] for name in found.by_model if name == FLOAT}
    decisions = []
    for name, decided in base.items():
        number = int(decided[index])
        decisions.append(Decision(model_name(name), _name(build, number), number == label))
    for name in (COMPRESSED, *found.runtimes):
        by_class.setdefault(int(found.by_model[name][index]), []).append(name)
    for number, names in by_class.items():
        every = len(by_class) == 1 and len(names) > 1
        who = f"{model_name(COMPRESSED)} and every runtime" if every else joined(list(map(model_name, names)))
        decisions.append(Decision(who, _name(build, number), number == label))
    name = _name(build, label)
    said = "; ".join(f"{one.models}: {one.name}" for one in decisions)
    return FlipCard(
        id=clean(found.ids[index]),
        part=part,
        label=name,
        kind=kind,
        decisions=tuple(decisions),
        view=view,
        description=f"Next token {name}. {said}." if build.is_text else f"Sample of class {name}. {said}.",
    )


def _name(build: BuildFolder, number: int) -> str:
    return clean(build.stated.class_name(number))


# --- pictures, plots and text ---------------------------------------------------------------------


def _text(build: BuildFolder, found: Decided, part: str, index: int) -> View:
    """The end of the text that a decision follows."""
    tokens = build.sets[part].inputs[found.samples[index], : found.positions[index] + 1]
    shown = tokens[-_SHOWN_TOKENS:].tolist()
    named = [_name(build, int(token)) if token < build.classes else f"{token}?" for token in shown]
    before = "…" if len(tokens) > len(shown) else ""
    return View(text=before + text_of(named))


def _views(build: BuildFolder, places: Sequence[tuple[str, int]]) -> list[View]:
    """A picture or a plot of each sample (part, index)."""
    inputs = [_as_fed(build, part, index) for part, index in places]
    if not inputs:
        return []
    stated = build.stated.input
    shape = stated.shape if stated is not None else inputs[0].shape
    if has_pictures(shape) and inputs[0].shape == tuple(shape):
        return [View(image=_data_uri(pixels)) for pixels in to_pixels(inputs, stated)]
    return [View(plot=_plot(values)) for values in inputs]


def _as_fed(build: BuildFolder, part: str, index: int) -> NDArray[np.float32]:
    """The real values that the integers of a sample stand for, float32, channels first.

    Images [C, H, W]; sequences [C, L]; others as they are.
    """
    integers = build.sets[part].inputs[index]
    values: NDArray[np.float32] = integers.astype(np.float32)
    if build.input_grid is not None:
        values = dequantize(integers, *build.input_grid)
    if values.ndim == 3:
        values = values.transpose(2, 0, 1)
        stated = build.stated.input
        if stated is not None and len(stated.shape) == 2 and values.shape[1] == 1:
            values = values[:, 0]
    return values


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    encoded = base64.b64encode(png(thumbnail(pixels, SIDE))).decode("ascii")
    return f"data:image/png;base64,{encoded}"


def _plot(values: NDArray[np.float32]) -> Plot:
    """Values over their position, a line a channel (values of rank 1 are one channel)."""
    lines = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[None]
    shown = lines[:_PLOT_LINES]
    low, high = float(shown.min()), float(shown.max())
    span = high - low or 1.0
    paths = []
    for line in shown:
        points = _thinned(line)
        step = _PLOT_WIDTH / max(len(points) - 1, 1)
        heights = (_PLOT_HEIGHT - 2) - (points - low) / span * (_PLOT_HEIGHT - 4)
        path = " L".join(f"{number * step:.4g} {y:.4g}" for number, y in enumerate(heights.tolist()))
        # A single value is a line as wide as the plot.
        paths.append(f"M{path}" + (f"H{_PLOT_WIDTH}" if len(points) == 1 else ""))
    what = f"{lines.shape[1]:,} values" + (f" in each of {len(lines):,} channels" if len(lines) > 1 else "")
    return Plot(tuple(paths), len(lines), f"{what}, from {low:.4g} to {high:.4g}")


def _thinned(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most ``_PLOT_POINTS`` values: of each stretch of a longer line the lowest and the highest."""
    if len(line) <= _PLOT_POINTS:
        return line
    stretches = np.array_split(line, _PLOT_POINTS // 2)
    return np.array([value for part in stretches for value in (part.min(), part.max())], dtype=np.float32)
