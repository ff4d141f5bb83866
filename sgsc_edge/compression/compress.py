"""The compression stage: a float model in, integers out.

Four methods: ``sgsc`` learns depths under a goal (``learned``), ``mixed`` trains at the smallest widths that
the watch set stands, ``qat8`` at fixed 8 bits, ``ptq`` only calibrates activation ranges and rounds.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from sgsc_edge.artifacts import write_bytes, write_json
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import check_budget, smallest_bytes, stored_bytes
from sgsc_edge.compression.fold import CompressedModel, fold
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.learned import Learned
from sgsc_edge.compression.loop import Recipe, Trainer, calibrate, re_estimate_norms, steps_per_epoch
from sgsc_edge.compression.snapshot import EPOCHS_SHARE, SNAPSHOT, Snapshot, write_snapshot
from sgsc_edge.compression.strategy import Plain, Strategy, task_losses
from sgsc_edge.compression.widths.legal import ANY_DEVICE, Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.snapping import Choices
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.size import Storage

log = logging.getLogger("sgsc_edge")

Method = Literal["sgsc", "mixed", "qat8", "ptq"]
LEARNED: frozenset[Method] = frozenset({"sgsc", "mixed"})
"""The methods with a plan of widths, guarded by the preservation set."""

HISTORY = "history.jsonl"
CONTROLLER_LOG = "controller.jsonl"
CHANNEL_HISTORY = "channels.jsonl"
PLAN = "plan.json"
_SENSITIVITY_SAMPLES = 512
MUST_KEEP_SHARE = 1 / 16
"""Share of must_keep samples among the guarded ones that a batch draws; more where they are many."""

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


@dataclass(frozen=True, eq=False)
class Compression:
    """What compression starts from.

    Parameters
    ----------
    model: the float model; never changed.
    sample: one input without its batch dimension.
    train: the samples that may enter a gradient.
    watch: (inputs, labels) of the watch part; looked at, never in a gradient.
    guide: indices into ``train`` of the guide part.
    must_keep: indices into ``train`` of samples whose decision may not flip, in the guide part or not.
    goal, guard: of the method ``sgsc``.
    augment: distorts a batch of training inputs, given a seed; None leaves them as they are.
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
    guide: tuple[int, ...] = ()
    must_keep: tuple[int, ...] = ()
    goal: Goal = NO_GOAL
    guard: Guard = NO_GUARD
    augment: Callable[[torch.Tensor, int], torch.Tensor] | None = None
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
        calibrate(model, self.train, self.recipe.batch_size)
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
        """
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
        if self.method not in LEARNED and self.goal != NO_GOAL:
            log.warning(
                "compress: method '%s' takes no budget, fixed weight or controller; "
                "every channel stays, in 8 bits",
                self.method,
            )
        if self.method == "mixed" and self.goal.presses:
            log.warning("compress: method 'mixed' takes no budget or gamma; every channel stays")
        model = self.calibrated()
        actions: list[dict[str, object]] = []
        channels: list[dict[str, object]] = []
        plan: Plan | None = None
        snapshot: Snapshot | None = None
        if self.method == "ptq":
            write_bytes(folder / HISTORY, b"")
        elif self.method == "qat8":
            plain = Plain(model, self.recipe.epochs, quantized=True)
            self._trainer(model, plain, folder, "compress", key).run()
        else:
            if self.start is not None:
                self.start.put_into(model)
            learned = self._learned(model)
            if self.start is not None:
                learned.go_on_from(self.start)
            self._trainer(model, learned, folder, "compress", key, self.guide_share).run()
            actions, channels, plan = learned.controller.actions, learned.channels, learned.plan
            snapshot = learned.snapshot
        for name, rows in ((CONTROLLER_LOG, actions), (CHANNEL_HISTORY, channels)):
            write_bytes(
                folder / name, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
            )
        write_snapshot(folder / SNAPSHOT, snapshot)
        chosen = plan or _in_8_bits(model, self.device)
        write_json(folder / PLAN, {"float_bytes": float_bytes(self.model), **chosen.to_json()})
        return fold(model)

    def run_control(self, folder: Path, key: str) -> QuantizedModel:
        """The float control: the same epochs on the same samples without quantization."""
        model = self.calibrated()
        plain = Plain(model, self.recipe.epochs, quantized=False)
        self._trainer(model, plain, folder, "control", key).run()
        model.enable(False)
        return model

    def restore(self) -> CompressedModel:
        """A compressed model of this architecture whose integers are yet to be loaded."""
        return fold(self.quantized())

    def figures(self, model: QuantizedModel) -> dict[str, float]:
        """Accuracy and loss (nats) of a model on the guide and the watch set, for the history."""
        guide = _judge(model, DataLoader(Subset(self.train, self.guide), _EVALUATED)) if self.guide else {}
        return {f"guide_{name}": value for name, value in guide.items()} | {
            f"watch_{name}": value for name, value in self._watched(model).items()
        }

    def _watched(self, model: QuantizedModel) -> dict[str, float]:
        return _judge(model, zip(*(torch.split(part, _EVALUATED) for part in self.watch), strict=True))

    def _score(self, model: QuantizedModel) -> float:
        """The guarded metric, higher is better."""
        figures = self._watched(model)
        return figures["accuracy"] if self.guard.metric == "accuracy" else -figures["loss"]

    def _learned(self, model: QuantizedModel) -> Learned:
        float_model = self.quantized()
        float_model.enable(False)
        module = float_model.module
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
        baseline = self._score(float_model) if self.guard.baseline is None else self.guard.baseline
        controller = Controller(
            baseline,
            trip=2 * self.guard.max_drop,
            release=self.guard.max_drop,
            revives=self.goal.budget is None,
        )
        self._check_watch(controller.trip)
        samples, batch_size = len(self.train), self.recipe.batch_size  # type: ignore[arg-type]
        # The smallest widths are where the other method begins; what presses on the size is of this one.
        presses = self.method == "sgsc"
        return Learned(
            model,
            self.goal if presses else replace(self.goal, budget=None, alpha=0.0, gamma=0.0),
            controller,
            epochs=self.recipe.epochs,
            steps=steps_per_epoch(samples, batch_size, self.guide_share),
            teacher=self._teacher(float_model),
            samples=samples,
            guide=self.guarded,
            must_keep=self.must_keep,
            watch=lambda: self._score(model),
            sensitivity_batch=self._sensitivity_batch(samples),
            refresh=lambda: re_estimate_norms(model, self.train, batch_size),
            storing=Storing(model, self.device),
        )

    def _check_watch(self, trip: float) -> None:
        """Say so where one sample of the watch set is enough to make the controller act."""
        watched = len(self.watch[1])
        if self.goal.guard and self.guard.metric == "accuracy" and 0 < trip * watched < 1:
            log.warning(
                "compress: the watch set has %d samples: a single decision makes the controller act; "
                "%d samples would do (preservation.fraction)",
                watched,
                math.ceil(1 / trip),
            )

    def _teacher(self, model: QuantizedModel) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The float model's answers to a batch; computed once where every sample always looks the same."""
        if self.augment is not None:
            return lambda inputs, indices: logits(model, inputs)
        with model.evaluating() as module:
            answers = torch.cat([module(inputs) for inputs, _ in DataLoader(self.train, _EVALUATED)])
        return lambda inputs, indices: answers[indices]

    def _sensitivity_batch(self, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Evenly spaced guide samples, or training samples where the guide takes no part."""
        candidates = self.guide if self.guide_share else range(samples)
        pairs = [self.train[i] for i in candidates[:: max(len(candidates) // _SENSITIVITY_SAMPLES, 1)]]
        return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])

    @property
    def guide_share(self) -> float:
        """Share of each batch that the method draws from the guarded samples."""
        return self.goal.guide_share if self.method in LEARNED and self.guide else 0.0

    @property
    def guarded(self) -> tuple[int, ...]:
        """What the guide share of a batch is drawn from: the guide part, and must_keep samples repeatedly."""
        if not self.must_keep:
            return self.guide
        kept = frozenset(self.must_keep)
        others = tuple(index for index in self.guide if index not in kept)
        share = MUST_KEEP_SHARE / (1 - MUST_KEEP_SHARE)
        return others + self.must_keep * max(round(share * len(others) / len(self.must_keep)), 1)

    def _trainer(
        self,
        model: QuantizedModel,
        strategy: Strategy,
        folder: Path,
        label: str,
        key: str,
        guide_share: float = 0.0,
    ) -> Trainer:
        return Trainer(
            model=model,
            data=self.train,
            recipe=self.recipe,
            strategy=strategy,
            figures=lambda: self.figures(model),
            checkpoint=folder / f".{label}.checkpoint.pt",
            history=folder / (HISTORY if label == "compress" else f"{label}.jsonl"),
            key=key,
            label=label,
            augment=self.augment,
            guide=self.guarded,
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


def _judge(model: QuantizedModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """Accuracy and mean loss (nats) of a model on labelled batches, in evaluation mode."""
    right, loss, seen = 0, 0.0, 0
    with model.evaluating() as module:
        for inputs, labels in batches:
            outputs = module(inputs)
            right += int((outputs.argmax(1) == labels).sum())
            loss += float(task_losses(model, outputs, labels).double().sum())
            seen += len(labels)
    return {"accuracy": right / seen, "loss": loss / seen}
