"""``.tflite`` bytes -> device graph; the bytes may be hostile.

In order: the flatbuffer's structure (``flatbuffer.py``: offsets, vectors, text), the counts and indices of
the model (tensors, buffers, operator codes), each tensor's data against its shape, each operator against
the op table, and at last the whole graph against ``legality.py``. A fault in the file raises FileFormatError;
an op, an option or an element type that the device graph has no word for raises UnsupportedError.

What the graph does not say the same way is brought to one form: a missing bias becomes zeros, scales that a
per-channel bias lacks are added, tensors that nothing uses are dropped, names are made unique, per-channel
parameters of one channel become per tensor, and those of a vector lie along its only axis (older converters
wrote the weights' axis into the bias). SPLIT and UNPACK become one STRIDED_SLICE an output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.graph import schema
from sgsc_edge.graph.flatbuffer import Record, Span, decode
from sgsc_edge.graph.ir import (
    Activation,
    DepthwiseConv2D,
    DType,
    Graph,
    Node,
    Op,
    Padding,
    Quantization,
    StridedSlice,
    Tensor,
)
from sgsc_edge.graph.legality import findings
from sgsc_edge.graph.op_rules import OP_RULES
from sgsc_edge.graph.tflite_ops import DIVIDING_ROWS, OP_ROWS, ROW_OF_BUILTIN, DividingRow, OpRow
from sgsc_edge.graph.write_tflite import RUNTIME_VERSION_KEY
from sgsc_edge.numerics import unpack_int4

MAX_FILE_BYTES = 1 << 28
"""Largest file read unless the caller allows more: 256 MiB, far above any microcontroller's model."""

_SHOWN = 20


def read_tflite(data: bytes, *, where: str = "model.tflite", max_bytes: int = MAX_FILE_BYTES) -> Graph:
    """The device graph of a TFLite file; ``where`` names the file in errors.

    Raises FileFormatError where the file is damaged, too large or not legal, and UnsupportedError, naming op
    and operator index, where it needs something that the device graph does not have.
    """
    model = decode_model(data, where=where, max_bytes=max_bytes)
    graph = _Reader(model, where).graph()
    found = findings(graph)
    for finding in found:
        if finding.unsupported:
            raise UnsupportedError(
                node=f"{where}: {finding.where}",
                op=finding.op,
                reason=finding.reason,
                remedy="convert the model to int8 or float32",
            )
    if found:
        shown = "".join(f"\n  {finding}" for finding in found[:_SHOWN])
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise FileFormatError(
            f"the model breaks rules of its operators:{shown}{more}",
            where=where,
            remedy="convert the model again; integer models must follow the TFLite 8-bit quantization rules",
        )
    return graph


def decode_model(
    data: bytes, *, where: str, max_bytes: int = MAX_FILE_BYTES, spans: list[Span] | None = None
) -> Record:
    """The table ``Model`` of a file with one subgraph, structurally verified; ops are not looked at."""
    if len(data) > max_bytes:
        raise FileFormatError(
            f"the file has {len(data)} bytes, more than the {max_bytes} allowed", where=where
        )
    model = decode(data, where=where, spans=spans)
    if model["version"] != schema.SCHEMA_VERSION:
        raise FileFormatError(
            f"TFLite schema version {model['version']}, must be {schema.SCHEMA_VERSION}", where=where
        )
    subgraphs = model["subgraphs"] or []
    if len(subgraphs) != 1:
        raise UnsupportedError(
            node=where,
            op="control flow",
            reason=f"the model has {len(subgraphs)} subgraphs",
            remedy="export a model of one subgraph, without control flow",
        )
    return model


