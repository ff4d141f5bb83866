"""Device graph -> ``.tflite`` bytes, through the flatbuffers schema alone.

Layout of the file: one subgraph; tensors in the order in which the graph first uses them; one operator code
for each (operator, version); buffer 0 empty for every tensor without data, and one buffer for each distinct
content. Constant data starts at multiples of 16 bytes, as the schema's ``force_align`` asks, or of more where
a target asks for it. Int4 data is packed two values a byte, low nibble first
(``tensorflow/lite/kernels/internal/portable_tensor_utils.cc``).

``Form`` leaves out what interpreters do not need. What they do need, as running them shows: LiteRT refuses
scales without as many zero points, TFLM then reads a dense layer's scales as absent and computes wrongly.
No kernel reads the bias's scales of a layer with per-channel weights; XNNPACK alone wants them there, else it
leaves the layer to LiteRT's own kernels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sgsc_edge.errors import InternalError
from sgsc_edge.graph import schema
from sgsc_edge.graph.flatbuffer import Record, encode
from sgsc_edge.graph.ir import Activation, DType, Graph, Node, Padding, Quantization, Tensor
from sgsc_edge.graph.legality import check
from sgsc_edge.graph.op_rules import OP_RULES
from sgsc_edge.graph.tflite_ops import ROW_OF_OP, OpRow
from sgsc_edge.numerics import pack_int4

RUNTIME_VERSION_KEY = "min_runtime_version"
"""Metadata entry that TFLite converters write: 16 bytes, the first release that runs the file, NUL-padded."""

_PADDING_NUMBERS = {padding: number for number, padding in schema.PADDINGS.items()}
_ACTIVATION_NUMBERS = {activation: number for number, activation in schema.ACTIVATIONS.items()}
_TYPE_NUMBERS = {dtype: number for number, dtype in schema.TENSOR_TYPES.items()}


@dataclass(frozen=True)
class Form:
    """What a file holds beside what interpreters need; outputs are the same but XNNPACK's with ``needed``.

    Parameters
    ----------
    names: ``full``; ``short``: inputs and outputs keep theirs, other tensors are numbered, graph and writer
        are not named; or ``none``.
    quantization: ``full``: each tensor its own scales and zero points; ``shared``: equal ones are stored
        once; ``needed``: shared, and without those of the biases of per-channel layers.
    metadata: ``full``, or ``none``: neither the graph's entries nor the runtime version that the ops need.
    """

    names: Literal["full", "short", "none"] = "full"
    quantization: Literal["full", "shared", "needed"] = "full"
    metadata: Literal["full", "none"] = "full"


FULL = Form()
SMALLEST = Form("none", "needed", "none")


def write_tflite(graph: Graph, form: Form = FULL, alignment: int = 16) -> bytes:
    """The graph as a TFLite file (identifier ``TFL3``, schema version 3); equal graphs give equal bytes.

    Constant data starts at multiples of ``alignment`` bytes, a power of two of at least 16.

    Raises InternalError where the graph is not legal (``legality.check``).
    """
    check(graph, after="before writing the .tflite")
    order = _tensor_order(graph)
    index = {name: number for number, name in enumerate(order)}
    names = _stored_names(graph, order, form)
    unread = _unread_parameters(graph) if form.quantization == "needed" else set()
    buffers = _Buffers()
    codes: dict[tuple[OpRow, int], int] = {}
    operators = [_operator(graph, node, index, codes) for node in graph.nodes]
    tensors = [
        _tensor(graph[name], stored, buffers, name not in unread)
        for name, stored in zip(order, names, strict=True)
    ]
    metadata: dict[str, bytes] = {}
    if form.metadata == "full":
        metadata = {**graph.metadata, RUNTIME_VERSION_KEY: _runtime_version(codes)}
    return encode(
        {
            "version": schema.SCHEMA_VERSION,
            "operator_codes": [_operator_code(row, version) for row, version in codes],
            "subgraphs": [
                {
                    "tensors": tensors,
                    "inputs": [index[name] for name in graph.inputs],
                    "outputs": [index[name] for name in graph.outputs],
                    "operators": operators,
                    "name": graph.name if form.names == "full" else None,
                }
            ],
            "description": "sgsc-edge" if form.names == "full" else None,
            "metadata": [{"name": key, "buffer": buffers.add(metadata[key])} for key in sorted(metadata)]
            or None,
            "buffers": [
                {"data": np.frombuffer(content, np.uint8)} if content else {} for content in buffers.contents
            ],
        },
        separate=("Quantization",) if form.quantization == "full" else (),
        alignment=alignment,
    )


class _Buffers:
    """The file's buffers; number 0 is empty, equal contents share one."""

    def __init__(self) -> None:
        self.contents = [b""]
        self._numbers = {b"": 0}

    def add(self, content: bytes) -> int:
        if content not in self._numbers:
            self._numbers[content] = len(self.contents)
            self.contents.append(content)
        return self._numbers[content]


