"""Safety-guided self-compression for any training loop.

::

    compressor = Compressor(model, sample, steps=len(loader) * epochs, data=loader, budget="8 kB",
                            target="c-learned", watch=lambda model: accuracy(model, held_out))
    model = compressor.model                                   # train it in place of yours
    optimizer = torch.optim.SGD(model.parameters(), 0.05)      # any; with any schedule
    for inputs, labels in loader:
        loss = F.cross_entropy(model(inputs), labels)
        (loss + compressor.penalty(loss)).backward()
        optimizer.step()
        optimizer.zero_grad()
        compressor.step(optimizer)
    compressor.save("compressed.safetensors")

Two phases: *learning* (``pressing``: depths move, channels die, the controller gives bits back) and
*settling* (``settling``): the channels that stay are chosen to meet the budget exactly, every layer gets
widths that the target stores, and all is fine-tuned. With no size to press on there is nothing to learn: all
settles at once.

Depths and ranges have an optimizer of their own, so the user's may be any; dead channels leave the model that
is trained (``working``), so steps get faster.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from sgsc_edge.compression.arguments import (
    check_arguments,
    check_state,
    device_of,
    fingerprint,
    first_labelled,
    limit_of,
    measured_by,
    named_arguments,
    not_ours,
    watched,
)
from sgsc_edge.compression.calibration import Batches, calibrate, re_estimate_norms
from sgsc_edge.compression.channels import living_masks
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import check_budget, stored_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, fold
from sgsc_edge.compression.goal import Controls, Goal
from sgsc_edge.compression.guarding import Guarding
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.loop_checks import LoopChecks, check_optimizers, check_place
from sgsc_edge.compression.own_optimizer import OwnOptimizer
from sgsc_edge.compression.pressing import Pressing
from sgsc_edge.compression.quantizer import FLOOR_BITS, MAX_BITS
from sgsc_edge.compression.saved import Saved, write_saved
from sgsc_edge.compression.settling import Settling
from sgsc_edge.compression.snapshot import Snapshot
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.compression.working import WorkingCopy
from sgsc_edge.errors import ConfigError
from sgsc_edge.project import Budget
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")

LEARNING_SHARE = 0.6
"""Share of the steps in which depths are learned."""

LOOKS_BACK = 8
"""Parts of the settling phase between which the watch set is looked at."""

_OBSERVING_SHARE = 0.8
"""Share of the steps in which activation ranges follow the data."""

IMPORTANCE_SAMPLES = 512

_STATE_VERSION = 2


class Compressor:
    """Compresses a model while it is trained.

    Parameters
    ----------
    model: the trained float model; never changed.
    sample: one input without its batch dimension.
    steps: optimizer steps that training will take; schedules follow from it.
    data: batches of training data, (inputs, labels), iterated anew each time that activation ranges or
        BatchNorm statistics are measured (the first 1,024 samples).
    target: how the device stores weights: a target's name, the path of its ``.toml``, or either loaded.
    budget: bytes as the target stores them, ``"8 kB"``, or a ratio of the float size, ``"0.1x"``.
    gamma, alpha: fixed weights of the mean depth and of the mean magnitude of weights, for experiments.
    guide_weight: λ, the weight of guide samples in a loss that has them; None lets the watch metric move it.
    controller: whether channels get bits back when the watch metric falls (see :class:`.Goal`); None: under
        a fixed ``gamma``.
    depths: range of the bit depths that are learned.
    watch: measures samples that are never trained on, given the model in evaluation mode; higher is better.
        Without it nothing guards: no controller, λ = 1.
    max_drop: fall of the watch metric at which the controller lets go; it takes hold at twice as much.
    baseline: the watch metric to compare with; None for the float model's own.
    importance: labelled samples on which channels' importance is measured; None for the first of ``data``.
    loss: by which it is measured: (outputs, labels) -> mean of a batch, a scalar; None for cross-entropy.
    keep_softmax, input_grid: see :func:`sgsc_edge.compression.layers.quantize_model`.
    start: another compressor's ``snapshot``, of a larger budget, where learning goes on; None for the float
        model.
    of_project: whether the arguments follow from a project file: errors name its keys in their place.

    Attributes
    ----------
    model: the model to train: dead channels leave it, its parameters keep their identity.
    steps, done: optimizer steps in all, and taken.
    controller: the feedback controller with its ``actions``.
    channels: for each record that changed them, the depth of every channel by layer; 0 for one that is gone.
        With ``start`` epoch 0 is what that left.
    snapshot: the end of the learning phase; None before.

    Raises
    ------
    ModelError, UnsupportedError: the model cannot be traced or quantized, or a weight is not finite.
    ConfigError: no network of this architecture is as small as the budget, or an argument is wrong.
    FileFormatError: ``start`` is of another architecture.
    """

    def __init__(
        self,
        model: nn.Module,
        sample: torch.Tensor,
        *,
        steps: int,
        data: Batches,
        target: str | Path | Target | Device = "tflite-int8",
        budget: int | str | Budget | None = None,
        gamma: float = 0.0,
        alpha: float = 0.0,
        guide_weight: float | None = None,
        controller: Controls = None,
        depths: tuple[float, float] = (FLOOR_BITS, MAX_BITS),
        watch: Callable[[nn.Module], float] | None = None,
        max_drop: float = 0.01,
        baseline: float | None = None,
        importance: tuple[torch.Tensor, torch.Tensor] | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        keep_softmax: bool = False,
        input_grid: tuple[float, int] | None = None,
        start: Snapshot | None = None,
        of_project: bool = False,
    ) -> None:
        self._of_project = of_project
        with named_arguments(of_project=of_project):
            check_arguments(model, sample, steps, controller, depths, start)
            limit, device = limit_of(budget, model), device_of(target)
            self._full = quantize_model(model, sample, keep_softmax=keep_softmax, input_grid=input_grid)
            if limit is not None:
                for name, legal in device.storages(self._full).items():
                    self._full.module.get_submodule(name).storage = min(legal)  # type: ignore[assignment]
                check_budget(self._full, limit)
        calibrate(self._full, data)
        self.steps, self.done = int(steps), 0
        self._data, self._watch = data, watch
        if watch is None:
            controller, guide_weight = False, 1.0 if guide_weight is None else guide_weight
        self.goal = Goal(limit, alpha, gamma, guide_weight, controller, depths)
        self.controller = Controller(
            self._float_metric() if baseline is None else baseline,
            trip=2 * max_drop,
            release=max_drop,
            bounded=limit is not None,
        )
        self._layers = dict(self._full.layers())
        self._working = WorkingCopy(self._full)
        batch = first_labelled(data, IMPORTANCE_SAMPLES) if importance is None else importance
        self._guarding = Guarding(
            self._full,
            self.goal,
            self.controller,
            watch=self._look,
            refresh=self.refresh,
            batch=batch,
            loss=measured_by(loss, self._full, batch),
            data=data,
        )
        self._storing = Storing(self._full, device)
        self._learning_steps = max(round(LEARNING_SHARE * steps), 1) if self.goal.presses else 0
        self._checks = LoopChecks(steps, self._learning_steps)
        self._arguments = {
            "steps": self.steps,
            "target": fingerprint(device),
            "budget": limit,
            "gamma": float(gamma),
            "alpha": float(alpha),
            "depths": [float(depth) for depth in depths],
            "watch": watch is not None,
            "guide_weight": None if guide_weight is None else float(guide_weight),
            "controller": controller,
            "max_drop": float(max_drop),
            "start": None if start is None else start.fingerprint(),
        }
        if self.goal.presses:
            for layer in self._layers.values():
                layer.quantizer.bits.fill_(depths[1])
        if start is not None:
            with named_arguments(of_project=of_project):
                start.put_into(self._full)
        self._pressing = Pressing(self._full, self.goal, self._guarding, self._learning_steps)
        self._settling = Settling(self._full, self.goal, self._guarding, self._storing, self._learning_steps)
        if start is not None:
            self._press_as(start)
        self.channels: list[dict[str, Any]] = []
        self.snapshot: Snapshot | None = None
        self._optimizers: tuple[torch.optim.Optimizer, ...] = ()
        self._deciding = False
        self._working.push()
        self._own = OwnOptimizer(self._working.model, steps, self._learning_steps, depths)
        if start is not None:
            self.record(0)
        if not self.goal.presses:
            self._settle()
        self._set_modes()

    # --- what a training loop calls -------------------------------------------------------------

    @property
    def model(self) -> fx.GraphModule:
        """The model to train."""
        return self._working.model.module

    def penalty(self, loss: torch.Tensor) -> torch.Tensor:
        """The term that presses on the size, to be added to a batch's loss: a scalar.

        Parameters
        ----------
        loss: the batch's other terms, a scalar: the pressure stays comparable to it however small it gets.
        """
        total = loss.new_zeros(())
        if self.goal.alpha:
            layers = dict(self._working.model.layers())
            means = [
                layers[name].weight.abs().sum() / layer.weight.numel() for name, layer in self._layers.items()
            ]
            total = total + self.goal.alpha * torch.stack(means).mean()
        if self._settling.done:
            return total
        depths = {
            name: (self._working.kept(name), layer.quantizer.bits)
            for name, layer in self._working.model.layers()
        }
        if not self._checks.is_finite(loss, self.done):
            return total
        total = total + self._pressing.term(loss, depths)
        self._checks.has_term(total)
        return total

    def step(self, *optimizers: torch.optim.Optimizer, grad_scale: float = 1.0) -> None:
        """Go on with compression after the optimizer's step.

        Parameters
        ----------
        optimizers: all that train the model: moments of what leaves the model, or comes back, are cut.
        grad_scale: of mixed precision's ``GradScaler.get_scale()``, before its ``update()``.

        Raises
        ------
        ConfigError: no optimizer, one that does not train the model, or LBFGS; ``model`` was moved to another
            device or converted; ``watch`` returned no number.
        """
        check_place(self.model, same_tensors=self._own.holds_its_tensors())
        if not optimizers or optimizers != self._optimizers:
            check_optimizers(optimizers, self.model)
        self._optimizers = optimizers
        learning = not self._settling.done
        self._own.step(self.done, grad_scale, learning=learning)
        self._pressing.pressure.follow()
        self.done += 1
        self._checks.stepped(self.done, learning=learning)
        if self.done == self._observed_until:
            self._working.model.observe(False)
        if not self._settling.done:
            if self._pressing.is_due(self.done):
                self._decide(lambda: self._pressing.act(self.done))
            if self.done >= self._learning_steps:
                self._settle()
        elif self._looks_back:
            self._decide(lambda: self._settling.look_back(self.done))

    def refresh(self) -> None:
        """Make BatchNorm's statistics fit the present weights: before whatever evaluates the model."""
        if self._deciding:
            self._push()
        re_estimate_norms(self._working.model, self._data)
        self._working.pull()

    def figures(self) -> dict[str, float]:
        """What there is at present, by name.

        ``bytes``: stored, of what lives: while depths are learned at the narrowest width (packed: 3 bits),
        then as chosen. ``learned_bytes``, where something presses on the size: with each channel in
        its own depth, rounded up, which follows learning all the way. ``channels`` that live, ``mean_bits``
        of all, ``multiplier`` μ of the size term, ``guide_multiplier`` λ, ``controller_actions`` so far.
        """
        self._working.pull()
        alive = living_masks(self._full)
        depths = torch.cat([layer.quantizer.bits.detach() for layer in self._layers.values()])
        return {
            "bytes": float(stored_bytes(self._full, alive)),
            **({"learned_bytes": self._settling.learned_bytes()} if self.goal.presses else {}),
            "channels": float(sum(mask.sum() for mask in alive.values())),
            "mean_bits": float(depths.mean()),
            "multiplier": self._pressing.pressure.multiplier,
            "guide_multiplier": self.guide_weight,
            "controller_actions": float(len(self.controller.actions)),
        }

    def record(self, epoch: int) -> None:
        """Add the depth of every channel to ``channels``, if one has changed since the last record."""
        self._working.pull()
        depths = {
            name: [round(float(bits), 2) for bits in layer.quantizer.bits.detach() * layer.mask]
            for name, layer in self._layers.items()
        }
        if not self.channels or self.channels[-1]["layers"] != depths:
            self.channels.append({"epoch": epoch, "layers": depths})

    @property
    def guide_weight(self) -> float:
        """λ at present."""
        return self._guarding.guide_weight

    @property
    def learning_share(self) -> float:
        """Share of the steps in which depths are learned: a learning rate should decay after it."""
        return self._learning_steps / self.steps

    @property
    def plan(self) -> Plan | None:
        """How layers are stored; None while depths are learned."""
        return self._storing.plan

    def finish(self) -> CompressedModel:
        """The model as integers.

        Raises
        ------
        ConfigError: training has not come to the end of the learning phase.
        ModelError: a weight is not finite.
        """
        if not self._settling.done:
            raise ConfigError(
                f"training ended after {self.done} of {self.steps} steps, before depths have settled",
                where="Compressor.steps",
                remedy="call Compressor.step after every step of the optimizer, and give the number of them",
            )
        self.refresh()
        self._full.observe(False)
        self._full.enable(True)
        with named_arguments(of_project=self._of_project):
            return fold(self._full)

    def save(self, path: str | Path) -> None:
        """Write the model's integers, and how they are stored, for a project's ``compress.weights``.

        Raises what :meth:`finish` does, and ``OutputError``.
        """
        compressed = self.finish()
        self._checks.saved(self.done)
        assert self.plan is not None  # depths have settled
        write_saved(Path(path), Saved(compressed, self.plan, self.controller.actions, self.channels))

    def state_dict(self) -> dict[str, Any]:
        """Everything that goes on with: the model with its dead channels, depths, multipliers, the plan.

        As with any module, tensors are the live ones: what is to be gone back to in this process is to be
        copied (``copy.deepcopy``), or saved.
        """
        self._working.pull()
        return {
            "version": _STATE_VERSION,
            "arguments": self._arguments,
            "done": self.done,
            "model": self._full.module.state_dict(),
            "own": self._own.adam.state_dict(),
            "pressure": self._pressing.pressure.state(),
            "guide_weight": self._guarding.guide_weight,
            "learned": self._settling.learned,
            "plan": None if self.plan is None else self.plan.to_json(),
            "controller": self.controller.state(),
            "channels": self.channels,
            "snapshot": None if self.snapshot is None else self.snapshot.tensors(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back :meth:`state_dict`, also an earlier one; optimizers' own states are loaded after it.

        Raises
        ------
        FileFormatError: it is no such state, or one of another version, of other arguments or another model.
        """
        check_state(state, _STATE_VERSION, self._arguments)
        try:
            self._take(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise not_ours(f"it is no state of this model: {error}") from error

    def _take(self, state: Mapping[str, Any]) -> None:
        state = copy.deepcopy(dict(state))  # what goes on from here must not change it
        self._full.module.load_state_dict(state["model"])
        self.done = state["done"]
        self._pressing.pressure.load(state["pressure"])
        self._guarding.guide_weight = state["guide_weight"]
        self.controller.load(state["controller"])
        self.channels = state["channels"]
        self.snapshot = None if state["snapshot"] is None else Snapshot.from_tensors(state["snapshot"])
        self._storing.restart()
        if state["plan"] is not None:
            self._storing.take(Plan.from_json(state["plan"]))
        self._settling.resume(state["learned"])
        for layer in self._layers.values():
            layer.set_mask(layer.mask.clone())
        self._working.push()
        self._set_modes()
        self._own.adam.load_state_dict(state["own"])
        self._own.adam.zero_grad(set_to_none=True)

    # --- between the full model and the working copy --------------------------------------------

    def _decide(self, action: Callable[[], None]) -> None:
        """Let something look at the full model and change it."""
        self._working.pull()
        self._deciding = True
        action()
        self._deciding = False
        self._push()
        self._forget()

    def _push(self) -> None:
        """Let the working copy follow what was decided."""
        self._working.push((*self._optimizers, self._own.adam))

    def _settle(self) -> None:
        self._working.pull()
        pressure = self._pressing.pressure
        if self.goal.presses:
            self.snapshot = Snapshot.of(
                self._full,
                multiplier=pressure.multiplier,
                scale=pressure.scale,
                guide_weight=self._guarding.guide_weight,
            )
        self._decide(self._settling.settle)
        self._set_modes()

    def _press_as(self, start: Snapshot) -> None:
        """Press and guard as hard as where the model comes from; the controller starts anew."""
        pressure = self._pressing.pressure
        pressure.multiplier, pressure.scale = start.multiplier, start.scale
        if self.goal.guide_weight is None:
            self._guarding.guide_weight = start.guide_weight

    def _forget(self) -> None:
        """Drop the moments of tensors that were set anew."""
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name in self._guarding.forget:
            for optimizer in (*self._optimizers, self._own.adam):
                optimizer.state.pop(tensors[name], None)
        self._guarding.forget.clear()

    def _set_modes(self) -> None:
        """What is learned, and what follows the data, at this step."""
        self._own.require_gradients(learning=not self._settling.done)
        self._working.model.enable(True)
        self._working.model.observe(self.done < self._observed_until)

    @property
    def _observed_until(self) -> int:
        return max(round(_OBSERVING_SHARE * self.steps), 1)

    @property
    def _looks_back(self) -> bool:
        """Whether it is time to look at the watch set, while all settles."""
        settled, settling = self.done - self._learning_steps, self.steps - self._learning_steps
        part, before = (LOOKS_BACK * steps // max(settling, 1) for steps in (settled, settled - 1))
        return self._guarding.looks and before < part < LOOKS_BACK

    # --- the watch set ----------------------------------------------------------------------------

    def _look(self) -> float:
        """The watch metric of the working copy."""
        self._push()
        return self._watched(self._working.model)

    def _float_metric(self) -> float:
        if self._watch is None:
            return math.nan
        self._full.enable(False)
        found = self._watched(self._full)
        self._full.enable(True)
        return found

    def _watched(self, model: QuantizedModel) -> float:
        assert self._watch is not None
        with named_arguments(of_project=self._of_project), model.evaluating() as module:
            return watched(self._watch, module)
