"""64-bit arithmetic on cores without it: what our own functions compute there, for each compiler."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from firmware.built import faults, image, needs, package
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.link import Link
from sgsc_edge.boards.run import open_board
from sgsc_edge.firmware.toolchain import KINDS


def operands() -> st.SearchStrategy[int]:
    edges = [0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**32, 2**63 - 1, -(2**63)]
    return st.one_of(st.sampled_from(edges), st.integers(-(2**63), 2**63 - 1), st.integers(-1000, 1000))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, kind), marks=needs(name, kind), id=f"{name}-{kind}")
        for name in ("virtual-cortex-m0plus", "qemu-riscv32")
        for kind in KINDS
    ],
)
def calculator(request: pytest.FixtureRequest) -> Iterator[Link]:
    """A core that lacks much of the arithmetic, asked many things."""
    name, kind = request.param
    package_name = "arithmetic"
    built = image(package_name, name, kind)
    device = open_board(built, load_board(name))
    try:
        output_bytes = package(package_name).output_bytes
        yield Link(device, output_bytes, timeout_s=60.0, attempts=1, faults=faults(package_name, name, kind))
    finally:
        device.close()


@given(a=operands(), b=operands(), shift=st.integers(0, 63))
@example(a=-(2**63), b=-1, shift=63)
@example(a=2**64 - 1 - 2**64, b=2**63 - 1, shift=32)
@settings(max_examples=150, deadline=None)
def test_arithmetic_that_the_core_lacks(calculator: Link, a: int, b: int, shift: int) -> None:
    found = struct.unpack("<9q", calculator.run(struct.pack("<qqi4x", a, b, shift)))
    unsigned, other, wide = a % 2**64, b % 2**64, b or 1
    small = _signed(b, 32) or 1
    divisor = 1 if wide == -1 else wide
    quotient = abs(a) // abs(divisor) * (-1 if (a < 0) != (divisor < 0) else 1)
    half = _signed(a, 32) >> 1
    half_quotient = abs(half) // abs(small) * (-1 if (half < 0) != (small < 0) else 1)
    expected = (
        a * b,
        unsigned << shift,
        unsigned >> shift,
        a >> shift,
        unsigned // (other or 1),
        unsigned % (other or 1),
        quotient,
        a - quotient * divisor,
        unsigned % 2**32 // (small % 2**32) + half_quotient * 2**32,
    )
    assert found == tuple(_signed(value, 64) for value in expected)


def _signed(value: int, bits: int) -> int:
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def test_the_selftest_runs_on_the_board(calculator: Link) -> None:
    assert calculator.selftest() == 0
