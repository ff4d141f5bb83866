"""The end of training: integers, scales and int32 biases, as every later stage uses them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from sgsc_edge.compression.folding.integers import (
    FOLDED_OPERATORS,
    FoldedGelu,
    FoldedMatMul,
    FoldedNorm,
    FoldedSoftmax,
    FoldedTable,
    dequantize,
)
from sgsc_edge.compression.folding.layer_integers import (
    check_finite,
    fold_layer,
    fold_table,
    norm_factors,
    with_bias,
)
from sgsc_edge.compression.layers import (
    QUANTIZER_PREFIX,
    BatchNorm,
    QuantizedModel,
    QuantLayer,
    Weighted,
    apply_layer,
    geometry,
    quantize_value,
    set_submodule,
)
from sgsc_edge.compression.norms import QuantNorm
from sgsc_edge.compression.tracing.kinds import Constant, name_of
from sgsc_edge.compression.tracing.operators import MaskedSoftmax, MatMul, Table
from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.placement import RULES, Output

_MAX_STEPS = 255
"""Largest difference of two integers of an activation."""

_EXACT_FLOAT32 = 2**24
"""Whole numbers below are exact in float32."""


_CONVOLUTIONS: Mapping[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
"""Number of spatial axes -> the convolution over them."""


class FixedQuantizer(nn.Module):
    """Rounds to an int8 grid that no longer changes.

    Buffers: ``scale`` float32 scalar, ``zero_point`` int8 scalar. With ``emit_onnx`` it exports as
    QuantizeLinear and DequantizeLinear; rounding is half to even, as theirs.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
        super().__init__()
        self.emit_onnx = False
        self.register_buffer("scale", scale.to(torch.float32))
        self.register_buffer("zero_point", zero_point.to(torch.int8))

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor's integers, int8, same shape."""
        steps = (x / self.scale).round() + self.zero_point.to(torch.float32)
        return steps.clamp(-128, 127).to(torch.int8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor on the grid, float32, same shape."""
        if self.emit_onnx:
            grid = (self.scale, self.zero_point)
            q = torch.onnx.ops.symbolic(
                "QuantizeLinear", (x, *grid), dtype=torch.int8, shape=x.shape, version=21
            )
            return dequantize(q, grid)
        return (self.integers(x).to(torch.float32) - self.zero_point.to(torch.float32)) * self.scale


class FoldedLayer(nn.Module):
    """A Conv1d, Conv2d or Linear as integers.

    Buffers: ``weight`` int8 (as the layer's, output channels first), ``bits`` uint8 [O] of a weight in the
    ``.tflite`` (8, or 4 for integers in -7..7; packed C code takes the fewest that hold them), ``scale``
    float32 [O], ``bias`` int32 [O], ``bias_scale`` float32 [O].
    """

    weight: torch.Tensor
    bits: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    bias_scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, layer: Weighted, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.emit_onnx = False
        self.layer = layer
        for name in ("weight", "bits", "scale", "bias", "bias_scale"):
            self.register_buffer(name, tensors[name])
        self.register_buffer("zero_point", torch.zeros_like(self.scale, dtype=torch.int8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to float32 values that lie on their grid."""
        if self.emit_onnx:
            weight = dequantize(self.weight, (self.scale, self.zero_point), axis=0)
            bias = dequantize(self.bias, (self.bias_scale,), axis=0)
            return apply_layer(self.layer, x, weight, bias)
        shape = (-1, *[1] * (self.weight.ndim - 2))
        sums = self._sums(x).double().add_(self.bias.reshape(shape))
        return sums.mul_(self.bias_scale.reshape(shape)).to(torch.float32)

    def _sums(self, x: torch.Tensor) -> torch.Tensor:
        """Products of integers, summed exactly in whatever order the library sums; whole numbers."""
        steps = (x / (self.bias_scale[0] / self.scale[0])).round()
        weight = self.weight.to(torch.float32)
        # Steps lie in [-a, 255 - a]: no sum of products passes 255 times the weights of one sign.
        largest = max(float((sign * weight).clamp_min(0).flatten(1).sum(1).max()) for sign in (1, -1))
        if largest * _MAX_STEPS >= _EXACT_FLOAT32:
            steps, weight = steps.double(), weight.double()
        return apply_layer(self.layer, steps, weight, None).round()


class FoldedConstant(nn.Module):
    """A constant operand as int8 integers; buffers ``value`` int8, ``scale``, ``zero_point``."""

    value: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, value: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
        super().__init__()
        self.emit_onnx = False
        self.register_buffer("value", value)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self) -> torch.Tensor:
        """The constant, float32."""
        if self.emit_onnx:
            return dequantize(self.value, (self.scale, self.zero_point))
        return (self.value.to(torch.float32) - self.zero_point.to(torch.float32)) * self.scale


FOLDED = (FixedQuantizer, FoldedLayer, FoldedConstant, *FOLDED_OPERATORS)


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """The compressed model: what ships, as a torch module.

    ``module`` maps float32 [n, ...] (NCHW or [n, C, L]) to float32 logits [n, K] on the output grid; int64
    tokens [n, T], which have no grid, to logits [n, T, K].
    """

    module: fx.GraphModule
    input: FixedQuantizer | None
    output: FixedQuantizer

    def tensors(self) -> dict[str, torch.Tensor]:
        """All integers and scales by name: the content of ``compressed.safetensors``."""
        return {
            f"{name}.{key}": buffer.clone().contiguous()
            for name, module in self.module.named_modules()
            if isinstance(module, FOLDED)
            for key, buffer in module.named_buffers(recurse=False)
            if key not in module._non_persistent_buffers_set
        }

    def layers(self) -> dict[str, FoldedLayer]:
        """The layers by name, without tables."""
        modules = self.module.named_modules()
        return {name: module for name, module in modules if isinstance(module, FoldedLayer)}

    def copied(self) -> CompressedModel:
        """A copy that can be changed."""
        names = {module: name for name, module in self.module.named_modules()}
        module = copy.deepcopy(self.module)

        def end(quantizer: FixedQuantizer) -> FixedQuantizer:
            own = module.get_submodule(names[quantizer])
            assert isinstance(own, FixedQuantizer)
            return own

        return CompressedModel(module, None if self.input is None else end(self.input), end(self.output))

    def agrees_with(self, other: CompressedModel, sample: torch.Tensor) -> bool:
        """Whether both make the same integers of a sample (without its batch dimension) and of its mirror."""
        batch = torch.stack([sample, sample.flip(-1)])
        with torch.no_grad():
            own, others = (model.output.integers(model.module(batch)) for model in (self, other))
        return torch.equal(own, others)

    def emit_onnx(self, emit: bool) -> None:
        """Make the module export as QDQ ONNX operators instead of computing."""
        for module in self.module.modules():
            if isinstance(module, FOLDED):
                module.emit_onnx = emit


def fold(model: QuantizedModel) -> CompressedModel:
    """Fold a trained model into integers. The given model is not changed.

    Raises
    ------
    ModelError: a weight or a BatchNorm statistic is not finite.
    UnsupportedError: a BatchNorm without a layer before it on other than [n, C, L] or [n, C, H, W].
    """
    module = copy.deepcopy(model.module).eval()
    graph = module.graph
    groups = dict(model.placement.group)
    for group in sorted(set(groups.values())):
        grid = model.quantizer(group).parameters_of_grid()
        setattr(module, f"{QUANTIZER_PREFIX}{group}", FixedQuantizer(*grid))
    targets = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        if node.op == "call_module":
            called = model.module.get_submodule(str(node.target))
            folded = _folded(node, called, module, model)
            if folded is not None:
                name = str(node.target)
                if targets.count(name) > 1:  # one bias scale per input grid, so one module per call
                    name = node.target = f"{name}_{node.name}"
                set_submodule(module, name, folded)
                if isinstance(folded, FoldedConstant):
                    _skip_quantizer(node)
        if _needs_rounding_in_onnx(node, model):
            quantize_value(node, f"{QUANTIZER_PREFIX}{groups[node.name]}")
    graph.lint()
    module.recompile()
    return _compressed(module, model)


def _compressed(module: fx.GraphModule, model: QuantizedModel) -> CompressedModel:
    nodes = list(module.graph.nodes)
    first = next(node for node in nodes if node.op == "placeholder")
    (last,) = next(node for node in nodes if node.op == "output").all_input_nodes
    groups = model.placement.group
    given = _grid(first, module, groups) if first.name in groups else None
    return CompressedModel(module, given, _grid(last, module, groups))


def _folded(
    node: fx.Node,
    called: nn.Module,
    module: fx.GraphModule,
    model: QuantizedModel,
) -> nn.Module | None:
    """The integer form of a called module; None where it stays as it is."""
    groups = model.placement.group
    if isinstance(called, Constant):
        grid = module.get_submodule(f"{QUANTIZER_PREFIX}{groups[node.name]}")
        assert isinstance(grid, FixedQuantizer)
        return FoldedConstant(grid.integers(called.value), grid.scale, grid.zero_point)
    if isinstance(called, QuantNorm):
        check_finite(str(node.target), *called.parameters())
        return FoldedNorm(called)
    if isinstance(called, MatMul):
        a, b = (_grid(source, module, groups).scale for source in node.args)  # type: ignore[arg-type]
        return FoldedMatMul(called.scale, a, b)
    if isinstance(called, MaskedSoftmax):
        return FoldedSoftmax(called.mask)
    if isinstance(called, nn.GELU):
        return FoldedGelu(called.approximate)
    if not isinstance(called, QuantLayer | BatchNorm):
        return None
    if isinstance(called, QuantLayer) and isinstance(called.layer, Table):
        return FoldedTable(*fold_table(called, str(node.target)))
    input_scale = _grid(node.all_input_nodes[0], module, groups).scale
    if isinstance(called, QuantLayer):
        assert not isinstance(called.layer, Table)
        return FoldedLayer(called.layer, fold_layer(called, input_scale, str(node.target)))
    channels, *spatial = model.shapes[node.name][1:]
    if len(spatial) not in _CONVOLUTIONS:
        raise UnsupportedError(
            node=name_of(node),
            op="BatchNormalization",
            reason="there is no Linear before it to fold it into",
            remedy="put it directly behind a Linear, or normalise feature maps [n, C, L] or [n, C, H, W]",
        )
    depthwise = _CONVOLUTIONS[len(spatial)](channels, channels, 1, groups=channels, device="meta")
    weight = torch.full((channels, 1, *[1] * len(spatial)), 127, dtype=torch.int8)
    scale, shift = norm_factors(called, torch.zeros(channels), str(node.target))
    return FoldedLayer(geometry(depthwise), with_bias(weight, scale / 127, shift, input_scale))


def _grid(node: fx.Node, module: fx.GraphModule, groups: Mapping[str, int]) -> FixedQuantizer:
    """The quantizer on whose grid a node's value lies."""
    target = str(node.target)
    name = target if target.startswith(QUANTIZER_PREFIX) else f"{QUANTIZER_PREFIX}{groups[node.name]}"
    grid = module.get_submodule(name)
    assert isinstance(grid, FixedQuantizer)
    return grid


def _needs_rounding_in_onnx(node: fx.Node, model: QuantizedModel) -> bool:
    """Values that only moved lie on their grid already; ONNX Runtime still wants a pair of Q and DQ there."""
    kind = model.kinds.get(node.name)
    return kind is not None and RULES[kind].output is Output.MOVED and kind not in ("Dropout", "Identity")


def _skip_quantizer(node: fx.Node) -> None:
    """A folded constant lies on its grid: drop the quantizer call behind it."""
    (quantizer,) = node.users
    quantizer.replace_all_uses_with(node)
    quantizer.graph.erase_node(quantizer)


def load_tensors(compressed: CompressedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put stored integers and scales into a compressed model of the same architecture, in place.

    Raises
    ------
    FileFormatError: names, shapes or dtypes differ.
    """
    own = compressed.tensors()
    described = {name: (tuple(t.shape), t.dtype) for name, t in own.items()}
    stored = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    wrong = sorted(name for name in own.keys() | stored.keys() if described.get(name) != stored.get(name))
    if wrong:
        raise FileFormatError(
            f"tensors do not fit the model: {', '.join(wrong[:5])}",
            where="compressed.safetensors",
            remedy="build again; the model's code has changed since",
        )
    compressed.module.load_state_dict(dict(tensors), strict=False)
