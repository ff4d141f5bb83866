"""Diversity: clusters of penultimate features, so that no region of what the model sees is left out.

Clusters come from scikit-learn's MiniBatchKMeans (Sculley, *Web-scale k-means clustering*, WWW 2010). It
runs on one thread and without early stopping: sums of several threads have no fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CLUSTERS = 256
"""More would cost time without telling more: each cluster gives several samples then."""

_BATCH = 1024
_EPOCHS = 5  # MNIST: mean squared distance 2 % above that of full k-means, in 2 s instead of 45
_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Clusters:
    """Each sample's cluster (int64 [n]) and its Euclidean distance to that cluster's centre (float64 [n])."""

    cluster: NDArray[np.int64]
    distance: NDArray[np.float64]


def clusters(features: NDArray[np.float32], count: int, seed: int) -> Clusters:
    """Cluster features [n, d] into at most ``count`` clusters; equal arrays give equal clusters."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    count = min(count, len(np.unique(features, axis=0)) if len(features) <= count else count)
    with threadpool_limits(limits=1):
        kmeans = MiniBatchKMeans(
            n_clusters=count,
            batch_size=_BATCH,
            max_iter=_EPOCHS,
            n_init=1,
            init_size=max(3 * count, _BATCH),
            max_no_improvement=None,
            random_state=seed,
        ).fit(features)
        cluster = kmeans.predict(features).astype(np.int64)
    distance = np.empty(len(features))
    for start in range(0, len(features), _CHUNK):
        part = slice(start, start + _CHUNK)
        difference = features[part].astype(np.float64) - kmeans.cluster_centers_[cluster[part]]
        distance[part] = np.sqrt(np.square(difference).sum(axis=1))
    return Clusters(cluster, distance)


def covering_order(
    cluster: NDArray[np.int64], distance: NDArray[np.float64], label: NDArray[np.int64], each: int
) -> NDArray[np.int64]:
    """Positions in the order that covers the clusters: ``each`` samples of every cluster, then again.

    Samples of one cluster and one class form a group, nearest to the centre first. The groups give
    ``each`` samples in turn, the largest first, so that a class's typical looks come before its strays.
    """
    members = np.lexsort((distance, label, cluster))
    same = (np.diff(cluster[members]) == 0) & (np.diff(label[members]) == 0)
    starts = np.flatnonzero(np.concatenate(([True], ~same)))
    sizes = np.diff(np.append(starts, len(members)))
    depth = np.arange(len(members)) - np.repeat(starts, sizes)
    size = np.repeat(sizes, sizes)
    return members[np.lexsort((depth, label[members], cluster[members], -size, depth // each))]
