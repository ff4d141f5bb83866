"""Layers whose channels are stored in two widths become two layers, one for each.

A tensor of a ``.tflite`` has one width. The channels of such a layer are put in order, the narrow ones first,
and so is all that reads them; then each part is computed, rounded to the same grid, and joined to the other.
No integer changes but for its place.

Channels can change places where one layer alone makes them, and nothing joins them to others' channels.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from sgsc_edge.compression.folding.fold import CompressedModel, FoldedLayer
from sgsc_edge.compression.layers import set_submodule
from sgsc_edge.compression.shrink.cut import clean, part_of, part_of_constant
from sgsc_edge.compression.shrink.slots import Coupling, LayerShape
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, QUANTIZE, Values
from sgsc_edge.errors import InternalError
from sgsc_edge.size import NARROW_BITS, WIDE_BITS

_CLAMPS = ("Relu", "Clip")


@dataclass(frozen=True, eq=False)
class Split:
    """A model with one width a layer.

    Parameters
    ----------
    parts: name of each layer that had two -> the names of the two layers instead.
    """

    model: CompressedModel
    parts: dict[str, tuple[str, ...]]


def split_widths(compressed: CompressedModel, sample: torch.Tensor) -> Split:
    """Make two layers of each one with 4-bit and 8-bit channels, ``…_int4`` and ``…_int8``.

    The given model is not changed; where nothing is mixed it is returned.

    Parameters
    ----------
    sample: one input without its batch dimension, float32; any one will do.

    Raises
    ------
    InternalError: a layer with two widths is none of :func:`splittable`, or outputs change.
    """
    if not any(_is_mixed(layer) for layer in compressed.layers().values()):
        return Split(compressed, {})
    divided = compressed.copied()
    values = Values.of(divided.module, sample)
    coupling = Coupling.of(values)
    mixed = [node for node in values.layers() if _is_mixed(values.layer(node))]
    fixed = set(mixed) - set(splittable(coupling))
    if fixed:
        raise InternalError(f"layers that cannot be split have two widths: {sorted(map(str, fixed))}")
    _reorder(coupling, _places(coupling, mixed))
    parts = {str(node.target): _divide(values, node) for node in mixed}
    clean(divided.module)
    if not divided.agrees_with(compressed, sample):
        raise InternalError("storing a layer in two widths changed the model's output")
    return Split(divided, parts)


def splittable(coupling: Coupling) -> Iterator[fx.Node]:
    """The layers of which some channels can be stored in another width than the others."""
    values = coupling.values
    pinned = {coupling.root(slot) for slot in coupling.pinned}
    makers = [node for node in values.layers() if _makes(coupling, node)]
    made = Counter(int(number) for node in makers for number in np.unique(coupling.roots(node)))
    shared = {number for number, count in made.items() if count > 1}
    for node in values.nodes:
        if values.kinds[node] == "Concat" or not _rises(coupling, node):
            shared.update(map(int, coupling.roots(node)))
    for node in makers:
        roots = coupling.roots(node)
        own = set(map(int, roots))
        regular = coupling.axes[node] == 1 and len(own) == len(roots) > 1
        if regular and not own & (pinned | shared) and _chain(values, node):
            yield node


def _is_mixed(folded: FoldedLayer) -> bool:
    return bool((folded.bits != folded.bits[0]).any())


def _makes(coupling: Coupling, node: fx.Node) -> bool:
    """Whether a layer makes channels, rather than going on with those before it."""
    return LayerShape.of(coupling.values.layer(node)).groups == 1


def _rises(coupling: Coupling, node: fx.Node) -> bool:
    """Whether an op that moves elements leaves channels in their order."""
    pairs = itertools.pairwise(coupling.sources.get(node, []))
    return all(before[-1] <= behind[0] for before, behind in pairs)


def _chain(values: Values, node: fx.Node) -> list[fx.Node]:
    """The activations behind a layer and the quantizer that rounds them; empty where others read those."""
    chain: list[fx.Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        chain.append(node)
        kind = values.kinds.get(node)
        if kind == QUANTIZE:
            return chain
        if kind not in _CLAMPS:
            break
    return []


def _places(coupling: Coupling, mixed: list[fx.Node]) -> dict[int, int]:
    """Class -> its place among the channels of its layer: narrow ones first, else in their order."""
    places: dict[int, int] = {}
    for node in mixed:
        order = np.argsort(coupling.values.layer(node).bits.numpy(), kind="stable")
        places |= {int(root): place for place, root in enumerate(coupling.roots(node)[order])}
    return places


def _reorder(coupling: Coupling, places: dict[int, int]) -> None:
    """Put the channels of every layer and constant where their classes belong."""
    values = coupling.values

    def order(node: fx.Node) -> torch.Tensor:
        own = [places.get(int(root), 0) for root in coupling.roots(node)]
        return torch.from_numpy(np.argsort(np.array(own, np.int64), kind="stable"))

    for node in values.nodes:
        name = str(node.target)
        if values.kinds[node] == LAYER:
            folded = values.layer(node)
            (source,) = values.inputs(node)
            columns = torch.arange(folded.weight.shape[1])
            inputs = order(source) if len(coupling.columns(node)) else columns
            part = part_of(folded, folded.weight, folded.bias, outputs=order(node), inputs=inputs)
            set_submodule(values.module, name, part)
        elif values.kinds[node] == CONSTANT and len(coupling.slots[node]):
            set_submodule(values.module, name, part_of_constant(coupling, node, order(node)))


def _divide(values: Values, node: fx.Node) -> tuple[str, ...]:
    """Compute the narrow and the wide channels of a layer apart, and join them behind their quantizer.

    Returns the names of the two layers.
    """
    graph, folded = values.module.graph, values.layer(node)
    *_, end = chain = _chain(values, node)
    everything = torch.arange(folded.weight.shape[1])
    taken = dict(values.module.named_modules())
    names, made = [], []
    with graph.inserting_after(end):
        joined = graph.call_function(torch.cat, ([], 1))
    for bits in (NARROW_BITS, WIDE_BITS):
        outputs = (folded.bits == bits).nonzero().flatten()
        part = part_of(folded, folded.weight, folded.bias, outputs=outputs, inputs=everything)
        name = f"{node.target}_int{bits}"
        while name in taken:  # a module of the user's own
            name += "_"
        set_submodule(values.module, name, part)
        with graph.inserting_before(joined):
            value = graph.call_module(name, node.args, node.kwargs)
            for link in chain:
                copied = graph.node_copy(link)
                copied.replace_input_with(copied.all_input_nodes[0], value)
                value = copied
        names.append(name)
        made.append(value)
    joined.args = (made, 1)
    with graph.inserting_after(joined):
        # It lies on its grid already; ONNX Runtime still wants a pair of Q and DQ behind an op that moves.
        rounded = graph.call_module(str(end.target), (joined,))
    end.replace_all_uses_with(rounded)
    return tuple(names)
