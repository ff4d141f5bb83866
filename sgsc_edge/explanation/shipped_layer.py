"""A layer as it was trained, and what of it ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import numpy_helper

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.certification.stored import check_stored, nonzero_kernels
from sgsc_edge.errors import FileFormatError, InputError
from sgsc_edge.graph.read_tflite import MAX_FILE_BYTES
from sgsc_edge.hints import nearest
from sgsc_edge.inspection.channels import CHANNELS, stated_layers
from sgsc_edge.numerics import filter_widths
from sgsc_edge.report.build_folder import COMPRESSED, BuildFolder, common_name
from sgsc_edge.runtimes import MODEL_ONNX
from sgsc_edge.size import NARROW_BITS, WIDE_BITS

_FEW = 10


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """``weight`` int8 [O, ...] and ``scale`` float32 [O] of every channel, also of those that left."""

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]


def stored_layer(build: BuildFolder, layer: str) -> StoredLayer:
    """A layer as ``compressed.safetensors`` holds it; InputError where the build has none of that name."""
    known = known_layers(build)
    if layer not in known:
        raise InputError(
            f"the build has no layer '{layer}'{_meant(layer, known)}",
            where=str(build.path),
            remedy=_list_of(known, build.path) if known else f"build again: there is no {COMPRESSED}",
        )
    check_stored(build.path / COMPRESSED, build.path / MODEL_ONNX)  # both have the parts of every layer
    tensors = safetensors.numpy.load(read_bytes(build.path / COMPRESSED, MAX_FILE_BYTES))
    return StoredLayer(tensors[f"{layer}.weight"], tensors[f"{layer}.scale"])


def known_layers(build: BuildFolder) -> list[str]:
    """The layers that have channels, in order of execution."""
    shipped = [one.name for one in build.layers]
    names = (one.name for one in build.whole_layers if one.kind != "norm")
    return sorted(names, key=lambda name: _place(name, shipped))


def _meant(layer: str, known: Sequence[str]) -> str:
    """A guess: the layers inside a module of that name, else the nearest name.

    >>> _meant("blocks.0", ["tokens", "blocks.0.query", "blocks.0.key", "blocks.1.key"])
    '; inside it are blocks.0.query, blocks.0.key'
    """
    inside = [name for name in known if name.startswith(f"{layer}.")]
    return f"; inside it are {', '.join(inside)}" if inside else nearest(layer, known)


def _list_of(known: Sequence[str], folder: Path) -> str:
    """How to find a layer: few are named."""
    if len(known) <= _FEW:
        return f"give one of {', '.join(known)}"
    return f"see the build's {len(known)} layers: sgsc-edge explain {folder}"


def tokens_of(model: onnx.ModelProto, layer: str, build: BuildFolder, rows: int) -> dict[int, str]:
    """What the rows of the table of the tokens stand for; empty for other layers, and without names."""
    (taken, *_) = model.graph.input
    weights = {node.output[0] for node in model.graph.node if f"{layer}.weight_quantized" in node.input}
    reads = any(
        node.op_type == "Gather" and node.input[0] in weights and node.input[1] == taken.name
        for node in model.graph.node
    )
    named = build.stated.classes or ()
    return dict(enumerate(named)) if reads and len(named) == rows else {}


def _place(name: str, shipped: Sequence[str]) -> int:
    """Where a layer stands in order of execution; what the model file does not name comes last."""
    return shipped.index(name) if name in shipped else len(shipped)


def layer_parts(model: onnx.ModelProto, layer: str) -> list[str]:
    """The layers that ship of one: itself, one for each of its widths, or none."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    stated = stated_layers(entries.get(f"sgsc.{CHANNELS}", "").encode())
    parts = next((parts for parts, _ in stated if common_name(parts) == layer), [])
    # An embedding keeps its rows, and is stated nowhere.
    kept = any(tensor.name == f"{layer}.weight_quantized" for tensor in model.graph.initializer)
    return parts or ([layer] if kept else [])


def numbers_of(model: onnx.ModelProto, part: str, stored: StoredLayer) -> list[int]:
    """Which channels of the stored layer those of a part are: they keep their order."""
    weights = shipped_weight(model, part).astype(np.int8)
    scales = _constant(model, f"{part}.scale").reshape(-1)
    scales = np.broadcast_to(scales, (len(weights),))
    found: list[int] = []
    for weight, scale in zip(weights, scales, strict=True):
        first = found[-1] + 1 if found else 0
        number = next(
            (
                row
                for row in range(first, len(stored.weight))
                if stored.scale[row] == scale
                and nonzero_kernels(weight) <= nonzero_kernels(stored.weight[row])
            ),
            None,
        )
        if number is None:
            raise FileFormatError(
                f"channels of '{part}' are not found in {COMPRESSED}",
                where=MODEL_ONNX,
                remedy="build again",
            )
        found.append(number)
    return found


def shipped_weight(model: onnx.ModelProto, part: str) -> NDArray[Any]:
    """The integers [O, ...] of a part, as they ship; FileFormatError where there are none."""
    return _constant(model, f"{part}.weight_quantized")


def _constant(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(tensor_of(model, name))


def tensor_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """A constant by its name; FileFormatError where the model has no such constant."""
    found: onnx.TensorProto
    for found in model.graph.initializer:
        if found.name == name:
            return found
    raise FileFormatError(f"has no '{name}', as a build writes it", where=MODEL_ONNX, remedy="build again")


def widths_of(model: onnx.ModelProto, part: str, *, packed: bool) -> list[int]:
    """Bits that each channel's weights are stored in; ``packed``: at widths of their own."""
    weights = shipped_weight(model, part)
    if packed:
        return [int(width) for width in filter_widths(weights.astype(np.int8))]
    narrow = tensor_of(model, f"{part}.weight_quantized").data_type == onnx.TensorProto.INT4
    return [NARROW_BITS if narrow else WIDE_BITS] * len(weights)
