"""Safety-guided self-compression: depths that are learned under a size constraint, watched by a controller.

The loss of a batch, after arXiv 2505.00350 (eq. 4), with the size as a constraint::

    Λ = L(train) + λ · L(guide) + μ · ‖L‖ · log(R / B) + α · mean|w|

L is cross-entropy plus the divergence from the float model's logits (of data that is not augmented: once);
guide samples are a fixed share of every batch, so they cost no second forward pass; λ, where it is not fixed,
is the multiplier of a second constraint: it rises while the watch metric lies below its floor, and comes back
to 1 above it. R is the size with each channel at its present depth and each consumer's dead inputs left out
(arXiv 2301.13142), B the budget, μ a multiplier that rises while R exceeds its path down to B and falls below
it; ‖L‖, the running mean of the loss, keeps the two terms comparable however small the loss has become. With
a fixed γ the term is γ times the mean depth, and nothing is constrained.

Two phases: *learning* (depths move, channels die, the controller gives bits back) and *settling*: the
channels that stay are chosen to meet the budget exactly (``fit``), get the width that the target stores, and
are fine-tuned.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sgsc_edge.compression.channels import answering, follow, skip_dead
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import Masks, fit, remove_until, stored_bytes
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.path import Path
from sgsc_edge.compression.quantizer import FLOOR_BITS, MAX_BITS
from sgsc_edge.compression.sensitivity import sensitivity
from sgsc_edge.compression.strategy import Strategy, task_losses

log = logging.getLogger("sgsc_edge")

LEARNING_SHARE = 0.6
"""Share of the epochs in which depths are learned."""

GUIDE_SHARE = 0.25
"""Share of a batch that is drawn from the guide set."""

CHECKS = 12
"""Looks at the watch set in the learning phase; the controller, when it holds, takes four times as many."""
_RANGE_RATE = 1e-2
_SPAN = 2.0
"""Depths can cross the whole range in 1/_SPAN of the learning phase."""

_PRESSURE = 20.0
"""Growth of μ in a learning phase spent at e times the path."""

_FIRST_REMOVAL = 0.2
"""Share of the learning phase before the first channel goes: depths must have had time to tell."""

_STEPS_BETWEEN = 5
"""Steps between two looks at least: training must have had time to answer."""

REMOVALS = 30
"""Times in the learning phase at which channels are removed."""

_STRONGEST = 20.0
"""Bound of μ."""

_SMOOTHING = 0.05

_RELIEF = 0.5
"""Factor on the pressure each time that the controller takes hold: it was too much."""

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
    teacher: the float model's outputs float32 [n, K], from a batch's inputs and training indices.
    samples: in the training set.
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
        teacher: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        samples: int,
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
        self.steady = self.learning_epochs / epochs
        self.teacher, self.watch, self.refresh = teacher, watch, refresh
        self.sensitivity_batch = sensitivity_batch
        self.answers = answering(model)
        self.is_guide = torch.zeros(samples, dtype=torch.bool)
        self.is_guide[list(guide)] = True
        self.multiplier = 0.0
        self.guide_weight = 1.0 if goal.guide_weight is None else goal.guide_weight
        self.scale = 1.0
        self.relief = 1.0
        self.frozen = False
        self.learned: dict[str, torch.Tensor] = {}
        self.forget = set()
        self.path = None
        if goal.budget is not None:
            full = stored_bytes(model, self._alive())
            self.path = Path(goal.budget, full, self.learning_steps)
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
        if not self.frozen and self.path is not None:
            _, self.slopes = self._relaxed_bytes()
        self.model.enable(True)
        self.model.observe(epoch < self.epochs - max(self.epochs // 5, 1))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Task, guide and size terms of a batch."""
        outputs = self.model.module(inputs)
        losses = task_losses(self.model, outputs, labels) + self._divergence(outputs, inputs, indices)
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
        if self.path is not None and done % _SIZED_EVERY == 0 and not self.controller.holding:
            self._press(done, self.path)
        # The look comes first: what was just removed has had no step to recover from.
        if done % self._pace(4 * CHECKS if self.controller.holding else CHECKS, least=_STEPS_BETWEEN) == 0:
            self._check(done)
        # A budget is due in the end, whatever the controller says; a fixed weight can wait.
        waits = self.controller.holding and self.path is None
        if done % self._pace(REMOVALS) == 0 and not waits:
            self._remove(done)

    def _pace(self, times: int, least: int = 1) -> int:
        """Steps between things that happen so many times in the learning phase."""
        return max(self.learning_steps // times, least)

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
            "relief": self.relief,
            "controller": self.controller.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state`; masks come with the model."""
        self.multiplier, self.scale = state["multiplier"], state["scale"]
        self.guide_weight = state["guide_weight"]
        self.frozen, self.learned = state["frozen"], state["learned"]
        self.relief = state["relief"]
        self.controller.load(state["controller"])
        for layer in self.layers.values():
            layer.quantizer.bits.requires_grad_(not self.frozen)
        self._set_masks(self._alive())

    # --- the terms ------------------------------------------------------------------------------

    def _divergence(self, outputs: torch.Tensor, inputs: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence of each sample from the float model's answer, float32 [n]."""
        if self.model.ends_with_softmax:
            return outputs.new_zeros(len(outputs))
        target = F.log_softmax(self.teacher(inputs, indices), 1)
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
            return self.goal.gamma * self.relief * mean
        # The gradient of log R, as it was when it was last taken: it changes slowly, and is dear to follow.
        slopes = [(self.slopes[name] * layer.quantizer.bits).sum() for name, layer in self.layers.items()]
        return self.multiplier * self.relief * torch.stack(slopes).sum() * self.scale

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

    def _set_masks(self, masks: Masks) -> None:
        """Let channels die or live; the ranges of those that come back fit their weights."""
        for name, layer in self.layers.items():
            layer.quantizer.fit_range(layer.weight, (layer.mask == 0) & (masks[name] > 0))
            layer.set_mask(masks[name])
        skip_dead(self.model)

    @torch.no_grad()
    def learned_bytes(self) -> float:
        """Bytes if every channel were stored at its own whole depth (no TFLite format does that)."""
        uses = follow(self.model, self._alive())
        depths = self.learned or {name: layer.quantizer.bits for name, layer in self.layers.items()}
        whole = {name: bits.clamp_min(FLOOR_BITS).ceil() for name, bits in depths.items()}
        return float(sum(use.stored_bytes(whole[use.name]).sum() for use in uses))

    def _press(self, step: int, path: Path) -> None:
        """Move the multiplier by how far the relaxed size is above its path, and take the slopes anew."""
        relaxed, self.slopes = self._relaxed_bytes()
        excess = math.log(relaxed / path.at(step))
        gain = _PRESSURE * _SIZED_EVERY / self.learning_steps
        self.multiplier = min(max(self.multiplier + gain * excess, 0.0), _STRONGEST)

    def _remove(self, step: int) -> None:
        """Remove the channels that matter least for their bytes until the stored size is on its path.

        With a fixed γ there is no path: channels go when their depth has fallen below the smallest grid.
        """
        kept = self._alive()
        if self.path is None:
            for name, layer in self.layers.items():
                bits = layer.quantizer.bits
                faint = bits < FLOOR_BITS
                # A layer never loses its last channel.
                faint[bits.masked_fill(kept[name] == 0, -torch.inf).argmax()] = False
                kept[name][faint & (name not in self.answers)] = 0.0
        else:
            limit = self.path.at(step, start=_FIRST_REMOVAL)
            if stored_bytes(self.model, kept) > limit:
                kept = remove_until(self.model, kept, self.sensitivity(), limit)
        self._set_masks(kept)

    def _check(self, step: int) -> None:
        """Look at the watch set: λ follows how far it is below its floor, the controller gives bits back."""
        moves = self.goal.guide_weight is None
        if not (self.goal.guard or moves):
            return
        metric = self._refreshed_watch()
        if moves:
            allowed = max(self.controller.release, _NO_DROP)
            below = (self.controller.baseline - metric) / allowed - 1
            grown = self.guide_weight * math.exp(_GUIDE_GAIN * min(max(below, -1.0), 1.0))
            self.guide_weight = min(max(grown, 1.0), _GUIDE_STRONGEST)
        if self.goal.guard:
            self._protect(step, metric)

    def _protect(self, step: int, metric: float) -> bool:
        """Let the controller judge a measurement, and give channels the bits that it asks for."""
        held = self.controller.holding
        depths = {name: layer.quantizer.bits.detach() * layer.mask for name, layer in self.layers.items()}
        scores = self.sensitivity() if self.controller.acts(metric) else {}
        changed = self.controller.check(step, metric, depths, scores, Ledger.of(self.model).members)
        if self.controller.holding and not held:
            self.relief *= _RELIEF
        for name, bits in changed.items():
            layer = self.layers[name]
            layer.quantizer.set_bits(torch.where(bits > 0, bits, layer.quantizer.bits))
            self.forget |= {id(layer.quantizer.bits), id(layer.quantizer.log2_range)}
        if changed:
            self._set_masks({name: (bits > 0).to(bits.dtype) for name, bits in (depths | changed).items()})
            fall = self.controller.baseline - metric
            log.info("controller: watch fell by %.4f at step %d; channels get bits back", fall, step)
        return bool(changed)

    def sensitivity(self) -> Masks:
        """See :func:`sgsc_edge.compression.sensitivity.sensitivity`."""
        return sensitivity(self.model, *self.sensitivity_batch)

    def _settle(self) -> None:
        """Choose the channels that stay, give them the stored width, and stop learning depths."""
        self.refresh()
        self.learned = {name: layer.quantizer.bits.detach().clone() for name, layer in self.layers.items()}
        kept = self._alive()
        if self.goal.budget is not None:
            kept = fit(self.model, kept, self.sensitivity(), self.goal.budget)
        self._set_masks(kept)
        for layer in self.layers.values():
            layer.quantizer.set_bits(torch.full_like(layer.mask, MAX_BITS))
            layer.quantizer.bits.requires_grad_(False)
        if self.path is None and self.goal.guard:
            self._reopen()
        self.frozen = True
        log.info(
            "compress: depths frozen; %d bytes stored%s, %d at learned widths",
            stored_bytes(self.model, self._alive()),
            "" if self.path is None else f" of {self.path.budget}",
            self.learned_bytes(),
        )

    def _reopen(self) -> None:
        """Before channels are gone for good, let the controller bring back what the watch set misses."""
        changed = True
        while changed:
            self.controller.last = math.inf  # nothing is trained in between: no recovery to wait for
            changed = self._protect(self.learning_steps, self._refreshed_watch())
            for layer in self.layers.values():
                layer.quantizer.set_bits(torch.full_like(layer.mask, MAX_BITS))

    def _refreshed_watch(self) -> float:
        self.refresh()
        return self.watch()
