"""The compression stage: a float model in, integers out.

The methods: ``sgsc`` learns depths under a goal (``compressor``), ``mixed`` trains at the smallest
widths that the watch set stands, ``qat8`` at fixed 8 bits, ``ptq`` only calibrates activation ranges and
rounds, ``own`` takes what a training loop of the user's own has saved.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from sgsc_edge.artifacts import write_bytes, write_json
from sgsc_edge.compression.calibration import CALIBRATION_SAMPLES, Batches, calibrate
from sgsc_edge.compression.compressor import IMPORTANCE_SAMPLES, Compressor
from sgsc_edge.compression.control import Control
from sgsc_edge.compression.fit import check_budget, smallest_bytes, stored_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, fold
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guide import GuideSamples
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.loop import Recipe, Trainable, Trainer, steps_per_epoch
from sgsc_edge.compression.objective import Guided, Objective, by_labels
from sgsc_edge.compression.saved import Saved, read_saved
from sgsc_edge.compression.snapshot import EPOCHS_SHARE, SNAPSHOT, Snapshot, write_snapshot
from sgsc_edge.compression.task import Task, right
from sgsc_edge.compression.widths.legal import ANY_DEVICE, Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.snapping import Choices
from sgsc_edge.size import Storage

log = logging.getLogger("sgsc_edge")

Method = Literal["sgsc", "mixed", "qat8", "ptq", "own"]
LEARNED: frozenset[Method] = frozenset({"sgsc", "mixed"})
"""The methods with a plan of widths, guarded by the preservation set."""

HISTORY = "history.jsonl"
CONTROLLER_LOG = "controller.jsonl"
CHANNEL_HISTORY = "channels.jsonl"
PLAN = "plan.json"
_EVALUATED = 256
"""Samples of a batch that is only evaluated."""


@dataclass(frozen=True)
class Guard:
    """What the controller protects.

    Parameters
    ----------
    metric: of the watch set: "accuracy" or "loss".
    max_drop: what the compression gate will allow; the controller lets go at it and trips at twice as much.
    baseline: the watch metric to compare with; None for the float model's own.
    """

    metric: Literal["accuracy", "loss"]
    max_drop: float
    baseline: float | None = None


NO_GOAL = Goal(budget=None)
NO_GUARD = Guard("accuracy", 1.0)
NO_GUIDE = GuideSamples()


@dataclass(frozen=True, eq=False)
class Compression:
    """What compression starts from.

    Parameters
    ----------
    model: the float model; never changed.
    sample: one input without its batch dimension.
    train: the samples that may enter a gradient.
    watch: (inputs, labels) of the watch part; looked at, never in a gradient.
    guide: of ``train``, what must not be forgotten.
    goal, guard: of the method ``sgsc``.
    augment: distorts a batch of training inputs, given a seed; None leaves them as they are.
    weights: of the method ``own``, what ``Compressor.save`` wrote.
    keep_softmax, input_grid: see :func:`sgsc_edge.compression.layers.quantize_model`.
    device: how the target may store weights.
    start: where ``sgsc`` goes on from; None for the calibrated float model.
    """

    model: nn.Module
    sample: torch.Tensor
    train: Dataset[Any]
    watch: tuple[torch.Tensor, torch.Tensor]
    recipe: Recipe
    method: Method = "qat8"
    guide: GuideSamples = NO_GUIDE
    goal: Goal = NO_GOAL
    guard: Guard = NO_GUARD
    augment: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    weights: Path | None = None
    keep_softmax: bool = False
    input_grid: tuple[float, int] | None = None
    device: Device = ANY_DEVICE
    start: Snapshot | None = None

    def going_on(self, start: Snapshot) -> Compression:
        """The same from a snapshot, in :data:`EPOCHS_SHARE` of the epochs."""
        epochs = max(round(EPOCHS_SHARE * self.recipe.epochs), 2)  # one to learn depths, one to settle
        return replace(self, start=start, recipe=replace(self.recipe, epochs=epochs))

    def quantized(self) -> QuantizedModel:
        """A fresh model in its trained form, not yet calibrated."""
        return quantize_model(
            self.model, self.sample, keep_softmax=self.keep_softmax, input_grid=self.input_grid
        )

    def calibrated(self) -> QuantizedModel:
        """A fresh model whose activation ranges are set from the training data."""
        model = self.quantized()
        calibrate(model, self._calibration)
        return model

    def span(self) -> tuple[int, int]:
        """Stored bytes of the network with every channel in 8 bits, and of the smallest it can be cut to."""
        model = self.quantized()
        legal = self.device.storages(model)
        for name, layer in model.layers():
            layer.storage = legal[name][0]
        whole = stored_bytes(model, {name: layer.mask for name, layer in model.layers()})
        for name, layer in model.layers():
            layer.storage = min(legal[name])
        return whole, smallest_bytes(model)

    def rehearse(self, then: Callable[[CompressedModel], None]) -> None:
        """Calibrate, fold and hand the result to ``then``: what cannot ship is refused before training.

        Raises
        ------
        ConfigError: no network of this architecture is as small as the budget.
        FileFormatError: ``weights`` are none of this architecture.
        """
        if self.weights is not None:
            self.saved()
        model = self.calibrated()
        for name, storage in self._rehearsed(model).items():
            model.module.get_submodule(name).snap_to(storage)  # type: ignore[operator]
        then(fold(model))
        if self.method == "sgsc" and self.goal.budget is not None:
            check_budget(model, self.goal.budget)

    def _rehearsed(self, model: QuantizedModel) -> dict[str, Storage]:
        """The smallest storages that are sure: where channels may leave, the arena does not decide yet."""
        if self.method not in LEARNED:
            return {name: legal[0] for name, legal in self.device.storages(model).items()}
        if self.method == "sgsc":
            return {name: min(legal) for name, legal in self.device.storages(model).items()}
        masks = {name: layer.mask for name, layer in model.layers()}
        return Choices(model, masks, self.device).best()[0].storages()

    def run(self, folder: Path, key: str) -> CompressedModel:
        """Compress and fold; checkpoints lie in ``folder`` under ``key``.

        Raises
        ------
        ModelError: the loss or a weight is not finite.
        """
        if self.method not in {*LEARNED, "own"} and self.goal != NO_GOAL:
            log.warning(
                "compress: method '%s' takes no budget, fixed weight or controller; "
                "every channel stays, in 8 bits",
                self.method,
            )
        if self.method == "mixed" and self.goal.presses:
            log.warning("compress: method 'mixed' takes no budget or gamma; every channel stays")
        actions: list[dict[str, Any]] = []
        channels: list[dict[str, Any]] = []
        plan: Plan | None = None
        snapshot: Snapshot | None = None
        if self.method == "own":
            write_bytes(folder / HISTORY, b"")
            saved = self.saved()
            compressed, plan, actions, channels = saved.model, saved.plan, saved.actions, saved.channels
        elif self.method == "ptq":
            write_bytes(folder / HISTORY, b"")
            model = self.calibrated()
            plan, compressed = _in_8_bits(model, self.device), fold(model)
        else:
            compressor, objective = self.compressor()
            self._trainer(compressor, objective, folder, "compress", key, self.guide_share).run()
            compressed, plan = compressor.finish(), compressor.plan
            if self.method in LEARNED:
                actions, channels = compressor.controller.actions, compressor.channels
                snapshot = compressor.snapshot
        for name, rows in ((CONTROLLER_LOG, actions), (CHANNEL_HISTORY, channels)):
            write_bytes(
                folder / name, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
            )
        write_snapshot(folder / SNAPSHOT, snapshot)
        assert plan is not None  # depths have settled
        write_json(folder / PLAN, {"float_bytes": float_bytes(self.model), **plan.to_json()})
        return compressed

    def run_control(self, folder: Path, key: str) -> QuantizedModel:
        """The float control: the same epochs on the same samples without quantization."""
        control = Control(self.calibrated(), self._calibration)
        task = Task(control.quantized.ends_with_softmax)
        self._trainer(control, by_labels(task), folder, "control", key).run()
        return control.quantized

    def restore(self) -> CompressedModel:
        """A compressed model of this architecture whose integers are yet to be loaded."""
        return fold(self.quantized())

    def saved(self) -> Saved:
        """Of the method ``own``: what a loop has saved.

        Raises
        ------
        FileFormatError: ``weights`` are none of this architecture.
        """
        assert self.weights is not None
        return read_saved(self.weights, self.restore())

    def figures(self, module: nn.Module) -> dict[str, float]:
        """Accuracy and loss (nats) of a module on the guide and the watch set, for the history."""
        part = self.guide.part
        guide = self._judge(module, DataLoader(Subset(self.train, part), _EVALUATED)) if part else {}
        return {f"guide_{name}": value for name, value in guide.items()} | {
            f"watch_{name}": value for name, value in self._watched(module).items()
        }

    def _watched(self, module: nn.Module) -> dict[str, float]:
        return self._judge(module, zip(*(torch.split(part, _EVALUATED) for part in self.watch), strict=True))

    def _score(self, module: nn.Module) -> float:
        """The guarded metric, higher is better."""
        figures = self._watched(module)
        return figures["accuracy"] if self.guard.metric == "accuracy" else -figures["loss"]

    @torch.no_grad()
    def _judge(
        self, module: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> dict[str, float]:
        """Accuracy and mean loss (nats) of a module on labelled batches, in evaluation mode."""
        decided, loss, seen = 0, 0.0, 0.0
        training = module.training
        module.eval()
        for inputs, labels in batches:
            outputs = module(inputs)
            decided += right(outputs, labels)
            sums, counts = self.task.losses(outputs, labels)
            loss, seen = loss + float(sums.double().sum()), seen + float(counts.sum())
        module.train(training)
        return {"accuracy": decided / seen, "loss": loss / seen}

    @cached_property
    def task(self) -> Task:
        """What the outputs are."""
        return Task(self.quantized().ends_with_softmax)

    @property
    def _calibration(self) -> Batches:
        return _Spaced(self.train, self.recipe.batch_size)

    def compressor(self) -> tuple[Compressor, Objective]:
        """What trains by the method and the recipe, and what it minimises."""
        samples = len(self.train)  # type: ignore[arg-type]
        each = steps_per_epoch(samples, self.recipe.batch_size, self.guide_share)
        compressor = self.compressor_of(self.recipe.epochs * each, self._calibration)
        if self.method == "qat8":
            return compressor, by_labels(self.task)
        guided = Guided(
            self.task,
            self._teacher(),
            samples=samples,
            guide=self.guide.drawn,
            must_keep=self.guide.must_keep,
            guide_weight=lambda: compressor.guide_weight,
        )
        return compressor, guided

    def compressor_of(self, steps: int, data: Batches) -> Compressor:
        """What compresses by the method in so many steps; ``data`` as :class:`Compressor` takes it."""
        presses, plain = self.method == "sgsc", self.method == "qat8"
        if not plain:
            self._check_watch(2 * self.guard.max_drop)
        # The smallest widths are where the other methods begin; what presses on the size is of the first.
        return Compressor(
            self.model,
            self.sample,
            steps=steps,
            data=data,
            target=self.device.in_8_bits if plain else self.device,
            budget=self.goal.budget if presses else None,
            alpha=self.goal.alpha if presses else 0.0,
            gamma=self.goal.gamma if presses else 0.0,
            depths=self.goal.depths,
            guide_weight=1.0 if plain else self.goal.guide_weight,
            controller=False if plain else self.goal.controller,
            watch=self._score,
            max_drop=self.guard.max_drop,
            baseline=self.guard.baseline,
            importance=self._importance(len(self.train)),  # type: ignore[arg-type]
            keep_softmax=self.keep_softmax,
            input_grid=self.input_grid,
            start=self.start,
            of_project=True,
        )

    def _check_watch(self, trip: float) -> None:
        """Say so where one sample of the watch set is enough for a fall that guards answer."""
        watched = len(self.watch[1])
        if self.goal.guard and self.guard.metric == "accuracy" and 0 < trip * watched < 1:
            log.warning(
                "compress: the watch set has %d samples: a single decision is more than twice the fall that "
                "gate.max_drop allows; %d samples would do (preservation.fraction)",
                watched,
                math.ceil(1 / trip),
            )

    def _teacher(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The float model's answers to a batch; computed once where every sample always looks the same."""
        model = self.quantized()
        model.enable(False)
        model.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
        if self.augment is not None:
            return lambda inputs, indices: logits(model, inputs)
        with model.evaluating() as module:
            answers = torch.cat([module(inputs) for inputs, _ in DataLoader(self.train, _EVALUATED)])
        return lambda inputs, indices: answers[indices]

    def _importance(self, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Evenly spaced guarded samples, or training samples where the guide takes no part."""
        candidates = self.guide.drawn if self.guide_share else range(samples)
        pairs = [self.train[i] for i in candidates[:: max(len(candidates) // IMPORTANCE_SAMPLES, 1)]]
        return torch.stack([x for x, _ in pairs]), torch.stack(
            [torch.as_tensor(y, dtype=torch.int64) for _, y in pairs]
        )

    @property
    def guide_share(self) -> float:
        """Share of each batch that the method draws from the guarded samples."""
        return self.goal.guide_share if self.method in LEARNED and self.guide.part else 0.0

    def _trainer(
        self,
        trained: Trainable,
        objective: Objective,
        folder: Path,
        label: str,
        key: str,
        guide_share: float = 0.0,
    ) -> Trainer:
        return Trainer(
            trained=trained,
            data=self.train,
            recipe=self.recipe,
            objective=objective,
            figures=lambda: self.figures(trained.model),
            checkpoint=folder / f".{label}.checkpoint.pt",
            history=folder / (HISTORY if label == "compress" else f"{label}.jsonl"),
            key=key,
            label=label,
            augment=self.augment,
            guide=self.guide.drawn,
            guide_share=guide_share,
        )


def float_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters in float32."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def _in_8_bits(model: QuantizedModel, device: Device) -> Plan:
    """The plan of a model whose layers are all stored in 8 bits."""
    masks = {name: layer.mask for name, layer in model.layers()}
    return Choices(model, masks, device.in_8_bits).best()[0]


def logits(model: QuantizedModel, inputs: torch.Tensor) -> torch.Tensor:
    """Logits float32 [n, K] in evaluation mode."""
    with model.evaluating() as module:
        return torch.cat([module(chunk) for chunk in torch.split(inputs, _EVALUATED)])


@dataclass(frozen=True, eq=False)
class _Spaced:
    """Batches of evenly spaced samples of a data set, as many as calibration asks for."""

    data: Dataset[Any]
    batch_size: int

    def __iter__(self) -> Iterator[Any]:
        total = len(self.data)  # type: ignore[arg-type]
        wanted = min(CALIBRATION_SAMPLES, total)
        chosen = [index * total // wanted for index in range(wanted)]
        return iter(DataLoader(Subset(self.data, chosen), self.batch_size))
