"""Channels that a build removed, from the metadata that it stored with the model.

A model file holds what stays. How many output channels each layer had before is the entry ``sgsc.channels``:
JSON, a list of ``[layer, channels]`` in order of execution. The entry of a foreign file may be anything; what
cannot be understood counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sgsc_edge.inspection.summary import TensorSummary
from sgsc_edge.inspection.text import plain_name

CHANNELS = "channels"
"""Key of the entry, without the prefix that all entries of a build have."""

_ENTRY = f"sgsc.{CHANNELS}"
_MAX_BYTES = 1 << 20
_MAX_CHANNELS = 2**31 - 1


def with_channels_removed(
    tensors: Sequence[TensorSummary], metadata: Iterable[tuple[str, bytes]]
) -> tuple[TensorSummary, ...]:
    """The tensors, weights with the number of channels that their layer lost, where ``metadata`` says so.

    Layers meet the tensors ``<layer>.weight``; in a file without names, in their order.
    """
    found = [content for name, content in metadata if name == _ENTRY]
    before = _before(found[0]) if len(found) == 1 else {}
    layers = {f"{layer}.weight": count for layer, count in before.items()}
    weights = [tensor for tensor in tensors if tensor.channels is not None]
    if not any(plain_name(tensor.name) in layers for tensor in weights) and len(weights) == len(layers):
        names = {tensor.name: count for tensor, count in zip(weights, layers.values(), strict=True)}
        return tuple(_with_removed(tensor, names.get(tensor.name)) for tensor in tensors)
    return tuple(_with_removed(tensor, layers.get(plain_name(tensor.name))) for tensor in tensors)


def _before(content: bytes) -> Mapping[str, int]:
    """Layer -> output channels before; empty where the content is something else."""
    if len(content) > _MAX_BYTES:
        return {}
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, list) or not all(_is_pair(pair) for pair in document):
        return {}
    before = dict(document)
    return before if len(before) == len(document) else {}


def _is_pair(pair: object) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    layer, count = pair
    return isinstance(layer, str) and type(count) is int and 0 < count <= _MAX_CHANNELS


def _with_removed(tensor: TensorSummary, before: int | None) -> TensorSummary:
    if before is None or tensor.channels is None or before < tensor.channels:
        return tensor
    return replace(tensor, channels_removed=before - tensor.channels)