def _tensor_order(graph: Graph) -> list[str]:
    """Names in order of first use: graph inputs, then each node's inputs and outputs."""
    order = dict.fromkeys(graph.inputs)
    for node in graph.nodes:
        order.update(dict.fromkeys((*node.inputs, *node.outputs)))
    order.update(dict.fromkeys(graph.outputs))
    return list(order)


def _stored_names(graph: Graph, order: list[str], form: Form) -> list[str | None]:
    """What each tensor is called in the file."""
    if form.names == "full":
        return [*order]
    if form.names == "none":
        return [None] * len(order)
    kept = {*graph.inputs, *graph.outputs}
    numbers = (number for number in itertools.count() if str(number) not in kept)
    return [name if name in kept else str(next(numbers)) for name in order]


def _unread_parameters(graph: Graph) -> set[str]:
    """Biases whose scales follow from input and weights, and are read by no kernel: those per channel."""
    read = {*graph.inputs, *graph.outputs}
    biases: set[str] = set()
    for node in graph.nodes:
        per_channel = OP_RULES[type(node.op)].weight_rank > 0 and _is_per_channel(graph[node.inputs[1]])
        biases.update(node.inputs[2:3] if per_channel else ())
        read.update(node.inputs[:2] if per_channel else node.inputs, node.outputs)
    return biases - read


def _is_per_channel(tensor: Tensor) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale.size > 1


def _tensor(tensor: Tensor, name: str | None, buffers: _Buffers, parameters: bool) -> Record:
    quantization = tensor.quantization if parameters else None
    return {
        "shape": tensor.shape,
        "type": _TYPE_NUMBERS[tensor.dtype],
        "buffer": buffers.add(_content(tensor)),
        "name": name,
        "quantization": None if quantization is None else _quantization(quantization),
        "has_rank": not tensor.shape,
    }


def _content(tensor: Tensor) -> bytes:
    if tensor.data is None:
        return b""
    if tensor.dtype is DType.INT4:
        return pack_int4(tensor.data).tobytes()
    return np.ascontiguousarray(tensor.data, tensor.data.dtype.newbyteorder("<")).tobytes()


def _quantization(quantization: Quantization) -> Record:
    per_channel = quantization.axis is not None and quantization.scale.size > 1
    return {
        "scale": quantization.scale,
        "zero_point": quantization.zero_point,
        "quantized_dimension": quantization.axis if per_channel else 0,
    }


def _operator(graph: Graph, node: Node, index: dict[str, int], codes: dict[tuple[OpRow, int], int]) -> Record:
    row = ROW_OF_OP[type(node.op)]
    version = row.version(node.op, graph.inputs_of(node), graph.outputs_of(node)[0])
    record: Record = {
        "opcode_index": codes.setdefault((row, version), len(codes)),
        "inputs": [index[name] for name in node.inputs],
        "outputs": [index[name] for name in node.outputs],
    }
    if row.options is not None:
        options = {option: _option_value(node, attribute) for option, attribute in row.attributes}
        record |= {"options_type": schema.OPTIONS[row.options], "options": {**row.expected, **options}}
    return record


def _option_value(node: Node, attribute: str) -> Any:
    """The value of ``name`` or ``name.index`` as the schema stores it."""
    name, _, position = attribute.partition(".")
    value = getattr(node.op, name)
    if position:
        value = value[int(position)]
    if isinstance(value, Padding):
        return _PADDING_NUMBERS[value]
    if isinstance(value, Activation):
        return _ACTIVATION_NUMBERS[value]
    return value


def _operator_code(row: OpRow, version: int) -> Record:
    # Runtimes older than schema 3a read the 8-bit field, newer ones the larger of the two.
    return {"deprecated_builtin_code": min(row.builtin, 127), "builtin_code": row.builtin, "version": version}


def _runtime_version(codes: dict[tuple[OpRow, int], int]) -> bytes:
    versions = []
    for row, version in codes:
        if version not in row.runtimes:
            raise InternalError(f"{row.name} version {version} has no runtime version in the op table")
        versions.append(row.runtimes[version])
    newest = max(versions, key=lambda text: [int(part) for part in text.split(".")])
    return newest.encode().ljust(16, b"\0")
