"""The device graph: what runs on the device, in TFLite's semantics.

Layout is NHWC; convolution weights are OHWI, depthwise weights 1HW(C·m), dense weights [out, in].
A node holds one op; its inputs follow TFLite's order and include constant tensors such as paddings,
axes and shapes. Integer tensors carry ``real = scale * (integer - zero_point)``.

Everything here is frozen; passes build new graphs. What each op may be given is in ``legality.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import InternalError


class DType(StrEnum):
    """Element types; ``INT4`` data is held unpacked as int8 and packed by the writer."""

    FLOAT32 = "float32"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT8 = "uint8"
    INT4 = "int4"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype that holds this type's data in memory."""
        return np.dtype("int8" if self is DType.INT4 else str(self))

    @property
    def bits(self) -> int:
        """Stored bits per element in a ``.tflite`` file."""
        return 4 if self is DType.INT4 else 8 * self.numpy.itemsize

    def nbytes(self, elements: int) -> int:
        """Stored bytes of ``elements`` values in a ``.tflite`` file (int4: two values a byte)."""
        return (elements * self.bits + 7) // 8


class Padding(StrEnum):
    """TFLite's paddings: SAME gives ceil(size / stride) outputs, VALID reads nothing outside the input."""

    SAME = "same"
    VALID = "valid"


