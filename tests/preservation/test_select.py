from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preservation.preserve_networks import some_scores

from sgsc_edge.preservation.select import CRITERIA, Chosen, quotas, select, turns

THIRDS = {"saliency": 1 / 3, "uncertainty": 1 / 3, "diversity": 1 / 3}


def parts_of(chosen: list[Chosen]) -> dict[str, list[int]]:
    return {
        part: [one.position for one in chosen if one.part == part] for part in ("guide", "watch", "certify")
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.01, 1), st.integers(0, 3))
def test_watch_and_certify_are_disjoint_of_equal_size_and_cover_the_classes(
    labels: list[int], fraction: float, seed: int
) -> None:
    scores = some_scores(labels, seed)
    size = max(round(fraction * (len(labels) // 2)), 1)
    parts = parts_of(select(scores, {"watch": size, "certify": size}, THIRDS, seed))
    assert len(parts["watch"]) == len(parts["certify"]) == size
    assert len({*parts["watch"], *parts["certify"]}) == 2 * size
    pairs = {label for label, count in Counter(labels).items() if count >= 2}
    if size >= len(pairs):
        for part in ("watch", "certify"):
            assert {labels[position] for position in parts[part]} >= pairs


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.integers(0, 3))
def test_guide_covers_every_class_and_each_criterion_has_its_share(
    labels: list[int], fraction: float, seed: int
) -> None:
    size = max(round(fraction * len(labels)), 1)
    chosen = select(some_scores(labels, seed), {"guide": size}, THIRDS, seed)
    assert len({one.position for one in chosen}) == size
    if size >= len(set(labels)):
        assert {labels[one.position] for one in chosen} == set(labels)
    shares = Counter(one.criterion for one in chosen)
    assert max(shares[name] for name in THIRDS) - min(shares[name] for name in THIRDS) <= 1


def test_a_criterion_of_its_own_takes_its_best_of_each_class() -> None:
    labels = [0] * 30 + [1] * 30
    scores = some_scores(labels)
    chosen = select(scores, {"guide": 10}, {"uncertainty": 1.0}, 0)
    for label in (0, 1):
        members = [position for position in range(60) if labels[position] == label]
        best = sorted(members, key=lambda position: (-scores.uncertainty[position], scores.hashes[position]))
        assert [one.position for one in chosen if labels[one.position] == label] == best[:5]
    assert all(one.reasons == ("uncertainty",) for one in chosen)


def test_watch_and_certify_hold_neighbours_of_every_criterion_and_class() -> None:
    labels = [index % 3 for index in range(300)]
    scores = some_scores(labels)
    chosen = select(scores, {"watch": 45, "certify": 45}, {"uncertainty": 1, "saliency": 1}, 7)
    for criterion in ("uncertainty", "saliency"):
        for label in range(3):
            own = [one for one in chosen if one.criterion == criterion and labels[one.position] == label]
            counts = Counter(one.part for one in own)
            assert counts["watch"] == counts["certify"] > 0
            ordered = sorted(own, key=lambda one: one.ranks[criterion])
            for one, other in zip(ordered[::2], ordered[1::2], strict=True):
                assert {one.part, other.part} == {"watch", "certify"}


def test_the_deal_follows_chance_and_not_rank() -> None:
    """Over many pairs the better-ranked sample goes to watch about half the time."""
    labels = [0] * 800
    chosen = select(some_scores(labels), {"watch": 300, "certify": 300}, {"uncertainty": 1.0}, 0)
    ordered = sorted(chosen, key=lambda one: one.ranks["uncertainty"])
    better = sum(one.part == "watch" for one in ordered[::2])
    assert 110 < better < 190


def test_reasons_are_the_criteria_that_had_the_sample_among_their_first_choices() -> None:
    labels = [0] * 40
    scores = some_scores(labels)
    chosen = select(scores, {"guide": 12}, THIRDS, 0)
    for one in chosen:
        assert one.criterion in one.reasons
        assert set(one.ranks) == set(THIRDS)
        for name in THIRDS:
            assert (name in one.reasons) == (one.ranks[name] <= 4 or name == one.criterion)


def test_ranks_count_within_the_class() -> None:
    labels = [0, 1, 0, 1, 1]
    scores = some_scores(labels)
    chosen = select(scores, {"guide": 5}, {"saliency": 1.0}, 0)
    for label in (0, 1):
        ranks = {one.ranks["saliency"] for one in chosen if labels[one.position] == label}
        assert ranks == set(range(1, labels.count(label) + 1))


def test_equal_scores_go_by_content_hash() -> None:
    scores = some_scores([0] * 10)
    scores.saliency[:] = 1.0
    chosen = select(scores, {"guide": 4}, {"saliency": 1.0}, 0)
    assert [scores.hashes[one.position] for one in chosen] == sorted(scores.hashes)[:4]


def test_chance_depends_on_the_seed_and_other_criteria_do_not() -> None:
    labels = [index % 2 for index in range(100)]
    scores = some_scores(labels)

    def positions(shares: dict[str, float], seed: int) -> set[int]:
        return {one.position for one in select(scores, {"guide": 20}, shares, seed)}

    assert positions({"random": 1.0}, 0) == positions({"random": 1.0}, 0) != positions({"random": 1.0}, 1)
    assert positions(THIRDS, 0) == positions(THIRDS, 1)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_orders_all_samples(name: str) -> None:
    chosen = select(some_scores([0, 1, 2, 0, 1, 2, 0]), {"guide": 7}, {name: 1.0}, 0)
    assert sorted(one.position for one in chosen) == list(range(7))


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 50), min_size=1), st.integers(0, 300))
def test_quotas_are_proportional_within_what_a_class_has(available: dict[int, int], total: int) -> None:
    given_ = quotas(available, total)
    assert sum(given_.values()) == min(total, sum(available.values()))
    assert all(0 <= given_[label] <= count for label, count in available.items())
    present = [label for label, count in available.items() if count]
    if total >= len(present):
        assert all(given_[label] for label in present)
    half = total // (2 * len(available))
    assert all(given_[label] >= min(half, count) for label, count in available.items())
    beyond = [label for label in present if given_[label] > max(half, 1)]
    waiting = [label for label in present if given_[label] < available[label]]
    for a, b in itertools.product(beyond, waiting):  # Sainte-Laguë: no last seat was worth more to another
        assert (2 * given_[a] - 1) * available[b] <= (2 * given_[b] + 1) * available[a]


def test_shares_of_zero_choose_nothing() -> None:
    chosen = select(some_scores([0, 1] * 20), {"guide": 9}, {"saliency": 0.0, "diversity": 1.0}, 0)
    assert {one.criterion for one in chosen} == {"diversity"}
    assert Counter(turns({"a": 3, "b": 1}, 100)) == {"a": 75, "b": 25}


def test_numpy_integers_do_not_leak() -> None:
    one = select(some_scores([0, 0]), {"guide": 1}, {"saliency": 1.0}, 0)[0]
    assert type(one.position) is int
    assert not any(isinstance(rank, np.integer) for rank in one.ranks.values())
