from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.errors import DataError
from sgsc_edge.preservation.split import check_disjoint, choose_parts


def hashes(prefix: str, n: int) -> list[str]:
    return [hashlib.sha256(f"{prefix}{i}".encode()).hexdigest() for i in range(n)]


@given(st.integers(1, 300), st.integers(2, 100), st.floats(0.01, 0.9), st.integers(0, 3))
def test_parts_are_disjoint_and_within_their_sides(rest: int, pool: int, fraction: float, seed: int) -> None:
    parts = choose_parts(hashes("r", rest), hashes("p", pool), fraction, seed)
    assert set(parts.guide) <= set(range(rest))
    assert set(parts.watch) | set(parts.certify) <= set(range(pool))
    assert not set(parts.watch) & set(parts.certify)
    assert len(parts.watch) == len(parts.certify) >= 1


def test_sizes_are_half_and_two_quarters() -> None:
    parts = choose_parts(hashes("r", 800), hashes("p", 200), 0.1, 0)
    assert (len(parts.guide), len(parts.watch), len(parts.certify)) == (50, 25, 25)


def test_the_choice_follows_content_not_order() -> None:
    pool = hashes("p", 50)
    one = choose_parts(hashes("r", 50), pool, 0.2, 0)
    other = choose_parts(hashes("r", 50), pool[::-1], 0.2, 0)
    assert {pool[i] for i in one.certify} == {pool[::-1][i] for i in other.certify}


def test_equal_samples_count_once() -> None:
    pool = [*hashes("p", 4), *hashes("p", 4)]
    parts = choose_parts(hashes("r", 100), pool, 0.9, 0)
    assert len({pool[i] for i in (*parts.watch, *parts.certify)}) == 4


def test_a_pool_of_one_is_refused() -> None:
    with pytest.raises(DataError, match="at least one each"):
        choose_parts(hashes("r", 10), hashes("p", 1), 0.1, 0)


def test_overlaps_are_refused_unless_allowed() -> None:
    sets = {"certify": hashes("a", 3), "test": hashes("a", 2), "must_keep": hashes("a", 1)}
    with pytest.raises(DataError, match="2 samples are in both certify and test"):
        check_disjoint(sets, frozenset())
    del sets["test"]
    check_disjoint(sets, frozenset({frozenset({"certify", "must_keep"})}))
