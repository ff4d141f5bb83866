"""ONNX model -> :class:`Network`: batch fixed to 1, shapes inferred, shape arithmetic folded.

One walk over the nodes: each node is either folded (all inputs constant, or a Shape of a known shape),
dropped (Identity, Dropout), or kept with the shapes that ONNX's own inference gives. The cost is linear
in the nodes. QuantizeLinear and DequantizeLinear are still nodes afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, checker, helper, numpy_helper, shape_inference

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.lowering.network import Layer, Network, Value
from sgsc_edge.lowering.read_onnx import opset_of

MAX_ELEMENTS = 1 << 28  # of one tensor, and of all that is computed of constants
_MAX_GROWN = 1 << 20  # elements of a folded constant that is larger than those it is made of
_METADATA_PREFIX = "sgsc."
_PASSED_ON = frozenset({"Identity", "Dropout"})
_LIKE_ITS_INPUT = frozenset({"GroupNormalization", "RMSNormalization"})
"""Ops whose output has their input's shape, which ONNX's inference does not say."""
_STANDARD = frozenset({"", "ai.onnx"})

_INFERENCE_ERRORS = (
    shape_inference.InferenceError,
    checker.ValidationError,
    onnx.defs.SchemaError,
    RuntimeError,
    ValueError,
)

# Deterministic ops without subgraphs that exporters use to compute shapes, masks and reordered constants.
_FOLDABLE = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "Cos", "Div", "Equal", "Exp"}
    | {"Expand", "Flatten", "Floor", "Gather", "Gemm", "Greater", "GreaterOrEqual", "IsNaN", "Less"}
    | {"LessOrEqual", "Log"}
    | {"MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax"}
    | {"ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Sign", "Sin", "Size"}
    | {"Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"}
)  # fmt: skip

_Array = NDArray[Any]


def _gather(node: Layer, data: _Array, index: _Array) -> _Array:
    return np.take(data, index, axis=node.attribute("axis", 0))


def _squeeze(node: Layer, data: _Array, axes: _Array | None = None) -> _Array:
    return data.squeeze(None if axes is None else tuple(int(axis) for axis in axes))


def _reshape(node: Layer, data: _Array, shape: _Array) -> _Array:
    if node.attribute("allowzero", 0) == 0:
        shape = np.array([data.shape[i] if size == 0 else size for i, size in enumerate(shape)], np.int64)
    return data.reshape(tuple(shape))


_NEVER_GROW = frozenset({"Concat", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

# The everyday cases, without loading onnx's reference evaluator.
_FAST: Mapping[str, Callable[..., _Array]] = {
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.attribute("axis", 0)),
    "Gather": _gather,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": lambda node, data, axes: np.expand_dims(data, tuple(int(axis) for axis in axes)),
    "Transpose": lambda node, data: data.transpose(node.attribute("perm", None)),
}


@dataclass
class _Walk:
    """What is known so far while the nodes are walked."""

    model: onnx.ModelProto
    types: dict[str, TypeProto] = field(default_factory=dict)
    constants: dict[str, _Array] = field(default_factory=dict)
    small: dict[str, TensorProto] = field(default_factory=dict)  # sizes and scales, for shape inference
    alias: dict[str, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    folded: int = 0  # elements of all that was computed of constants

    def add_constant(self, name: str, array: _Array) -> None:
        self.constants[name] = array
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.types[name] = helper.make_tensor_type_proto(kind, array.shape)
        if array.size <= 64 and array.dtype in (np.int64, np.float32):
            self.small[name] = numpy_helper.from_array(array)


def import_model(model: onnx.ModelProto, name: str | None = None) -> Network:
    """The network of a checked ONNX model.

    Raises
    ------
    UnsupportedError: several inputs or outputs, a batch other than 1, dynamic axes other than batch.
    FileFormatError: tensors whose data or shapes contradict each other.
    """
    graph = model.graph
    walk = _Walk(model)
    for tensor in graph.initializer:
        walk.add_constant(tensor.name, _array(tensor))
    inputs = [value for value in graph.input if value.name not in walk.constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UnsupportedError(
            node=graph.name or "graph",
            op="graph",
            reason=f"it has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is supported",
            remedy="export the part of the model from one input tensor to one output tensor",
        )
    walk.types[inputs[0].name] = _input_type(inputs[0])
    for index, node in enumerate(graph.node):
        _walk_node(walk, node, f"{node.op_type}_{index}")
    output = walk.alias.get(graph.output[0].name, graph.output[0].name)
    return Network(
        name=name or graph.name or "model",
        layers=tuple(walk.layers),
        values=_values(walk),
        input=inputs[0].name,
        output=output,
        metadata={
            entry.key: entry.value.encode()
            for entry in model.metadata_props
            if entry.key.startswith(_METADATA_PREFIX)
        },
        opset=opset_of(model),
    )


def _input_type(value: onnx.ValueInfoProto) -> TypeProto:
    """The input's type with batch 1."""
    kind = value.type.tensor_type
    dims = [int(dim.dim_value) if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    where = {"node": value.name, "op": "input"}
    if not value.type.HasField("tensor_type") or kind.elem_type != TensorProto.FLOAT:
        raise UnsupportedError(
            **where,
            reason="it is not a float32 tensor",
            remedy="start the network with a float32 input followed by QuantizeLinear",
        )
    if not dims or any(size is None or size < 1 for size in dims[1:]):
        shown = [dim.dim_param or str(dim.dim_value) for dim in kind.shape.dim]
        raise UnsupportedError(
            **where,
            reason=f"dynamic axes other than batch: shape [{', '.join(shown)}]",
            remedy="export with fixed sizes: only the first axis, the batch, may be symbolic",
        )
    if dims[0] not in (None, 1):
        raise UnsupportedError(
            **where,
            reason=f"the batch is fixed to {dims[0]}; a device runs one sample at a time",
            remedy="export with a symbolic batch axis, or with batch 1",
        )
    return helper.make_tensor_type_proto(TensorProto.FLOAT, [1, *dims[1:]])


def _walk_node(walk: _Walk, node: onnx.NodeProto, default_name: str) -> None:
    inputs = tuple(walk.alias.get(name, name) for name in node.input)
    domain = "" if node.domain in _STANDARD else f"{node.domain}."
    layer = Layer(
        name=node.name or default_name,
        op=domain + node.op_type,
        inputs=inputs,
        outputs=tuple(node.output),
        attributes={
            attribute.name: _attribute(attribute, node.name or default_name) for attribute in node.attribute
        },
    )
    if _is_passed_on(layer, walk):
        walk.alias[node.output[0]] = inputs[0]
        return
    resolved = onnx.NodeProto()
    resolved.CopyFrom(node)
    resolved.input[:] = inputs
    folded = _fold(walk, layer, resolved)
    if folded is not None:
        walk.folded += folded.size
        if walk.folded > MAX_ELEMENTS:
            raise FileFormatError(
                f"what is computed of constants up to here has more than {MAX_ELEMENTS} elements",
                where=f"node '{layer.name}' ({layer.op})",
                remedy="export the model to ONNX again, with constant folding",
            )
        walk.add_constant(node.output[0], folded)
        return
    walk.layers.append(layer)
    if domain or not all(name == "" or name in walk.types for name in inputs):
        return
    walk.types.update(_infer(walk, layer, resolved))


def _is_passed_on(layer: Layer, walk: _Walk) -> bool:
    """Whether the node returns its input: Identity, or Dropout as it runs after training."""
    if layer.op not in _PASSED_ON:
        return False
    training = layer.input(2)
    return training is None or (training in walk.constants and not walk.constants[training].any())


def _infer(walk: _Walk, layer: Layer, node: onnx.NodeProto) -> dict[str, TypeProto]:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset_of(walk.model), "")
        found = shape_inference.infer_node_outputs(
            schema,
            node,
            {name: walk.types[name] for name in node.input if name},
            {name: walk.small[name] for name in node.input if name in walk.small},
            opset_imports=list(walk.model.opset_import),
            ir_version=walk.model.ir_version,
        )
    except _INFERENCE_ERRORS as error:
        raise FileFormatError(
            f"its shapes or types contradict each other: {str(error).strip().splitlines()[-1]}",
            where=f"node '{layer.name}' ({layer.op})",
            remedy="export the model to ONNX again",
        ) from error
    if layer.op in _LIKE_ITS_INPUT and _shape(found.get(layer.outputs[0])) is None:
        found = {layer.outputs[0]: walk.types[layer.inputs[0]]}
    for kind in found.values():
        shape = _shape(kind)
        if shape is not None and np.prod([float(size) for size in shape]) > MAX_ELEMENTS:
            raise FileFormatError(
                f"a tensor of shape {list(shape)}; at most {MAX_ELEMENTS} elements are supported",
                where=f"node '{layer.name}' ({layer.op})",
                remedy="this is no network for a device; use a smaller input",
            )
    return found


