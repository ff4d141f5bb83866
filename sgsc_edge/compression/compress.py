"""The compression stage: a float model in, integers out.

Three methods: ``sgsc`` learns depths under a goal (``learned``), ``qat8`` trains at fixed 8 bits, ``ptq``
only calibrates activation ranges and rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import Dataset

from sgsc_edge.artifacts import write_bytes
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fold import CompressedModel, fold
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.learned import GUIDE_SHARE, Goal, Learned
from sgsc_edge.compression.loop import Recipe, Trainer, calibrate, re_estimate_norms, steps_per_epoch
from sgsc_edge.compression.strategy import Plain, Strategy, task_losses

Method = Literal["sgsc", "qat8", "ptq"]
HISTORY = "history.jsonl"
CONTROLLER_LOG = "controller.jsonl"
_SENSITIVITY_SAMPLES = 512


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
    goal, guard: of the method ``sgsc``.
    keep_softmax, input_grid: see :func:`sgsc_edge.compression.layers.quantize_model`.
    """

    model: nn.Module
    sample: torch.Tensor
    train: Dataset[Any]
    watch: tuple[torch.Tensor, torch.Tensor]
    recipe: Recipe
    method: Method = "qat8"
    guide: tuple[int, ...] = ()
    goal: Goal = NO_GOAL
    guard: Guard = NO_GUARD
    keep_softmax: bool = False
    input_grid: tuple[float, int] | None = None

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

    def rehearse(self, then: Callable[[CompressedModel], None]) -> None:
        """Calibrate, fold and hand the result to ``then``: what cannot ship is refused before training."""
        then(fold(self.calibrated()))

    def run(self, folder: Path, key: str) -> CompressedModel:
        """Compress and fold; checkpoints lie in ``folder`` under ``key``.

        Raises
        ------
        ModelError: the loss or a weight is not finite.
        """
        model = self.calibrated()
        actions: list[dict[str, object]] = []
        if self.method == "ptq":
            write_bytes(folder / HISTORY, b"")
        elif self.method == "qat8":
            plain = Plain(model, self.recipe.epochs, quantized=True)
            self._trainer(model, plain, folder, "compress", key).run()
        else:
            learned = self._learned(model)
            self._trainer(model, learned, folder, "compress", key, guided=True).run()
            actions = learned.controller.actions
        rows = "".join(json.dumps(row, sort_keys=True) + "\n" for row in actions)
        write_bytes(folder / CONTROLLER_LOG, rows.encode())
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

    def watch_figures(self, model: QuantizedModel) -> dict[str, float]:
        """Accuracy and loss (nats) of a model on the watch set."""
        inputs, labels = self.watch
        outputs = logits(model, inputs)
        losses = task_losses(model, outputs, labels)
        right = (outputs.argmax(1) == labels).double().mean()
        return {"watch_accuracy": float(right), "watch_loss": float(losses.double().mean())}

    def _score(self, model: QuantizedModel) -> float:
        """The guarded metric, higher is better."""
        figures = self.watch_figures(model)
        return figures["watch_accuracy"] if self.guard.metric == "accuracy" else -figures["watch_loss"]

    def _learned(self, model: QuantizedModel) -> Learned:
        float_model = self.quantized()
        float_model.enable(False)
        inputs = torch.stack([self.train[index][0] for index in range(len(self.train))])  # type: ignore[arg-type]
        baseline = self._score(float_model) if self.guard.baseline is None else self.guard.baseline
        chosen = list(self.guide)[:: max(len(self.guide) // _SENSITIVITY_SAMPLES, 1)]
        pairs = [self.train[index] for index in chosen]
        batch_size = self.recipe.batch_size
        return Learned(
            model,
            self.goal,
            Controller(baseline, trip=2 * self.guard.max_drop, release=self.guard.max_drop),
            epochs=self.recipe.epochs,
            steps=steps_per_epoch(len(inputs), batch_size, GUIDE_SHARE),
            teacher=logits(float_model, inputs),
            guide=self.guide,
            watch=lambda: self._score(model),
            guide_batch=(torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])),
            refresh=lambda: re_estimate_norms(model, self.train, batch_size),
        )

    def _trainer(
        self,
        model: QuantizedModel,
        strategy: Strategy,
        folder: Path,
        label: str,
        key: str,
        *,
        guided: bool = False,
    ) -> Trainer:
        return Trainer(
            model=model,
            data=self.train,
            recipe=self.recipe,
            strategy=strategy,
            watch=lambda: self.watch_figures(model),
            checkpoint=folder / f".{label}.checkpoint.pt",
            history=folder / (HISTORY if label == "compress" else f"{label}.jsonl"),
            key=key,
            label=label,
            guide=self.guide if guided else (),
            guide_share=GUIDE_SHARE if guided else 0.0,
        )


def logits(model: QuantizedModel, inputs: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Logits float32 [n, K] in evaluation mode."""
    with model.evaluating() as module:
        return torch.cat([module(chunk) for chunk in torch.split(inputs, batch)])
