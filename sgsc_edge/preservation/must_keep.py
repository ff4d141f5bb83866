"""Must-keep samples: those whose right decision may never flip.

The user names them by a callable, or asks for the *N* closest decisions: of the guide samples that the float
model decides rightly, the N with the lowest margins. What may enter a gradient is marked as trained on,
whichever way it was chosen: to keep such a decision says less than to keep one on an unseen sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sgsc_edge.errors import ConfigError
from sgsc_edge.preservation.scores import Decisions, Scores
from sgsc_edge.preservation.selection import MustKept
from sgsc_edge.preservation.split import ChosenPart


def lowest_margins(scores: Scores, guide: Sequence[int], count: int, *, where: str) -> tuple[MustKept, ...]:
    """The ``count`` closest right decisions among the guide samples, closest first, ties by content hash.

    Parameters
    ----------
    scores: of the training data outside the pool.
    guide: positions of the guide samples in ``scores``.
    where: the setting that asks for them, for messages.

    Raises
    ------
    ConfigError: the float model decides fewer guide samples rightly.
    """
    right = [at for at in guide if scores.prediction[at] == scores.label[at]]
    if len(right) < count:
        raise ConfigError(
            f"asks for {count} samples, but the float model decides {len(right)} of the {len(guide)} guide "
            "samples rightly",
            where=where,
            remedy=(
                f"ask for at most {len(right)}, or raise preservation.fraction"
                if right
                else "train the float model first: there is no right decision to keep"
            ),
        )
    closest = sorted(right, key=lambda at: (float(scores.margin[at]), scores.hashes[at]))[:count]
    return tuple(
        MustKept(
            hash=scores.hashes[at],
            label=int(scores.label[at]),
            prediction=int(scores.prediction[at]),
            margin=float(scores.margin[at]),
            reason="lowest_margin",
            part="guide",
            trained_on=True,
        )
        for at in closest
    )


def named(
    hashes: Sequence[str],
    labels: Sequence[int],
    decisions: Decisions,
    *,
    parts: Mapping[str, ChosenPart],
    trained: Collection[str],
) -> tuple[MustKept, ...]:
    """The samples that the user named, in his order.

    Parameters
    ----------
    hashes, labels, decisions: one entry a sample.
    parts: content hash -> the part that has the sample too.
    trained: content hashes of the samples that may enter a gradient.
    """
    return tuple(
        MustKept(
            hash=digest,
            label=label,
            prediction=int(decisions.prediction[at]),
            margin=float(decisions.margin[at]),
            reason="named",
            part=parts.get(digest),
            trained_on=digest in trained,
        )
        for at, (digest, label) in enumerate(zip(hashes, labels, strict=True))
    )