def _fold(walk: _Walk, layer: Layer, node: onnx.NodeProto) -> _Array | None:
    """The value of a node that can be computed now; None for the others."""
    if layer.op == "Constant":
        return _constant(layer)
    if layer.op == "Shape":
        shape = _shape(walk.types.get(layer.inputs[0]))
        if shape is None:
            return None
        return np.array(shape[layer.attribute("start", 0) : layer.attribute("end", None)], np.int64)
    known = [walk.constants.get(name) for name in layer.inputs if name]
    if layer.op not in _FOLDABLE or len(layer.outputs) != 1 or any(array is None for array in known):
        return None
    arrays = [array for array in known if array is not None]
    fast = _FAST.get(layer.op)
    if layer.op not in _NEVER_GROW:
        _check_growth(walk, layer, node, max((array.size for array in arrays), default=1))
    try:
        if fast is not None and "" not in layer.inputs:
            return np.asarray(fast(layer, *arrays))
        return _evaluate(walk, layer, node)
    except (ValueError, IndexError, TypeError, ArithmeticError, RuntimeError, KeyError) as error:
        raise FileFormatError(
            f"its constant inputs do not fit: {error}",
            where=f"node '{layer.name}' ({layer.op})",
            remedy="export the model to ONNX again",
        ) from error


