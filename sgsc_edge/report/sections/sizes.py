"""Bytes: of the parameters beside float and plain 8 bits, and of the model file by what they are there for.

What a build stores is read from the file that it ships, its ``.tflite`` or ``.onnx``; where the target packs
each channel in C code, from that code. Plain 8 bits is the same network with every channel that training
started with, at 8 bits and a scale for each channel, stored as the build is. The float parameters are counted
by the build.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sgsc_edge.c_code.write import c_code
from sgsc_edge.inspection.summary import TensorSummary
from sgsc_edge.inspection.text import plain_name
from sgsc_edge.report.build_folder import PACKED, BuildFolder, WholeLayer
from sgsc_edge.report.text import percent
from sgsc_edge.runtimes import MODEL_ONNX
from sgsc_edge.size import (
    ONNX_SCALE_BYTES,
    RESCALING_BYTES,
    Storage,
    bytes_in_plain_c,
)

FLOAT32, PLAIN = "float32", "plain int8"


@dataclass(frozen=True)
class SizeRow:
    """One bar: its bytes, its share of the longest one (0 to 1), and the same in words."""

    name: str
    nbytes: int
    share: float
    against: str
    note: str


@dataclass(frozen=True)
class SizesView:
    """Parameters as stored, and the file ``name`` by use; ``onnx_bytes``: None where that is the
    ``.onnx``."""

    parameters: tuple[SizeRow, ...]
    missing: tuple[str, ...]
    name: str
    file: tuple[SizeRow, ...]
    file_bytes: int
    onnx_bytes: int | None


def sizes_view(build: BuildFolder) -> SizesView:
    """From the file that ships, ``compressed.safetensors`` and ``plan.json``."""
    float_bytes = build.plan.float_bytes if build.plan else None
    packed = packed_bytes(build)
    if packed is None:
        stored = stored_bytes(build)
        what, where, how = "weights, biases and their scales", f" in {build.model}", ""
    else:
        stored = packed
        place = " in C code" if build.graph is not None else f" packed as C code does; {build.model} does not"
        what, where, how = "weights, biases and multipliers", place, ", each channel at its own width"
    plain = sum(_bytes_in_8_bits(build, layer, packed=packed is not None) for layer in build.whole_layers)
    found = [
        (FLOAT32, float_bytes, "4 bytes for each of the model's parameters"),
        (PLAIN, plain or None, f"every channel at 8 bits: {what}{where}"),
        ("this build", stored, f"{what}{where}{how}"),
    ]
    present = [(name, size, note) for name, size, note in found if size is not None]
    longest = max(size for _, size, _ in present) or 1
    first = present[0][1] or 1
    totals = build.inspection.totals
    uses = (
        ("weights", totals.weights_bytes),
        ("biases", totals.bias_bytes),
        ("other constants", totals.other_constants_bytes),
        ("scales and zero points", totals.quantization_bytes),
        ("the graph, names, metadata", totals.overhead_bytes),
    )
    return SizesView(
        parameters=tuple(
            SizeRow(name, size, size / longest, percent(size / first, 1), note)
            for name, size, note in present
        ),
        missing=tuple(name for name, size, _ in found if size is None),
        name=build.model,
        file=tuple(
            SizeRow(name, size, size / totals.file_bytes, percent(size / totals.file_bytes, 1), "")
            for name, size in uses
        ),
        file_bytes=totals.file_bytes,
        onnx_bytes=None if build.graph is None else (build.path / MODEL_ONNX).stat().st_size,
    )


def _bytes_in_8_bits(build: BuildFolder, layer: WholeLayer, *, packed: bool) -> int:
    """Bytes of a layer with every channel at 8 bits, stored as the build is."""
    if layer.kind == "norm":
        return 2 * (layer.weights + ONNX_SCALE_BYTES)
    if layer.kind == "table":
        return layer.weights + layer.channels * (RESCALING_BYTES if packed else ONNX_SCALE_BYTES)
    if packed:
        return bytes_in_plain_c(layer.weights, layer.channels)
    return Storage(onnx=build.graph is None).bytes(layer.weights, layer.channels)


def _bytes_if_packed(tensor: TensorSummary, tables: Collection[str]) -> int:
    """Bytes of a layer's weights, each filter in the fewest bits that hold it, with bias and multipliers.

    ``tables``: names of the embeddings, which have no bias. A LayerNorm's gain and bias stay as they are.
    """
    if tensor.channel_bits:
        storage = Storage.packing(
            tensor.channel_bits, table=plain_name(tensor.name).removesuffix(".weight") in tables
        )
        return storage.bytes(tensor.payload_bytes, len(tensor.channel_bits))
    of_norm = tensor.share in ("weights", "bias") and tensor.dtype == "int8"
    return tensor.payload_bytes + tensor.parameter_bytes if of_norm else 0


def stored_bytes(build: BuildFolder) -> int:
    """Bytes of weights and biases with their scales and zero points in the file that ships."""
    return sum(
        tensor.payload_bytes + tensor.parameter_bytes
        for tensor in build.inspection.tensors
        if tensor.share in ("weights", "bias")
    )


def packed_bytes(build: BuildFolder) -> int | None:
    """Bytes of the C code's constants, where the target packs each channel at its own width.

    A network that is not lowered has no C code: what its layers would take there.
    """
    if build.manifest.code.get("weights") != PACKED:
        return None
    if build.graph is None:
        tables = {layer.name for layer in build.whole_layers if layer.kind == "table"}
        return sum(_bytes_if_packed(tensor, tables) for tensor in build.inspection.tensors)
    name = build.graph.name or "model"
    return c_code(build.graph, name=name, model_hash="0" * 64, learned=True).constant_bytes