def operator_name(model: Record, operator: Record, where: str) -> tuple[int, str]:
    """BuiltinOperator number and its name for messages: ``CONV_2D``, ``CUSTOM Foo``, ``BUILTIN 999``."""
    codes = model["operator_codes"] or []
    code = _item(codes, operator["opcode_index"], "operator code", where)
    # Files older than schema 3a carry the number in the 8-bit field alone.
    builtin = max(code["deprecated_builtin_code"], code["builtin_code"])
    if builtin == schema.CUSTOM_OPERATOR:
        return builtin, f"CUSTOM {code['custom_code'] or ''}".rstrip()
    row = ROW_OF_BUILTIN.get(builtin) or DIVIDING_ROWS.get(builtin)
    return builtin, row.name if row else _foreign_name(builtin)


def _foreign_name(builtin: int) -> str:
    """TFLite's name of an op that the device graph does not have."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    names = {number: name for name, number in vars(BuiltinOperator).items() if not name.startswith("_")}
    return str(names.get(builtin, f"BUILTIN {builtin}"))


def tensor_shape(record: Record, path: str, where: str) -> tuple[int, ...]:
    """The tensor's shape; unknown sizes (-1 in its signature) count as the file's placeholder, 1."""
    shape = () if record["shape"] is None else tuple(int(size) for size in record["shape"])
    if len(shape) > 8 or any(size < 0 for size in shape):
        raise _fault(where, path, f"shape {list(shape[:9])}")
    return shape


def tensor_quantization(record: Record, path: str, where: str) -> Quantization | None:
    """The tensor's quantization parameters; None where it has none."""
    stored = record["quantization"]
    if stored is None or stored["scale"] is None or not len(stored["scale"]):
        return None
    if stored["details_type"]:
        raise _fault(where, path, "custom or blockwise quantization, only affine is known")
    scale = stored["scale"]
    zero_point = np.zeros(1, np.int64) if stored["zero_point"] is None else stored["zero_point"]
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise _fault(where, path, "a scale is not finite and positive")
    if zero_point.size not in (1, scale.size):
        raise _fault(where, path, f"{zero_point.size} zero points for {scale.size} scales")
    axis = int(stored["quantized_dimension"]) if scale.size > 1 else None
    if axis is not None and record["shape"] is not None and len(record["shape"]) == 1:
        axis = 0
    zero_points = np.broadcast_to(zero_point.astype(np.int64), scale.shape)
    return Quantization(scale.astype(np.float32), zero_points.copy(), axis)


def buffer_content(model: Record, record: Record, path: str, where: str) -> NDArray[np.uint8] | None:
    """The bytes of a constant tensor; None where its buffer is empty."""
    buffer = _item(model["buffers"] or [], record["buffer"], "buffer", f"{where}: {path}")
    if buffer["offset"] > 1 or buffer["size"] > 1 or record["external_buffer"]:
        raise UnsupportedError(
            node=path,
            op="external buffer",
            reason="the data lies outside the flatbuffer",
            remedy="write the model as one flatbuffer below 2 GB",
        )
    content: NDArray[np.uint8] | None = buffer["data"]
    return None if content is None or not content.size else content


def _item(items: list[Record], index: int, what: str, where: str) -> Record:
    if not 0 <= index < len(items):
        raise FileFormatError(f"{what} {index} of {len(items)} does not exist", where=where)
    return items[index]


def _fault(where: str, path: str, reason: str) -> FileFormatError:
    return FileFormatError(f"{path}: {reason}", where=where, remedy="the file is damaged; make it again")


def _values(content: NDArray[np.uint8], dtype: DType, elements: int) -> NDArray[np.generic]:
    """The values of a buffer, aligned and in native byte order, read-only."""
    if dtype is DType.INT4:
        values: NDArray[np.generic] = unpack_int4(content, elements)
    else:
        stored = content.view(dtype.numpy.newbyteorder("<"))
        values = np.require(stored.astype(dtype.numpy, copy=False), requirements="A")
    values.flags.writeable = False
    return values


