"""Runs nodes and whole graphs, in chunks of samples that keep memory bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from sgsc_edge.errors import DataError, InternalError, UnsupportedError
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Graph, Node, Op
from sgsc_edge.graph.reference import curves, elementwise, layout, matrix, reduction, resize
from sgsc_edge.graph.reference.common import Array, Kernel, Value
from sgsc_edge.numerics import PROFILES, Profile

KERNELS: Mapping[type[Op], Kernel] = MappingProxyType(
    {
        ir.Conv2D: matrix.conv_2d,
        ir.DepthwiseConv2D: matrix.depthwise_conv_2d,
        ir.FullyConnected: matrix.fully_connected,
        ir.BatchMatMul: matrix.batch_matmul,
        ir.Add: elementwise.add,
        ir.Sub: elementwise.sub,
        ir.Mul: elementwise.mul,
        ir.Logistic: curves.curve,
        ir.Tanh: curves.curve,
        ir.HardSwish: curves.curve,
        ir.LeakyRelu: curves.curve,
        ir.PRelu: elementwise.prelu,
        ir.Relu: elementwise.relu,
        ir.Relu6: elementwise.relu6,
        ir.Quantize: elementwise.quantize_op,
        ir.Dequantize: elementwise.dequantize_op,
        ir.MaxPool2D: reduction.max_pool_2d,
        ir.AveragePool2D: reduction.average_pool_2d,
        ir.ResizeNearestNeighbor: resize.nearest_neighbor,
        ir.ResizeBilinear: resize.bilinear,
        ir.Mean: reduction.mean,
        ir.Softmax: reduction.softmax,
        ir.L2Normalization: reduction.l2_normalization,
        ir.Concatenation: layout.concatenation,
        ir.Gather: layout.gather,
        ir.Cast: layout.cast,
        ir.StridedSlice: layout.strided_slice,
        ir.Pack: layout.pack,
        ir.Pad: layout.pad,
        ir.Reshape: layout.reshape,
        ir.Transpose: layout.transpose,
    }
)

# Scratch memory a chunk of samples may take in one node; larger chunks gain nothing.
_CHUNK_BYTES = 32 * 2**20
# Wide copies a kernel makes of its output or patches: float64 sums, int64 accumulators and products.
_SCRATCH_BYTES_PER_ELEMENT = 32


def run(graph: Graph, inputs: Array, profile: str = "tflm") -> Array:
    """Outputs of a one-input, one-output graph on n samples.

    Parameters
    ----------
    inputs: [n, *input shape without the batch of 1], of the input tensor's dtype.
    profile: a name in ``numerics.PROFILES``.

    Returns [n, *output shape without the batch of 1] of the output tensor's dtype.

    Raises DataError for a wrong shape or dtype, UnsupportedError where a kernel's 32-bit arithmetic would
    overflow (runtimes differ there), InternalError for a graph with several inputs or outputs.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InternalError(f"graph '{graph.name}' has not one input and one output; use run_tensors")
    (name,) = graph.outputs
    return run_tensors(graph, {graph.inputs[0]: inputs}, profile)[name]


def run_tensors(
    graph: Graph, feeds: Mapping[str, Array], profile: str = "tflm", wanted: Sequence[str] | None = None
) -> dict[str, Array]:
    """Values of the ``wanted`` tensors (default: the outputs), each [n, *shape without the batch of 1].

    ``feeds`` holds every graph input, [n, *shape without the batch of 1] with one n. Any tensor of the
    graph may be wanted, so intermediate values can be compared. Errors as for :func:`run`.
    """
    names = graph.outputs if wanted is None else tuple(wanted)
    chosen = _profile(profile)
    fed = {name: _checked(graph, name, feeds) for name in graph.inputs}
    samples = {len(data) for data in fed.values()}
    if len(samples) != 1:
        raise DataError(f"inputs have different numbers of samples: {sorted(samples)}")
    (count,) = samples
    step = _chunk(graph)
    # An empty batch runs once, so that results have their shapes and dtypes.
    chunks = [
        _run_chunk(graph, {name: data[start : start + step] for name, data in fed.items()}, chosen, names)
        for start in range(0, max(count, 1), step)
    ]
    return {name: _without_batch(np.concatenate([chunk[name] for chunk in chunks])) for name in names}


