"""Safety-guided self-compression: depths that are learned under a size constraint, watched by a controller.

The loss of a batch, after arXiv 2505.00350 (eq. 4), with the size as a constraint::

    Λ = L(train) + λ · L(guide) + size (see ``pressure``) + α · mean|w|

L is cross-entropy plus the divergence from the float model's softened answers (of data that is not augmented:
once); guide samples are a fixed share of every batch, so they cost no second forward pass; λ, where it is not
fixed, is the multiplier of a second constraint: it rises while the watch metric lies below its floor, and
comes back to 1 above it.

Two phases: *learning* (depths move, channels die, the controller gives bits back) and *settling*: the
channels that stay are chosen to meet the budget exactly (``fit``), every layer gets a width that the target
stores (``snapping``), and all is fine-tuned. While the watch metric lies below its floor, layers become wider
again where there is room. Without a size to press on there is nothing to learn: the smallest storages settle
at once.
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
from sgsc_edge.compression.fit import Masks, remove_until, stored_bytes
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.path import Path
from sgsc_edge.compression.pressure import Pressure
from sgsc_edge.compression.quantizer import FLOOR_BITS, MAX_BITS
from sgsc_edge.compression.sensitivity import fisher_information, sensitivity
from sgsc_edge.compression.strategy import Strategy, task_losses
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.storing import Storing

log = logging.getLogger("sgsc_edge")

LEARNING_SHARE = 0.6
"""Share of the epochs in which depths are learned."""

TEMPERATURE = 4.0
"""Divides logits where they are compared with the float model's (arXiv 1503.02531): at 1, a confident model
says little more than the label."""

GUIDE_SHARE = 0.25
"""Share of a batch that is drawn from the guide set."""

CHECKS = 12
"""Looks at the watch set in the learning phase; the controller, when it holds, takes four times as many."""
_RANGE_RATE = 1e-2
_SPAN = 2.0
"""Depths can cross the whole range in 1/_SPAN of the learning phase."""

_FIRST_REMOVAL = 0.2
"""Share of the learning phase before the first channel goes: depths must have had time to tell."""

_STEPS_BETWEEN = 5
"""Steps between two looks at least: training must have had time to answer."""

REMOVALS = 30
"""Times in the learning phase at which channels are removed."""

_GUIDE_GAIN = 0.5
"""Growth of log λ at a check that finds the watch metric at the controller's trip; as much down at none."""

_GUIDE_STRONGEST = 4.0
"""Bound of λ where it moves."""

