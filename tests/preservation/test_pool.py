from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from sgsc_edge.errors import DataError
from sgsc_edge.preservation.pool import content_hash, content_hashes, pool_split


def data(n: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(n, 1, 4, 4, generator=generator), torch.arange(n) % 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 200), st.floats(0.05, 0.95), st.integers(0, 5))
def test_every_sample_is_on_one_side(n: int, fraction: float, seed: int) -> None:
    rest, pool = pool_split(data(n, seed), fraction)
    assert sorted([*rest.indices, *pool.indices]) == list(range(n))


def test_the_fraction_is_met_on_many_samples() -> None:
    _, pool = pool_split(data(4000), 0.2)
    assert 0.17 < len(pool) / 4000 < 0.23


def test_the_side_depends_on_content_alone() -> None:
    source = data(300)
    _, pool = pool_split(source, 0.3)
    chosen = {content_hash(source[i][0]) for i in pool.indices}
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = TensorDataset(source.tensors[0][order], torch.zeros(300))
    _, again = pool_split(shuffled, 0.3)
    assert {content_hash(shuffled[i][0]) for i in again.indices} == chosen


def test_a_hash_tells_shapes_and_dtypes_apart() -> None:
    zeros = torch.zeros(2, 2)
    hashes = {content_hash(x) for x in (zeros, zeros.reshape(4), zeros.double(), zeros + 1)}
    assert len(hashes) == 4
    assert content_hash(torch.arange(6.0).reshape(2, 3).T) == content_hash(
        torch.arange(6.0).reshape(2, 3).T.contiguous()
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2.0])
def test_a_fraction_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        pool_split(data(10), fraction)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        content_hashes(data(0))


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3), 0


def test_random_augmentation_is_refused() -> None:
    with pytest.raises(DataError, match="without random augmentation"):
        content_hashes(Noisy(), "data.train")
