"""Compares outputs with the labels, the float model and the compressed model, sample by sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import sha256_bytes
from sgsc_edge.certification.metrics import OutputGrid, decisions, measure_all, ties
from sgsc_edge.certification.records import Measurement
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.errors import InternalError


def measure(outputs: NDArray[np.int8], samples: SampleSet, grid: OutputGrid) -> Measurement:
    """What integer ``outputs`` int8 [n, K] of one runtime say about ``samples``."""
    if outputs.shape != samples.compressed_logits.shape:
        raise InternalError(f"outputs {outputs.shape} for samples {samples.compressed_logits.shape}")
    difference = np.abs(outputs.astype(np.int16) - samples.compressed_logits.astype(np.int16))
    return _measurement(
        decisions(outputs),
        samples,
        metrics=measure_all(grid.to_real(outputs), samples.labels, grid.probabilities),
        tied=ties(outputs),
        max_lsb=int(difference.max(initial=0)),
        outputs=outputs,
    )


def measure_reference(
    logits: NDArray[np.float32], samples: SampleSet, grid: OutputGrid
) -> Measurement | None:
    """The same for a float model's ``logits`` [n, K]; None when one of them is NaN or infinite."""
    if not np.isfinite(logits).all():
        return None
    return _measurement(
        decisions(logits),
        samples,
        metrics=measure_all(logits.astype(np.float64), samples.labels, grid.probabilities),
        tied=ties(logits),
        max_lsb=None,
        outputs=logits,
    )


def _measurement(
    decided: NDArray[np.int64],
    samples: SampleSet,
    *,
    metrics: dict[str, float | None],
    tied: int,
    max_lsb: int | None,
    outputs: NDArray[np.generic],
) -> Measurement:
    right = decided == samples.labels
    negative: tuple[str, ...] | None = None
    positive: tuple[str, ...] | None = None
    if np.isfinite(samples.float_logits).all():
        float_right = decisions(samples.float_logits) == samples.labels
        negative = _ids(samples, float_right & ~right)
        positive = _ids(samples, ~float_right & right)
    differing = decided != decisions(samples.compressed_logits)
    differing_ids = _ids(samples, differing)
    return Measurement(
        samples=len(samples),
        correct=int(right.sum()),
        metrics=metrics,
        negative_flips=negative,
        positive_flips=positive,
        differs_from_compressed=differing_ids,
        decisions=dict(zip(differing_ids, decided[differing].tolist(), strict=True)),
        ties=tied,
        max_lsb=max_lsb,
        outputs_sha256=sha256_bytes(np.ascontiguousarray(outputs).tobytes()),
    )


def _ids(samples: SampleSet, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(str(value) for value in samples.ids[chosen])
