"""Safety-guided self-compression: depths that are learned under a size constraint, watched by a controller.

The loss of a batch, after arXiv 2505.00350 (eq. 4), with the size as a constraint::

    Λ = L(train) + λ · L(guide) + size (see ``pressure``) + α · mean|w|

L is cross-entropy plus the divergence from the float model's softened answers (of data that is not augmented:
once); guide samples are a fixed share of every batch, so they cost no second forward pass; λ, where it is not
fixed, follows the watch set (``guarding``).

Two phases: *learning* (``pressing``: depths move, channels die, the controller gives bits back) and
*settling*: the channels that stay are chosen to meet the budget exactly, every layer gets widths that the
target stores, and all is fine-tuned. With no size to press on there is nothing to learn: all settles at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from sgsc_edge.compression.channels import living_masks, set_masks
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import Masks, stored_bytes
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guarding import Guarding
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.pressing import Pressing
from sgsc_edge.compression.quantizer import MAX_BITS
from sgsc_edge.compression.settling import Settling
from sgsc_edge.compression.snapshot import Snapshot
from sgsc_edge.compression.strategy import Strategy, task_losses
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.storing import Storing

LEARNING_SHARE = 0.6
"""Share of the epochs in which depths are learned."""

TEMPERATURE = 4.0
"""Divides logits where they are compared with the float model's (arXiv 1503.02531): at 1, a confident model
says little more than the label."""

_RANGE_RATE = 1e-2
_SPAN = 2.0
"""Depths can cross the whole range in 1/_SPAN of the learning phase."""


class Learned(Strategy):
    """Learns depths under a :class:`Goal`.

    Parameters
    ----------
    teacher: the float model's outputs float32 [n, K], from a batch's inputs and training indices.
    samples: in the training set.
    guide, must_keep: training indices of the guarded samples, and of those whose decision may not flip: they
        follow their labels, not the float model, whose answer may be close to the other one.
    watch: measures the watch set: higher is better.
    sensitivity_batch: (inputs, labels) on which sensitivities are measured; never of the watch set.
    storing: how the layers are stored.

    Attributes
    ----------
    channels: for each epoch that changed them, the depth of every channel by layer; 0 for one that is gone.
    snapshot: the end of the learning phase, for a smaller budget to go on from; None before.
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
        must_keep: Sequence[int],
        watch: Callable[[], float],
        sensitivity_batch: tuple[torch.Tensor, torch.Tensor],
        refresh: Callable[[], None],
        storing: Storing,
    ) -> None:
        self.model, self.goal, self.controller = model, goal, controller
        self.layers = dict(model.layers())
        self.learning_epochs = max(math.floor(LEARNING_SHARE * epochs), 1) if goal.presses else 0
        self.epochs = epochs
        self.learning_steps = self.learning_epochs * steps
        self.steady = self.learning_epochs / epochs
        self.teacher = teacher
        self.is_guide = torch.zeros(samples, dtype=torch.bool)
        self.is_guide[list(guide)] = True
        self.is_kept = torch.zeros(samples, dtype=torch.bool)
        self.is_kept[list(must_keep)] = True
        self.guarding = Guarding(
            model, goal, controller, watch=watch, refresh=refresh, batch=sensitivity_batch
        )
        self.forget = self.guarding.forget
        self.pressing = Pressing(model, goal, self.guarding, self.learning_steps)
        self.settling = Settling(model, goal, self.guarding, storing, self.learning_steps)
        self.storing = storing
        self.channels: list[dict[str, Any]] = []
        self.snapshot: Snapshot | None = None

    def go_on_from(self, start: Snapshot) -> None:
        """Press and guard as hard as where the model comes from; the controller starts anew."""
        self.pressing.pressure.multiplier, self.pressing.pressure.scale = start.multiplier, start.scale
        if self.goal.guide_weight is None:
            self.guarding.guide_weight = start.guide_weight

    @property
    def plan(self) -> Plan | None:
        """How layers are stored; None while depths are learned."""
        return self.storing.plan

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
            {"params": bits, "lr": _SPAN * MAX_BITS / max(self.learning_steps, 1), "constant": True},
        ]

    def start_epoch(self, epoch: int) -> None:
        """Freeze the channels when the learning phase ends; ranges freeze a little later."""
        if self.settling.done:
            self.settling.look_back(epoch)
        elif epoch >= self.learning_epochs:
            self._keep_snapshot()
            self.settling.settle()
        else:
            self.pressing.pressure.renew()
        self.model.enable(True)
        self.model.observe(epoch < self.epochs - max(self.epochs // 5, 1))

    def _keep_snapshot(self) -> None:
        pressure = self.pressing.pressure
        if self.goal.presses:
            self.snapshot = Snapshot.of(
                self.model,
                multiplier=pressure.multiplier,
                scale=pressure.scale,
                guide_weight=self.guarding.guide_weight,
            )

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Task, guide and size terms of a batch."""
        outputs = self.model.module(inputs)
        kept = self.is_kept[indices]
        # As strong as the softened answers that the others follow: those have T times a label's gradients.
        losses = task_losses(self.model, outputs, labels) * torch.where(kept, TEMPERATURE, 1.0)
        losses = losses + self._divergence(outputs, inputs, indices).masked_fill(kept, 0.0)
        guide = self.is_guide[indices]
        if self.guarding.guide_weight and guide.any() and not guide.all():
            total = losses[~guide].mean() + self.guarding.guide_weight * losses[guide].mean()
        else:
            total = losses.mean()
        if self.goal.alpha:
            total = total + self.goal.alpha * self._mean_magnitude()
        return total if self.settling.done else total + self.pressing.term(total)

    def after_step(self, step: int) -> None:
        """While depths are learned: see :meth:`Pressing.after_step`."""
        if not self.settling.done:
            self.pressing.after_step(step)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Sizes, depths and the multipliers μ and λ."""
        alive = living_masks(self.model)
        depths = torch.cat([layer.quantizer.bits.detach() for layer in self.layers.values()])
        self._record(epoch, alive)
        return {
            "bytes": float(stored_bytes(self.model, alive)),
            **({"learned_bytes": self.settling.learned_bytes()} if self.goal.presses else {}),
            "channels": float(sum(mask.sum() for mask in alive.values())),
            "mean_bits": float(depths.mean()),
            "multiplier": self.pressing.pressure.multiplier,
            "guide_multiplier": self.guarding.guide_weight,
            "controller_actions": float(len(self.controller.actions)),
        }

    def _record(self, epoch: int, alive: Masks) -> None:
        depths = {
            name: [round(float(bits), 2) for bits in layer.quantizer.bits.detach() * alive[name]]
            for name, layer in self.layers.items()
        }
        if not self.channels or self.channels[-1]["layers"] != depths:
            self.channels.append({"epoch": epoch + 1, "layers": depths})

    def state(self) -> dict[str, Any]:
        """Multipliers, learned depths, the plan, the controller, the record of channels and the snapshot."""
        return {
            "channels": self.channels,
            "pressure": self.pressing.pressure.state(),
            "guide_weight": self.guarding.guide_weight,
            "learned": self.settling.learned,
            "plan": None if self.plan is None else self.plan.to_json(),
            "controller": self.controller.state(),
            "snapshot": None if self.snapshot is None else self.snapshot.tensors(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state`; masks come with the model."""
        self.pressing.pressure.load(state["pressure"])
        self.guarding.guide_weight = state["guide_weight"]
        self.controller.load(state["controller"])
        self.channels = state["channels"]
        if state["snapshot"] is not None:
            self.snapshot = Snapshot.from_tensors(state["snapshot"])
        if state["plan"] is not None:
            self.storing.take(Plan.from_json(state["plan"]))
        self.settling.resume(state["learned"])
        set_masks(self.model, living_masks(self.model))

    # --- the terms ------------------------------------------------------------------------------

    def _divergence(self, outputs: torch.Tensor, inputs: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence of each sample from the float model's softened answer, float32 [n].

        The square of the temperature makes up for the gradients that softening takes.
        """
        if self.model.ends_with_softmax:
            return outputs.new_zeros(len(outputs))
        target, own = (
            F.log_softmax(logits / TEMPERATURE, 1) for logits in (self.teacher(inputs, indices), outputs)
        )
        return TEMPERATURE**2 * F.kl_div(own, target, reduction="none", log_target=True).sum(1)

    def _mean_magnitude(self) -> torch.Tensor:
        weights = [layer.weight.abs().mean() for layer in self.layers.values()]
        return torch.stack(weights).mean()
