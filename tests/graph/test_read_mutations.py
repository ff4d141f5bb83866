"""Seeded damage to valid files: each is read into a legal graph or refused, and nothing else happens."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from example_graphs import EXAMPLES, network
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.graph.legality import findings
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import write_tflite

GRAPHS = {**EXAMPLES, "network": network()}
MUTATED = {
    name: write_tflite(GRAPHS[name])
    for name in ("network", "conv_int4", "mean_int8", "concat_int8", "pad_int8", "strided_slice_int8")
}


def survives(data: bytes) -> bool:
    """Whether the file was read; every failure other than a refusal is the test's failure."""
    try:
        graph = read_tflite(data)
    except (FileFormatError, UnsupportedError):
        return False
    assert findings(graph) == ()
    assert write_tflite(graph)
    return True


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MUTATED)
def test_random_byte_changes_are_read_or_refused(name: str) -> None:
    random = np.random.default_rng(2026)
    original = MUTATED[name]
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        data = bytearray(original)
        for _ in range(random.integers(1, 6)):
            data[random.integers(len(data))] = random.integers(256)
        outcomes[survives(bytes(data))] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("name", ["mean_int8", "pad_int8"])
def test_every_single_byte_set_to_extremes_is_read_or_refused(name: str) -> None:
    original = MUTATED[name]
    for position in range(len(original)):
        for value in (0x00, 0x7F, 0xFF):
            survives(original[:position] + bytes([value]) + original[position + 1 :])


@pytest.mark.parametrize("name", MUTATED)
def test_truncations_are_refused(name: str) -> None:
    original = MUTATED[name]
    for size in range(0, len(original), 3):
        assert not survives(original[:size])


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes_behind_a_valid_header(tail: bytes) -> None:
    survives(struct.pack("<I4s", 8, b"TFL3") + tail)
