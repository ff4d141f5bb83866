"""Weights and biases of convolutions and dense layers as device constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer, Value
from sgsc_edge.numerics import round_half_even

# Float32 products of scales that were rounded in another order differ by a few units in the last place.
_SCALE_RTOL = 1e-6


def weights_of(emitter: Emitter, layer: Layer, name: str, axis: int) -> Value:
    """The weights of a layer: float32, or int8 or int4 with zero point 0, per tensor or along ``axis``."""
    value = emitter.constant_value(layer, name, "weights")
    quantization = value.quantization
    assert value.data is not None
    if quantization is None:
        return value
    if value.stored not in (ir.DType.INT8, ir.DType.INT4):
        raise layer.refusal(f"its weights are {value.stored}", "store weights as int8 or int4")
    if quantization.zero_point.any():
        raise layer.refusal("its weights have a zero point other than 0", "quantize weights symmetrically")
    if quantization.axis not in (None, axis):
        raise layer.refusal(
            f"its weights are quantized along axis {quantization.axis}",
            f"quantize them per tensor, or along their output axis {axis}",
        )
    limit = 127 if value.stored is ir.DType.INT8 else 7
    wide = value.data[np.abs(value.data.astype(np.int16)) > limit]
    if wide.size:
        raise layer.refusal(
            f"its weights hold {int(wide.flat[0])}; TFLite allows {-limit} to {limit}",
            "quantize weights to the narrow range",
        )
    return value


def place_weights(
    emitter: Emitter, layer: Layer, kind: type[ir.Op], weights: Value, data: NDArray[np.int8], axis: int
) -> tuple[str, Value]:
    """The constant for rearranged weights whose output channels now lie along ``axis``.

    Returns its tensor, and the weights with the quantization that the device stores: one scale is
    repeated per channel where the op (depthwise) or the target knows no other storage, and equal scales
    are stored once where the target has a storage for that.
    """
    quantization = weights.quantization
    if quantization is None:
        return emitter.constant(weights.name, data, ir.DType.FLOAT32), weights
    assert weights.stored is not None
    channels = data.shape[axis]
    if _one_scale(emitter, kind, weights):
        quantization = ir.Quantization(quantization.scale[:1], quantization.zero_point[:1])
    elif quantization.axis is None and _needs_channels(emitter, kind, weights.stored):
        quantization = ir.Quantization.per_channel(np.repeat(quantization.scale, channels), axis)
    elif quantization.axis is not None:
        quantization = ir.Quantization(quantization.scale, quantization.zero_point, axis)
    _check_target(emitter, layer, kind, weights.stored, quantization.axis)
    tensor = emitter.constant(weights.name, data, weights.stored, quantization)
    return tensor, replace(weights, quantization=quantization)


def is_stored(emitter: Emitter, kind: type[ir.Op], weights: Value) -> bool:
    """Whether the target stores such weights for an op of this kind, as they are or written otherwise."""
    if weights.quantization is None:
        return True
    assert weights.stored is not None
    storages = _storages(emitter, kind, weights.stored)
    if weights.quantization.axis is None or _one_scale(emitter, kind, weights):
        return bool(storages)
    return bool(storages - {None})


def _one_scale(emitter: Emitter, kind: type[ir.Op], weights: Value) -> bool:
    """Whether the channels' scales are equal, and the target has a storage for one."""
    assert weights.quantization is not None
    assert weights.stored is not None
    scale = weights.quantization.scale
    known = emitter.target is not None and None in _storages(emitter, kind, weights.stored)
    return known and weights.quantization.axis is not None and bool((scale == scale[0]).all())


def _storages(emitter: Emitter, kind: type[ir.Op], stored: ir.DType) -> set[int | None]:
    """Channel axes (None: per tensor) with which the target stores weights of this type."""
    if emitter.target is None:
        return {None, 3 if kind is ir.DepthwiseConv2D else 0}
    return {row.axis for row in emitter.target.weights if row.op == kind.__name__ and row.bits == stored.bits}


