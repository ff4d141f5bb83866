"""Where quantizers sit: one table for training and for lowering.

The kinds are ONNX operator names. A value gets a quantizer after the op that makes it, unless the
next op is fused into that one on the device (``Conv -> BatchNormalization -> Relu`` is quantized once,
after the Relu). Ops that TFLite runs with the same parameters in and out share one quantizer with
their inputs; ops whose output parameters TFLite fixes get those.

Sources: TFLite's quantization specification (restrictions on same input and output scales), and the
kernels' ``Prepare`` functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from sgsc_edge.errors import UnsupportedError


class Output(StrEnum):
    """Where the output's quantization parameters come from."""

    OWN = "own"  # learned or calibrated for this value
    SHARED = "shared"  # the inputs' parameters; the op computes new values, which are rounded again
    MOVED = "moved"  # the inputs' parameters; the op only moves or selects values: nothing to round
    FIXED = "fixed"  # prescribed by TFLite


@dataclass(frozen=True)
class Rule:
    """How one op kind is quantized.

    Parameters
    ----------
    output: where the output's parameters come from.
    fuses: kinds that the device computes inside this op when they are its only consumer.
    fixed: (scale, zero point) in int8 for ``Output.FIXED``.
    """

    output: Output
    fuses: frozenset[str] = frozenset()
    fixed: tuple[float, int] | None = None


_ACTIVATIONS = frozenset({"Relu", "Clip"})
_OWN = Rule(Output.OWN, _ACTIVATIONS)
_LAYER = Rule(Output.OWN, _ACTIVATIONS | {"BatchNormalization"})
_MOVED = Rule(Output.MOVED)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Input": Rule(Output.OWN),
        "Constant": Rule(Output.OWN),
        "Gather": Rule(Output.OWN),  # rows have scales of their own; they are read onto one grid
        "MatMul": Rule(Output.OWN),
        "LayerNormalization": Rule(Output.OWN),
        "Gelu": Rule(Output.OWN),
        "Conv": _LAYER,
        "Gemm": _LAYER,
        "BatchNormalization": _OWN,
        "Add": _OWN,
        "Sub": _OWN,
        "Mul": _OWN,
        "HardSwish": Rule(Output.OWN),
        "LeakyRelu": Rule(Output.OWN),
        "PRelu": Rule(Output.OWN),
        "GlobalAveragePool": Rule(Output.OWN),
        "ReduceMean": Rule(Output.OWN),
        "Relu": Rule(Output.OWN),
        "Clip": Rule(Output.OWN),
        "AveragePool": Rule(Output.SHARED),
        "Resize": Rule(Output.SHARED),
        "MaxPool": _MOVED,
        "Concat": _MOVED,
        "Pad": _MOVED,
        "Reshape": _MOVED,
        "Flatten": _MOVED,
        "Squeeze": _MOVED,
        "Unsqueeze": _MOVED,
        "Transpose": _MOVED,
        "Identity": _MOVED,
        "Dropout": _MOVED,
        "Slice": _MOVED,
        "Split": _MOVED,
        "Softmax": Rule(Output.FIXED, fixed=(1 / 256, -128)),
        "Sigmoid": Rule(Output.FIXED, fixed=(1 / 256, -128)),
        "Tanh": Rule(Output.FIXED, fixed=(1 / 128, 0)),
    }
)


@dataclass(frozen=True)
class Step:
    """One op of a network in execution order: its value's name, its kind, the values it reads."""

    name: str
    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Which quantizer each value has.

    Parameters
    ----------
    group: value name -> quantizer number; a value without an entry is fused into its consumer.
    fixed: quantizer number -> (scale, zero point) where TFLite prescribes them.
    rounds: values after which training rounds (the others already lie on their quantizer's grid).
    """

    group: Mapping[str, int]
    fixed: Mapping[int, tuple[float, int]]
    rounds: frozenset[str]


def place(steps: Sequence[Step], *, requantize_joins: bool = False) -> Placement:
    """Place quantizers in a network.

    With ``requantize_joins`` a Concat of values that cannot share parameters has its own, onto which each of
    them is requantized; training has no such Concat.

    Raises
    ------
    UnsupportedError: an op without a rule, or values that would have to share two prescribed
        parameters.
    """
    consumers: dict[str, list[Step]] = {step.name: [] for step in steps}
    for step in steps:
        for name in step.inputs:
            consumers[name].append(step)
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    rounds = set()
    prescribed: dict[str, tuple[float, int]] = {}
    calibrated: set[str] = set()
    fusible: dict[str, frozenset[str]] = {}
    for step in steps:
        rule = RULES.get(step.kind)
        if rule is None:
            raise UnsupportedError(
                node=step.name,
                op=step.kind,
                reason="there is no rule for its quantization",
                remedy=f"replace it by one of: {', '.join(sorted(RULES.keys() - {'Input', 'Constant'}))}",
            )
        fuses = fusible.get(step.inputs[0], rule.fuses) if step.inputs else rule.fuses
        following = consumers[step.name]
        if len(following) == 1 and following[0].kind in fuses and following[0].inputs[0] == step.name:
            # An activation ends the fused chain; a BatchNorm may still be followed by one.
            is_activation = following[0].kind in _ACTIVATIONS
            fusible[step.name] = frozenset() if is_activation else _ACTIVATIONS
            continue
        parent[step.name] = step.name
        if rule.output is not Output.MOVED:
            rounds.add(step.name)
        if rule.fixed is not None:
            prescribed[step.name] = rule.fixed
        elif rule.output is Output.OWN:
            calibrated.add(step.name)
        if rule.output in (Output.SHARED, Output.MOVED):
            roots = {root(name) for name in step.inputs}
            ranges = {prescribed[name] for name in roots if name in prescribed}
            joins = len(ranges) > 1 or (ranges and roots & calibrated)
            if joins and requantize_joins and step.kind == "Concat":
                rounds.add(step.name)
                calibrated.add(step.name)
                continue
            if joins:
                raise UnsupportedError(
                    node=step.name,
                    op=step.kind,
                    reason="it would join a value whose quantization TFLite prescribes with others",
                    remedy="move the Softmax behind it, or out of the model",
                )
            for name in roots:
                parent[name] = step.name
            if ranges:
                prescribed[step.name] = ranges.pop()
            if roots & calibrated:
                calibrated.add(step.name)
    numbers: dict[str, int] = {}
    group = {name: numbers.setdefault(root(name), len(numbers)) for name in parent}
    fixed = {numbers[root(name)]: parameters for name, parameters in prescribed.items()}
    return Placement(MappingProxyType(group), MappingProxyType(fixed), frozenset(rounds))
