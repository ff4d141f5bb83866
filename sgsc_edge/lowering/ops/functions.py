"""Functions of one value without an int8 kernel: a table of 256, looked up by CAST, ADD and GATHER.

CAST makes plain integers of int8, ADD makes them count from 0, GATHER takes their places of the table: the
ops that TFLM and LiteRT share for it. The C code has one kernel for the three.
"""

from __future__ import annotations

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.functions import TABLES, is_elementwise, table_of
from sgsc_edge.lowering.network import FUNCTION, Layer
from sgsc_edge.lowering.registry import Row

_OF_TWO = "one of its operands is a constant number"


def _emit(emitter: Emitter, layer: Layer) -> None:
    if not is_elementwise(emitter.network, layer) or len(emitter.network.activations(layer)) != 1:
        raise layer.refusal(
            "it computes with several values", "only a function of one value and constant numbers has a table"
        )
    (name,) = emitter.network.activations(layer)
    given, made = emitter.parameters(layer, name), emitter.parameters(layer, layer.outputs[0])
    if given is None or made is None:
        raise layer.refusal("it is not lowered in float32 yet", "choose a target with int8 activations")
    x = emitter.read(layer, name)
    shape, out = emitter.tensors[x.tensor].shape, layer.outputs[0]
    own = ir.Quantization.per_tensor(float(made.scale[0]), int(made.zero_point[0]))
    table = emitter.constant(
        f"{out}/table", table_of(emitter.network, layer, given, made), ir.DType.INT8, own
    )
    integers = emitter.node(ir.Cast(), (x.tensor,), emitter.counts(f"{out}/integers", shape))
    first = emitter.integers(f"{out}/first", np.array([128]))
    places = emitter.node(ir.Add(), (integers, first), emitter.counts(f"{out}/places", shape))
    tensor = emitter.node(ir.Gather(0), (table, places), emitter.activation(out, shape, own))
    emitter.place_output(layer, tensor, x.layout)


_DEVICE = ("Cast", "Add", "Gather")

ROWS = (
    Row(FUNCTION, _DEVICE, "own output", "none", _emit),
    *(
        Row(op, _DEVICE, "own output", _OF_TWO if op in ("Div", "Pow") else "none", _emit)
        for op in sorted(TABLES)
    ),
)
