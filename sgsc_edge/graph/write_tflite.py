"""Device graph -> ``.tflite`` bytes, through the flatbuffers schema alone.

Layout of the file: one subgraph; tensors in the order in which the graph first uses them; one operator code
for each (operator, version); buffer 0 empty for every tensor without data, and one buffer for each distinct
content. Constant data starts at multiples of 16 bytes. Int4 data is packed two values a byte, low nibble
first (``tensorflow/lite/kernels/internal/portable_tensor_utils.cc``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sgsc_edge.errors import InternalError
from sgsc_edge.graph import schema
from sgsc_edge.graph.flatbuffer import Record, encode
from sgsc_edge.graph.ir import Activation, DType, Graph, Node, Padding, Quantization, Tensor
from sgsc_edge.graph.legality import check
from sgsc_edge.graph.tflite_ops import ROW_OF_OP, OpRow
from sgsc_edge.numerics import pack_int4

RUNTIME_VERSION_KEY = "min_runtime_version"
"""Metadata entry that TFLite converters write: 16 bytes, the first release that runs the file, NUL-padded."""

_PADDING_NUMBERS = {padding: number for number, padding in schema.PADDINGS.items()}
_ACTIVATION_NUMBERS = {activation: number for number, activation in schema.ACTIVATIONS.items()}
_TYPE_NUMBERS = {dtype: number for number, dtype in schema.TENSOR_TYPES.items()}


def write_tflite(graph: Graph) -> bytes:
    """The graph as a TFLite file (identifier ``TFL3``, schema version 3); equal graphs give equal bytes.

    Raises InternalError where the graph is not legal (``legality.check``).
    """
    check(graph, after="before writing the .tflite")
    names = _tensor_order(graph)
    index = {name: number for number, name in enumerate(names)}
    buffers = _Buffers()
    codes: dict[tuple[OpRow, int], int] = {}
    operators = [_operator(graph, node, index, codes) for node in graph.nodes]
    tensors = [_tensor(graph[name], buffers) for name in names]
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
                    "name": graph.name,
                }
            ],
            "description": "sgsc-edge",
            "metadata": [{"name": key, "buffer": buffers.add(metadata[key])} for key in sorted(metadata)],
            "buffers": [
                {"data": np.frombuffer(content, np.uint8)} if content else {} for content in buffers.contents
            ],
        }
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


def _tensor(tensor: Tensor, buffers: _Buffers) -> Record:
    return {
        "shape": tensor.shape,
        "type": _TYPE_NUMBERS[tensor.dtype],
        "buffer": buffers.add(_content(tensor)),
        "name": tensor.name,
        "quantization": None if tensor.quantization is None else _quantization(tensor.quantization),
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
