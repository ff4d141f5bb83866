"""The trained form of a model: quantized layers in place of the float ones, quantizers between.

Layers are Conv1d, Conv2d, Linear and the tables of embeddings.

A BatchNorm that follows a layer alone moves into it, in float: it belongs to the layer's scale and bias
on the device, never to its integers.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import fx, nn

from sgsc_edge.compression.heads import head_widths
from sgsc_edge.compression.norms import QuantNorm, check_norm
from sgsc_edge.compression.quantizer import ActivationQuantizer, WeightQuantizer
from sgsc_edge.compression.tracing.kinds import name_of
from sgsc_edge.compression.tracing.operators import Table, look_up
from sgsc_edge.compression.tracing.trace import Traced, steps, trace
from sgsc_edge.errors import ModelError, UnsupportedError
from sgsc_edge.placement import RULES, Placement, place
from sgsc_edge.size import EIGHT_BITS, TABLE, Storage

log = logging.getLogger("sgsc_edge")

QUANTIZER_PREFIX = "activation_quantizer_"

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Convolution = nn.Conv1d | nn.Conv2d
Weighted = Convolution | nn.Linear
Layer = Weighted | Table
_L = TypeVar("_L", bound=Layer)


class QuantLayer(nn.Module):
    """A Conv1d, Conv2d or Linear whose weight is fake-quantized per output channel; a table, per row.

    Parameters ``weight`` and ``bias`` keep the original's names; ``norm`` is the BatchNorm moved in; ``mask``
    [O] is 0 for dead channels, whose output is then exactly 0 (a dead row of a table is one of zeros);
    ``storage`` says how the weights will be stored.
    """

    bias: torch.Tensor | None
    mask: torch.Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = geometry(layer)
        self.weight = layer.weight
        self.bias = None if isinstance(layer, Table) else layer.bias
        self.quantizer = WeightQuantizer(layer.weight)
        self.norm: BatchNorm | None = None
        self.enabled = True
        self.register_buffer("mask", torch.ones(layer.weight.shape[0]))
        self.masked = False
        self.storage = TABLE if isinstance(layer, Table) else EIGHT_BITS

    def forward(self, x: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the layer (NCHW, [n, C, L], [..., features]), its BatchNorm and the mask; look rows up."""
        weight = self.quantizer(self.weight) if self.enabled else self.weight
        if isinstance(self.layer, Table):
            return look_up(weight * self.mask[:, None] if self.masked else weight, x)
        assert x is not None
        y = apply_layer(self.layer, x, weight, self.bias)
        y = y if self.norm is None else self.norm(y)
        return y * self.mask.reshape(-1, *[1] * (self.weight.ndim - 2)) if self.masked else y

    @property
    def is_table(self) -> bool:
        """Whether its channels are rows that are looked up."""
        return isinstance(self.layer, Table)

    def snap_to(self, storage: Storage) -> None:
        """Take the widths, and the ranges that round best, with which the weights will be stored."""
        self.storage = storage
        self.quantizer.snap(self.weight, self.widths(), self.mask > 0, shared=not storage.per_channel)

    def widen_to(self, storage: Storage) -> None:
        """Store some channels, or all, in more bits than at present."""
        self.storage = storage
        self.quantizer.widen(self.weight, self.widths())

    def packed(self, widths: Sequence[int]) -> Storage:
        """A storage that packs each channel at a width of its own."""
        return Storage.packing(widths, table=self.is_table)

    def widths(self) -> torch.Tensor:
        """The storage's bits, float32 [O]."""
        return torch.tensor(self.storage.widths(len(self.mask)), dtype=torch.float32)

    def tie(self, width: int) -> None:
        """Let so many channels after one another, such as those of an attention head, share a depth."""
        channels = torch.arange(len(self.mask))
        self.quantizer.tie(channels - channels % width)

    def set_mask(self, mask: torch.Tensor) -> None:
        """Let channels live (1) or be 0 with their bias and norm (0); float32 or bool [O]."""
        self.mask.copy_(mask)
        self.masked = not bool(mask.all())


def geometry(layer: _L) -> _L:
    """A copy of a layer that holds its geometry (stride, padding, sizes) and no parameters."""
    bare = copy.copy(layer)
    bare._parameters = dict.fromkeys(layer._parameters)  # the names stay, without tensors
    return bare


