"""NCHW -> NHWC, chosen once: how the elements of a value lie in its device tensor.

Every rank-4 activation is NHWC on the device. A value of another rank lies in ONNX's order, unless it
was reshaped from a rank-4 one: then its elements stay where they are and ``order`` says which ONNX
element each of them is. A dense layer takes that order into its weights' columns; a reader that cannot
asks for the plain order and gets a Transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)
_AXES = {0: 0, 1: 3, 2: 1, 3: 2}  # ONNX axis -> device axis of a rank-4 value

Order = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Placed:
    """Where a value lives on the device.

    Parameters
    ----------
    tensor: the device tensor.
    shape: its device shape (NHWC for rank 4).
    order: int64 [elements], device element i is ONNX element ``order[i]``; None: ONNX's order.
    image: a tensor of these elements in this order, and the NHWC shape of the image whose NCHW order is
        ONNX's, where there is one: what a Transpose starts from.
    """

    tensor: str
    shape: tuple[int, ...]
    order: Order | None = None
    image: tuple[str, tuple[int, ...]] | None = None

    def moved_to(self, tensor: str) -> Placed:
        """The same layout in another tensor of the same device shape."""
        return replace(self, tensor=tensor, image=None if self.image is None else (tensor, self.image[1]))


def device_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The device shape of an ONNX shape.

    >>> device_shape((1, 3, 8, 9)), device_shape((1, 10))
    ((1, 8, 9, 3), (1, 10))
    """
    return tuple(shape[axis] for axis in TO_NHWC) if len(shape) == 4 else tuple(shape)


def to_device(array: NDArray[Any], rank: int) -> NDArray[Any]:
    """Samples [n, ...] in torch's layout as a device input of ``rank`` axes takes them.

    Images are NHWC; sequences [n, C, L] that the device knows as images are [n, 1, L, C].

    >>> [to_device(np.zeros((5, 2, *rest)), 4).shape for rest in ((8, 9), (9,))]
    [(5, 8, 9, 2), (5, 1, 9, 2)]
    >>> to_device(np.zeros((5, 2, 9)), 3).shape
    (5, 2, 9)
    """
    if rank != 4:
        return array
    images = array[:, :, np.newaxis] if array.ndim == 3 else array
    return np.ascontiguousarray(images.transpose(TO_NHWC))


def device_axis(axis: int, rank: int) -> int:
    """The device axis of an ONNX axis (negative ones count from the end).

    >>> [device_axis(axis, 4) for axis in (0, 1, 2, -1)], device_axis(-1, 2)
    ([0, 3, 1, 2], 1)
    """
    axis = axis % rank
    return _AXES[axis] if rank == 4 else axis


def device_order(shape: Sequence[int]) -> Order | None:
    """Which ONNX element each NHWC element is; None where the two orders are one.

    >>> device_order((1, 2, 1, 2)).tolist(), device_order((1, 5, 1, 1)), device_order((1, 5))
    ([0, 2, 1, 3], None, None)
    """
    if len(shape) != 4:
        return None
    _, channels, height, width = shape
    if channels == 1 or height * width == 1:
        return None
    return np.arange(np.prod(shape, dtype=np.int64)).reshape(shape).transpose(TO_NHWC).reshape(-1)


def same_order(a: Order | None, b: Order | None) -> bool:
    """Whether two orders are one; None is ONNX's order."""
    if a is None or b is None:
        return a is None and b is None
    return np.array_equal(a, b)


def transposed_order(order: Order | None, shape: Sequence[int], permutation: Sequence[int]) -> Order | None:
    """The order of the same device elements, seen as ONNX's ``Transpose(x, permutation)``.

    >>> transposed_order(np.array([0, 2, 1, 3]), (1, 2, 2), (0, 2, 1)) is None
    True
    """
    count = int(np.prod(shape, dtype=np.int64))
    moved = np.arange(count).reshape(shape).transpose(permutation).reshape(-1)
    position = np.empty(count, np.int64)
    position[moved] = np.arange(count)
    result = position if order is None else position[order]
    return None if np.array_equal(result, np.arange(count)) else result


def device_permutation(permutation: Sequence[int]) -> tuple[int, ...]:
    """The NHWC permutation of an ONNX permutation of four axes.

    >>> device_permutation((0, 1, 3, 2))
    (0, 2, 1, 3)
    """
    return tuple(_AXES[permutation[axis]] for axis in TO_NHWC)
