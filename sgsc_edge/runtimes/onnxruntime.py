"""ONNX Runtime on the QDQ model: float in, float out, integers on both sides.

It is fed ``scale * (q - zero_point)`` for the device integers q, which its first QuantizeLinear turns
back into q (the quotient is within one float32 ulp of an integer). Its float outputs lie on the grid of
the last DequantizeLinear and are turned back exactly; a value off the grid is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_ONNX, RuntimeSpec

if TYPE_CHECKING:
    import onnx

_BATCH = 256
_LOG_ERRORS_ONLY = 3


class Grid(NamedTuple):
    """Per-tensor int8 quantization: ``real = scale * (integer - zero_point)``, scale in float32."""

    scale: np.float32
    zero_point: int

    def to_float(self, integers: NDArray[np.int8]) -> NDArray[np.float32]:
        """Float32 values of ``integers``."""
        return self.scale * (integers.astype(np.float32) - np.float32(self.zero_point))

    def to_integers(self, values: NDArray[np.float32]) -> NDArray[np.int8]:
        """The int8 integers of ``values``; ValueError when one is not on the grid."""
        integers = np.rint(values.astype(np.float64) / float(self.scale)) + self.zero_point
        if not (np.isfinite(integers).all() and (np.abs(integers + 0.5) <= 127.5).all()):
            raise ValueError("an output is NaN, infinite or beyond int8")
        result = integers.astype(np.int8)
        if not np.array_equal(self.to_float(result), values):
            raise ValueError("an output does not lie on the grid of the last DequantizeLinear")
        return result


def run(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] for ``inputs`` int8 [n, H, W, C] (fed as NCHW; as [n, C, W] where the model's
    input is a sequence) or [n, ...] of another rank (fed as they are).
    """
    import onnxruntime

    source, sink = read_grids(artifact)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    outputs = []
    for start in range(0, len(inputs), _BATCH):
        batch = np.asarray(inputs[start : start + _BATCH])
        if batch.ndim == 4:
            batch = batch.transpose(0, 3, 1, 2)
            batch = batch[:, :, 0] if len(entry.shape) == 3 else batch
        values = session.run(None, {entry.name: np.ascontiguousarray(source.to_float(batch))})[0]
        outputs.append(sink.to_integers(np.asarray(values, np.float32)).reshape(len(batch), -1))
    return np.concatenate(outputs)


def read_grids(artifact: bytes) -> tuple[Grid, Grid]:
    """Grids of a QDQ model's only input and only output; ValueError where it has none."""
    import onnx

    model = onnx.load_model_from_string(artifact)
    graph = model.graph
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise ValueError("weights lie in another file; the model must be self-contained")
    onnx.checker.check_model(model)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    sources = [value.name for value in graph.input if value.name not in constants]
    if len(sources) != 1 or len(graph.output) != 1:
        raise ValueError(
            f"the model has {len(sources)} inputs and {len(graph.output)} outputs, expected one of each"
        )
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    consumers = [node for node in graph.node if sources[0] in node.input]
    producers = [node for node in graph.node if graph.output[0].name in node.output]
    return _grid(consumers, "QuantizeLinear", constants), _grid(producers, "DequantizeLinear", constants)


def _grid(nodes: list[onnx.NodeProto], op: str, constants: dict[str, onnx.TensorProto]) -> Grid:
    from onnx import numpy_helper

    kinds = [node.op_type for node in nodes]
    if kinds != [op]:
        raise ValueError(f"the model's edge must be one {op}, found {kinds}")
    _, scale_name, zero_name = nodes[0].input
    scale = numpy_helper.to_array(constants[scale_name])
    zero_point = numpy_helper.to_array(constants[zero_name])
    if scale.size != 1 or scale.dtype != np.float32 or zero_point.dtype != np.int8:
        raise ValueError(f"{op} '{nodes[0].name}' must be int8, per tensor, with a float32 scale")
    return Grid(np.float32(scale.reshape(())), int(zero_point.reshape(())))


ROWS = (RuntimeSpec("onnxruntime", "ONNX Runtime on the QDQ model", MODEL_ONNX, ("onnxruntime",), run),)
