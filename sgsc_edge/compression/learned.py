"""Safety-guided self-compression: depths that are learned under a size constraint, watched by a controller.

The loss of a batch, after arXiv 2505.00350 (eq. 4), with the size as a constraint::

    Λ = L(train) + λ · L(guide) + μ · ‖L‖ · log(R / B) + α · mean|w|

L is cross-entropy plus the divergence from the float model's logits (computed once, no teacher runs along);
guide samples are a fixed share of every batch, so they cost no second forward pass; λ, where it is not fixed,
is the multiplier of a second constraint: it rises while the watch metric lies below its floor, and comes back
to 1 above it. R is the size with each
channel at its present depth and each consumer's dead inputs left out (arXiv 2301.13142), B the budget, μ a
multiplier that rises while the stored bytes exceed their path down to B and falls below it; ‖L‖, the running
mean of the loss, keeps the two terms comparable however small the loss has become. With a fixed γ the term is
γ times the mean depth, and nothing is constrained.

Two phases: *learning* (depths move, channels die, the controller gives bits back) and *settling*: the
channels that stay are chosen to meet the budget exactly (``fit``), get the width that the target stores, and
are fine-tuned. Learning ends when the stored bytes meet the budget, or after its share of the epochs.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sgsc_edge.compression.channels import answering, follow
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import Masks, fit, remove_until, stored_bytes
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.quantizer import FLOOR_BITS, MAX_BITS
from sgsc_edge.compression.strategy import Strategy, task_losses

log = logging.getLogger("sgsc_edge")

LEARNING_SHARE = 0.6
"""Share of the epochs in which depths are learned."""

GUIDE_SHARE = 0.25
"""Share of a batch that is drawn from the guide set."""

CHECKS = 12
"""Looks at the watch set in the learning phase."""
_RANGE_RATE = 1e-2
_SPAN = 2.0
"""Depths can cross the whole range in 1/_SPAN of the learning phase."""

_PRESSURE = 20.0
"""Growth of μ in a learning phase spent at e times the path."""

_ARRIVED = 0.9
"""Share of the learning phase after which the path has come down to the budget."""

_FIRST_REMOVAL = 0.2
"""Share of the learning phase before the first channel goes: depths must have had time to tell."""

REMOVALS = 30
"""Times in the learning phase at which channels are removed."""

_STRONGEST = 20.0
"""Bound of μ."""

_SMOOTHING = 0.05

_GUIDE_GAIN = 0.5
"""Growth of log λ at a check that finds the watch metric at the controller's trip; as much down at none."""

_GUIDE_STRONGEST = 4.0
"""Bound of λ where it moves."""

_NO_DROP = 1e-3
"""Stands for an allowed drop of 0 where a fall is measured by it."""

_SIZED_EVERY = 5
"""Steps between two measurements of the size."""


@dataclass(frozen=True)
class Goal:
    """What compression aims for.

    Parameters
    ----------
    budget: stored bytes that must not be exceeded; None with a fixed ``gamma``.
    alpha, gamma: the paper's fixed weights α and γ.
    guide_weight: λ; None lets the watch metric move it, 0 makes guide samples ordinary training samples.
    guard: whether the controller acts.
    """

    budget: int | None
    alpha: float = 0.0
    gamma: float = 0.0
    guide_weight: float | None = None
    guard: bool = True

    @property
    def guide_share(self) -> float:
        """Share of a batch that is drawn from the guide set."""
        return 0.0 if self.guide_weight == 0 else GUIDE_SHARE


