"""Compares outputs with the labels, the float model and the compressed model, decision by decision.

Of sequences only the decisions that have a label count; a sequence flips where one of them does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import sha256_bytes
from sgsc_edge.certification.metrics import OutputGrid, decisions, measure_all, ties
from sgsc_edge.certification.records import Measurement
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.errors import InternalError


def measure(outputs: NDArray[np.int8], samples: SampleSet, grid: OutputGrid) -> Measurement:
    """What integer ``outputs`` of one runtime say about ``samples``: int8 [n, K], of sequences [n, T, K]."""
    if outputs.shape != samples.compressed_logits.shape:
        raise InternalError(f"outputs {outputs.shape} for samples {samples.compressed_logits.shape}")
    difference = np.abs(outputs.astype(np.int16) - samples.compressed_logits.astype(np.int16))
    return _measurement(outputs, samples, grid, max_lsb=int(difference.max(initial=0)))


def measure_reference(
    logits: NDArray[np.float32], samples: SampleSet, grid: OutputGrid
) -> Measurement | None:
    """The same for a float model's ``logits``; None when one of them is NaN or infinite."""
    if not np.isfinite(logits).all():
        return None
    return _measurement(logits, samples, grid, max_lsb=None)


def _measurement(
    outputs: NDArray[Any], samples: SampleSet, grid: OutputGrid, *, max_lsb: int | None
) -> Measurement:
    labelled = samples.labelled
    rows, labels = outputs[labelled], samples.labels[labelled]  # [m, K] and [m]: one a decision
    values = rows.astype(np.float64) if max_lsb is None else grid.to_real(rows)
    decided = decisions(rows)
    right = decided == labels
    negative: tuple[str, ...] | None = None
    positive: tuple[str, ...] | None = None
    agreeing: int | None = None
    if np.isfinite(samples.float_logits).all():
        by_float = decisions(samples.float_logits[labelled])
        negative = _ids(samples, (by_float == labels) & ~right)
        positive = _ids(samples, (by_float != labels) & right)
        agreeing = int((decided == by_float).sum())
    differing = decided != decisions(samples.compressed_logits[labelled])
    differing_ids = _ids(samples, differing)
    return Measurement(
        samples=len(samples),
        decided=len(decided),
        correct=int(right.sum()),
        metrics=measure_all(values, labels, grid.probabilities),
        agreeing=agreeing,
        negative_flips=negative,
        positive_flips=positive,
        differs_from_compressed=differing_ids,
        differing=int(differing.sum()),
        decisions=_by_id(decided, samples, differing),
        ties=ties(rows),
        max_lsb=max_lsb,
        outputs_sha256=sha256_bytes(np.ascontiguousarray(outputs).tobytes()),
    )


def _owners(samples: SampleSet) -> NDArray[np.intp]:
    """The index of the sample that each labelled decision is of, [m]."""
    return np.nonzero(samples.labelled)[0]


def _ids(samples: SampleSet, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    """The samples that have one of the ``chosen`` decisions [m], each once."""
    return tuple(str(value) for value in samples.ids[np.unique(_owners(samples)[chosen])])


def _by_id(
    decided: NDArray[np.int64], samples: SampleSet, chosen: NDArray[np.bool_]
) -> dict[str, int | tuple[int, ...]]:
    """All decisions [m] on the samples that have a ``chosen`` one: a class, or of a sequence a tuple."""
    owners = _owners(samples)
    own = {int(index): decided[owners == index] for index in np.unique(owners[chosen])}
    return {
        str(samples.ids[index]): tuple(one.tolist()) if samples.is_text else int(one[0])
        for index, one in own.items()
    }
