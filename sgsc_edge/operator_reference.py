"""Every ONNX op that can be lowered, as Markdown: ``python -m sgsc_edge.operator_reference``.

The rows of ``lowering/ops`` are the one source for what becomes of an op, the rules of device ops for the
types they take, target files for widths and versions, and the C code's table for its kernels.
``docs/operators.md`` shows what they say (``make docs`` writes it).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from sgsc_edge.c_code.calls.dispatch import CALLS
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Op
from sgsc_edge.graph.op_rules import OP_RULES
from sgsc_edge.lowering import supported_ops
from sgsc_edge.lowering.registry import Row
from sgsc_edge.runtimes import MODEL_TFLITE, specs
from sgsc_edge.targets import Target, available_targets

_YES, _NO = "yes", "–"
_BY_NAME: dict[str, type[Op]] = {kind.__name__: kind for kind in OP_RULES}
_ONLY_INTEGERS = "Quantize"
_NO_CODE = frozenset({"Reshape", "Cast"})
"""No calls of the C code: nothing moves, and a table's three ops are one."""

_HEAD = """\
# Operators

Written by `make docs` from the tables that lowering, its checks and the C code use.

A network may be made of these ONNX ops, opset 13 or later; what is made of constants alone is computed
beforehand, and may be of others. Of float models `lower` takes `LayerNormalization`, `GroupNormalization`,
`InstanceNormalization` and `RMSNormalization` apart into these first. `sgsc-edge inspect MODEL.onnx --target
NAME` asks about a model of yours.

## ONNX ops

"Device ops" are what an op may become in a `.tflite`: `Reshape` and `Transpose` only where values have to
move, `Quantize` only where the file's quantizers ask for it. An activation or a BatchNorm behind a layer
becomes part of it (`fused`). The columns of types say whether the device ops take values of that type: int8
is what is certified; float32 can be lowered, and no target that ships asks for it yet; values in int16
(16x8) are refused. "4-bit weights": the targets on which they may have 4 bits. "C": whether generated C
code computes it.
"""

_DEVICE = """\
## Device ops

The newest version of each that a target's runtimes execute; an op without one is refused for it. What is
lowered satisfies the kernels of each of these runtimes: {runtimes}.
"""

_LIMITS = """\
## Quantizers and limits

How a QDQ model must quantize an op's values, which is how `lower` and `build` do it, and what an op is
limited to.
"""

_OPS_COLUMNS = ("ONNX op", "device ops", "float32", "int8", "int16", "4-bit weights", "C")


def reference() -> str:
    """The page."""
    targets = [target for target in available_targets() if target.is_lowered]
    runtimes = [f"`{name}`" for name, spec in sorted(specs().items()) if spec.artifact == MODEL_TFLITE]
    limits = ((f"`{row.op}`", row.quantization, row.limits) for row in supported_ops())
    blocks = [
        _HEAD,
        *_table(_OPS_COLUMNS, _ops(targets)),
        "",
        _DEVICE.format(runtimes=", ".join(runtimes)),
        *_table(("device op", *(f"`{target.name}`" for target in targets)), _device_ops(targets)),
        "",
        _LIMITS,
        *_table(("ONNX op", "quantizers", "limits"), limits),
        "",
    ]
    return "\n".join(blocks)


def _ops(targets: Sequence[Target]) -> Iterator[tuple[str, ...]]:
    for row in supported_ops():
        kinds = [_BY_NAME[name] for name in row.device if name in _BY_NAME]
        computed = [kind for kind in kinds if kind.__name__ != _ONLY_INTEGERS]
        in_integers = [kind for kind in kinds if kind is not ir.Cast]
        called = [kind for kind in kinds if kind.__name__ not in _NO_CODE]
        yield (
            f"`{row.op}`",
            ", ".join(f"`{name}`" for name in row.device) or "none",
            _all(computed, lambda kind: _takes(kind, DType.FLOAT32)),
            _all(in_integers, lambda kind: _takes(kind, DType.INT8)),
            _NO,
            _narrow(row, targets),
            _all(called, lambda kind: kind in CALLS),
        )


def _device_ops(targets: Sequence[Target]) -> Iterator[tuple[str, ...]]:
    for name in sorted(_BY_NAME):
        versions = [target.versions.get(name) for target in targets]
        if any(versions):
            yield (f"`{name}`", *(_NO if version is None else str(version) for version in versions))


def _all(kinds: Sequence[type[Op]], takes: Callable[[type[Op]], bool]) -> str:
    return _YES if all(map(takes, kinds)) else _NO


def _takes(kind: type[Op], dtype: DType) -> bool:
    """Whether an op takes values of a type and makes values of it."""
    return any(made is dtype and dtype in given for given, made in OP_RULES[kind].dtypes)


def _narrow(row: Row, targets: Sequence[Target]) -> str:
    names = [
        f"`{target.name}`"
        for target in targets
        if any(weights.op in row.device and weights.bits < 8 for weights in target.weights)
    ]
    return ", ".join(names) or _NO


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
