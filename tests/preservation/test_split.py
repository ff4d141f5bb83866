from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.errors import DataError
from sgsc_edge.preservation.split import Sizes, check_disjoint, part_sizes


def hashes(prefix: str, n: int) -> list[str]:
    return [hashlib.sha256(f"{prefix}{i}".encode()).hexdigest() for i in range(n)]


@given(st.integers(1, 300), st.integers(2, 100), st.integers(0, 400))
def test_parts_fit_into_their_sides_and_none_is_empty(rest: int, pool: int, total: int) -> None:
    sizes = part_sizes(rest, pool, total)
    assert 1 <= sizes.guide <= rest
    assert 1 <= sizes.watch == sizes.certify <= pool // 2
    assert sizes.guide + sizes.watch + sizes.certify <= max(total, 3)


def test_sizes_are_half_and_two_quarters() -> None:
    assert part_sizes(800, 200, 100) == Sizes(50, 25, 25)
    assert part_sizes(800, 20, 100) == Sizes(80, 10, 10)
    assert part_sizes(30, 20, 100) == Sizes(30, 10, 10)


def test_sides_without_samples_are_refused() -> None:
    with pytest.raises(DataError, match="at least one each"):
        part_sizes(10, 1, 3)
    with pytest.raises(DataError, match="no training samples are left"):
        part_sizes(0, 10, 3)


def test_overlaps_are_refused_unless_allowed() -> None:
    sets = {"certify": hashes("a", 3), "test": hashes("a", 2), "must_keep": hashes("a", 1)}
    with pytest.raises(DataError, match="2 samples are in both certify and test"):
        check_disjoint(sets, frozenset())
    del sets["test"]
    check_disjoint(sets, frozenset({frozenset({"certify", "must_keep"})}))
