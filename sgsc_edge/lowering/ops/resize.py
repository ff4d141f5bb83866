"""Resize -> ResizeNearestNeighbor or ResizeBilinear where one of TFLite's ways of counting takes the same
values with the same weights; other nearest ones take positions axis by axis.

Sources: the ONNX Resize specification; TFLite's ``resize_nearest_neighbor.h`` and ``resize_bilinear.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph import ir
from sgsc_edge.graph.reference.resize import nearest_sources
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import image_shape
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.ops.select import taken
from sgsc_edge.lowering.registry import Row

_COUNTING = ((False, True), (False, False), (True, False))
"""(align_corners, half_pixel_centers) that TFLite knows."""

_EQUAL = 1e-5
"""Weights in float32 that differ by less are one."""

_ROUNDING: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = MappingProxyType(
    {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
)


def _resize(emitter: Emitter, layer: Layer) -> None:
    emitter.parameters(layer, layer.inputs[0])
    shape, out = _shapes(emitter, layer)
    mode = layer.attribute("mode", "nearest")
    if mode not in ("nearest", "linear") or layer.attribute("antialias", 0):
        raise layer.refusal(
            f"mode {mode}" + (" with antialias" if layer.attribute("antialias", 0) else ""),
            "resize by mode 'nearest' or 'bilinear', without antialias",
        )
    scales = _scales(emitter, layer, shape, out)
    positions = [
        _positions(layer, size, made, scale) for size, made, scale in zip(shape, out, scales, strict=True)
    ]
    if mode == "linear":
        _bilinear(emitter, layer, positions)
    else:
        _nearest(emitter, layer, positions)


def _shapes(emitter: Emitter, layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ONNX shapes of input and output."""
    return emitter.shape(layer, layer.inputs[0]), emitter.shape(layer, layer.outputs[0])


def _scales(emitter: Emitter, layer: Layer, shape: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    """How much larger each axis becomes: as the file says, else the ratio of the sizes."""
    axes = [axis % len(shape) for axis in layer.attribute("axes", range(len(shape)))]
    value = emitter.optional(layer, 2)
    found = [made / size for size, made in zip(shape, out, strict=True)]
    if value is not None and value.data is not None and value.data.size:
        for axis, scale in zip(axes, value.data.reshape(-1).tolist(), strict=True):
            found[axis] = float(scale)
    return found


def _positions(layer: Layer, size: int, made: int, scale: float) -> NDArray[np.float64]:
    """Where each output value lies among the input's, float64 [made]."""
    index, way = (
        np.arange(made, dtype=np.float64),
        layer.attribute("coordinate_transformation_mode", "half_pixel"),
    )
    if way == "asymmetric":
        return index / scale
    if way == "align_corners":
        return index * (size - 1) / (made - 1) if made > 1 else index
    if way == "pytorch_half_pixel" and made == 1:
        return index
    if way in ("half_pixel", "pytorch_half_pixel"):
        return (index + 0.5) / scale - 0.5
    raise layer.refusal(
        f"coordinate_transformation_mode {way}", "use half_pixel, align_corners or asymmetric"
    )


def _nearest(emitter: Emitter, layer: Layer, positions: list[NDArray[np.float64]]) -> None:
    shape, out = _shapes(emitter, layer)
    rounded = _ROUNDING[layer.attribute("nearest_mode", "round_prefer_floor")]
    sources = [
        np.clip(rounded(position), 0, size - 1).astype(np.int64)
        for position, size in zip(positions, shape, strict=True)
    ]
    changed = [
        axis for axis in range(len(shape)) if not np.array_equal(sources[axis], np.arange(shape[axis]))
    ]
    if len(shape) in (3, 4) and min(changed, default=2) > 1:
        for align_corners, half_pixel_centers in _COUNTING:
            op = ir.ResizeNearestNeighbor(align_corners, half_pixel_centers)
            if all(
                np.array_equal(nearest_sources(op, shape[axis], out[axis]), sources[axis]) for axis in changed
            ):
                _emit(emitter, layer, op)
                return
    x = emitter.read(layer, layer.inputs[0])
    for axis in changed:
        x, shape = taken(emitter, layer, x, shape, axis, sources[axis])
    emitter.place_output(layer, x.tensor, x.layout)


def _bilinear(emitter: Emitter, layer: Layer, positions: list[NDArray[np.float64]]) -> None:
    shape, out = _shapes(emitter, layer)
    if len(shape) not in (3, 4) or shape[:2] != out[:2]:
        raise layer.refusal(
            f"it resizes {list(shape)} to {list(out)}", "resize the positions of an image only"
        )
    for align_corners, half_pixel_centers in _COUNTING:
        op = ir.ResizeBilinear(align_corners, half_pixel_centers)
        if all(
            np.abs(
                _weights(positions[axis], shape[axis])
                - _weights(_own(op, shape[axis], out[axis]), shape[axis])
            ).max()
            < _EQUAL
            for axis in range(2, len(shape))
        ):
            _emit(emitter, layer, op)
            return
    raise layer.refusal(
        "TFLite has no way of counting that gives its weights",
        "resize to a size in place of by a factor, or by a factor that gives whole sizes",
    )


def _own(op: ir.ResizeBilinear, size: int, made: int) -> NDArray[np.float64]:
    """Where TFLite sees each output value among the input's."""
    index = np.arange(made, dtype=np.float64)
    if op.align_corners and made > 1:
        return index * (size - 1) / (made - 1)
    half = 0.5 if op.half_pixel_centers else 0.0
    return (index + half) * size / made - half


def _weights(positions: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """What each input value counts in each output value, float64 [made, size]."""
    inside = np.clip(positions, 0, size - 1)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(inside[:, np.newaxis] - np.arange(size)))
    return weights


def _emit(emitter: Emitter, layer: Layer, op: ir.Op) -> None:
    x, order = emitter.any_channels(layer, layer.inputs[0])
    shape = image_shape(emitter.shape(layer, layer.outputs[0]))
    out = emitter.activation(layer.outputs[0], shape, emitter.tensors[x].quantization)
    size = emitter.integers(f"{out}/size", shape[1:3])
    emitter.place_image(layer, emitter.node(op, (x, size), out), order)


ROWS = (
    Row(
        "Resize",
        ("ResizeNearestNeighbor", "ResizeBilinear", "Gather", "Quantize"),
        "the input's parameters; a Quantize follows where the quantizer behind it has others",
        "mode nearest, or linear over one or two spatial axes; known sizes",
        _resize,
    ),
)
