"""Paddings of convolutions and pools: ONNX's explicit pads as TFLite's SAME or VALID, or as a Pad.

For an output of n windows, stride s and kernel extent k = (kernel - 1) * dilation + 1, over ``size``
inputs with ``begin`` padded elements in front, the last window ends ``(n - 1) * s + k`` elements after
the first begins; so it needs ``end = (n - 1) * s + k - size - begin`` elements behind (negative: some
inputs are never read). TFLite's SAME has n = ceil(size / s) and puts total // 2 in front.
Sources: ONNX Conv and MaxPool specifications; TFLite ``ComputePaddingHeightWidth``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sgsc_edge.graph.ir import Padding
from sgsc_edge.lowering.network import Layer

_AUTOMATIC = frozenset({"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"})
_Sizes = tuple[int, ...]  # height, width


@dataclass(frozen=True)
class Window:
    """A 2-D window as the device needs it; pairs are (height, width).

    ``padding`` is None where neither SAME nor VALID is exact: then ``begin`` and ``end`` elements are
    padded first, and the window is VALID. ``declared_end`` is ONNX's own end padding.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    begin: tuple[int, int]
    end: tuple[int, int]
    declared_end: tuple[int, int]
    padding: Padding | None

    @property
    def is_padded(self) -> bool:
        """Whether any window reaches outside the image."""
        return any((*self.begin, *self.end))

    @property
    def paddings(self) -> tuple[tuple[int, int], ...]:
        """TFLite's paddings of an NHWC tensor, [4, 2]."""
        return ((0, 0), (self.begin[0], self.end[0]), (self.begin[1], self.end[1]), (0, 0))


def window(layer: Layer, size: _Sizes, out: _Sizes, kernel: _Sizes) -> Window:
    """The window of a Conv or pool layer over an image of ``size`` with ``out`` positions.

    A layer over sequences has one number for each pair here: the image's height is 1.
    """
    kernel = _pair(layer, kernel)
    stride = _pair(layer, layer.attribute("strides", (1, 1)))
    dilation = _pair(layer, layer.attribute("dilations", (1, 1)))
    pads = tuple(layer.attribute("pads", (0, 0, 0, 0)))
    half = len(pads) // 2
    declared = (*_pair(layer, pads[:half], 0), *_pair(layer, pads[half:], 0))
    automatic = layer.attribute("auto_pad", "NOTSET")
    if min(*stride, *dilation, *kernel) < 1 or min(declared) < 0 or automatic not in _AUTOMATIC:
        raise layer.refusal(
            f"kernel {list(kernel)}, strides {list(stride)}, dilations {list(dilation)}, "
            f"pads {list(declared)} or auto_pad {automatic} is out of range",
            "export the model to ONNX again",
        )
    extent = tuple((kernel[i] - 1) * dilation[i] + 1 for i in range(2))
    spans = tuple((out[i] - 1) * stride[i] + extent[i] for i in range(2))
    if automatic.startswith("SAME"):
        totals = [max(0, spans[i] - size[i]) for i in range(2)]
        lower = automatic == "SAME_LOWER"
        begin = tuple((total + lower) // 2 for total in totals)
        declared_end = tuple(totals[i] - begin[i] for i in range(2))
    else:
        begin = declared[:2] if automatic == "NOTSET" else (0, 0)
        declared_end = declared[2:] if automatic == "NOTSET" else (0, 0)
    needed = tuple(spans[i] - size[i] - begin[i] for i in range(2))
    end = tuple(max(0, amount) for amount in needed)
    padding: Padding | None = None
    if not any((*begin, *end)):
        padding = Padding.VALID
    elif all(
        out[i] == -(-size[i] // stride[i]) and begin[i] == max(0, spans[i] - size[i]) // 2 for i in range(2)
    ):
        padding = Padding.SAME
    return Window(
        kernel,
        stride,
        dilation,
        _pair(layer, begin),
        _pair(layer, end),
        _pair(layer, declared_end),
        padding,
    )


def _pair(layer: Layer, values: tuple[int, ...], of_height: int = 1) -> tuple[int, int]:
    """(height, width); a sequence's height has ``of_height``."""
    if len(values) not in (1, 2):
        raise layer.refusal(
            f"{list(values)} is for {len(values)} spatial axes; one or two are supported",
            "use the 1-D or 2-D form of the layer, on [n, C, L] or [n, C, H, W]",
        )
    first, second = values if len(values) == 2 else (of_height, *values)
    return int(first), int(second)