_NO_DROP = 1e-3
"""Stands for an allowed drop of 0 where a fall is measured by it."""


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

    @property
    def presses(self) -> bool:
        """Whether anything presses on the size."""
        return self.budget is not None or self.gamma > 0


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
        self.teacher, self.watch, self.refresh = teacher, watch, refresh
        self.sensitivity_batch = sensitivity_batch
        self.answers = answering(model)
        self.is_guide = torch.zeros(samples, dtype=torch.bool)
        self.is_guide[list(guide)] = True
        self.is_kept = torch.zeros(samples, dtype=torch.bool)
        self.is_kept[list(must_keep)] = True
        self.guide_weight = 1.0 if goal.guide_weight is None else goal.guide_weight
        self.frozen = False
        self.learned: dict[str, torch.Tensor] = {}
        self.forget = set()
        self.storing = storing
        self.pressure = Pressure(model, goal.budget, goal.gamma, self.learning_steps)
        self.path = None
        if goal.budget is not None:
            self.path = Path(goal.budget, stored_bytes(model, self._alive()), self.learning_steps)
        for layer in self.layers.values():
            layer.quantizer.bits.requires_grad_(True)

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
        if not self.frozen:
            if epoch >= self.learning_epochs:
                self._settle()
            else:
                self.pressure.renew()
        elif self.goal.guard or self._moves:
            self._look_back(epoch)
        self.model.enable(True)
        self.model.observe(epoch < self.epochs - max(self.epochs // 5, 1))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Task, guide and size terms of a batch."""
        outputs = self.model.module(inputs)
        kept = self.is_kept[indices]
        # As strong as the softened answers that the others follow: those have T times a label's gradients.
        losses = task_losses(self.model, outputs, labels) * torch.where(kept, TEMPERATURE, 1.0)
        losses = losses + self._divergence(outputs, inputs, indices).masked_fill(kept, 0.0)
        guide = self.is_guide[indices]
        if self.guide_weight and guide.any() and not guide.all():
            total = losses[~guide].mean() + self.guide_weight * losses[guide].mean()
        else:
            total = losses.mean()
        if self.goal.alpha:
            total = total + self.goal.alpha * self._mean_magnitude()
        if not self.frozen and not self.controller.holding:
            total = total + self.pressure.term(total)
        return total

    def after_step(self, step: int) -> None:
        """Keep depths in range, kill and revive channels, move the multiplier, let the controller look."""
        if self.frozen:
            return
        with torch.no_grad():
            for layer in self.layers.values():
                layer.quantizer.bits.clamp_(1.0, MAX_BITS)
        done = step + 1
        if not self.controller.holding:
            self.pressure.press(done)
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
            **({"learned_bytes": self.learned_bytes()} if self.goal.presses else {}),
            "channels": float(sum(mask.sum() for mask in alive.values())),
            "mean_bits": float(depths.mean()),
            "multiplier": self.pressure.multiplier,
            "guide_multiplier": self.guide_weight,
            "controller_actions": float(len(self.controller.actions)),
        }

    def state(self) -> dict[str, Any]:
        """Multipliers, phase, learned depths, the plan and the controller."""
        return {
            "pressure": self.pressure.state(),
            "guide_weight": self.guide_weight,
            "frozen": self.frozen,
            "learned": self.learned,
            "plan": None if self.plan is None else self.plan.to_json(),
            "controller": self.controller.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state`; masks come with the model."""
        self.pressure.load(state["pressure"])
        self.guide_weight = state["guide_weight"]
        self.frozen, self.learned = state["frozen"], state["learned"]
        self.controller.load(state["controller"])
        if state["plan"] is not None:
            self.storing.take(Plan.from_json(state["plan"]))
        for layer in self.layers.values():
            layer.quantizer.bits.requires_grad_(not self.frozen)
            layer.quantizer.shared = self.frozen and not layer.storage.per_channel
        self._set_masks(self._alive())

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
        if not (self.goal.guard or self._moves):
            return
        metric = self._refreshed_watch()
        self._follow(metric)
        if self.goal.guard:
            self._protect(step, metric)

    @property
    def _moves(self) -> bool:
        """Whether λ follows the watch metric."""
        return self.goal.guide_weight is None

    def _follow(self, metric: float) -> None:
        """Move λ by how far a metric is below its floor."""
        if self._moves:
            allowed = max(self.controller.release, _NO_DROP)
            below = (self.controller.baseline - metric) / allowed - 1
            grown = self.guide_weight * math.exp(_GUIDE_GAIN * min(max(below, -1.0), 1.0))
            self.guide_weight = min(max(grown, 1.0), _GUIDE_STRONGEST)

    def _protect(self, step: int, metric: float) -> bool:
        """Let the controller judge a measurement, and give channels the bits that it asks for."""
        held = self.controller.holding
        depths = {name: layer.quantizer.bits.detach() * layer.mask for name, layer in self.layers.items()}
        scores = self.sensitivity() if self.controller.acts(metric) else {}
        changed = self.controller.check(step, metric, depths, scores, Ledger.of(self.model).members)
        if self.controller.holding and not held:
            self.pressure.ease()
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
        """Choose channels and widths, and stop learning depths."""
        self.refresh()
        self.learned = {name: layer.quantizer.bits.detach().clone() for name, layer in self.layers.items()}
        alive, fisher = self._alive(), fisher_information(self.model, *self.sensitivity_batch)
        if self.goal.budget is None:
            self.storing.choose(alive, fisher)
        else:
            samples = len(self.sensitivity_batch[1])
            alive = self.storing.choose_within(self.goal.budget, alive, fisher, self.sensitivity(), samples)
        self._set_masks(alive)
        self.storing.snap()
        for layer in self.layers.values():
            layer.quantizer.bits.requires_grad_(False)
        if self.path is None and self.goal.guard and self.goal.presses:
            self._reopen()
            self.storing.recount(self._alive(), fisher)
        self.frozen = True
        if self._moves:
            self.guide_weight = 1.0  # what learning had to bear is over
        self.storing.report()
        log.info(
            "compress: widths chosen; %d bytes stored%s%s",
            stored_bytes(self.model, self._alive()),
            "" if self.path is None else f" of {self.path.budget}",
            f", {self.learned_bytes():.0f} at learned widths" if self.goal.presses else "",
        )

    def _look_back(self, epoch: int) -> None:
        """Between two epochs of settling: λ follows the watch set; where that has fallen, layers grow wider.

        First comes the one that loses most for its bytes by being stored in 4 bits, if there is room.
        """
        metric = self._refreshed_watch()
        self._follow(metric)
        fall = self.controller.baseline - metric
        if not self.goal.guard or self.plan is None or fall <= self.controller.release:
            return
        budget = self.goal.budget
        room = math.inf if budget is None else self.storing.room(budget, self._alive())
        for name in self.storing.widen(room):
            layer = self.layers[name]
            self.forget |= {id(layer.quantizer.log2_range), id(layer.weight)}
            now = f"{name} {layer.storage}"
            log.info("compress: watch %.4f below float before epoch %d: %s", fall, epoch + 1, now)

    def _reopen(self) -> None:
        """Before channels are gone for good, let the controller bring back what the watch set misses."""
        changed = True
        while changed:
            self.controller.last = math.inf  # nothing is trained in between: no recovery to wait for
            changed = self._protect(self.learning_steps, self._refreshed_watch())
            for layer in self.layers.values():
                layer.quantizer.set_bits(layer.widths())

    def _refreshed_watch(self) -> float:
        self.refresh()
        return self.watch()
