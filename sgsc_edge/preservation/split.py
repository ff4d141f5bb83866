"""The parts of a preservation set: how large they are, and that they are apart.

- *guide*: from the training data outside the pool; may enter the loss.
- *watch*: from the pool; looked at while compressing, never in a gradient.
- *certify*: from the pool; judged once, at the end.
- *must_keep*: named by the user, or the closest decisions of guide; no right one may flip. May overlap the
  other parts, never the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sgsc_edge.errors import DataError
from sgsc_edge.preservation.ids import sample_id

ChosenPart = Literal["guide", "watch", "certify"]


@dataclass(frozen=True)
class Sizes:
    """Samples of each part; watch and certify have equally many."""

    guide: int
    watch: int
    certify: int


def part_sizes(rest: int, pool: int, total: int) -> Sizes:
    """How many of ``total`` samples each part gets: half guide, a quarter each watch and certify.

    Parameters
    ----------
    rest, pool: different samples outside and inside the pool; no part can have more.

    Raises
    ------
    DataError: a part would be empty.
    """
    if not rest:
        raise DataError(
            "no training samples are left outside the pool",
            where="data.train",
            remedy="bring more training data, or lower preservation.pool_fraction",
        )
    if pool < 2:
        raise DataError(
            f"the pool has {pool} different samples; watch and certify need at least one each",
            where="data.train",
            remedy="bring more training data, raise preservation.pool_fraction, or name data.pool",
        )
    quarter = min(max(total // 4, 1), pool // 2)
    return Sizes(min(max(total - 2 * quarter, 1), rest), quarter, quarter)


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
                ids = ", ".join(map(sample_id, shared[:3]))
                raise DataError(
                    f"{len(shared)} samples are in both {one} and {other} (ids {ids}, ...)",
                    remedy="remove the duplicates from one of the two data sets",
                )
