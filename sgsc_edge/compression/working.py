"""The copy of a model that is trained: without what is dead, so that a step costs what lives alone.

The *full* model holds every channel, the dead ones with the values that they died with: there decisions are
made, and from there a channel comes back. The *working copy* has the living ones only: weights, ranges,
BatchNorms, constants and the columns of the layers behind are cut, and the optimizer's moments with them.
Its tensors keep their identity when they change their size, so an optimizer, a scheduler or a hook that holds
them goes on holding them.

Channels that an op keeps together are cut together (see ``shrink``); where an op could make something else of
their zeros, they stay, and are 0 by their mask.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from sgsc_edge.compression.books import Books
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.shrink.slots import MOVING
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER

Mask = NDArray[np.bool_]
_Cut = tuple[tuple[int, torch.Tensor], ...]
"""The indices (int64) of a tensor that stay, by dimension; dimensions that are whole are left out."""


class Resize(nn.Module):
    """A reshape whose result has as many channels as live."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same elements as [n, \\*shape]."""
        return x.reshape(x.shape[0], *self.shape)


@dataclass(frozen=True, eq=False)
class _Site:
    """Where a layer's channels are counted: classes of its outputs and inputs, and its number of groups.

    ``inputs`` is None where the weight's columns are no channels that can leave.
    """

    outputs: NDArray[np.int64]
    inputs: NDArray[np.int64] | None
    groups: int


