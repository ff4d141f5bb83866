"""The compression stage: a float model in, integers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from sgsc_edge.compression.fold import CompressedModel, fold
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.loop import Recipe, Trainer, calibrate


@dataclass(frozen=True, eq=False)
class Compression:
    """What compression starts from.

    Parameters
    ----------
    model: the float model; never changed.
    sample: one input without its batch dimension.
    train: the samples that may enter a gradient.
    watch: (inputs, labels) of the watch part; looked at after each epoch.
    keep_softmax, input_grid: see :func:`sgsc_edge.compression.layers.quantize_model`.
    """

    model: nn.Module
    sample: torch.Tensor
    train: Dataset[Any]
    watch: tuple[torch.Tensor, torch.Tensor]
    recipe: Recipe
    keep_softmax: bool = False
    input_grid: tuple[float, int] | None = None

    def quantized(self) -> QuantizedModel:
        """A fresh model in its trained form, not yet calibrated."""
        return quantize_model(
            self.model, self.sample, keep_softmax=self.keep_softmax, input_grid=self.input_grid
        )

    def rehearse(self, then: Callable[[CompressedModel], None]) -> None:
        """Calibrate, fold and hand the result to ``then``: what cannot ship is refused before training."""
        model = self.quantized()
        calibrate(model, self.train, self.recipe.batch_size)
        then(fold(model))

    def run(self, folder: Path, key: str) -> CompressedModel:
        """Train under quantization and fold; checkpoints lie in ``folder`` under ``key``.

        Raises
        ------
        ModelError: the loss or a weight is not finite.
        """
        model = self.quantized()
        self._trainer(model, folder, "compress", key, quantized=True).run()
        return fold(model)

    def run_control(self, folder: Path, key: str) -> QuantizedModel:
        """The float control: the same steps on the same samples without quantization."""
        model = self.quantized()
        self._trainer(model, folder, "control", key, quantized=False).run()
        model.enable(False)
        return model

    def restore(self) -> CompressedModel:
        """A compressed model of this architecture whose integers are yet to be loaded."""
        return fold(self.quantized())

    def _trainer(
        self, model: QuantizedModel, folder: Path, label: str, key: str, *, quantized: bool
    ) -> Trainer:
        return Trainer(
            model=model,
            data=self.train,
            recipe=self.recipe,
            watch=self._look,
            checkpoint=folder / f".{label}.checkpoint.pt",
            history=folder / ("history.jsonl" if quantized else f"{label}.jsonl"),
            key=key,
            quantized=quantized,
            label=label,
        )

    def _look(self, model: QuantizedModel) -> Mapping[str, float]:
        inputs, labels = self.watch
        decided = logits(model, inputs).argmax(1)
        return {"watch_accuracy": float((decided == labels).double().mean())}


def logits(model: QuantizedModel, inputs: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Logits float32 [n, K] in evaluation mode."""
    with model.evaluating() as module:
        return torch.cat([module(chunk) for chunk in torch.split(inputs, batch)])
