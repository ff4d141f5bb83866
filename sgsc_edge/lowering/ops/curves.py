"""Activations with a kernel of their own: Sigmoid, Tanh, HardSwish, LeakyRelu, PRelu.

Each value is computed by itself, in whatever layout it lies.
"""

from __future__ import annotations

from collections.abc import Callable

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.ops.elementwise import operands
from sgsc_edge.lowering.registry import Row

_FIXED = {
    "Sigmoid": ir.Quantization.per_tensor(1 / 256, -128),
    "Tanh": ir.Quantization.per_tensor(1 / 128, 0),
}


def _emit(emitter: Emitter, layer: Layer, op: ir.Op) -> None:
    emitter.parameters(layer, layer.inputs[0])
    x = emitter.read(layer, layer.inputs[0])
    fixed = _FIXED.get(layer.op)
    if fixed is None:
        quantization = emitter.parameters(layer, layer.outputs[0])
    else:
        quantization = emitter.prescribed(layer, fixed)
    out = emitter.activation(layer.outputs[0], emitter.tensors[x.tensor].shape, quantization)
    emitter.place_output(layer, emitter.node(op, (x.tensor,), out), x.layout)


def _by(op: ir.Op) -> Callable[[Emitter, Layer], None]:
    return lambda emitter, layer: _emit(emitter, layer, op)


def _leaky_relu(emitter: Emitter, layer: Layer) -> None:
    _emit(emitter, layer, ir.LeakyRelu(layer.attribute("alpha", 0.01)))


def _prelu(emitter: Emitter, layer: Layer) -> None:
    x = emitter.read(layer, layer.inputs[0])
    quantization = emitter.parameters(layer, layer.outputs[0])
    tensors, shape, layout = operands(emitter, layer, x.layout)
    out = emitter.activation(layer.outputs[0], shape, quantization)
    emitter.place_output(layer, emitter.node(ir.PRelu(), tensors, out), layout)


_OWN = "own output"

ROWS = (
    Row("Sigmoid", ("Logistic",), "output scale 1/256, zero point -128", "none", _by(ir.Logistic())),
    Row("Tanh", ("Tanh",), "output scale 1/128, zero point 0", "none", _by(ir.Tanh())),
    Row("HardSwish", ("HardSwish",), _OWN, "none", _by(ir.HardSwish())),
    Row("LeakyRelu", ("LeakyRelu",), _OWN, "alpha of at least 0", _leaky_relu),
    Row("PRelu", ("PRelu",), "own output; slopes int8 with one scale", "none", _prelu),
)
