"""Which set's metric after compression predicts the test set's best?

Candidates are the certify samples that each way of choosing gives, all of one size: from the pool, on which
no model was trained, less the samples that any of the models compared was watched by. Random subsets of the
same size, on the same models, say what to expect of chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.running import Result
from benchmarks.paper.statistics import Floats, mean_spearman
from benchmarks.paper.subjects import Metric

DRAWS = 1000
LEAST_MODELS = 3
"""Fewer models have no ranks worth the name."""

Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Judged:
    """One seed's compressed models and candidate sets.

    Parameters
    ----------
    models: rows, none twice.
    candidates: name -> positions in the pool, as chosen.
    watched: positions in the pool of the samples that any of the models was watched by.
    """

    models: Sequence[Result]
    candidates: Mapping[str, Sequence[int]]
    watched: Sequence[int] = ()


@dataclass(frozen=True)
class Prediction:
    """How well one set predicts.

    Parameters
    ----------
    correlation: Spearman's, between the set's metric and the test set's, over models; mean of the seeds.
    beaten: share of the random subsets whose correlation is lower, equal ones by half; NaN for their mean.
    samples: in the set; the least of the seeds.
    """

    name: str
    correlation: float
    beaten: float
    samples: int


def predictions(seeds: Sequence[Judged], metric: Metric) -> list[Prediction]:
    """Each candidate, then the mean of subsets at random; empty where there are too few models."""
    seeds = [seed for seed in seeds if len(seed.models) >= LEAST_MODELS]
    if not seeds:
        return []
    tests = [np.array([model.scores["test"].metric(metric) for model in seed.models]) for seed in seeds]
    chosen = [equal(seed) for seed in seeds]
    size = min(len(positions) for sets in chosen for positions in sets.values())
    chance = _by_chance(seeds, tests, size, metric)
    found = []
    for name in chosen[0]:
        groups = [
            (_on(seed, sets[name], metric), test)
            for seed, sets, test in zip(seeds, chosen, tests, strict=True)
        ]
        correlation = mean_spearman(groups)
        beaten = float(np.mean((chance < correlation) + (chance == correlation) / 2))
        found.append(Prediction(name, correlation, beaten, size))
    return [*found, Prediction(f"{DRAWS:,d} random subsets", float(np.mean(chance)), float("nan"), size)]


def equal(seed: Judged) -> dict[str, Positions]:
    """The candidates without watched samples, all of the size of the smallest; chance says which leave."""
    watched = frozenset(seed.watched)
    sets = {name: [p for p in positions if p not in watched] for name, positions in seed.candidates.items()}
    size = min(map(len, sets.values()))
    if not size:
        raise SystemExit("a candidate set has no sample that was not watched")
    order = np.random.default_rng(0)
    return {name: order.permutation(np.array(own, np.int64))[:size] for name, own in sets.items()}


def distinct(models: Sequence[Result]) -> list[Result]:
    """One of those that are right on the same samples of the pool: they count once."""
    kept: list[Result] = []
    for model in models:
        if not any((model.pool.right == other.pool.right).all() for other in kept):
            kept.append(model)
    return kept


def _by_chance(seeds: Sequence[Judged], tests: Sequence[Floats], size: int, metric: Metric) -> Floats:
    """The correlations of random subsets of the pool without watched samples, [draws]; none that is NaN."""
    generator = np.random.default_rng(1)
    free = [np.setdiff1d(np.arange(len(seed.models[0].pool.right)), np.array(seed.watched)) for seed in seeds]
    found = []
    for _ in range(DRAWS):
        draws = [generator.choice(positions, size, replace=False) for positions in free]
        groups = [(_on(s, draw, metric), test) for s, draw, test in zip(seeds, draws, tests, strict=True)]
        found.append(mean_spearman(groups))
    correlations = np.array(found)
    return correlations[~np.isnan(correlations)]


def _on(seed: Judged, positions: Positions, metric: Metric) -> Floats:
    """The metric of each model on samples of the pool."""
    return np.array([model.pool.take(positions).metric(metric) for model in seed.models])