def _needs_channels(emitter: Emitter, kind: type[ir.Op], stored: ir.DType) -> bool:
    storages = _storages(emitter, kind, stored)
    return kind is ir.DepthwiseConv2D or (bool(storages) and None not in storages)


def _check_target(
    emitter: Emitter, layer: Layer, kind: type[ir.Op], stored: ir.DType, axis: int | None
) -> None:
    storages = _storages(emitter, kind, stored)
    if axis in storages:
        return
    how = "per tensor" if axis is None else f"per channel along axis {axis}"
    name = "" if emitter.target is None else f" '{emitter.target.name}'"
    raise layer.refusal(
        f"target{name} does not store {kind.__name__} weights as {stored} {how}",
        "choose another target, or quantize these weights as its file says",
    )


def place_bias(
    emitter: Emitter,
    layer: Layer,
    value: Value | None,
    x: ir.Quantization | None,
    weights: Value,
    channels: int,
) -> str:
    """The bias [channels]: float32, or int32 with scale = input scale x weight scale per channel.

    Zeros where there is none.

    Integers of the file stay as they are where their scale is that product. Other biases (float,
    or changed by a folded BatchNorm) are rounded to the nearest multiple: half an accumulator step.
    """
    name = f"{layer.outputs[0]}/bias" if value is None else value.name
    if x is None or weights.quantization is None:
        return emitter.constant(name, _float_bias(layer, value, channels), ir.DType.FLOAT32)
    product = x.scale[0] * weights.quantization.scale  # float32, as TFLite's kernels form it
    if not (np.isfinite(product).all() and (product > 0).all()):
        raise layer.refusal("input scale x weight scale is outside float32", "repair the scales")
    integers = np.zeros(channels, np.int64)
    if value is not None:
        _check_bias(layer, value, channels)
        assert value.data is not None
        if _has_scale(value, product):
            integers = np.broadcast_to(value.data.astype(np.int64).reshape(-1), (channels,))
        else:
            integers = _rounded(layer, value, product, channels)
    axis = None if weights.quantization.axis is None else 0
    quantization = ir.Quantization(product, np.zeros(product.size, np.int64), axis)
    return emitter.constant(name, integers.astype(np.int32), ir.DType.INT32, quantization)


def _float_bias(layer: Layer, value: Value | None, channels: int) -> NDArray[np.float32]:
    if value is None:
        return np.zeros(channels, np.float32)
    _check_bias(layer, value, channels)
    real = np.broadcast_to(value.real().reshape(-1), (channels,)).astype(np.float32)
    if not np.isfinite(real).all():
        raise layer.refusal("its bias is NaN or infinite", "repair the weights")
    return real


def _check_bias(layer: Layer, value: Value, channels: int) -> None:
    if value.data is None:
        raise layer.refusal("its bias is computed at run time", "use a constant bias")
    if value.data.size not in (1, channels):
        raise layer.refusal(
            f"its bias has {value.data.size} values for {channels} channels", "repair the bias"
        )


def _has_scale(value: Value, product: NDArray[np.float32]) -> bool:
    """Whether a bias is int32 with the required scale, to float32 rounding."""
    if (
        value.quantization is None
        or value.stored is not ir.DType.INT32
        or value.quantization.zero_point.any()
    ):
        return False
    scale = value.quantization.scale
    return scale.size in (1, product.size) and np.allclose(scale, product, rtol=_SCALE_RTOL, atol=0)


def _rounded(layer: Layer, value: Value, product: NDArray[np.float32], channels: int) -> NDArray[np.int64]:
    real = np.broadcast_to(value.real().reshape(-1), (channels,))
    steps = np.asarray(round_half_even(real / product.astype(np.float64)), np.float64)
    if not np.isfinite(steps).all() or np.abs(steps).max(initial=0) > 2**31 - 1:
        raise layer.refusal(
            "its bias is NaN or does not fit int32 at input scale x weight scale",
            "train with a larger weight or input scale; a dead channel may have a tiny one",
        )
    return steps.astype(np.int64)
