"""What a target refuses of a device graph and its file: op versions, RAM, flash.

Versions are part of lowering. RAM and flash are for the caller to check where the graph is the one that
ships: a network that is still to be compressed may become small enough.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from sgsc_edge.errors import ConfigError, UnsupportedError
from sgsc_edge.graph.ir import Graph
from sgsc_edge.graph.memory import needs
from sgsc_edge.graph.tflite_ops import ROW_OF_OP

if TYPE_CHECKING:
    from sgsc_edge.targets import Target

_REPLACE = "replace the op, or choose a target that executes it"
_NO_GROUPS = "use groups = 1, or as many groups as channels"
_WIDE = "leave the target's 4-bit rows for this op out, or choose a target that executes 4-bit weights"

# Why an op has this version, and how to do without.
_REASONS = MappingProxyType(
    {
        ("Conv2D", 5): ("a layer with int4 weights", _WIDE),
        ("Conv2D", 6): ("a convolution in groups", _NO_GROUPS),
        ("Conv2D", 7): ("a convolution in groups with int4 weights", _NO_GROUPS),
        ("DepthwiseConv2D", 6): ("a layer with int4 weights", _WIDE),
        ("FullyConnected", 5): ("an output with its input's axes", "flatten in front of the dense layer"),
        ("FullyConnected", 9): ("a layer with int4 weights", _WIDE),
        ("Mul", 3): (
            "a product of input scales of at least the output's scale",
            "train again, so that the output's range covers that of the product",
        ),
        ("Transpose", 4): ("a transpose of five axes", "transpose at most four axes"),
    }
)


def version_refusals(graph: Graph, target: Target) -> list[UnsupportedError]:
    """Every node whose op the target does not execute, or not in the version that the node needs."""
    refused = []
    for node in graph.nodes:
        needed = ROW_OF_OP[type(node.op)].version(node.op, graph.inputs_of(node), graph.outputs_of(node)[0])
        had = target.versions.get(node.kind, 0)
        if needed <= had:
            continue
        reason, remedy = f"target '{target.name}' does not execute it", _REPLACE
        if had:
            why, remedy = _REASONS.get((node.kind, needed), ("this form of it", _REPLACE))
            reason = f"{why} takes version {needed}, and target '{target.name}' executes up to version {had}"
        refused.append(UnsupportedError(node=node.source, op=node.kind, reason=reason, remedy=remedy))
    return refused


def check_arena(graph: Graph, target: Target, *, unpacked: bool = True) -> None:
    """Refuse a graph whose values cannot all be in the target's arena.

    ``unpacked`` False leaves 4-bit filters out, where it is still open which layers have them. Raises
    ``UnsupportedError`` for the node that needs most.
    """
    arena = target.limits.arena
    if arena is None:
        return
    most = max(
        needs(graph, target.unpacks if unpacked else lambda op, bits: False), key=lambda need: need.bytes
    )
    if most.bytes <= arena:
        return
    filters = f" and {most.unpacked:,} for its unpacked 4-bit filter" if most.unpacked else ""
    remedies = [
        "make the values around it smaller: fewer channels, or a stride or pool in front of it",
        *(['store its weights in 8 bits (compress.method = "qat8")'] if most.unpacked else []),
        "set compress.budget, under which channels leave",
    ]
    raise UnsupportedError(
        node=most.node.source,
        op=most.node.kind,
        reason=(
            f"while it runs, {most.values:,} bytes of values are in RAM{filters}: {most.bytes - arena:,} "
            f"more than the arena of target '{target.name}' has ({arena:,})"
        ),
        remedy="; ".join(remedies),
    )


def check_flash(size: int, target: Target) -> None:
    """Refuse what takes ``size`` bytes and is too large for the flash; raises ``ConfigError``.

    It is the ``.tflite``, or the C code's constants where these hold the weights packed.
    """
    flash = target.limits.flash
    if flash is None or size <= flash:
        return
    if target.packs:
        what, remedy = "the C code's constants take", "set compress.budget"
    else:
        what = "the .tflite takes"
        remedy = (
            "set compress.budget, choose a target that stores weights in fewer bits, or leave out names, "
            "metadata and unread parameters ([export])"
        )
    raise ConfigError(
        f"{what} {size:,} bytes, {size - flash:,} more than the flash for it ({flash:,})",
        where=f"target '{target.name}': limits.flash",
        remedy=remedy,
    )
