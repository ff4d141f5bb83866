"""The device benchmarks' own verdicts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is not part of the installed package

from benchmarks.device import identity, sizes
from sgsc_edge.boards.link import StackUse
from sgsc_edge.boards.run import BoardRun
from sgsc_edge.firmware.image import Sizes
from sgsc_edge.firmware.package import Package

SIZES = Sizes(flash=0, board=1700, code=10_000, constants=0, weights=1020, data=0, ram=0, arena=0, stack=4096)
PACKAGE = Package(Path("p"), "p", "0" * 64, 700, 100, 23_000, (), ())


def made(sizes: Sizes, stack: int) -> BoardRun:
    outputs = np.zeros((1, 10), np.int8)
    return BoardRun("b", "gcc", "0" * 64, outputs, 0, 1, StackUse(stack, stack), sizes, 1)


def test_one_different_integer_is_not_identical() -> None:
    outputs = np.zeros((3, 10), np.int8)
    other = outputs.copy()
    other[2, 9] = 1
    assert identity.row("m", "b", outputs, outputs.copy()).met is True
    row = identity.row("m", "b", outputs, other)
    assert (row.value, row.met) == ("1 of 30 (3 samples)", False)
    with pytest.raises(SystemExit, match="expected"):
        identity.row("m", "b", outputs[:2], outputs)


def test_sizes_are_judged_up_to_the_very_byte() -> None:
    rows = sizes.limits(PACKAGE, made(SIZES, 200), 1000)
    assert [row.met for row in rows] == [True, None, True, True]
    larger = replace(SIZES, code=10_001, weights=1021)
    rows = sizes.limits(PACKAGE, made(larger, 201), 1000)
    assert [row.met for row in rows] == [False, None, False, False]


def test_a_difference_between_two_builds_is_not_reproducible() -> None:
    assert sizes.same("files", True).met is True
    assert sizes.same("files", False).met is False
