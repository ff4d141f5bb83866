"""The C kernels by name: their texts, and what each needs before it.

A file of ``kernels/`` may hold several kernels: ``WIDTH`` stands for how weights are stored (``int8``,
``int4``), ``KIND`` for what reads them (``conv``, ``depthwise``) or what becomes of two operands (``add``).
Arithmetic is TFLite Micro's, integer for integer; the sources are named in ``graph.reference``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources

_FOLDER = resources.files("sgsc_edge.c_code") / "kernels"
_ALONE = ("gather", "fixed", "move", "fill", "table", "nearest", "bilinear", "dequantize")
_KINDS, _WIDTHS = ("conv", "depthwise"), ("int8", "int4")


def _table() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Kernel, the file that holds it, the kernels that it uses."""
    rescaled = ("clamp", "rescale")
    for name in ("rescale", "clamp", "unpack", "layer", "pool", "binary", *_ALONE):
        yield name, name, ()
    for width in _WIDTHS:
        yield f"weight_{width}", f"weight_{width}", ()
        yield f"dot_{width}", f"dot_{width}", (f"weight_{width}",)
        yield f"conv_window_{width}", "conv_window", ("layer", f"dot_{width}", f"weight_{width}")
        yield f"depthwise_window_{width}", "depthwise_window", ("layer", f"weight_{width}")
        for kind in _KINDS:
            yield f"{kind}_channel_{width}", "channel", (*rescaled, f"{kind}_window_{width}")
            yield f"{kind}_{width}", "layer_run", (f"{kind}_channel_{width}",)
    for kind in _KINDS:
        yield f"{kind}_learned", "layer_learned", ("unpack", f"{kind}_channel_int8")
    for name in ("max_pool", "average_pool"):
        yield name, name, ("clamp", "pool")
    for name in ("add", "sub", "mul", "prelu"):
        yield f"{name}_of", name, ("rescale", "binary")
        yield name, "binary_run", ("clamp", f"{name}_of")
    for name in ("mean", "requantize", "matmul"):
        yield name, name, rescaled
    yield "softmax", "softmax", ("clamp", "fixed")
    yield "l2norm", "l2norm", (*rescaled, "fixed")
    for name in ("limit", "quantize"):
        yield name, name, ("clamp",)


_KERNELS = {name: (file, needs) for name, file, needs in _table()}


def kernel_sources(names: Iterable[str]) -> str:
    """The C text of kernels and of all that they use, each once and behind what it uses."""
    found: dict[str, str] = {}

    def add(name: str) -> None:
        file, needs = _KERNELS[name]
        for need in needs:
            add(need)
        if name not in found:
            found[name] = _text(file, name)

    for name in names:
        add(name)
    return "\n".join(found.values())


def _text(file: str, name: str) -> str:
    """A file's text, for the kind and width that a kernel's name begins and ends with."""
    text = (_FOLDER / f"{file}.c").read_text(encoding="utf-8")
    kind, width = name.partition("_")[0], name.rpartition("_")[2]
    return text.replace("KIND", kind).replace("WIDTH", width)
