"""The pool: training samples that the float model should not see, chosen by content alone.

A sample is in the pool when the first 64 bits of the SHA-256 of its input, read as a fraction of
2^64, lie below ``fraction``. The choice needs no model, does not depend on the order of the data set, and
puts equal inputs on the same side. The float training script calls :func:`pool_split` to leave the
pool out; ``build`` calls it again and finds the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from sgsc_edge.errors import DataError


def content_hash(sample: torch.Tensor) -> str:
    """SHA-256 (hex) of a sample's dtype, shape and values in row-major order."""
    array = np.ascontiguousarray(sample.detach().cpu().numpy())
    header = f"{array.dtype.str}{list(array.shape)}".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def content_hashes(dataset: Dataset[Any], name: str = "the data set") -> list[str]:
    """The content hash of every sample's input, in order.

    Raises
    ------
    DataError: empty, or an index gives different values when read twice (random augmentation):
        then no part could be kept apart from another.
    """
    total = len(dataset)  # type: ignore[arg-type]
    if total == 0:
        raise DataError("no samples", where=name, remedy="return a data set with at least one sample")
    hashes = [content_hash(_input(dataset[index])) for index in range(total)]
    for index in sorted({0, total // 2, total - 1}):
        if content_hash(_input(dataset[index])) != hashes[index]:
            raise DataError(
                f"sample {index} differs from one reading to the next",
                where=name,
                remedy="return the samples without random augmentation; parts are kept apart by content",
            )
    return hashes


def _input(sample: Any) -> torch.Tensor:
    return torch.as_tensor(sample[0])


def in_pool(digest: str, fraction: float) -> bool:
    """Whether a sample with this content hash belongs to a pool of the given fraction.

    >>> in_pool("00" * 32, 0.2), in_pool("ff" * 32, 0.2)
    (True, False)
    """
    return int(digest[:16], 16) < fraction * 2**64


def pool_indices(hashes: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Indices of the rest and of the pool, each in the data set's order."""
    pool = [index for index, digest in enumerate(hashes) if in_pool(digest, fraction)]
    chosen = set(pool)
    return [index for index in range(len(hashes)) if index not in chosen], pool


def distinct(hashes: Sequence[str], labels: Sequence[int]) -> dict[str, int]:
    """Index by content hash, hashes ascending: of equal contents the one with the lowest label counts.

    So the data set's order does not matter, also where a sample stands in it twice with different labels.
    """
    best: dict[str, int] = {}
    for index, digest in enumerate(hashes):
        if digest not in best or labels[index] < labels[best[digest]]:
            best[digest] = index
    return dict(sorted(best.items()))


def pool_split(dataset: Dataset[Any], fraction: float = 0.2) -> tuple[Subset[Any], Subset[Any]]:
    """Split a training set into (rest, pool) by content hash.

    Train the float model on ``rest`` only and set ``model.saw_pool = false`` in sgsc.toml; the
    certificate then speaks about samples that the float model has never seen.

    Raises
    ------
    DataError: the data set is empty or random, or the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise DataError(f"a pool fraction of {fraction}", remedy="choose a value between 0 and 1")
    rest, pool = pool_indices(content_hashes(dataset), fraction)
    return Subset(dataset, rest), Subset(dataset, pool)
