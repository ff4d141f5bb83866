"""The certify set class by class, and which decisions changed into which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.decided import FLOAT, Decided
from sgsc_edge.report.text import clean, model_name

_SHOWN_CLASSES = 100
_SHOWN_CHANGES = 30


@dataclass(frozen=True)
class ClassCell:
    """Right decisions of one model in one class; ``lost``: how many fewer than float's (negative: more)."""

    right: int
    share: float
    lost: int


@dataclass(frozen=True)
class ClassRow:
    """One class with samples in the set."""

    name: str
    samples: int
    cells: tuple[ClassCell, ...]


@dataclass(frozen=True)
class ChangeRow:
    """Different samples of one class whose decision changed in the same way; on which ``models``.

    Several models are named with how many of the samples each.
    """

    label: str
    before: str
    after: str
    samples: int
    kind: str
    models: str


@dataclass(frozen=True)
class ClassesView:
    """``empty`` classes have no sample; ``hidden`` rows are left out, those that changed least.

    ``against_float``: whether float's decisions are known.
    """

    models: tuple[str, ...]
    against_float: bool
    rows: tuple[ClassRow, ...]
    hidden: int
    empty: int
    compression: tuple[ChangeRow, ...]
    lowering: tuple[ChangeRow, ...]
    hidden_changes: int


def classes_view(build: BuildFolder, certify: Decided) -> ClassesView:
    """From the decisions on the certify set."""
    rows = []
    for number in range(build.classes):
        mine = certify.labels == number
        if mine.any():
            rows.append(ClassRow(_name(build, number), int(mine.sum()), _cells(certify, mine, number)))
    empty = build.classes - len(rows)
    hidden = max(len(rows) - _SHOWN_CLASSES, 0)
    if hidden:
        shown = sorted(rows, key=lambda row: -max(abs(cell.lost) for cell in row.cells))[:_SHOWN_CLASSES]
        chosen = set(map(id, shown))
        rows = [row for row in rows if id(row) in chosen]
    compression = _changes(build, certify, FLOAT, (COMPRESSED,)) if FLOAT in certify.by_model else []
    lowering = _changes(build, certify, COMPRESSED, certify.runtimes)
    return ClassesView(
        models=tuple(map(model_name, certify.by_model)),
        against_float=FLOAT in certify.by_model,
        rows=tuple(rows),
        hidden=hidden,
        empty=empty,
        compression=tuple(compression[:_SHOWN_CHANGES]),
        lowering=tuple(lowering[:_SHOWN_CHANGES]),
        hidden_changes=sum(max(len(found) - _SHOWN_CHANGES, 0) for found in (compression, lowering)),
    )


def _name(build: BuildFolder, number: int) -> str:
    return clean(build.stated.class_name(number))


def _cells(certify: Decided, mine: NDArray[np.bool_], number: int) -> tuple[ClassCell, ...]:
    samples = int(mine.sum())
    right = [int((found[mine] == number).sum()) for found in certify.by_model.values()]
    names = list(certify.by_model)
    float_right = right[names.index(FLOAT)] if FLOAT in names else None
    return tuple(
        ClassCell(one, one / samples, 0 if float_right is None else float_right - one) for one in right
    )


def _changes(build: BuildFolder, certify: Decided, base: str, models: tuple[str, ...]) -> list[ChangeRow]:
    """How decisions of ``models`` differ from those of ``base``, the most frequent first."""
    found: dict[tuple[int, int, int], dict[str, set[int]]] = {}
    before = certify.by_model[base]
    for model in models:
        for index in np.flatnonzero(certify.by_model[model] != before):
            key = (int(certify.labels[index]), int(before[index]), int(certify.by_model[model][index]))
            found.setdefault(key, {}).setdefault(model, set()).add(int(index))
    rows = []
    for (label, old, new), by_model in found.items():
        numbers = {model_name(name): len(changed) for name, changed in by_model.items()}
        each = ", ".join(f"{name}: {number}" for name, number in numbers.items())
        rows.append(
            ChangeRow(
                label=_name(build, label),
                before=_name(build, old),
                after=_name(build, new),
                samples=len(set().union(*by_model.values())),
                kind=_kind(label, old, new),
                models=each if len(numbers) > 1 else next(iter(numbers)),
            )
        )
    return sorted(rows, key=lambda row: (-row.samples, row.label, row.before, row.after))


def _kind(label: int, before: int, after: int) -> str:
    if before == label:
        return "right → wrong"
    return "wrong → right" if after == label else "wrong → wrong"
