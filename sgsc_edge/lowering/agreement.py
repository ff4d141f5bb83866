"""In which layout an op with several inputs computes, where they lie in different ones."""

from __future__ import annotations

import math
from collections.abc import Callable

from sgsc_edge.lowering.demand import demanded
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Layout, channels_last
from sgsc_edge.lowering.network import Layer

Whole = Callable[[tuple[int, ...], Layout, tuple[int, ...]], Layout | None]
"""(an input's shape, its layout, the output's shape) -> the output's layout for which it need not move."""


def chosen(emitter: Emitter, layer: Layer, whole: Whole) -> Layout:
    """The layout of a layer's output for which fewest elements move.

    What its readers ask for counts as well. Where all is equal, the first input's.
    """
    out = layer.outputs[0]
    shape = emitter.shape(layer, out)
    wishes: list[tuple[int, Layout]] = []  # elements that move where the output has another layout
    for name in emitter.network.activations(layer):
        layout = whole(emitter.shape(layer, name), emitter.read(layer, name).layout, shape)
        if layout is not None:
            wishes.append((emitter.network[name].elements, layout))
    asked = demanded(emitter.network, emitter.readers, out)
    if asked is not None:
        wishes.append((math.prod(shape), asked))
    if not wishes:
        return channels_last(shape) if len(shape) == 4 else Layout.plain(math.prod(shape))
    return max(
        (layout for _, layout in wishes),
        key=lambda one: sum(elements for elements, layout in wishes if layout.same_as(one)),
    )
