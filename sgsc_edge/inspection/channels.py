"""Channels of layers: the bits that each needs, and those that a build removed.

The latter are in the metadata that the build stored with the model.

A model file holds what stays. How many output channels each layer had before is the entry ``sgsc.channels``:
JSON, a list of ``[parts, channels]`` in order of execution; ``parts`` lists the layers that the file has of
the one that there was: itself, or one for each of its widths. The entry of a foreign file may be anything;
what cannot be understood counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.inspection.summary import TensorSummary
from sgsc_edge.inspection.text import plain_name
from sgsc_edge.numerics import filter_widths

CHANNELS = "channels"
"""Key of the entry, without the prefix that all entries of a build have."""

_ENTRY = f"sgsc.{CHANNELS}"
_MAX_BYTES = 1 << 20
_MAX_CHANNELS = 2**31 - 1

Layers = list[tuple[list[str], int]]
"""Names of a layer's parts, and the output channels that it had before."""


def channel_bits(weights: NDArray[np.int8], axis: int) -> tuple[int, ...]:
    """The fewest bits that hold each channel of a layer's weights, which lie along ``axis``."""
    return tuple(filter_widths(np.moveaxis(weights, axis, 0)).tolist()) if weights.size else ()


def with_channels_removed(
    tensors: Sequence[TensorSummary], metadata: Iterable[tuple[str, bytes]]
) -> tuple[TensorSummary, ...]:
    """The tensors, weights with the number of channels that their layer lost, where ``metadata`` says so.

    Parts meet the tensors ``<part>.weight``; in a file without names, in their order.
    """
    found = [content for name, content in metadata if name == _ENTRY]
    layers = stated_layers(found[0]) if len(found) == 1 else []
    weights = [tensor for tensor in tensors if tensor.channels is not None]
    by_name = {plain_name(tensor.name): tensor for tensor in weights}
    parts = [f"{part}.weight" for names, _ in layers for part in names]
    if by_name.keys().isdisjoint(parts) and len(weights) == len(parts):
        by_name = dict(zip(parts, weights, strict=True))
    removed: dict[str, tuple[int, int]] = {}
    for names, before in layers:
        here = [by_name[name] for part in names if (name := f"{part}.weight") in by_name]
        lost = before - sum(tensor.channels or 0 for tensor in here)
        if len(here) == len(names) and lost >= 0:
            removed |= {tensor.name: (lost, before) for tensor in here}
    return tuple(
        replace(tensor, channels_removed=removed[tensor.name][0], channels_before=removed[tensor.name][1])
        if tensor.name in removed and tensor.channels is not None
        else tensor
        for tensor in tensors
    )


def stated_layers(content: bytes) -> Layers:
    """What an entry says: parts and channels before, a row a layer; empty where it is something else."""
    if len(content) > _MAX_BYTES:
        return []
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return []
    if not isinstance(document, list) or not all(_is_layer(row) for row in document):
        return []
    names = [name for parts, _ in document for name in parts]
    return document if len(set(names)) == len(names) else []


def _is_layer(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 2:
        return False
    parts, count = row
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return False
    return len(parts) > 0 and type(count) is int and 0 < count <= _MAX_CHANNELS
