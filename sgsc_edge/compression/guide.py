"""Which training samples a batch's guide share is drawn from, and how often each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

MUST_KEEP_SHARE = 1 / 16
"""Share of must_keep samples among the guarded ones that a batch draws; more where they are many."""

MOST_OFTEN = 16
"""A guide sample is drawn so many times as often as others at most: few would be learned by heart."""


@dataclass(frozen=True)
class GuideSamples:
    """Training samples that must not be forgotten, as indices into the training data.

    Parameters
    ----------
    part: the guide part of the preservation set.
    classes: the class of each of it; empty where samples have none.
    must_keep: samples whose decision may not flip, in the guide part or not.
    """

    part: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    must_keep: tuple[int, ...] = ()

    @property
    def drawn(self) -> tuple[int, ...]:
        """What is drawn from: the guide part, samples of a rare class and must_keep samples repeatedly."""
        kept, times = frozenset(self.must_keep), self._times()
        drawn = zip(self.part, times, strict=True)
        others = tuple(index for index, often in drawn if index not in kept for _ in range(often))
        if not self.must_keep:
            return others
        share = MUST_KEEP_SHARE / (1 - MUST_KEEP_SHARE)
        return others + self.must_keep * max(round(share * len(others) / len(self.must_keep)), 1)

    def _times(self) -> list[int]:
        """How often each of the part is drawn: a class has half of an even share of the draws, about."""
        counts = Counter(self.classes)
        half = len(self.part) / (2 * max(len(counts), 1))
        often = {name: min(max(round(half / count), 1), MOST_OFTEN) for name, count in counts.items()}
        return [often[name] for name in self.classes] or [1] * len(self.part)
