"""What an inspection says, the same for every format, as data, JSON and text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sgsc_edge.graph.ir import Quantization
from sgsc_edge.inspection.text import printable, table

Kind = Literal["input", "output", "constant", "activation"]
Share = Literal["weights", "bias", "other"]
"""What a constant is: weights, biases, or operands such as shapes, axes and paddings."""


@dataclass(frozen=True)
class QuantizationSummary:
    """Range of a tensor's parameters; ``axis`` is None and ``channels`` 1 where they are per tensor."""

    granularity: Literal["per tensor", "per channel"]
    axis: int | None
    channels: int
    scale_min: float
    scale_max: float
    zero_point_min: int
    zero_point_max: int

    @staticmethod
    def of(quantization: Quantization) -> QuantizationSummary:
        """The summary of a tensor's parameters."""
        scale, zero_point = quantization.scale, quantization.zero_point
        return QuantizationSummary(
            "per tensor" if quantization.axis is None else "per channel",
            quantization.axis,
            int(scale.size),
            float(scale.min()),
            float(scale.max()),
            int(zero_point.min()),
            int(zero_point.max()),
        )

    def __str__(self) -> str:
        scale = f"{self.scale_min:.6g}"
        if self.scale_max != self.scale_min:
            scale += f"..{self.scale_max:.6g}"
        zero_point = str(self.zero_point_min)
        if self.zero_point_max != self.zero_point_min:
            zero_point += f"..{self.zero_point_max}"
        where = "" if self.axis is None else f", {self.channels} channels on axis {self.axis}"
        return f"scale {scale}, zero point {zero_point}{where}"


@dataclass(frozen=True)
class TensorSummary:
    """One tensor. Sizes of unknown or symbolic dimensions are text.

    ``payload_bytes`` are its values in the file (0 unless constant), ``parameter_bytes`` its scales and zero
    points, ``metadata_bytes`` these and what else is there for this tensor alone (table, shape, name); what
    several tensors share is counted at the first. ``bits`` is 0 where unknown. ``channels`` are a layer's
    outputs, where the tensor is its weights; ``channels_removed`` those that it lost when it was built, of
    ``channels_before``, where the file says so (of a layer in two widths, both its tensors say it).
    ``channel_bits``: of int8 weights, the fewest bits that hold each output channel's integers, as C code
    packs them.
    """

    name: str
    kind: Kind
    dtype: str
    bits: int
    shape: tuple[int | str, ...]
    quantization: QuantizationSummary | None
    payload_bytes: int
    parameter_bytes: int
    metadata_bytes: int
    share: Share | None = None
    channels: int | None = None
    channels_removed: int | None = None
    channels_before: int | None = None
    channel_bits: tuple[int, ...] | None = None

    @property
    def packed(self) -> str:
        """``2 to 5, mean 3.4`` bits by channel; empty where unknown."""
        if not self.channel_bits:
            return ""
        least, most = min(self.channel_bits), max(self.channel_bits)
        mean = sum(self.channel_bits) / len(self.channel_bits)
        return f"{least} to {most}, mean {mean:.1f}" if least < most else str(least)

    @property
    def removed(self) -> str:
        """``16 of 24`` channels; empty where unknown."""
        if self.channels_removed is None:
            return ""
        return f"{self.channels_removed:,} of {self.channels_before:,}"


@dataclass(frozen=True)
class OpCount:
    """How often an op occurs on one combination of dtypes (``int8 x int4`` is activations x weights)."""

    name: str
    dtypes: str
    count: int


@dataclass(frozen=True)
class Totals:
    """Bytes of the file by use; they add up to ``file_bytes``.

    ``overhead_bytes`` is the rest: names, shapes, the graph itself, headers, padding and stored metadata.
    """

    file_bytes: int
    weights_bytes: int
    bias_bytes: int
    other_constants_bytes: int
    quantization_bytes: int
    overhead_bytes: int


@dataclass(frozen=True)
class StoredEntry:
    """A metadata entry or a kind of overhead: its name, and the bytes of its content."""

    name: str
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    """A model file: its format's ``version``, what it holds, and the metadata stored with it.

    ``overhead``: ``totals.overhead_bytes`` by kind.
    """

    file: str
    format: Literal["tflite", "onnx"]
    version: str
    ops: tuple[OpCount, ...]
    tensors: tuple[TensorSummary, ...]
    totals: Totals
    overhead: tuple[StoredEntry, ...] = ()
    metadata: tuple[StoredEntry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same facts as a JSON-ready document of dicts, lists, numbers, text and None."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return document

    def to_text(self) -> str:
        """Tables for a terminal; control characters in names are escaped."""
        totals = self.totals
        sections = [
            f"{printable(self.file, 4096)}: {self.version}, {totals.file_bytes:,} bytes",
            table(
                ("bytes", "share", "what"),
                [
                    (f"{count:,}", f"{100 * count / totals.file_bytes:.1f} %", what)
                    for what, count in (
                        ("weights", totals.weights_bytes),
                        ("biases", totals.bias_bytes),
                        ("other constants", totals.other_constants_bytes),
                        ("scales and zero points", totals.quantization_bytes),
                        ("overhead", totals.overhead_bytes),
                        *((f"- {entry.name}", entry.nbytes) for entry in self.overhead if entry.nbytes),
                    )
                ],
            ),
            table(("count", "op", "dtypes"), [(str(op.count), op.name, op.dtypes) for op in self.ops]),
            table(
                (
                    *("tensor", "kind", "dtype", "bits by channel", "shape", "removed"),
                    *("bytes", "metadata", "quantization"),
                ),
                [_row(tensor) for tensor in self.tensors],
            ),
        ]
        return "\n\n".join(sections) + "\n"


def totals_of(tensors: list[TensorSummary], file_bytes: int, quantization_bytes: int) -> Totals:
    """Add up the constants by share; what is left of the file is overhead."""
    shares: Counter[str] = Counter()
    for tensor in tensors:
        shares[tensor.share or ""] += tensor.payload_bytes
    known = sum(shares.values()) + quantization_bytes
    return Totals(
        file_bytes,
        shares["weights"],
        shares["bias"],
        shares["other"],
        quantization_bytes,
        file_bytes - known,
    )


# --- text -----------------------------------------------------------------------------------------


def _row(tensor: TensorSummary) -> tuple[str, ...]:
    return (
        tensor.name,
        tensor.kind,
        tensor.dtype,
        tensor.packed,
        "x".join(str(size) for size in tensor.shape) or "scalar",
        tensor.removed,
        f"{tensor.payload_bytes:,}" if tensor.payload_bytes else "",
        f"{tensor.metadata_bytes:,}" if tensor.metadata_bytes else "",
        "" if tensor.quantization is None else str(tensor.quantization),
    )