class _Reader:
    """One pass over a decoded model; tensors are made when something first refers to them."""

    def __init__(self, model: Record, where: str) -> None:
        self.model = model
        self.where = where
        self.subgraph: Record = model["subgraphs"][0]
        self.records: list[Record] = self.subgraph["tensors"] or []
        self.names: dict[int, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.repeats: dict[str, int] = {}
        self.contents: dict[tuple[int, DType, int], NDArray[np.generic]] = {}

    def graph(self) -> Graph:
        # Interpreters look at every tensor, used or not.
        for index, record in enumerate(self.records):
            path = f"tensor {index} '{record['name'] or ''}'"
            _item(self.model["buffers"] or [], record["buffer"], "buffer", f"{self.where}: {path}")
            tensor_shape(record, path, self.where)
        inputs = [self.tensor(index, "input").name for index in self.indices(self.subgraph, "inputs")]
        nodes = [
            node
            for index, operator in enumerate(self.subgraph["operators"] or [])
            for node in self.nodes(index, operator)
        ]
        outputs = [self.tensor(index, "output").name for index in self.indices(self.subgraph, "outputs")]
        graph = Graph(
            self.subgraph["name"] or "main",
            self.tensors,
            tuple(nodes),
            tuple(inputs),
            tuple(outputs),
            self.metadata(),
        )
        return graph.with_nodes(graph.nodes)  # without constants that only SPLIT read

    def indices(self, record: Record, name: str) -> list[int]:
        return [] if record[name] is None else [int(index) for index in record[name]]

    def metadata(self) -> dict[str, bytes]:
        entries: dict[str, bytes] = {}
        for position, entry in enumerate(self.model["metadata"] or []):
            path = f"metadata {position}"
            buffer = _item(self.model["buffers"] or [], entry["buffer"], "buffer", f"{self.where}: {path}")
            name = entry["name"] or ""
            if name in entries:
                raise _fault(self.where, path, f"a second entry named '{name}'")
            # The writer states the runtime version anew, for the ops that it writes.
            if name != RUNTIME_VERSION_KEY:
                entries[name] = b"" if buffer["data"] is None else buffer["data"].tobytes()
        return entries

    # --- tensors ----------------------------------------------------------------------------------

    def tensor(self, index: int, role: str) -> Tensor:
        if index in self.names:
            return self.tensors[self.names[index]]
        record = _item(self.records, index, "tensor", f"{self.where}: {role}")
        path = f"tensor {index} '{record['name'] or ''}'"
        dtype = self.dtype(record, path)
        shape = tensor_shape(record, path, self.where)
        if record["is_variable"] or record["sparsity"]:
            raise UnsupportedError(
                node=path,
                op="variable or sparse tensor",
                reason="the device graph holds dense constants and activations only",
                remedy="export the model without state and without sparse encodings",
            )
        name = self.unique(record["name"] or f"tensor_{index}")
        tensor = Tensor(
            name,
            shape,
            dtype,
            tensor_quantization(record, path, self.where),
            self.data(record, shape, dtype, path),
        )
        self.names[index] = name
        self.tensors[name] = tensor
        return tensor

    def unique(self, name: str) -> str:
        """``name``, or ``name:1``, ``name:2``, .. where it is taken."""
        candidate, count = name, self.repeats.get(name, 0)
        while candidate in self.tensors:
            count += 1
            candidate = f"{name}:{count}"
        self.repeats[name] = count
        return candidate

    def dtype(self, record: Record, path: str) -> DType:
        number = record["type"]
        if number in schema.TENSOR_TYPES:
            return schema.TENSOR_TYPES[number]
        if number not in schema.OTHER_TENSOR_TYPES:
            raise _fault(self.where, path, f"element type {number} does not exist")
        raise UnsupportedError(
            node=path,
            op=f"{schema.OTHER_TENSOR_TYPES[number][0]} tensor",
            reason="device tensors are float32 or integers of 4 to 64 bits",
            remedy="convert the model to int8 or float32",
        )

    def data(
        self, record: Record, shape: tuple[int, ...], dtype: DType, path: str
    ) -> NDArray[np.generic] | None:
        content = buffer_content(self.model, record, path, self.where)
        if content is None:
            return None
        elements = 1
        for size in shape:
            elements *= size
        if content.size != dtype.nbytes(elements):
            raise _fault(
                self.where,
                path,
                f"{dtype}{list(shape)} takes {dtype.nbytes(elements)} bytes, its buffer has {content.size}",
            )
        if dtype is DType.BOOL and int(content.max()) > 1:
            raise _fault(self.where, path, "a bool is neither 0 nor 1")
        # Converted once however many tensors share the buffer, so that memory follows the file's size.
        key = (record["buffer"], dtype, elements)
        if key not in self.contents:
            self.contents[key] = _values(content, dtype, elements)
        return self.contents[key].reshape(shape)

    # --- operators --------------------------------------------------------------------------------

    def nodes(self, index: int, operator: Record) -> list[Node]:
        builtin, name = operator_name(self.model, operator, f"{self.where}: operator {index}")
        row = ROW_OF_BUILTIN.get(builtin)
        path = f"operator {index}"
        if builtin in DIVIDING_ROWS:
            return self.slices(operator, DIVIDING_ROWS[builtin], path)
        if row is None:
            raise self.unsupported(path, name, "the device graph has no such op")
        inputs = self.inputs(operator, row, path)
        outputs = [self.tensor(number, f"{path} output") for number in self.indices(operator, "outputs")]
        node = Node(
            self.op(operator, row, path),
            tuple(tensor.name for tensor in inputs),
            tuple(tensor.name for tensor in outputs),
            # What converters name after the layer.
            outputs[0].name if outputs else "",
        )
        return [node]

    def slices(self, operator: Record, row: DividingRow, path: str) -> list[Node]:
        """The parts of an op of several outputs, each a slice along its axis."""
        numbers = self.indices(operator, "outputs")
        inputs = [self.tensor(number, f"{path} input") for number in self.indices(operator, "inputs")]
        if len(inputs) != row.x + 1 or not numbers or len(set(numbers)) != len(numbers):
            raise _fault(self.where, path, f"{row.name} of {len(inputs)} inputs, {len(numbers)} outputs")
        x, count = inputs[row.x], len(numbers)
        axis = self.dividing_axis(operator, row, inputs, path)
        rank = len(x.shape)
        length, rest = divmod(x.shape[axis], count) if -rank <= axis < rank else (0, 0)
        if rest or length < 1 or (row.drops and length != 1):
            raise _fault(
                self.where, path, f"{row.name} of {list(x.shape)} into {count} parts along axis {axis}"
            )
        axis %= rank
        others = ((1 << rank) - 1) ^ (1 << axis)
        op = StridedSlice(others, others, 1 << axis if row.drops else 0)
        nodes = []
        for part, number in enumerate(numbers):
            output = self.tensor(number, f"{path} output")
            begin, end = (np.zeros(rank, np.int32) for _ in range(2))
            begin[axis], end[axis] = part * length, (part + 1) * length
            vectors = {"begin": begin, "end": end, "strides": np.ones(rank, np.int32)}
            made = [self.vector(f"{output.name}:{name}", values) for name, values in vectors.items()]
            nodes.append(Node(op, (x.name, *made), (output.name,), output.name))
        return nodes

    def dividing_axis(self, operator: Record, row: DividingRow, inputs: list[Tensor], path: str) -> int:
        """The axis of SPLIT, its first input, or of UNPACK, an option."""
        if row.drops:
            options = operator["options"]
            if options is None or operator["options_type"] != schema.OPTIONS[row.options]:
                raise _fault(self.where, path, f"{row.name} without its options")
            return int(options["axis"])
        axis = inputs[0]
        if axis.data is None or axis.dtype is not DType.INT32 or axis.data.size != 1:
            raise self.unsupported(
                path, row.name, f"its axis '{axis.name}' is no int32 constant of one value"
            )
        return int(axis.data.ravel()[0])

    def vector(self, name: str, values: NDArray[np.int32]) -> str:
        """A constant that the file does not have."""
        own = self.unique(name)
        values.flags.writeable = False
        self.tensors[own] = Tensor(own, values.shape, DType.INT32, None, values)
        return own

    def inputs(self, operator: Record, row: OpRow, path: str) -> list[Tensor]:
        numbers = self.indices(operator, "inputs")
        weighted = OP_RULES[row.op].weight_rank > 0
        no_bias = weighted and (len(numbers) == 2 or numbers[2:] == [-1])
        tensors = [self.tensor(number, f"{path} input") for number in numbers[: 2 if no_bias else None]]
        if no_bias:
            return [*tensors, self.zero_bias(tensors[0], tensors[1], row, path)]
        if weighted and len(tensors) == 3 and tensors[2].dtype is DType.INT32 and not tensors[2].quantization:
            parameters = self.bias_parameters(tensors[0], tensors[1], path)
            # Per tensor, TFLM reads the bias's scale: there it may not be absent.
            if parameters is not None and parameters.axis is not None:
                tensors[2] = dataclasses.replace(tensors[2], quantization=parameters)
                self.tensors[tensors[2].name] = tensors[2]
        return tensors

    def bias_parameters(self, x: Tensor, weights: Tensor, path: str) -> Quantization | None:
        """Input scale x weight scale, zero point 0; None where the layer is not quantized."""
        if x.quantization is None or weights.quantization is None:
            return None
        with np.errstate(over="ignore", under="ignore"):
            scale = x.quantization.scale[0] * weights.quantization.scale
        if not (np.isfinite(scale).all() and scale.all()):
            raise _fault(self.where, path, "input scale x weight scale is no float32")
        return Quantization(scale, np.zeros(scale.size, np.int64), None if scale.size == 1 else 0)

    def zero_bias(self, x: Tensor, weights: Tensor, row: OpRow, path: str) -> Tensor:
        """The bias that a weighted op without one amounts to: zeros, at input scale x weight scale."""
        if len(weights.shape) != OP_RULES[row.op].weight_rank:
            raise _fault(self.where, path, f"weights of shape {list(weights.shape)}")
        size = weights.shape[3 if row.op is DepthwiseConv2D else 0]
        name = self.unique(f"{weights.name}:bias")
        parameters = self.bias_parameters(x, weights, path)
        dtype = DType.FLOAT32 if parameters is None else DType.INT32
        self.tensors[name] = tensor = Tensor(name, (size,), dtype, parameters, np.zeros(size, dtype.numpy))
        return tensor

    def op(self, operator: Record, row: OpRow, path: str) -> Op:
        if row.options is None:
            return row.op()
        options = operator["options"]
        if options is None or operator["options_type"] != schema.OPTIONS[row.options]:
            raise _fault(self.where, path, f"{row.name} without its options")
        for field, only in row.expected.items():
            if options[field] != only:
                raise self.unsupported(path, row.name, f"option {field} is {options[field]}")
        return row.op(**self.attributes(options, row, path))

    def attributes(self, options: Mapping[str, Any], row: OpRow, path: str) -> dict[str, Any]:
        kinds = {field.name: str(field.type) for field in dataclasses.fields(row.op)}
        values: dict[str, Any] = {}
        for field, attribute in row.attributes:
            name, _, position = attribute.partition(".")
            if kinds[name] in _ENUMS:
                choices = _ENUMS[kinds[name]]
                if options[field] not in choices:
                    raise self.unsupported(path, row.name, f"{name} number {options[field]}")
                values[name] = choices[options[field]]
            elif position:
                # Pairs are listed in order, index 0 first.
                values[name] = (*values.get(name, ()), options[field])
            else:
                values[name] = options[field]
        return values

    def unsupported(self, path: str, name: str, reason: str) -> UnsupportedError:
        return UnsupportedError(
            node=path,
            op=name,
            reason=reason,
            remedy=f"the device graph has {', '.join(sorted(_NAMES))}",
        )


_NAMES = [*(row.name for row in OP_ROWS), *(row.name for row in DIVIDING_ROWS.values())]
_ENUMS: Mapping[str, Mapping[int, Padding | Activation]] = {
    "Padding": schema.PADDINGS,
    "Activation": schema.ACTIVATIONS,
}
