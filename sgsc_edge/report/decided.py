"""What every model and runtime decided on each recorded sample: the samples' logits and the certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.certification.metrics import decisions
from sgsc_edge.certification.records import Measurement
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.errors import FileFormatError
from sgsc_edge.report.build_folder import BuildFolder

FLOAT, CONTROL = "float", "control"

Classes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Decided:
    """One set of samples: the labels, and by model what it decided, int64 [n] each.

    ``by_model`` starts with ``float`` (and ``control``) where their logits are finite; then comes the
    compressed model, then each runtime that measured the set, in the certificate's order.
    """

    ids: tuple[str, ...]
    labels: Classes
    by_model: Mapping[str, Classes]

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes among the models."""
        return tuple(name for name in self.by_model if name not in (FLOAT, CONTROL, COMPRESSED))


def decided(build: BuildFolder, part: str) -> Decided:
    """Decisions on one part.

    Raises
    ------
    FileFormatError: the certificate speaks of samples or classes that there are not.
    """
    samples = build.sets[part]
    found: dict[str, Classes] = {}
    for name, logits in ((FLOAT, samples.float_logits), (CONTROL, samples.control_logits)):
        if logits is not None and np.isfinite(logits).all():
            found[name] = decisions(logits)
    found[COMPRESSED] = decisions(samples.compressed_logits)
    for row in build.certificate.predicate.runtimes:
        measured = row.sets.get(part)
        if row.name != COMPRESSED and measured is not None:
            found[row.name] = _changed(found[COMPRESSED], measured, samples, build)
    return Decided(tuple(map(str, samples.ids)), samples.labels, found)


def _changed(compressed: Classes, measured: Measurement, samples: SampleSet, build: BuildFolder) -> Classes:
    places = {str(name): number for number, name in enumerate(samples.ids)}
    result = compressed.copy()
    for name, number in measured.decisions.items():
        if name not in places or number >= samples.float_logits.shape[1]:
            raise FileFormatError(
                f"has a decision for class {number} on sample '{name}', which this build does not have",
                where=str(build.path / "certificate.json"),
                remedy="restore the certificate that belongs to this folder, or build again",
            )
        result[places[name]] = number
    return result