class Learned(Strategy):
    """Learns depths under a :class:`Goal`.

    Parameters
    ----------
    teacher: the float model's outputs on the training set, float32 [N, K], by training index.
    guide: training indices of the guide set.
    watch: measures the watch set: higher is better.
    sensitivity_batch: (inputs, labels) on which sensitivities are measured; never of the watch set.
    """

    def __init__(
        self,
        model: QuantizedModel,
        goal: Goal,
        controller: Controller,
        *,
        epochs: int,
        steps: int,
        teacher: torch.Tensor,
        guide: Sequence[int],
        watch: Callable[[], float],
        sensitivity_batch: tuple[torch.Tensor, torch.Tensor],
        refresh: Callable[[], None],
    ) -> None:
        self.model, self.goal, self.controller = model, goal, controller
        self.layers = dict(model.layers())
        self.learning_epochs = max(math.floor(LEARNING_SHARE * epochs), 1)
        self.epochs = epochs
        self.learning_steps = self.learning_epochs * steps
        self.teacher, self.watch, self.refresh = teacher, watch, refresh
        self.sensitivity_batch = sensitivity_batch
        self.answers = answering(model)
        self.is_guide = torch.zeros(len(teacher), dtype=torch.bool)
        self.is_guide[list(guide)] = True
        self.multiplier = 0.0
        self.guide_weight = 1.0 if goal.guide_weight is None else goal.guide_weight
        self.scale = 1.0
        self.full_bytes = stored_bytes(model, self._alive())
        self.frozen = False
        self.learned: dict[str, torch.Tensor] = {}
        self.forget = set()
        self.slopes = {name: torch.zeros_like(layer.mask) for name, layer in self.layers.items()}
        for layer in self.layers.values():
            layer.quantizer.bits.requires_grad_(True)

    # --- the strategy's interface ---------------------------------------------------------------

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Weights, ranges and depths, each at its own rate."""
        bits = [layer.quantizer.bits for layer in self.layers.values()]
        ranges = [layer.quantizer.log2_range for layer in self.layers.values()]
        special = {id(p) for p in (*bits, *ranges)}
        weights = [p for p in self.model.module.parameters() if p.requires_grad and id(p) not in special]
        return [
            {"params": weights, "lr": learning_rate},
            {"params": ranges, "lr": _RANGE_RATE},
            {"params": bits, "lr": _SPAN * MAX_BITS / self.learning_steps, "constant": True},
        ]

    def start_epoch(self, epoch: int) -> None:
        """Freeze the channels when the learning phase ends; ranges freeze a little later."""
        if epoch >= self.learning_epochs and not self.frozen:
            self._settle()
        if not self.frozen and self.goal.budget is not None:
            _, self.slopes = self._relaxed_bytes()
        self.model.enable(True)
        self.model.observe(epoch < self.epochs - max(self.epochs // 5, 1))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Task, guide and size terms of a batch."""
        outputs = self.model.module(inputs)
        losses = task_losses(self.model, outputs, labels) + self._divergence(outputs, indices)
        guide = self.is_guide[indices]
        if self.guide_weight and guide.any() and not guide.all():
            total = losses[~guide].mean() + self.guide_weight * losses[guide].mean()
        else:
            total = losses.mean()
        if self.goal.alpha:
            total = total + self.goal.alpha * self._mean_magnitude()
        if not self.frozen and not self.controller.holding:
            self.scale += _SMOOTHING * (float(total.detach()) - self.scale)
            total = total + self._pressure()
        return total

    def after_step(self, step: int) -> None:
        """Keep depths in range, kill and revive channels, move the multiplier, let the controller look."""
        if self.frozen:
            return
        with torch.no_grad():
            for layer in self.layers.values():
                layer.quantizer.bits.clamp_(1.0, MAX_BITS)
        done = step + 1
        if self.goal.budget is not None and done % _SIZED_EVERY == 0 and not self.controller.holding:
            self._press(done)
        if done % max(self.learning_steps // REMOVALS, 1) == 0 and not self.controller.holding:
            self._remove(done)
        if done % max(self.learning_steps // CHECKS, 1) == 0:
            self._check(done)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Sizes, depths and the multipliers μ and λ."""
        alive = self._alive()
        depths = torch.cat([layer.quantizer.bits.detach() for layer in self.layers.values()])
        return {
            "bytes": float(stored_bytes(self.model, alive)),
            "learned_bytes": self.learned_bytes(),
            "channels": float(sum(mask.sum() for mask in alive.values())),
            "mean_bits": float(depths.mean()),
            "multiplier": self.multiplier,
            "guide_multiplier": self.guide_weight,
            "controller_actions": float(len(self.controller.actions)),
        }

    def state(self) -> dict[str, Any]:
        """Multipliers, phase, learned depths and the controller."""
        return {
            "multiplier": self.multiplier,
            "guide_weight": self.guide_weight,
            "scale": self.scale,
            "frozen": self.frozen,
            "learned": self.learned,
            "holding": self.controller.holding,
            "actions": self.controller.actions,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state`; masks come with the model."""
        self.multiplier, self.scale = state["multiplier"], state["scale"]
        self.guide_weight = state["guide_weight"]
        self.frozen, self.learned = state["frozen"], state["learned"]
        self.controller.holding, self.controller.actions = state["holding"], state["actions"]
        for layer in self.layers.values():
            layer.set_mask(layer.mask.clone())
            layer.quantizer.bits.requires_grad_(not self.frozen)

    # --- the terms ------------------------------------------------------------------------------

    def _divergence(self, outputs: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence of each sample from the float model's answer, float32 [n]."""
        if self.model.ends_with_softmax:
            return outputs.new_zeros(len(outputs))
        target = F.log_softmax(self.teacher[indices], 1)
        return F.kl_div(F.log_softmax(outputs, 1), target, reduction="none", log_target=True).sum(1)

    def _mean_magnitude(self) -> torch.Tensor:
        weights = [layer.weight.abs().mean() for layer in self.layers.values()]
        return torch.stack(weights).mean()

    def _pressure(self) -> torch.Tensor:
        """The size term: μ log R, or γ times the mean depth of a weight."""
        if self.goal.budget is None:
            counted = [(layer.quantizer.bits, layer.weight[0].numel()) for layer in self.layers.values()]
            total = sum(len(bits) * size for bits, size in counted)
            mean = torch.stack([bits.sum() * size for bits, size in counted]).sum() / total
            return self.goal.gamma * mean
        # The gradient of log R, as it was when it was last taken: it changes slowly, and is dear to follow.
        slopes = [(self.slopes[name] * layer.quantizer.bits).sum() for name, layer in self.layers.items()]
        return self.multiplier * torch.stack(slopes).sum() * self.scale

    def _relaxed_bytes(self) -> tuple[float, Masks]:
        """R, and ∂ log R / ∂ bits, [O] by layer; a channel counts by its depth, for its readers too."""
        bits = {name: layer.quantizer.bits for name, layer in self.layers.items()}
        soft = {name: depths / MAX_BITS * self.layers[name].mask for name, depths in bits.items()}
        uses = follow(self.model, soft)
        full = {name: torch.full_like(depths, MAX_BITS) for name, depths in bits.items()}
        relaxed = torch.stack([use.stored_bytes(full[use.name]) for use in uses]).sum()
        slopes = torch.autograd.grad(relaxed.log(), list(bits.values()))
        return float(relaxed.detach()), dict(zip(bits, slopes, strict=True))

    # --- phases ---------------------------------------------------------------------------------

    def _alive(self) -> Masks:
        return {name: layer.mask.clone() for name, layer in self.layers.items()}

    @torch.no_grad()
    def learned_bytes(self) -> float:
        """Bytes if every channel were stored at its own whole depth (no TFLite format does that)."""
        uses = follow(self.model, self._alive())
        depths = self.learned or {name: layer.quantizer.bits for name, layer in self.layers.items()}
        whole = {name: bits.clamp_min(FLOOR_BITS).ceil() for name, bits in depths.items()}
        return float(sum(use.stored_bytes(whole[use.name]).sum() for use in uses))

    def _press(self, step: int) -> None:
        """Move the multiplier by how far the relaxed size is above its path, and take the slopes anew."""
        relaxed, self.slopes = self._relaxed_bytes()
        excess = math.log(relaxed / self._path(step, start=0.0))
        gain = _PRESSURE * _SIZED_EVERY / self.learning_steps
        self.multiplier = min(max(self.multiplier + gain * excess, 0.0), _STRONGEST)

    def _remove(self, step: int) -> None:
        """Remove the channels that matter least for their bytes until the stored size is on its path.

        With a fixed γ there is no path: channels go when their depth has fallen below the smallest grid.
        """
        kept = self._alive()
        if self.goal.budget is None:
            for name, layer in self.layers.items():
                faint = layer.quantizer.bits < FLOOR_BITS
                faint[layer.quantizer.bits.argmax()] = False  # a layer never loses its last channel
                kept[name][faint & (name not in self.answers)] = 0.0
        else:
            path = self._path(step, start=_FIRST_REMOVAL)
            scores = self.sensitivity() if stored_bytes(self.model, kept) > path else {}
            kept = remove_until(self.model, kept, scores, path)
        for name, layer in self.layers.items():
            layer.set_mask(kept[name])

    def _path(self, step: int, start: float) -> float:
        """Bytes that the network should have come down to at a step: equal ratios from all to the budget."""
        assert self.goal.budget is not None
        done = (step / self.learning_steps - start) / (_ARRIVED - start)
        left = 1 - min(max(done, 0.0), 1.0)
        return float(self.goal.budget * (self.full_bytes / self.goal.budget) ** left)

    def _check(self, step: int) -> None:
        """Look at the watch set: λ follows how far it is below its floor, the controller gives bits back."""
        moves = self.goal.guide_weight is None
        if not (self.goal.guard or moves):
            return
        self.refresh()
        metric = self.watch()
        if moves:
            allowed = max(self.controller.release, _NO_DROP)
            below = (self.controller.baseline - metric) / allowed - 1
            grown = self.guide_weight * math.exp(_GUIDE_GAIN * min(max(below, -1.0), 1.0))
            self.guide_weight = min(max(grown, 1.0), _GUIDE_STRONGEST)
        if self.goal.guard:
            self._protect(step, metric)

    def _protect(self, step: int, metric: float) -> None:
        bits = {name: layer.quantizer.bits.detach() for name, layer in self.layers.items()}
        falls = self.controller.baseline - metric
        limit = self.controller.release if self.controller.holding else self.controller.trip
        sensitivity = self.sensitivity() if falls > limit else {}
        changed = self.controller.check(step, metric, bits, sensitivity)
        for name, depths in changed.items():
            layer = self.layers[name]
            revived = (layer.mask == 0) & (depths > layer.quantizer.bits)
            layer.quantizer.set_bits(depths)
            layer.quantizer.fit_range(layer.weight, revived)
            layer.set_mask(torch.maximum(layer.mask, revived.to(layer.mask.dtype)))
        if changed:
            self.forget.update(id(self.layers[name].quantizer.bits) for name in changed)
            log.info("controller: watch fell by %.4f at step %d; channels get bits back", falls, step)

    def sensitivity(self) -> Masks:
        """How much the loss would change if a channel's output did, first order, [O] by layer.

        Channels are asked at full depth, dead ones as if they could come back; the watch set takes no part.
        """
        quantizers = {name: layer.quantizer for name, layer in self.layers.items()}
        before = {
            name: (q.bits.detach().clone(), q.log2_range.detach().clone()) for name, q in quantizers.items()
        }
        scores = {name: torch.zeros(len(layer.mask)) for name, layer in self.layers.items()}
        inputs, labels = self.sensitivity_batch
        with self.model.evaluating() as module, torch.enable_grad():
            for name, layer in self.layers.items():
                dead = layer.mask == 0
                quantizers[name].set_bits(torch.full_like(layer.mask, MAX_BITS))
                quantizers[name].fit_range(layer.weight, dead)
            with _masks_with_gradient(self.layers) as masks:
                parts = zip(torch.split(inputs, 64), torch.split(labels, 64), strict=True)
                for part_inputs, part_labels in parts:
                    loss = task_losses(self.model, module(part_inputs), part_labels).sum()
                    gradients = torch.autograd.grad(loss, list(masks.values()))
                    for name, gradient in zip(masks, gradients, strict=True):
                        scores[name] += gradient.square()
        with torch.no_grad():
            for name, (bits, log2_range) in before.items():
                quantizers[name].bits.copy_(bits)
                quantizers[name].log2_range.copy_(log2_range)
        return scores

    def _settle(self) -> None:
        """Choose the channels that stay, give them the stored width, and stop learning depths."""
        self.refresh()
        self.learned = {name: layer.quantizer.bits.detach().clone() for name, layer in self.layers.items()}
        kept = self._alive()
        if self.goal.budget is not None:
            kept = fit(self.model, kept, self.sensitivity(), self.goal.budget)
        for name, layer in self.layers.items():
            revived = (layer.mask == 0) & (kept[name] > 0)
            layer.quantizer.set_bits(torch.full_like(layer.mask, MAX_BITS))
            layer.quantizer.fit_range(layer.weight, revived)
            layer.quantizer.bits.requires_grad_(False)
            layer.set_mask(kept[name])
        self.frozen = True
        log.info(
            "compress: depths frozen; %d bytes stored, %d at learned widths",
            stored_bytes(self.model, kept),
            self.learned_bytes(),
        )


@contextlib.contextmanager
def _masks_with_gradient(layers: Mapping[str, QuantLayer]) -> Iterator[Masks]:
    """The layers' masks as leaves of the autograd graph; restored afterwards."""
    before = {name: (layer.mask, layer.masked) for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.mask, layer.masked = layer.mask.clone().requires_grad_(True), True
        yield {name: layer.mask for name, layer in layers.items()}
    finally:
        for name, layer in layers.items():
            layer.mask, layer.masked = before[name]
