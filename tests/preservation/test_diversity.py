from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.preservation.diversity import clusters, covering_order


def blobs(per_blob: int, centres: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    middle = np.repeat(np.arange(centres), per_blob)
    return (np.eye(centres)[middle] * 100 + random.normal(size=(len(middle), centres))).astype(np.float32)


def test_separate_blobs_are_separate_clusters() -> None:
    found = clusters(blobs(50, 4), 4, seed=0)
    labels = found.cluster.reshape(4, 50)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 4


def test_distances_are_to_the_mean_of_a_single_cluster() -> None:
    features = blobs(30, 2)
    found = clusters(features, 1, seed=0)
    expected = np.linalg.norm(features - features.mean(axis=0, dtype=np.float64), axis=1)
    # Mini-batches come near the mean without reaching it; the blobs are 100 apart.
    np.testing.assert_allclose(found.distance, expected, atol=10)


def test_the_same_rows_give_the_same_clusters() -> None:
    features = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    one, two = clusters(features, 64, seed=1), clusters(features, 64, seed=1)
    assert one.cluster.tolist() == two.cluster.tolist()
    assert one.distance.tolist() == two.distance.tolist()


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_a_dead_model_has_equal_features_and_no_warning(n: int) -> None:
    found = clusters(np.zeros((n, 3), dtype=np.float32), 7, seed=0)
    assert found.distance.tolist() == [0.0] * n


def test_the_order_covers_the_clusters_largest_first_nearest_first() -> None:
    cluster = np.array([0, 0, 0, 1, 1, 2])
    distance = np.array([0.3, 0.1, 0.2, 0.9, 0.8, 0.0])
    label = np.zeros(6, dtype=np.int64)
    assert covering_order(cluster, distance, label, 1).tolist() == [1, 4, 5, 2, 3, 0]
    assert covering_order(cluster, distance, label, 2).tolist() == [1, 2, 4, 3, 5, 0]


def test_a_class_has_its_own_nearest_samples() -> None:
    cluster, distance = np.zeros(4, dtype=np.int64), np.array([0.1, 0.2, 0.3, 0.4])
    order = covering_order(cluster, distance, np.array([0, 0, 0, 1]), 1)
    assert order.tolist() == [0, 3, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40), st.integers(1, 2))
def test_the_order_is_a_permutation_that_visits_each_group_first(
    rows: list[tuple[int, int]], each: int
) -> None:
    cluster, label = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    distance = np.random.default_rng(0).random(len(rows))
    order = covering_order(cluster, distance, label, each)
    assert sorted(order.tolist()) == list(range(len(rows)))
    groups = len(set(rows))
    if each == 1:
        assert {rows[index] for index in order[:groups]} == set(rows)
