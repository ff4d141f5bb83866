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
    """The labelled decisions on one set: ids, labels, and by model what it decided, int64 [m] each.

    A classifier has one a sample, a language model one for each next token: ``samples`` and ``positions`` say
    which sample of the set it is about, and which token of that. ``by_model`` starts with ``float`` (and
    ``control``) where their logits are finite; then comes the compressed model, then each runtime that
    measured the set, in the certificate's order.
    """

    ids: tuple[str, ...]
    samples: NDArray[np.intp]
    positions: NDArray[np.intp]
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
    labelled = samples.labelled
    found: dict[str, Classes] = {}
    for name, logits in ((FLOAT, samples.float_logits), (CONTROL, samples.control_logits)):
        if logits is not None and np.isfinite(logits).all():
            found[name] = decisions(logits[labelled])
    found[COMPRESSED] = decisions(samples.compressed_logits[labelled])
    for row in build.certificate.predicate.runtimes:
        measured = row.sets.get(part)
        if row.name != COMPRESSED and measured is not None:
            found[row.name] = _changed(found[COMPRESSED], measured, samples, build)
    owners, *inner = np.nonzero(labelled)
    return Decided(
        ids=tuple(map(str, samples.ids[owners])),
        samples=owners,
        positions=inner[0] if inner else np.zeros_like(owners),
        labels=samples.labels[labelled],
        by_model=found,
    )


def _changed(compressed: Classes, measured: Measurement, samples: SampleSet, build: BuildFolder) -> Classes:
    """The decisions [m] of a runtime: the compressed model's, but for those that the certificate lists."""
    places = {str(name): number for number, name in enumerate(samples.ids)}
    owners = np.nonzero(samples.labelled)[0]
    result = compressed.copy()
    for name, stated in measured.decisions.items():
        numbers = np.array(stated if isinstance(stated, tuple) else (stated,), np.int64)
        mine = owners == places.get(name, -1)
        if numbers.shape != (mine.sum(),) or (numbers >= build.classes).any():
            raise FileFormatError(
                f"has the decision {stated} on sample '{name}', which this build does not have",
                where=str(build.path / "certificate.json"),
                remedy="restore the certificate that belongs to this folder, or build again",
            )
        result[mine] = numbers
    return result