class WorkingCopy:
    """Cuts, and moves values between the two.

    Parameters
    ----------
    full: the model with every channel; its masks say which live.

    Attributes
    ----------
    model: the working copy; its module is trained.
    """

    def __init__(self, full: QuantizedModel) -> None:
        self.full = full
        self.model = replace(full, module=copy.deepcopy(full.module))
        self._books = Books(full)
        self._fixed = self._stay()
        self._sites, self._constants = self._find()
        self._resizes = self._free_reshapes()
        self._alive: Mask = np.ones(self._books.size, np.bool_)
        self._cuts: dict[str, _Cut] = {}
        self._layers = dict(self.model.layers())

    def kept(self, name: str) -> torch.Tensor:
        """Indices of a layer's channels that the working copy has, int64."""
        alive = self._alive[self._sites[name].outputs] if name in self._sites else None
        if alive is None:
            return torch.arange(len(self._layers[name].mask))
        return torch.from_numpy(alive).nonzero().flatten()

    @torch.no_grad()
    def pull(self) -> None:
        """Take the working copy's values over into the full model; masks are the full model's own."""
        full = _tensors(self.full.module)
        for name, part in _tensors(self.model.module).items():
            if not name.endswith(".mask"):
                _scatter(full[name].data, part.data, self._cuts.get(name, ()))
        for name, layer in self.full.layers():
            if layer.quantizer.shared:  # the dead have stayed where they were, and would be averaged in
                layer.quantizer.log2_range.fill_(self._layers[name].quantizer.log2_range.mean())

    @torch.no_grad()
    def push(self, optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
        """Take the full model's values over, cut by its masks; moments of what is cut or comes back are gone.

        Gradients of tensors that change their size are dropped.
        """
        alive = self._living()
        changed = not np.array_equal(alive, self._alive)
        self._alive = alive
        cuts = self._all_cuts() if changed else self._cuts
        full = _tensors(self.full.module)
        for name, part in _tensors(self.model.module).items():
            before, now = self._cuts.get(name, ()), cuts.get(name, ())
            if _same(before, now):
                part.data.copy_(_gather(full[name].data, now))
                continue
            for optimizer in optimizers:
                _resize_moments(optimizer, part, full[name].shape, before, now)
            _resize(part, _gather(full[name].data, now))
        self._cuts = cuts
        self._copy_settings()

    def _copy_settings(self) -> None:
        for name, layer in self.full.layers():
            own = self._layers[name]
            own.storage = layer.storage
            own.quantizer.shared, own.quantizer.settled = layer.quantizer.shared, layer.quantizer.settled
            own.masked = not bool(own.mask.all())
            if layer.quantizer.first is not None:
                kept = self.kept(name)
                place = torch.zeros(len(layer.mask), dtype=torch.int64).index_copy(
                    0, kept, torch.arange(len(kept))
                )
                own.quantizer.first = place[layer.quantizer.first[kept]]
            if name in self._sites and not isinstance(own.layer, nn.Linear):
                groups = self._sites[name].groups
                own.layer.groups = max(groups * len(own.mask) // len(layer.mask), 1)
        for node, module in self._resizes.items():
            module.shape = self._shape(node, self._alive)

    # --- which classes live ---------------------------------------------------------------------

    def _stay(self) -> Mask:
        """Classes that never leave the working copy, bool [classes]."""
        books = self._books
        masked = np.zeros(books.size, np.bool_)
        for node in books.masked():
            masked[books.classes[node]] = True
        stay = ~masked | (books.fixed() > 0)
        called: dict[str, int] = {}
        for node in books.masked():
            called[books.names[node.name]] = called.get(books.names[node.name], 0) + 1
        for node in books.values.nodes:
            trained_on_its_own = books.values.kinds[node] == LAYER and node.name not in books.names
            several = called.get(books.names.get(node.name, ""), 0) > 1
            if (
                trained_on_its_own or several
            ):  # what it makes of 0 may change; its calls may read other classes
                for source in (node, *books.values.inputs(node)):
                    stay[books.classes[source]] = True
        return stay

    def _living(self) -> Mask:
        """Classes of which some channel lives."""
        alive = self._fixed.copy()
        layers = dict(self.full.layers())
        for node in self._books.masked():
            mask = layers[self._books.names[node.name]].mask.detach().cpu().numpy() > 0
            alive[self._books.classes[node][mask]] = True
        return alive

    # --- what is cut ------------------------------------------------------------------------------

    def _find(self) -> tuple[dict[str, _Site], dict[str, tuple[int, NDArray[np.int64]]]]:
        """Layers, and constants with the axis of their channels, by name."""
        books = self._books
        sites: dict[str, _Site] = {}
        constants = {}
        for node in books.values.nodes:
            if books.values.kinds[node] == LAYER and node.name in books.names:
                groups, columns = books.shape(node).groups, books.columns(node)
                inputs = columns if groups == 1 and len(columns) else None
                sites[books.names[node.name]] = _Site(books.classes[node], inputs, groups)
            elif books.values.kinds[node] == CONSTANT and (axis := books.coupling.axes[node]) is not None:
                constants[str(node.target)] = (axis, books.classes[node])
        return sites, constants

    def _all_cuts(self) -> dict[str, _Cut]:
        """What stays of every tensor that is not whole, by its name."""
        cuts: dict[str, _Cut] = {}

        def indices(classes: NDArray[np.int64] | None, dimension: int) -> _Cut:
            if classes is None or (alive := self._alive[classes]).all():
                return ()
            return ((dimension, torch.from_numpy(alive).nonzero().flatten()),)

        tensors = _tensors(self.full.module)
        layers = dict(self.full.layers())
        for name, site in self._sites.items():
            outputs, inputs = indices(site.outputs, 0), indices(site.inputs, 1)
            channels = len(layers[name].mask)
            for tensor, value in tensors.items():
                if not tensor.startswith(f"{name}."):
                    continue
                if tensor == f"{name}.weight":
                    cuts[tensor] = (*outputs, *inputs)
                elif value.ndim == 1 and len(value) == channels:
                    cuts[tensor] = outputs
        for name, (axis, classes) in self._constants.items():
            cuts[f"{name}.value"] = indices(classes, axis)
        return {name: cut for name, cut in cuts.items() if cut}

    # --- reshapes ---------------------------------------------------------------------------------

    def _free_reshapes(self) -> dict[fx.Node, Resize]:
        """Replace the reshapes whose sizes are written into the code, where channels may leave."""
        books = self._books
        graph = self.model.module.graph
        nodes = {node.name: node for node in graph.nodes}
        found: dict[fx.Node, Resize] = {}
        for node in books.values.nodes:
            if books.values.kinds[node] not in MOVING or not self._has_fixed_size(node):
                continue
            resize = Resize(self._shape(node, np.ones(books.size, np.bool_)))
            name = f"resize_{len(found)}"
            self.model.module.add_submodule(name, resize)
            own = nodes[node.name]
            with graph.inserting_before(own):
                (source, *_) = (argument for argument in own.args if isinstance(argument, fx.Node))
                own.replace_all_uses_with(graph.call_module(name, (source,)))
            graph.erase_node(own)
            found[node] = resize
        graph.eliminate_dead_code()
        graph.lint()
        self.model.module.recompile()
        return found

    def _shape(self, node: fx.Node, alive: Mask) -> tuple[int, ...]:
        """The shape of a value without its batch."""
        _, *shape = self._books.values.shape(node)
        axis = self._books.coupling.axes[node]
        if axis is not None:
            shape[axis - 1] = int(alive[self._books.classes[node]].sum())
        return tuple(shape)

    def _has_fixed_size(self, node: fx.Node) -> bool:
        """Whether a reshape would make another shape of an input without one of its classes."""
        values, classes = self._books.values, self._books.classes[node]
        leaving = classes[~self._fixed[classes]]
        if not len(leaving):
            return False
        alive = np.ones(self._books.size, np.bool_)
        alive[leaving[0]] = False
        (source,) = values.inputs(node)
        try:
            made = values.rerun(node, {source: torch.zeros(2, *self._shape(source, alive))})
        except RuntimeError:  # the sizes do not fit
            return True
        return tuple(made.shape) != (2, *self._shape(node, alive))


_TIES = ".quantizer.first"
"""Indices of channels: other ones where some are gone."""


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers that hold values, by name."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor for name, tensor in named if not name.endswith(_TIES)}


def _same(first: _Cut, second: _Cut) -> bool:
    return len(first) == len(second) and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in zip(first, second, strict=True)
    )


def _gather(full: torch.Tensor, cut: _Cut) -> torch.Tensor:
    for dimension, indices in cut:
        full = full.index_select(dimension, indices)
    return full


def _scatter(full: torch.Tensor, part: torch.Tensor, cut: _Cut) -> None:
    """Write a part back to where it was gathered from."""
    if not cut:
        full.copy_(part)
    elif len(cut) == 1:
        ((dimension, indices),) = cut
        full.index_copy_(dimension, indices, part)
    else:
        (_, rows), (_, columns) = cut
        full[rows[:, None], columns[None, :]] = part


def _resize(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Let a leaf hold a value of another size.

    A graph of the step before may still hold what accumulates its gradients, and that knows the size before.
    Torch makes a new one only where the dtype changes: so it does, for a moment.
    """
    tensor.grad = None
    if tensor.is_floating_point():
        tensor.data = tensor.data.new_empty(0, dtype=torch.float64)
    tensor.data = value.clone()  # where all is kept, it is the full tensor itself


_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""Mean squares of gradients, as torch's Adam and its kin, RMSprop and Adagrad call them."""


def _resize_moments(
    optimizer: torch.optim.Optimizer, part: torch.Tensor, shape: torch.Size, before: _Cut, now: _Cut
) -> None:
    """Cut what an optimizer keeps of each weight.

    What comes back starts with a momentum of 0, and with the mean of the others' squares: with 0 there its
    first steps would be several times as long as theirs. State of another shape than the weight's (factored
    moments) starts anew.
    """
    state: dict[Any, Any] | None = optimizer.state.get(part)
    if not state:
        return
    moments: Mapping[Any, torch.Tensor] = {
        key: value for key, value in state.items() if isinstance(value, torch.Tensor) and value.ndim
    }
    if any(value.shape != part.shape for value in moments.values()):
        optimizer.state.pop(part)
        return
    for key, value in moments.items():
        whole = value.new_zeros(shape)
        if key in _SECOND_MOMENTS and value.numel():
            whole.fill_(value.mean())
        _scatter(whole, value, before)
        state[key] = _gather(whole, now).contiguous()