def _check_growth(walk: _Walk, layer: Layer, node: onnx.NodeProto, largest: int) -> None:
    """Refuse a result far larger than its operands: small ones can broadcast to anything."""
    shape = _shape(_infer(walk, layer, node).get(layer.outputs[0]))
    if shape is None or np.prod([float(size) for size in shape]) > max(_MAX_GROWN, largest):
        raise FileFormatError(
            "its constant inputs do not fit: the result is too large, or its size is unknown",
            where=f"node '{layer.name}' ({layer.op})",
            remedy="export the model to ONNX again",
        )


def _evaluate(walk: _Walk, layer: Layer, node: onnx.NodeProto) -> _Array:
    """Evaluate one node with onnx's reference evaluator; its output is known to be small."""
    from onnx.reference import ReferenceEvaluator

    opsets = [entry for entry in walk.model.opset_import if entry.domain in _STANDARD]
    names = [name for name in dict.fromkeys(layer.inputs) if name]
    graph = helper.make_graph(
        [node],
        "fold",
        [helper.make_value_info(name, walk.types[name]) for name in names],
        [helper.make_empty_tensor_value_info(layer.outputs[0])],
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=walk.model.ir_version)
    results: Any = ReferenceEvaluator(model).run(None, {name: walk.constants[name] for name in names})
    return np.asarray(results[0])


def _constant(layer: Layer) -> _Array:
    for key in ("value_int", "value_ints"):
        if key in layer.attributes:
            return np.array(layer.attributes[key], np.int64)
    for key in ("value_float", "value_floats"):
        if key in layer.attributes:
            return np.array(layer.attributes[key], np.float32)
    if isinstance(layer.attributes.get("value"), np.ndarray):
        return np.asarray(layer.attributes["value"])
    raise layer.refusal("it holds a sparse tensor or strings", "store the constant as a dense tensor")


def _attribute(attribute: onnx.AttributeProto, node: str) -> Any:
    """An attribute as a Python value; tensors as arrays, strings as str, lists as tuples."""
    value = helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _array(value, where=f"node '{node}'")
    if attribute.type == onnx.AttributeProto.STRING:
        return value.decode(errors="replace")
    return tuple(value) if isinstance(value, list) else value


def _array(tensor: TensorProto, where: str | None = None) -> _Array:
    try:
        if np.prod([float(size) for size in tensor.dims]) > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS} elements")
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise FileFormatError(
            f"tensor '{tensor.name}' is malformed: {error}",
            where=where or "initializer",
            remedy="export the model to ONNX again",
        ) from error


def _shape(kind: TypeProto | None) -> tuple[int, ...] | None:
    """The shape of a tensor type; None where a size is unknown."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)


def _values(walk: _Walk) -> dict[str, Value]:
    values = {name: Value(name, array.shape, data=array) for name, array in walk.constants.items()}
    names = [name for layer in walk.layers for name in (*layer.outputs, *layer.inputs)]
    for name in (*walk.types, *names):
        if name and name not in values:
            values[name] = Value(name, _shape(walk.types.get(name)))
    return values
