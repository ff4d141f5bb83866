"""Does ``compressed.safetensors`` hold the integers that the ``.onnx`` ships?

The file holds the network before channels leave it and layers in two widths become two. What ships follows
from it by few steps, so each shipped tensor must be part of a stored one:

- weights: filters of one stored layer, at their scales and bits, in any order; of a filter the kernels (one
  for each input channel) that are left, in any order. Kernels that compute nothing may have become 0.
- biases: of filters that lost no kernel, as stored; a lost one may have moved a constant into the bias.
- rows of an embedding, and gains and biases of a LayerNorm: as filters of one kernel each value.
- activations: scale and zero point of a stored quantizer.

A network none of whose layers has two widths keeps its order: its whole layers are compared position by
position. Of what left the network nothing is
known here, nor of a constant that an addition or product reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.errors import FileFormatError
from sgsc_edge.lowering import read_onnx
from sgsc_edge.size import NARROW_BITS, WIDE_BITS

MAX_FILE_BYTES = 1 << 30
_REMEDY = "restore the files that belong together, or build again"

Integers = NDArray[np.int8]


@dataclass(frozen=True)
class _Layer:
    """Integers of a layer, output channels first.

    ``weight`` int8 [O, I, ...], ``bits`` uint8 [O], ``scale`` float32 [O], ``bias`` int32 [O] and
    ``bias_scale`` float32 [O]; these two are None of an embedding, and where a node of the ``.onnx`` has no
    bias of its own. Of a LayerNorm ``weight`` is int8 [C, 1].
    """

    weight: Integers
    bits: NDArray[Any]
    scale: NDArray[Any]
    bias: NDArray[Any] | None
    bias_scale: NDArray[Any] | None


def check_stored(stored: Path, model: Path) -> None:
    """FileFormatError unless every layer and every grid of the ``.onnx`` is part of the stored network."""
    tensors = _tensors(stored)
    layers = _stored_layers(tensors, stored)
    # Only a layer in two widths has its channels put into another order, with all that reads them.
    ordered = all(len(np.unique(layer.bits)) == 1 for layer in layers)
    shipped = _Shipped(read_onnx(model), str(model))
    for name, layer in shipped.layers():
        if not any(_is_part(layer, other, ordered=ordered) for other in layers):
            raise FileFormatError(
                f"holds no layer with the integers and scales of '{name}' in {model.name}",
                where=str(stored),
                remedy=_REMEDY,
            )
    if extra := shipped.grids() - _stored_grids(tensors):
        scale, zero_point = min(extra)
        raise FileFormatError(
            f"holds no activation of scale {scale:g} and zero point {zero_point}, as {model.name} has",
            where=str(stored),
            remedy=_REMEDY,
        )


# --- what is stored -------------------------------------------------------------------------------

_PARTS: Mapping[str, type[np.generic]] = {
    "weight": np.int8,
    "bits": np.uint8,
    "scale": np.float32,
    "bias": np.int32,
    "bias_scale": np.float32,
}


def _tensors(path: Path) -> Mapping[str, NDArray[np.generic]]:
    try:
        return safetensors.numpy.load(read_bytes(path, MAX_FILE_BYTES))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise FileFormatError(f"is no safetensors file: {error}", where=str(path), remedy=_REMEDY) from error


def _stored_layers(tensors: Mapping[str, NDArray[np.generic]], path: Path) -> list[_Layer]:
    layers = []
    for name in (name.removesuffix(".weight") for name in tensors if name.endswith(".weight")):
        if f"{name}.weight_scale" in tensors:
            layers.append(_stored_norm(tensors, name, path))
            continue
        parts = {part: tensors.get(f"{name}.{part}") for part in _PARTS}
        table = parts["bias"] is parts["bias_scale"] is None and parts["scale"] is not None
        rows = tensors[f"{name}.weight"].shape[:1]
        for part, value in parts.items():
            wanted = tensors[f"{name}.weight"].shape if part == "weight" else rows
            if table and part.startswith("bias"):
                continue
            if value is None or value.dtype != _PARTS[part] or not rows or value.shape != wanted:
                raise _no_layer(name, part, path)
        layers.append(_Layer(**parts))  # type: ignore[arg-type]  # none but a table's biases is None
    return layers


def _stored_norm(tensors: Mapping[str, NDArray[np.generic]], name: str, path: Path) -> _Layer:
    """Gain and bias of a LayerNorm: int8 [C] each, with one scale."""
    found = {part: tensors.get(f"{name}.{part}") for part in ("weight", "weight_scale", "bias", "bias_scale")}
    rows = tensors[f"{name}.weight"].shape
    for part, value in found.items():
        dtype, shape = (np.float32, ()) if part.endswith("scale") else (np.int8, rows)
        if value is None or len(rows) != 1 or value.dtype != dtype or value.shape != shape:
            raise _no_layer(name, part, path)
    return _norm(*found.values())  # type: ignore[arg-type]  # none is None


def _norm(weight: NDArray[Any], scale: NDArray[Any], bias: NDArray[Any], bias_scale: NDArray[Any]) -> _Layer:
    rows = len(weight)
    return _Layer(
        weight.astype(np.int8)[:, np.newaxis],
        np.full(rows, WIDE_BITS, np.uint8),
        np.broadcast_to(scale, (rows,)),
        bias.astype(np.int32),
        np.broadcast_to(bias_scale, (rows,)),
    )


def _no_layer(name: str, part: str, path: Path) -> FileFormatError:
    return FileFormatError(
        f"holds no compressed layer '{name}': its {part} is missing or of another form",
        where=str(path),
        remedy=_REMEDY,
    )


def _stored_grids(tensors: Mapping[str, NDArray[np.generic]]) -> set[tuple[float, int]]:
    """Scale and zero point of every quantizer and constant."""
    names = [name.removesuffix(".zero_point") for name in tensors if name.endswith(".zero_point")]
    pairs = [(tensors.get(f"{name}.scale"), tensors[f"{name}.zero_point"]) for name in names]
    return {
        (float(scale), int(zero_point))
        for scale, zero_point in pairs
        if scale is not None and scale.size == zero_point.size == 1
    }


# --- what ships -----------------------------------------------------------------------------------


class _Shipped:
    """The layers and grids of a QDQ model."""

    def __init__(self, model: onnx.ModelProto, where: str) -> None:
        self._nodes = model.graph.node
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._where = where

    def layers(self) -> Iterator[tuple[str, _Layer]]:
        """Every node that reads dequantized weights, with its name and its bias, if it has one."""
        dequantized = {
            node.output[0]: node
            for node in self._nodes
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants
        }
        # A MatMul reads its weights as [I, O]; they are stored as [O, I].
        turned = {node.output[0]: node.input[0] for node in self._nodes if node.op_type == "Transpose"}
        # The bias of a MatMul is what the Add behind it reads beside its output.
        added = {
            one: dequantized[other]
            for node in self._nodes
            if node.op_type == "Add"
            for one, other in (node.input, node.input[::-1])
            if other in dequantized
        }
        for node in self._nodes:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                weight = dequantized.get(turned.get(node.input[1], node.input[1]))
                bias = dequantized.get(node.input[2]) if len(node.input) > 2 else added.get(node.output[0])
                if weight is not None:
                    yield node.name, self._layer(weight, bias)
            elif node.op_type in ("Gather", "QuantizeLinear") and node.input[0] in dequantized:
                yield node.name, self._layer(dequantized[node.input[0]], None)
            elif node.op_type == "LayerNormalization":
                parts = [dequantized.get(name) for name in node.input[1:3]]
                if len(parts) != 2 or None in parts:
                    raise FileFormatError(
                        f"'{node.name}' has no quantized gain and bias, as sgsc-edge writes them",
                        where=self._where,
                        remedy=_REMEDY,
                    )
                yield node.name, _norm(*(self._value(n) for part in parts if part for n in part.input[:2]))

    def _layer(self, weight: onnx.NodeProto, bias: onnx.NodeProto | None) -> _Layer:
        values = np.atleast_1d(self._value(weight.input[0]))
        narrow = self._constants[weight.input[0]].data_type == TensorProto.INT4
        rows = len(values)
        return _Layer(
            values.astype(np.int8),
            np.full(rows, NARROW_BITS if narrow else WIDE_BITS, np.uint8),
            self._by_row(weight.input[1], rows),
            None if bias is None else self._by_row(bias.input[0], rows),
            None if bias is None else self._by_row(bias.input[1], rows),
        )

    def grids(self) -> set[tuple[float, int]]:
        """Scale and zero point of every activation."""
        found = set()
        for node in self._nodes:
            if node.op_type == "QuantizeLinear":
                scale = self._value(node.input[1]).reshape(-1)
                zero_point = self._value(node.input[2]).reshape(-1) if len(node.input) > 2 else [0]
                found |= set(zip(map(float, scale), map(int, zero_point), strict=False))
        return found

    def _value(self, name: str) -> NDArray[Any]:
        if name not in self._constants:
            raise FileFormatError(
                f"'{name}' is no initializer, as sgsc-edge writes it", where=self._where, remedy=_REMEDY
            )
        return numpy_helper.to_array(self._constants[name])

    def _by_row(self, name: str, rows: int) -> NDArray[Any]:
        """A value for each filter."""
        values = self._value(name).reshape(-1)
        if len(values) not in (1, rows):
            raise FileFormatError(
                f"'{name}' has {len(values)} values for {rows} filters", where=self._where, remedy=_REMEDY
            )
        return np.broadcast_to(values, (rows,))


# --- whether one is part of the other -------------------------------------------------------------


def _is_part(shipped: _Layer, stored: _Layer, *, ordered: bool) -> bool:
    """Whether each filter of ``shipped`` is one of ``stored``, perhaps without some of its kernels."""
    if shipped.weight.ndim != stored.weight.ndim or shipped.weight.shape[2:] != stored.weight.shape[2:]:
        return False
    if ordered and len(shipped.weight) == len(stored.weight):
        rows = [[row] for row in range(len(stored.weight))]
    else:
        by_scale: dict[float, list[int]] = {}
        for row, scale in enumerate(stored.scale.tolist()):
            by_scale.setdefault(scale, []).append(row)
        rows = [by_scale.get(scale, []) for scale in shipped.scale.tolist()]
    return all(
        any(_is_filter(shipped, number, stored, row, ordered=ordered) for row in candidates)
        for number, candidates in enumerate(rows)
    )


def _is_filter(shipped: _Layer, number: int, stored: _Layer, row: int, *, ordered: bool) -> bool:
    if (shipped.scale[number], shipped.bits[number]) != (stored.scale[row], stored.bits[row]):
        return False
    own, other = shipped.weight[number], stored.weight[row]
    if ordered and own.shape == other.shape:
        whole = np.array_equal(own, other)
        if not whole and not ((own == other) | (own == 0)).all():
            return False
    else:
        kernels, all_kernels = nonzero_kernels(own), nonzero_kernels(other)
        whole = kernels == all_kernels
        if not kernels <= all_kernels:
            return False
    if shipped.bias is None or shipped.bias_scale is None:
        return True
    if stored.bias is None or stored.bias_scale is None:
        return False  # an embedding
    if shipped.bias_scale[number] != stored.bias_scale[row]:
        return False
    # A filter of zeros that nothing reads has no bias, whatever it had.
    unread = not own.any() and shipped.bias[number] == 0
    return not whole or unread or bool(shipped.bias[number] == stored.bias[row])


def nonzero_kernels(weight: Integers) -> Counter[bytes]:
    """The kernels of a filter int8 [I, ...], as often as they are there."""
    return Counter(kernel.tobytes() for kernel in weight if kernel.any())
