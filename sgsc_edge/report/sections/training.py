"""How training went, epoch by epoch, and what the controller did."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sgsc_edge.report.build_folder import Action, BuildFolder, Row
from sgsc_edge.report.charts import LineChart, Point, line_chart
from sgsc_edge.report.text import clean, compact

_ACCURACY = "Accuracy"
# Title, and series by name: columns of the history. A chart without any of its columns is left out.
_CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Loss, nats", {"training": "loss", "guide": "guide_loss", "watch": "watch_loss"}),
    (_ACCURACY, {"guide": "guide_accuracy", "watch": "watch_accuracy"}),
    ("Bytes of parameters", {"as stored": "bytes", "at learned depths": "learned_bytes"}),
    ("Mean depth, bits", {"mean of the living channels": "mean_bits"}),
    ("Channels", {"living": "channels"}),
    ("Weight of the guide loss, λ", {"λ": "guide_multiplier"}),
)
_SHOWN_ACTIONS = 24
_SHOWN_EPOCHS = 400


@dataclass(frozen=True)
class ActionRow:
    """One action of the controller, in words."""

    step: int
    metric: str
    fall: str
    channels: int
    layers: str


@dataclass(frozen=True)
class TrainingView:
    """Charts, the numbers behind them, and actions; those of ``hidden_…`` are not listed.

    ``epochs`` is None where the folder does not hold the history.
    """

    epochs: int | None
    charts: tuple[LineChart, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden_epochs: int
    control_epochs: int
    actions: tuple[ActionRow, ...]
    hidden_actions: int


def training_view(build: BuildFolder) -> TrainingView:
    """From ``history.jsonl``, ``control.jsonl`` and ``controller.jsonl``."""
    history, control = build.history or (), build.control_history
    acted = [x for x, before, after in _pairs(history, "controller_actions") if after > before]
    charts = []
    for title, columns in _CHARTS:
        series = {name: _points(history, column) for name, column in columns.items()}
        if "watch" in columns:
            series["watch, control"] = _points(control, columns["watch"])
        charts.append(
            line_chart(
                title,
                series,
                x_label="epoch",
                events=acted,
                event_name="The controller acted",
                at_most=1.0 if title == _ACCURACY else math.inf,
            )
        )
    restored = [(float(action.step), float(len(action.restored))) for action in build.actions]
    charts.append(
        line_chart("Channels that got bits back", {"channels": restored}, x_label="step", stems=True)
    )
    header = tuple(dict.fromkeys(("epoch", *(column for row in history for column in row))))
    shown = history[:_SHOWN_EPOCHS]
    return TrainingView(
        epochs=None if build.history is None else len(history),
        charts=tuple(chart for chart in charts if chart is not None),
        header=tuple(clean(column.replace("_", " ")) for column in header),
        rows=tuple(tuple(_cell(row, column) for column in header) for row in shown),
        hidden_epochs=len(history) - len(shown),
        control_epochs=len(control),
        actions=tuple(_action(action) for action in build.actions[:_SHOWN_ACTIONS]),
        hidden_actions=max(len(build.actions) - _SHOWN_ACTIONS, 0),
    )


def _points(rows: Sequence[Row], column: str) -> list[Point]:
    return [(row["epoch"], row[column]) for row in rows if column in row and "epoch" in row]


def _pairs(rows: Sequence[Row], column: str) -> list[tuple[float, float, float]]:
    """(epoch, value before, value now) of a column that counts."""
    points = _points(rows, column)
    before = [0.0, *(value for _, value in points)]
    return [(x, last, now) for (x, now), last in zip(points, before, strict=False)]


def _cell(row: Row, column: str) -> str:
    return compact(row[column]) if column in row else ""


def _action(action: Action) -> ActionRow:
    counts = Counter(channel.layer for channel in action.restored)
    layers = ", ".join(f"{clean(name)}: {number}" for name, number in counts.most_common(6))
    more = f", and {len(counts) - 6} layers more" if len(counts) > 6 else ""
    return ActionRow(
        action.step, compact(action.metric), compact(action.fall), len(action.restored), layers + more
    )
