"""ONNX Runtime on the QDQ model: float in, float out, integers on both sides.

It is fed ``scale * (q - zero_point)`` for the device integers q, which its first QuantizeLinear turns
back into q (the quotient is within one float32 ulp of an integer). Tokens are fed as they are. Its float
outputs lie on the grid of the last DequantizeLinear and are turned back exactly; a value off the grid is an
error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import ModelError
from sgsc_edge.runtimes._spec import MODEL_ONNX, Inputs, RuntimeSpec

if TYPE_CHECKING:
    import onnx
    import onnxruntime

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


class Edges(NamedTuple):
    """A model's only input and only output.

    ``source`` is None where the input is tokens, int64. Shapes are those of one sample, as ONNX has them.
    ``ends_in_softmax``: whether the outputs are probabilities.
    """

    source: Grid | None
    sink: Grid
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    ends_in_softmax: bool


def run(artifact: bytes, inputs: Inputs) -> NDArray[np.int8]:
    """Outputs int8 [n, K] for ``inputs`` int8 [n, H, W, C] (fed as NCHW; as [n, C, W] where the model's
    input is a sequence) or [n, ...] of another rank (fed as they are); [n, T, K] for tokens int64 [n, T].
    """
    return _run(artifact, inputs, fused=True)


def run_as_written(artifact: bytes, inputs: Inputs) -> NDArray[np.int8]:
    """:func:`run` without ONNX Runtime's own integer kernels: each op in float between its quantizers."""
    return _run(artifact, inputs, fused=False)


def float_outputs(model: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs float32 [n, ...] of a model for inputs float32 [n, ...] in ONNX's layout, as it is written.

    One sample at a time, as devices run it: nothing can pass from one to another. Of one sample at least.
    """
    with engine_errors():
        session = _session(model, fused=False)
        (entry,) = session.get_inputs()
        return np.concatenate([session.run(None, {entry.name: sample[np.newaxis]})[0] for sample in inputs])


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """What ONNX Runtime raises in the block is a ModelError: the model is the user's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as engine

    kinds = tuple(
        kind for kind in vars(engine).values() if isinstance(kind, type) and issubclass(kind, Exception)
    )
    try:
        yield
    except kinds as error:
        raise ModelError(
            f"ONNX Runtime cannot run it: {' '.join(str(error).split())}",
            where="the model",
            remedy="look at the op that it names; the file may be of a newer opset than ONNX Runtime knows",
        ) from error


def _session(model: bytes, *, fused: bool) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _batches(entry: onnxruntime.NodeArg, inputs: NDArray[Any], *, fused: bool) -> Iterator[NDArray[Any]]:
    """As many samples at a time as the model takes; unfused one, as devices run it."""
    size = _BATCH if fused and not isinstance(entry.shape[0], int) else 1
    for start in range(0, len(inputs), size):
        yield np.asarray(inputs[start : start + size])


def _run(artifact: bytes, inputs: Inputs, *, fused: bool) -> NDArray[np.int8]:
    edges = model_edges(artifact)
    session = _session(artifact, fused=fused)
    (entry,) = session.get_inputs()
    outputs = []
    for batch in _batches(entry, inputs, fused=fused):
        if batch.ndim == 4:
            batch = batch.transpose(0, 3, 1, 2)
            batch = batch[:, :, 0] if len(edges.input_shape) == 2 else batch
        fed = batch if edges.source is None else edges.source.to_float(batch)
        values = session.run(None, {entry.name: np.ascontiguousarray(fed)})[0]
        integers = edges.sink.to_integers(np.asarray(values, np.float32))
        outputs.append(integers if edges.source is None else integers.reshape(len(batch), -1))
    return np.concatenate(outputs)


def model_edges(artifact: bytes) -> Edges:
    """The edges of a QDQ model; ValueError where it has none that samples can be fed to and read from."""
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
    (entry,) = (value for value in graph.input if value.name not in constants)
    tokens = entry.type.tensor_type.elem_type == onnx.TensorProto.INT64
    return Edges(
        None if tokens else _grid(consumers, "QuantizeLinear", constants),
        _grid(producers, "DequantizeLinear", constants),
        _sample_shape(entry),
        _sample_shape(graph.output[0]),
        _softmax_feeds(producers[0], graph),
    )


def _sample_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """A value's shape without its first dimension, the batch."""
    _, *rest = value.type.tensor_type.shape.dim or [None]
    return tuple(int(dim.dim_value) for dim in rest)


def _softmax_feeds(dequantize: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether the value behind the last QuantizeLinear and DequantizeLinear is a Softmax's."""
    made_by = {name: node for node in graph.node for name in node.output}
    quantize = made_by.get(dequantize.input[0])
    source = None if quantize is None else made_by.get(quantize.input[0])
    return source is not None and source.op_type == "Softmax"


def _grid(nodes: list[onnx.NodeProto], op: str, constants: dict[str, onnx.TensorProto]) -> Grid:
    from onnx import numpy_helper

    kinds = [node.op_type for node in nodes]
    if kinds != [op]:
        raise ValueError(f"the model's edge must be one {op}, found {kinds}")
    _, scale_name, zero_name = nodes[0].input
    if not {scale_name, zero_name} <= constants.keys():
        raise ValueError(f"{op} '{nodes[0].name}' must have a constant scale and zero point")
    scale = numpy_helper.to_array(constants[scale_name])
    zero_point = numpy_helper.to_array(constants[zero_name])
    if scale.size != 1 or scale.dtype != np.float32 or zero_point.dtype != np.int8:
        raise ValueError(f"{op} '{nodes[0].name}' must be int8, per tensor, with a float32 scale")
    return Grid(np.float32(scale.reshape(())), int(zero_point.reshape(())))


ROWS = (RuntimeSpec("onnxruntime", "ONNX Runtime on the QDQ model", MODEL_ONNX, ("onnxruntime",), run),)
