"""A device graph beside ONNX Runtime, node by node: no error of one node is amplified by the next."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from sgsc_edge.graph import ir
from sgsc_edge.graph.reference.executor import run_node
from sgsc_edge.lowering.layout import to_device

MOVING = ("Reshape", "Pad", "Transpose")
"""Kinds of nodes that lowering may insert: no tensor of the ONNX model is what they make."""


def largest_differences(model: onnx.ModelProto, graph: ir.Graph, integers: np.ndarray) -> dict[str, int]:
    """For each node of ``graph``, the largest difference of its integers from those of ``model``.

    Each node is fed with what ONNX Runtime computed, and compared with what that computes next. ``integers``:
    input of the graph in torch's layout, int8 [n, C, ...].
    """
    teacher = _quantized_tensors(model, integers)
    values = {graph.inputs[0]: _on_device(to_device(integers, len(graph["input"].shape)), graph["input"])}
    found = {}
    for node in graph.nodes:
        (name,) = node.outputs
        value = run_node(graph, node, values, "tflm")
        values[name] = value
        known = teacher.get("output" if name in graph.outputs else name)
        if known is not None and known.size == value.size:
            # [n, L, C] and [n, C, L] may have the same shape: the layout is the one that fits better.
            layouts = [known, to_device(known, 4)] if known.ndim > 2 else [known]
            choices = [_on_device(layout, graph[name]) for layout in layouts]
            differences = [int(np.abs(value.astype(int) - choice).max()) for choice in choices]
            best = int(np.argmin(differences))
            found[name], values[name] = differences[best], choices[best]
    return found


def _on_device(data: np.ndarray, tensor: ir.Tensor) -> np.ndarray:
    return data.reshape(len(data), *tensor.shape)


def _quantized_tensors(model: onnx.ModelProto, integers: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime quantizes, by the name of what was quantized; "output" is the last of them."""
    first, *later = (node for node in model.graph.node if node.op_type == "QuantizeLinear")
    wanted = [node.output[0] for node in later]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for name in wanted:
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    parameters = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    scale, zero_point = (parameters[name] for name in first.input[1:])
    inputs = (integers.astype(np.float32) - np.float32(zero_point)) * scale
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options)
    ran = [session.run(wanted, {first.input[0]: sample[np.newaxis]}) for sample in inputs]
    columns = (np.concatenate(column) for column in zip(*ran, strict=True))
    found = {node.input[0]: column for node, column in zip(later, columns, strict=True)}
    return found | {"output": found[later[-1].input[0]]}