class Activation(StrEnum):
    """Activations that TFLite fuses into another op."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    RELU_N1_TO_1 = "relu_n1_to_1"


@dataclass(frozen=True, eq=False)
class Quantization:
    """``real = scale * (integer - zero_point)``, per tensor (``axis`` None) or per channel.

    ``scale`` is float32 [n], ``zero_point`` int64 [n]; n is 1 per tensor, else the size of ``axis``.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int | None = None

    @staticmethod
    def per_tensor(scale: float, zero_point: int) -> Quantization:
        """One scale and zero point for the whole tensor."""
        return Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))

    @staticmethod
    def per_channel(scale: NDArray[np.float32], axis: int) -> Quantization:
        """Symmetric per-channel parameters (zero points are 0)."""
        return Quantization(scale.astype(np.float32), np.zeros(scale.size, np.int64), axis)

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.zero_point.shape:
            raise InternalError("scale and zero point must be vectors of one length")
        if self.axis is None and self.scale.size != 1:
            raise InternalError("per-tensor quantization has one scale")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise InternalError("scales must be finite and positive")

    def same_as(self, other: Quantization | None) -> bool:
        """Whether both hold the same parameters, bit for bit."""
        return (
            other is not None
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the graph; ``data`` is set for constants and has exactly ``shape`` and ``dtype``."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    quantization: Quantization | None = None
    data: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        if self.data is not None and (self.data.shape != self.shape or self.data.dtype != self.dtype.numpy):
            raise InternalError(
                f"tensor '{self.name}': data is {self.data.dtype}{list(self.data.shape)}, "
                f"declared {self.dtype}{list(self.shape)}"
            )

    @property
    def elements(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the values as stored in a ``.tflite`` file."""
        return self.dtype.nbytes(self.elements)

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its values."""
        return self.data is not None


# --- ops: one frozen dataclass each; attributes only, tensors are the node's inputs ---------------


@dataclass(frozen=True)
class Op:
    """Base of the device ops; a subclass holds the op's attributes."""


@dataclass(frozen=True)
class Conv2D(Op):
    """Inputs: x [1,H,W,C], weights [O,kh,kw,C/groups], bias [O]. Groups follow from the shapes."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = Padding.VALID
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class DepthwiseConv2D(Op):
    """Inputs: x [1,H,W,C], weights [1,kh,kw,C*m], bias [C*m]."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = Padding.VALID
    depth_multiplier: int = 1
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class FullyConnected(Op):
    """Inputs: x [..., I], weights [O, I], bias [O]."""

    activation: Activation = Activation.NONE
    keep_num_dims: bool = False


@dataclass(frozen=True)
class BatchMatMul(Op):
    """Inputs: a [..., M, K], b [..., K, N], both free; leading dimensions broadcast as NumPy does.

    ``adj_x`` takes a as [..., K, M], ``adj_y`` b as [..., N, K].
    """

    adj_x: bool = False
    adj_y: bool = False


@dataclass(frozen=True)
class Add(Op):
    """Inputs: a, b (broadcast as NumPy does)."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Sub(Op):
    """Inputs: a, b (broadcast as NumPy does); a - b."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Mul(Op):
    """Inputs: a, b (broadcast as NumPy does)."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class MaxPool2D(Op):
    """Input: x [1,H,W,C]. Same quantization in and out."""

    filter: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = Padding.VALID
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class AveragePool2D(Op):
    """Input: x [1,H,W,C]. Same quantization in and out; padding is not counted."""

    filter: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding = Padding.VALID
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class ResizeNearestNeighbor(Op):
    """Inputs: x [1,H,W,C], size (int32 constant [2]). Same quantization in and out.

    ``align_corners`` lays the first and last values of both on each other; ``half_pixel_centers`` counts
    from the middle of a value.
    """

    align_corners: bool = False
    half_pixel_centers: bool = False


@dataclass(frozen=True)
class ResizeBilinear(Op):
    """Inputs and attributes as for ResizeNearestNeighbor; not both attributes at once."""

    align_corners: bool = False
    half_pixel_centers: bool = False


@dataclass(frozen=True)
class Mean(Op):
    """Inputs: x, axes (int32 constant)."""

    keep_dims: bool = False


@dataclass(frozen=True)
class Concatenation(Op):
    """Inputs: two or more tensors. Same quantization in and out."""

    axis: int
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Gather(Op):
    """Inputs: x, indices (int32) along ``axis`` of x, whose dimensions take its place.

    Same quantization in and out. Indices lie inside the dimension.
    """

    axis: int = 0


@dataclass(frozen=True)
class Cast(Op):
    """Input: x (int8). The integers themselves in int32, without their grid."""


@dataclass(frozen=True)
class StridedSlice(Op):
    """Inputs: x, begin, end, strides (int32 constants [rank]). Same quantization in and out.

    Bit i of a mask is dimension i: its begin or end counts as the first or last; ``shrink_axis_mask`` takes
    the value at begin alone and drops the dimension.
    """

    begin_mask: int = 0
    end_mask: int = 0
    shrink_axis_mask: int = 0


@dataclass(frozen=True)
class Pack(Op):
    """Inputs: ``values_count`` tensors of one shape, joined along a new ``axis``.

    Same quantization in and out.
    """

    values_count: int
    axis: int = 0


@dataclass(frozen=True)
class Pad(Op):
    """Inputs: x, paddings (int32 constant [rank, 2]). Pads with the zero point."""


@dataclass(frozen=True)
class Reshape(Op):
    """Inputs: x, new shape (int32 constant)."""


@dataclass(frozen=True)
class Transpose(Op):
    """Inputs: x, permutation (int32 constant)."""


@dataclass(frozen=True)
class Softmax(Op):
    """Input: x; over the last axis. Output scale 1/256, zero point -128."""

    beta: float = 1.0


@dataclass(frozen=True)
class L2Normalization(Op):
    """Input: x; divided by its Euclidean length over the last axis. Output scale 1/128, zero point 0."""


@dataclass(frozen=True)
class Relu(Op):
    """Input: x. May requantize."""


@dataclass(frozen=True)
class Relu6(Op):
    """Input: x. Same quantization in and out: TFLM's kernel does not requantize."""


@dataclass(frozen=True)
class Logistic(Op):
    """Input: x; 1 / (1 + exp(-x)). Output scale 1/256, zero point -128."""


@dataclass(frozen=True)
class Tanh(Op):
    """Input: x. Output scale 1/128, zero point 0."""


@dataclass(frozen=True)
class HardSwish(Op):
    """Input: x; x * min(max(x + 3, 0), 6) / 6."""


@dataclass(frozen=True)
class LeakyRelu(Op):
    """Input: x; x, but alpha * x below 0."""

    alpha: float = 0.01


@dataclass(frozen=True)
class PRelu(Op):
    """Inputs: x, alpha (broadcast to x as NumPy does); x, but alpha * x below 0."""


@dataclass(frozen=True)
class Quantize(Op):
    """Input: x, float32 or integer; output integer (integer in: requantize)."""


@dataclass(frozen=True)
class Dequantize(Op):
    """Input: integer x; output float32."""


@dataclass(frozen=True)
class Node:
    """One op applied to named tensors; ``source`` is the ONNX node or layer it comes from."""

    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str = ""

    @property
    def kind(self) -> str:
        """The op's name, e.g. ``Conv2D``."""
        return type(self.op).__name__


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in execution order over named tensors.

    ``metadata`` is stored in the ``.tflite`` file under its names (UTF-8 JSON or raw bytes).
    """

    name: str
    tensors: Mapping[str, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def inputs_of(self, node: Node) -> list[Tensor]:
        """The tensors that a node reads, in order."""
        return [self.tensors[name] for name in node.inputs]

    def outputs_of(self, node: Node) -> list[Tensor]:
        """The tensors that a node writes, in order."""
        return [self.tensors[name] for name in node.outputs]

    def constants(self) -> Iterator[Tensor]:
        """The tensors whose values the file holds."""
        return (tensor for tensor in self.tensors.values() if tensor.is_constant)

    def with_nodes(self, nodes: tuple[Node, ...]) -> Graph:
        """The same graph with other nodes; tensors that nothing uses any more are dropped."""
        used = {*self.inputs, *self.outputs}
        for node in nodes:
            used.update(node.inputs, node.outputs)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        return replace(self, nodes=nodes, tensors=tensors)
