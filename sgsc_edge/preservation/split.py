"""The parts of a preservation set, kept apart by content.

- *guide*: from the training data outside the pool; may enter the loss.
- *watch*: from the pool; looked at while compressing, never in a gradient.
- *certify*: from the pool; judged once, at the end.
- *must_keep*: named by the user; a right decision on one of them may never flip.

``fraction`` of the training data is chosen in all: half of it for guide, a quarter each for watch and
certify. Here the choice is random, by content hash; no model takes part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sgsc_edge.errors import DataError
from sgsc_edge.preservation.pool import ID_LENGTH

PARTS = ("guide", "watch", "certify", "must_keep")


@dataclass(frozen=True)
class Parts:
    """Indices of each part: guide into the rest, watch and certify into the pool."""

    guide: tuple[int, ...]
    watch: tuple[int, ...]
    certify: tuple[int, ...]


def choose_parts(rest: Sequence[str], pool: Sequence[str], fraction: float, seed: int) -> Parts:
    """Choose guide, watch and certify.

    Parameters
    ----------
    rest, pool: content hashes of the training samples outside and inside the pool.
    fraction: size of all three parts together, of ``len(rest) + len(pool)``.

    Raises
    ------
    DataError: a part would be empty.
    """
    total = round(fraction * (len(rest) + len(pool)))
    quarter = max(total // 4, 1)
    shuffled = _ranked(pool, seed)
    if len(shuffled) < 2:
        raise DataError(
            f"the pool has {len(shuffled)} different samples; watch and certify need at least one each",
            where="data.train",
            remedy="bring more training data, or name a validation set in data.pool",
        )
    quarter = min(quarter, len(shuffled) // 2)
    guide = _ranked(rest, seed)[: max(total - 2 * quarter, 1)]
    if not guide:
        raise DataError("no training samples are left outside the pool", where="data.train")
    return Parts(tuple(guide), tuple(shuffled[:quarter]), tuple(shuffled[quarter : 2 * quarter]))


def _ranked(hashes: Sequence[str], seed: int) -> list[int]:
    """Indices in an order that depends on content and seed alone; equal contents appear once."""
    first = {digest: index for index, digest in reversed(list(enumerate(hashes)))}

    def rank(digest: str) -> str:
        return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()

    return [first[digest] for digest in sorted(first, key=rank)]


def check_disjoint(parts: Mapping[str, Sequence[str]], allowed: frozenset[frozenset[str]]) -> None:
    """Refuse samples that stand in two parts.

    Parameters
    ----------
    parts: part name -> content hashes.
    allowed: pairs of part names that may overlap (``must_keep`` may name training samples).

    Raises
    ------
    DataError: names the parts, the number of shared samples and some of their ids.
    """
    names = list(parts)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            shared = sorted(set(parts[one]) & set(parts[other]))
            if shared and frozenset({one, other}) not in allowed:
                ids = ", ".join(digest[:ID_LENGTH] for digest in shared[:3])
                raise DataError(
                    f"{len(shared)} samples are in both {one} and {other} (ids {ids}, ...)",
                    remedy="remove the duplicates from one of the two data sets",
                )