def run_node(graph: Graph, node: Node, values: Mapping[str, Array], profile: str = "tflm") -> Array:
    """Output of one node, [n, *output.shape]; ``values`` holds its inputs by name, [n, *shape].

    Constants of the graph need no value. Errors as for :func:`run`.
    """
    return run_node_under(graph, node, values, _profile(profile))


def _profile(name: str) -> Profile:
    if name not in PROFILES:
        raise InternalError(f"no rounding profile '{name}'; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def _checked(graph: Graph, name: str, feeds: Mapping[str, Array]) -> Array:
    """The fed samples as [n, *tensor.shape]."""
    tensor = graph[name]
    if name not in feeds:
        raise DataError(f"no values for input '{name}'")
    data = np.asarray(feeds[name])
    sample = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
    if data.dtype != tensor.dtype.numpy or data.ndim == 0 or data.shape[1:] != sample:
        raise DataError(
            f"input '{name}' is {data.dtype}{list(data.shape)}, the graph takes {tensor.dtype} [n, "
            f"{', '.join(map(str, sample))}]"
        )
    return data.reshape(len(data), *tensor.shape)


def _without_batch(data: Array) -> Array:
    """[n, 1, ...] as [n, ...]."""
    return data[:, 0] if data.ndim > 1 and data.shape[1] == 1 else data


def _chunk(graph: Graph) -> int:
    """Samples to run at once: as many as the node with the largest scratch allows."""
    largest = 1
    for node in graph.nodes:
        elements = sum(tensor.elements for tensor in graph.outputs_of(node))
        if isinstance(node.op, ir.Conv2D):
            rows, columns = graph[node.outputs[0]].shape[1:3]
            height, width = graph[node.inputs[1]].shape[1:3]
            # float64 patches, beside the accumulators
            elements += rows * columns * height * width * graph[node.inputs[0]].shape[3] // 4
        largest = max(largest, elements)
    return max(1, _CHUNK_BYTES // (largest * _SCRATCH_BYTES_PER_ELEMENT))


def _run_chunk(
    graph: Graph, fed: Mapping[str, Array], profile: Profile, names: Sequence[str]
) -> dict[str, Array]:
    values: dict[str, Array] = dict(fed)
    samples = len(next(iter(fed.values())))
    last_use = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    for index, node in enumerate(graph.nodes):
        values[node.outputs[0]] = run_node_under(graph, node, values, profile)
        for name in {*node.inputs, *node.outputs}:
            if last_use.get(name, -1) <= index and name not in names:
                values.pop(name, None)
    return {name: _repeated(_value(graph, name, values).data, samples) for name in names}


def _repeated(data: Array, samples: int) -> Array:
    """[samples, ...]; what no input reaches has one row and repeats."""
    return np.broadcast_to(data, (samples, *data.shape[1:]))


def run_node_under(graph: Graph, node: Node, values: Mapping[str, Array], profile: Profile) -> Array:
    """As :func:`run_node`, under a profile object (also one that no runtime has)."""
    kernel = KERNELS.get(type(node.op))
    if kernel is None or len(node.outputs) != 1:
        raise InternalError(f"the executor has no kernel for {node.kind} with {len(node.outputs)} outputs")
    inputs = [_value(graph, name, values) for name in node.inputs if name]
    output = graph[node.outputs[0]]
    try:
        result = kernel(node.op, inputs, output, profile)
    except OverflowError as error:
        raise UnsupportedError(
            node=node.source or output.name,
            op=node.kind,
            reason=str(error),
            remedy="bring the scales of this node's tensors nearer to each other",
        ) from error
    if result.shape[1:] != output.shape or result.dtype != output.dtype.numpy:
        raise InternalError(
            f"{node.kind} made {result.dtype}{list(result.shape[1:])}, "
            f"tensor '{output.name}' is {output.dtype}{list(output.shape)}"
        )
    return result


def _value(graph: Graph, name: str, values: Mapping[str, Array]) -> Value:
    tensor = graph[name]
    if tensor.data is not None:
        return Value(tensor, tensor.data[np.newaxis])
    if name not in values:
        raise InternalError(f"tensor '{name}' is read before it is written")
    return Value(tensor, values[name])
