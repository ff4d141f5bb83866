"""Export: the compressed model as QDQ ONNX, and as one more runtime.

torch.onnx.export writes the graph; the folded modules put their integers and scales into it as
QuantizeLinear and DequantizeLinear, unchanged. What the exporter adds for debugging (stack traces with
paths of the machine) is removed, so that equal models give equal bytes.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.errors import InternalError
from sgsc_edge.numerics import pack_int4
from sgsc_edge.size import NARROW_BITS

log = logging.getLogger("sgsc_edge")

OPSET = 21
"""First opset whose QuantizeLinear knows int4; the int4 targets use the same export."""

INPUT_NAME, OUTPUT_NAME = "input", "output"
_SCOPES = "pkg.torch.onnx.name_scopes"


def export_onnx(
    compressed: CompressedModel, sample: torch.Tensor, *, name: str, metadata: Mapping[str, Any]
) -> onnx.ModelProto:
    """Export a compressed model to ONNX with a symbolic batch.

    Parameters
    ----------
    sample: one input without its batch dimension, float32 or int64 tokens.
    name: the graph's name.
    metadata: stored as JSON under ``sgsc.<key>`` in the model's metadata_props.

    Raises
    ------
    InternalError: the exporter fails, or its model does not pass the checker.
    """
    batch = torch.stack([sample, sample])
    compressed.emit_onnx(True)
    try:
        with _quiet_exporter():
            program = _translated(compressed.module.eval(), batch)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InternalError(f"the model cannot be exported to ONNX: {error}") from error
    finally:
        compressed.emit_onnx(False)
    model = program.model_proto
    _strip(model, name)
    _narrow(model.graph, compressed)
    for key, value in sorted(metadata.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = f"sgsc.{key}", json.dumps(value, sort_keys=True)
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InternalError(f"the exported ONNX model is invalid: {error}") from error
    return model


def _translated(module: nn.Module, batch: torch.Tensor) -> torch.onnx.ONNXProgram:
    """The exporter's model of a module, with a symbolic batch.

    The exporter traces what it is given a second time, to decompose operators: half of its time, and seldom
    needed, for it knows nearly all that a compressed model holds. So it is given a traced graph that
    decomposes to itself, and the module only where that holds an operator that it does not know.
    """
    try:
        traced = torch.export.export(module, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        traced.run_decompositions = lambda *_, **__: traced
        return _exported(traced, batch)
    except Exception as error:  # of any kind: the exporter traces in more ways, and says why none will do
        log.debug("exported by way of the module: %s", error)
        return _exported(module, batch)


def _exported(model: nn.Module | torch.export.ExportedProgram, batch: torch.Tensor) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(
        model,
        (batch,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: "batch"},),
        custom_translation_table={
            torch.ops.aten.adaptive_avg_pool1d.default: _pool_to_one_cell,
            torch.ops.aten.adaptive_avg_pool2d.default: _mean_of_image,
        },
        optimize=True,
        verbose=False,
    )
    assert program is not None
    return program


def _pool_to_one_cell(x: Any, output_size: Any) -> Any:
    """AdaptiveAvgPool1d(1), the only size that tracing lets pass.

    The exporter's own form lies between Unsqueeze and Squeeze, which ONNX Runtime 1.31 fails to optimize
    ("output_dtype INT8 does not match y_zero_point type UINT8").
    """
    from onnxscript import opset21

    return opset21.GlobalAveragePool(x)


def _mean_of_image(x: Any, output_size: Any) -> Any:
    """AdaptiveAvgPool2d(1), the only size that tracing lets pass, as the exporter would decompose it."""
    from onnxscript import opset21

    axes: Any = opset21.Constant(value_ints=[-1, -2])
    return opset21.ReduceMean(x, axes, keepdims=1)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter and its optimizer log their own steps, which are no news to the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: onnx.ModelProto, name: str) -> None:
    """Remove what depends on the machine, keep what the model means."""
    model.graph.name = name
    model.producer_name, model.producer_version, model.doc_string = "sgsc-edge", "", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        value.doc_string = ""
    for node in model.graph.node:
        node.name = _module_of(node) or node.name
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    _name_nodes(model.graph)


def _module_of(node: onnx.NodeProto) -> str:
    """The path of the user's module that a node came from; empty for calls of functions."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:  # paths from the outermost module to the innermost, then the op
            scopes: list[str] = ast.literal_eval(entry.value)
            return scopes[-2] if len(scopes) > 1 else ""
    return ""


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, and name quantized forms after their values.

    ONNX Runtime refuses two nodes of one name, which a module that is called twice would make. A weight
    ``w`` is stored as ``w_quantized`` and dequantized to ``w``; an activation ``x`` is quantized to
    ``x_quantized`` and dequantized to ``x_dequantized``.
    """
    dequantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    stored = [tensor for tensor in graph.initializer if tensor.name in dequantized]
    renamed = {tensor.name: f"{tensor.name}_quantized" for tensor in stored}
    for tensor in stored:
        tensor.name = renamed[tensor.name]
    constants = {tensor.name for tensor in stored}
    taken: set[str] = set()
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear":
            name = f"{node.input[0]}_quantized"
            if name in constants:  # a whole table, read onto another grid than its rows'
                name = f"{node.input[0]}_requantized"
        elif node.op_type == "DequantizeLinear":
            base = node.input[0].removesuffix("_quantized")
            # Equal constants are stored once and may be read at two scales.
            name = _free(base if node.input[0] in constants else f"{base}_dequantized", taken)
        else:
            node.name = _free(node.name, taken)
            continue
        renamed[node.output[0]] = node.output[0] = node.name = name
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)
    last = next(node for node in graph.node if renamed.get(OUTPUT_NAME) in node.output)
    last.output[0] = OUTPUT_NAME


def _narrow(graph: onnx.GraphProto, compressed: CompressedModel) -> None:
    """Store 4-bit weights as INT4, two in a byte: the exporter knows no such tensor.

    Their zero point is left out (it is 0): the one they share with 8-bit weights has another type.
    """
    narrow = {
        f"{name}.weight_quantized"
        for name, layer in compressed.layers().items()
        if bool((layer.bits == NARROW_BITS).all())
    }
    if not narrow:
        return
    for tensor in graph.initializer:
        if tensor.name in narrow:
            values = onnx.numpy_helper.to_array(tensor)
            packed = pack_int4(values).tobytes()
            tensor.CopyFrom(
                onnx.helper.make_tensor(tensor.name, onnx.TensorProto.INT4, values.shape, packed, raw=True)
            )
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in narrow:
            del node.input[2:]
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.value_info if value.name in narrow or value.name not in read]:
        graph.value_info.remove(value)  # inference says what they are now


def _free(name: str, taken: set[str]) -> str:
    """``name``, or where it is taken another one like it; from then on taken."""
    while name in taken:
        name = f"{name}_again"
    taken.add(name)
    return name


def output_integers(
    compressed: CompressedModel, inputs: NDArray[np.float32] | NDArray[np.int64], batch: int = 256
) -> NDArray[np.int8]:
    """Run the compressed torch model.

    Parameters
    ----------
    inputs: float32 [n, ...] as the model takes them (NCHW), or int64 tokens [n, T].

    Returns
    -------
    int8 [n, K], of tokens [n, T, K]: the logits' integers on the output grid.
    """
    rows = []
    with torch.no_grad():
        for start in range(0, len(inputs), batch):
            logits = compressed.module(torch.from_numpy(inputs[start : start + batch]))
            rows.append(compressed.output.integers(logits).numpy())
    return np.concatenate(rows)
