"""What training minimises beside the steps themselves: plain 8 bits, or the paper's learned depths.

A :class:`Strategy` is asked for parameter groups, for the loss of a batch, and is told when steps and epochs
end. The loop owns everything else (data order, learning rate, checkpoints).
"""

from __future__ import annotations

import abc
import logging
from typing import Any

import torch
import torch.nn.functional as F

from sgsc_edge.compression.layers import QuantizedModel

log = logging.getLogger("sgsc_edge")

SMALLEST_PROBABILITY = 1 / 512
"""Half a step of the int8 probabilities: the logarithm stays finite."""


def task_losses(model: QuantizedModel, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample in nats, float32 [n], from logits or, behind a Softmax, probabilities."""
    if model.ends_with_softmax:
        return F.nll_loss(outputs.clamp_min(SMALLEST_PROBABILITY).log(), labels, reduction="none")
    return F.cross_entropy(outputs, labels, reduction="none")


class Strategy(abc.ABC):
    """How a model is trained; see the module's docstring."""

    steady: float = 0.0
    """Share of the steps, from the start, in which the learning rate does not decay yet."""

    forget: set[int]
    """Ids of parameters whose optimizer state the loop shall drop before the next step."""

    @abc.abstractmethod
    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Adam's groups: ``params``, the peak ``lr``, and ``constant`` where that does not decay."""

    @abc.abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Prepare the model for an epoch (modes, frozen ranges)."""

    @abc.abstractmethod
    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise for a batch; ``indices`` [n] of its samples in the training set."""

    @abc.abstractmethod
    def after_step(self, step: int) -> None:
        """Called after every optimizer step; ``step`` counts from the start of training."""

    @abc.abstractmethod
    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Called before the epoch is evaluated; returns figures for the history."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside model and optimizer: tensors and plain values."""

    @abc.abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""


class Plain(Strategy):
    """Fixed 8 bits, or no quantization at all (the float control).

    Activation ranges follow the data in the first half of the epochs and are frozen afterwards.
    """

    def __init__(self, model: QuantizedModel, epochs: int, *, quantized: bool) -> None:
        self.model = model
        self.epochs = epochs
        self.quantized = quantized
        self.forget = set()

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """All parameters at one rate."""
        parameters = [p for p in self.model.module.parameters() if p.requires_grad]
        return [{"params": parameters, "lr": learning_rate}]

    def start_epoch(self, epoch: int) -> None:
        """Quantization as asked for; ranges follow the data in the first half."""
        self.model.enable(self.quantized)
        self.model.observe(2 * epoch < self.epochs)

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        return task_losses(self.model, self.model.module(inputs), labels).mean()

    def after_step(self, step: int) -> None:
        """Nothing moves beside the parameters."""

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """No figures of its own."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
