"""From a project's data sets to its preservation set: who is trained on, looked at, judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, Subset

from sgsc_edge.artifacts import content_key
from sgsc_edge.errors import DataError
from sgsc_edge.preservation.pool import ID_LENGTH, content_hashes, pool_indices
from sgsc_edge.preservation.split import check_disjoint, choose_parts
from sgsc_edge.project import Part, Project

MUST_KEEP: Literal["must_keep"] = "must_keep"
TEST: Literal["test"] = "test"
_MAY_OVERLAP = frozenset(frozenset({MUST_KEEP, other}) for other in ("guide", "watch", "certify"))


@dataclass(frozen=True, eq=False)
class Samples:
    """Named samples: a data set of (input, label), and each input's content hash."""

    dataset: Dataset[Any]
    hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def ids(self) -> tuple[str, ...]:
        """The hashes' prefixes that reports use."""
        return tuple(digest[:ID_LENGTH] for digest in self.hashes)

    def take(self, indices: Sequence[int]) -> Samples:
        """Some of the samples, in the given order."""
        return Samples(Subset(self.dataset, list(indices)), tuple(self.hashes[index] for index in indices))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs float32 [n, ...], labels int64 [n])."""
        pairs = [self.dataset[index] for index in range(len(self))]
        labels = [int(label) for _, label in pairs]
        return torch.stack([torch.as_tensor(x) for x, _ in pairs]), torch.tensor(labels, dtype=torch.int64)

    def key(self) -> str:
        """Hash of the samples and their labels, in order."""
        labels = [int(self.dataset[index][1]) for index in range(len(self))]
        return content_key(list(self.hashes), labels)


@dataclass(frozen=True, eq=False)
class PreservationSet:
    """A project's samples, by what they may be used for.

    Parameters
    ----------
    train: everything that may enter a gradient (guide is among it).
    parts: guide, watch, certify and, where the user named them, must_keep.
    test: measured only; None where the project names none.
    """

    train: Samples
    parts: Mapping[str, Samples]
    test: Samples | None


def choose(project: Project, num_classes: int) -> PreservationSet:
    """Load a project's data and choose its preservation set.

    Raises
    ------
    DataError: a data set is empty, random or malformed; two parts share samples.
    """

    def load(part: Part) -> Samples:
        dataset = project.load_dataset(part, num_classes)
        return Samples(dataset, tuple(content_hashes(dataset, f"data.{part}")))

    train = load("train")
    settings = project.config.preservation
    if project.has_dataset("pool"):
        pool = load("pool")
        check_disjoint({"data.train": train.hashes, "data.pool": pool.hashes}, frozenset())
        rest = train
    else:
        outside, inside = pool_indices(train.hashes, settings.pool_fraction)
        rest, pool = train.take(outside), train.take(inside)
    chosen = choose_parts(rest.hashes, pool.hashes, settings.fraction, project.config.compress.seed)
    parts = {
        "guide": rest.take(chosen.guide),
        "watch": pool.take(chosen.watch),
        "certify": pool.take(chosen.certify),
    }
    if project.has_dataset(MUST_KEEP):
        parts[MUST_KEEP] = load(MUST_KEEP)
    test = load(TEST) if project.has_dataset(TEST) else None
    groups = {name: samples.hashes for name, samples in parts.items()}
    check_disjoint({**groups, TEST: test.hashes if test else ()}, _MAY_OVERLAP)
    if not len(rest):
        raise DataError("no training samples are left outside the pool", where="data.train")
    return PreservationSet(rest, parts, test)
