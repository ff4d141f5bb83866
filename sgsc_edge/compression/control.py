"""The float control: what the same training makes of the model without quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sgsc_edge.compression.calibration import Batches, re_estimate_norms
from sgsc_edge.compression.layers import QuantizedModel


class Control:
    """A float model that is trained as it is."""

    learning_share = 0.0

    def __init__(self, model: QuantizedModel, data: Batches) -> None:
        self.quantized, self.data = model, data
        model.enable(False)

    @property
    def model(self) -> nn.Module:
        """The module to train."""
        return self.quantized.module

    def penalty(self, loss: torch.Tensor) -> torch.Tensor:
        """Nothing presses on the size: 0."""
        return loss.new_zeros(())

    def step(self, *optimizers: torch.optim.Optimizer) -> None:
        """Nothing moves beside the parameters."""

    def refresh(self) -> None:
        """Make BatchNorm's statistics fit the present weights."""
        re_estimate_norms(self.quantized, self.data)

    def record(self, epoch: int) -> None:
        """Nothing is compressed."""

    def figures(self) -> dict[str, float]:
        """None of its own."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The parameters."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.model.load_state_dict(state)
