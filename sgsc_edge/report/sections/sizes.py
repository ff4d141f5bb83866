"""Bytes: of the parameters beside float and plain 8 bits, and of the model file by what they are there for.

What a build stores is read from its ``.tflite``; where the target packs each channel in C code, from that
code. Plain 8 bits is the same network with every channel that training started with, at 8 bits and a scale
for each channel, stored as the build is. The float parameters are counted by the build.
"""

from __future__ import annotations

from dataclasses import dataclass

from sgsc_edge.c_code.write import c_code
from sgsc_edge.report.build_folder import PACKED, BuildFolder
from sgsc_edge.report.text import percent
from sgsc_edge.runtimes import MODEL_ONNX, MODEL_TFLITE
from sgsc_edge.size import EIGHT_BITS, bytes_in_plain_c

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
    """Parameters as stored, and the file by use."""

    parameters: tuple[SizeRow, ...]
    missing: tuple[str, ...]
    file: tuple[SizeRow, ...]
    file_bytes: int
    onnx_bytes: int


def sizes_view(build: BuildFolder) -> SizesView:
    """From ``model.tflite``, ``compressed.safetensors`` and ``plan.json``."""
    float_bytes = build.plan.float_bytes if build.plan else None
    packed = packed_bytes(build)
    if packed is None:
        in_8_bits, stored = EIGHT_BITS.bytes, stored_bytes(build)
        what, where, how = "weights, biases and their scales", f" in {MODEL_TFLITE}", ""
    else:
        in_8_bits, stored = bytes_in_plain_c, packed
        what, where, how = "weights, biases and multipliers", " in C code", ", each channel at its own width"
    plain = sum(in_8_bits(layer.weights, layer.channels) for layer in build.whole_layers)
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
        file=tuple(
            SizeRow(name, size, size / totals.file_bytes, percent(size / totals.file_bytes, 1), "")
            for name, size in uses
        ),
        file_bytes=totals.file_bytes,
        onnx_bytes=(build.path / MODEL_ONNX).stat().st_size,
    )


def stored_bytes(build: BuildFolder) -> int:
    """Bytes of weights and biases with their scales and zero points in the ``.tflite``."""
    return sum(
        tensor.payload_bytes + tensor.parameter_bytes
        for tensor in build.inspection.tensors
        if tensor.share in ("weights", "bias")
    )


def packed_bytes(build: BuildFolder) -> int | None:
    """Bytes of the C code's constants, where the target packs each channel at its own width."""
    if build.manifest.code.get("weights") != PACKED:
        return None
    name = build.graph.name or "model"
    return c_code(build.graph, name=name, model_hash="0" * 64, learned=True).constant_bytes
