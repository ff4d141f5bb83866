"""The course of a learning rate over the steps of training."""

from __future__ import annotations

import math

_WARM_UP = 0.05


def rate(step: int, total: int, steady: float = 0.0) -> float:
    """Linear warm-up, then cosine decay to 0: the share of the peak learning rate at a step.

    ``steady`` is the share of the steps before the decay begins.

    >>> [round(rate(step, 100), 2) for step in (0, 4, 52, 99)]
    [0.2, 1.0, 0.51, 0.0]
    >>> [round(rate(step, 100, steady=0.6), 2) for step in (0, 59, 80, 99)]
    [0.2, 1.0, 0.5, 0.0]
    """
    warm = max(round(_WARM_UP * total), 1)
    if step < warm:
        return (step + 1) / warm
    first = max(warm, round(steady * total))
    return 0.5 * (1 + math.cos(math.pi * min(max(step - first, 0) / max(total - first, 1), 1.0)))