def apply_layer(
    layer: Weighted, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Apply a layer's geometry with other parameters."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    convolve = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    return convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A model in quantization-aware training.

    Parameters
    ----------
    module: the FX graph with quantized layers and activation quantizers.
    kinds, placement: by node name (BatchNorms that moved into layers are gone).
    shapes: node name -> shape for a batch of two.
    zeros: one input without its batch dimension, of zeros.
    """

    module: fx.GraphModule
    kinds: Mapping[str, str]
    placement: Placement
    shapes: Mapping[str, tuple[int, ...]]
    zeros: torch.Tensor

    @property
    def ends_with_softmax(self) -> bool:
        """Whether the output holds probabilities rather than logits."""
        return list(self.kinds.values())[-1] == "Softmax"

    def layers(self) -> Iterator[tuple[str, QuantLayer]]:
        """The quantized layers with their names in the user's model."""
        for name, module in self.module.named_modules():
            if isinstance(module, QuantLayer):
                yield name, module

    def quantizer(self, group: int) -> ActivationQuantizer:
        """The activation quantizer of a placement group."""
        module = self.module.get_submodule(f"{QUANTIZER_PREFIX}{group}")
        assert isinstance(module, ActivationQuantizer)
        return module

    def activation_quantizers(self) -> Iterator[ActivationQuantizer]:
        """All activation quantizers."""
        return (module for module in self.module.modules() if isinstance(module, ActivationQuantizer))

    def enable(self, enabled: bool) -> None:
        """Switch all fake-quantization on, or off (the float control, calibration)."""
        for module in self.module.modules():
            if isinstance(module, QuantLayer | QuantNorm):
                module.enabled = enabled
        for quantizer in self.activation_quantizers():
            quantizer.enabled = enabled

    def observe(self, observing: bool) -> None:
        """Let the activation quantizers follow the data, or freeze their ranges."""
        for quantizer in self.activation_quantizers():
            quantizer.observing = observing

    @contextmanager
    def evaluating(self) -> Iterator[fx.GraphModule]:
        """The module in evaluation mode, without gradients; each submodule gets its own mode back."""
        modes = [(module, module.training) for module in self.module.modules()]
        self.module.eval()
        try:
            with torch.no_grad():
                yield self.module
        finally:
            for module, training in modes:
                module.training = training


def quantize_model(
    model: nn.Module,
    sample: torch.Tensor,
    *,
    keep_softmax: bool = False,
    input_grid: tuple[float, int] | None = None,
) -> QuantizedModel:
    """Make the trained form of a float model; the given model is not changed.

    Parameters
    ----------
    sample: one input without its batch dimension, float32 or int64 tokens [T].
    keep_softmax: keep a final Softmax; otherwise the logits before it are the output (it saturates in
        int8 and never changes the decision).
    input_grid: (scale, zero point) of the input where the project states its value range.

    Raises
    ------
    ModelError, UnsupportedError: see :func:`sgsc_edge.compression.tracing.trace.trace`.
    """
    traced = _drop_final_softmax(trace(copy.deepcopy(model), sample), sample, keep_softmax)
    module, kinds = traced.graph_module, dict(traced.kinds)
    _untie(module)
    widths = head_widths(traced)
    _replace_layers(module)
    for name, width in widths.items():
        layer = module.get_submodule(name)
        assert isinstance(layer, QuantLayer)
        layer.tie(width)
    _absorb_batch_norms(module, kinds, traced.shapes)
    placement = place(steps(module.graph, kinds))
    _insert_quantizers(module, kinds, placement, input_grid)
    module.graph.lint()
    module.recompile()
    return QuantizedModel(module, kinds, placement, traced.shapes, torch.zeros_like(sample))


def _untie(module: nn.Module) -> None:
    """Give layers that share a weight one each: they round and lose channels apart, and files store both."""
    owners: dict[int, str] = {}
    for name, layer in module.named_modules():
        for key, parameter in layer.named_parameters(recurse=False):
            own = f"{name}.{key}"
            first = owners.setdefault(id(parameter), own)
            if first != own:
                copied = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                setattr(layer, key, copied)
                log.info(
                    "compress: %s and %s are one tensor; each is trained and stored by itself", first, own
                )


def _drop_final_softmax(traced: Traced, sample: torch.Tensor, keep: bool) -> Traced:
    graph = traced.graph_module.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    last = output.args[0]
    kind = traced.kinds.get(last.name)
    if kind not in ("Softmax", "LogSoftmax") or (keep and kind == "Softmax"):
        return traced
    if keep:
        raise UnsupportedError(
            node=name_of(last),
            op=kind,
            reason="its int8 output has 16 units of range in 256 steps",
            remedy='leave model.final_softmax at "drop"; the logits decide the same class',
        )
    last.replace_all_uses_with(last.all_input_nodes[0])
    graph.erase_node(last)
    traced.graph_module.recompile()
    return trace(traced.graph_module, sample)


def _replace_layers(module: fx.GraphModule) -> None:
    """Replace every layer and LayerNorm that is called by its quantized form, once per module."""
    for node in module.graph.nodes:
        if node.op != "call_module":
            continue
        layer = module.get_submodule(str(node.target))
        if isinstance(layer, nn.LayerNorm):
            check_norm(layer, name_of(node))
            set_submodule(module, str(node.target), QuantNorm(layer))
        if not isinstance(layer, Layer):
            continue
        if isinstance(layer, Convolution) and layer.padding_mode != "zeros":
            raise UnsupportedError(
                node=name_of(node),
                op=type(layer).__name__,
                reason=f"padding_mode '{layer.padding_mode}'",
                remedy='use padding_mode="zeros"',
            )
        set_submodule(module, str(node.target), QuantLayer(layer))


def set_submodule(module: fx.GraphModule, name: str, value: nn.Module) -> None:
    """Replace or add a submodule by its path."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, value)


def _absorb_batch_norms(
    module: fx.GraphModule, kinds: dict[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Move each BatchNorm that alone follows a layer into that layer."""
    targets = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    for node in list(module.graph.nodes):
        if kinds.get(node.name) != "BatchNormalization":
            continue
        norm = module.get_submodule(str(node.target))
        if not isinstance(norm, BATCH_NORMS) or norm.running_mean is None:
            raise ModelError(
                f"'{node.target}' keeps no running statistics",
                remedy="build it with track_running_stats=True; a device has no batch to average over",
            )
        producer = node.all_input_nodes[0]
        if "BatchNormalization" not in RULES[kinds[producer.name]].fuses or len(producer.users) > 1:
            continue
        if max(targets.count(str(target)) for target in (producer.target, node.target)) > 1:
            raise UnsupportedError(
                node=name_of(node),
                op="BatchNormalization",
                reason="it, or the layer before it, is called more than once",
                remedy="give each call a module of its own",
            )
        layer = module.get_submodule(str(producer.target))
        assert isinstance(layer, QuantLayer)
        if isinstance(layer.layer, nn.Linear) and len(shapes[producer.name]) > 2:
            raise UnsupportedError(
                node=name_of(node),
                op="BatchNormalization",
                reason="it normalises axis 1, and the Linear before it computes the last axis",
                remedy="use a Conv1d with kernel size 1 in place of the Linear, on [n, C, L]",
            )
        layer.norm = norm
        module.delete_submodule(str(node.target))
        node.replace_all_uses_with(producer)
        module.graph.erase_node(node)
        del kinds[node.name]


def _insert_quantizers(
    module: fx.GraphModule,
    kinds: Mapping[str, str],
    placement: Placement,
    input_grid: tuple[float, int] | None,
) -> None:
    """Insert one quantizer per placement group, called after each value that it rounds."""
    graph = module.graph
    for node in list(graph.nodes):
        group = placement.group.get(node.name)
        if group is None:
            continue
        name = f"{QUANTIZER_PREFIX}{group}"
        if not hasattr(module, name):
            given = input_grid if kinds[node.name] == "Input" else None
            module.add_submodule(name, ActivationQuantizer(placement.fixed.get(group, given)))
        if node.name in placement.rounds:
            quantize_value(node, name)


def quantize_value(node: fx.Node, quantizer: str) -> None:
    """Call a quantizer module behind a node; everything that read the node's values reads its result."""
    with node.graph.inserting_after(node):
        quantized = node.graph.call_module(quantizer, (node,))

    def reads_values(user: fx.Node) -> bool:
        return user is not quantized and not _reads_shape(user)

    node.replace_all_uses_with(quantized, delete_user_cb=reads_values)


def _reads_shape(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape only."""
    return (node.op == "call_method" and node.target in ("size", "dim")) or (
        node.op == "call_function" and node.target is getattr
    )
