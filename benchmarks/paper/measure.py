"""What is measured of a model: its decisions and losses on the samples, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.paper.subjects import Metric
from sgsc_edge.compression.fold import CompressedModel, FoldedConstant
from sgsc_edge.numerics import dequantize, filter_widths, pack_filters, quantize
from sgsc_edge.size import BIAS_BYTES, EIGHT_BITS, RESCALING_BYTES

IGNORED = -100
"""Label of a token without a next one."""

_BATCH = 128
"""Values between layers then stay in a core's cache: a third faster than at 500."""

Array = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model makes of samples, one decision each ([n]) or one a token ([n, T]).

    Parameters
    ----------
    decided: int64, the class; ``labels`` int64, :data:`IGNORED` where there is none.
    losses: float32, nats.
    """

    decided: NDArray[np.int64]
    labels: NDArray[np.int64]
    losses: NDArray[np.float32]

    @staticmethod
    def of(outputs: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Of logits float32 [n, K] or [n, T, K] and labels [n] or [n, T]."""
        classes = outputs.movedim(-1, 1)
        losses = F.cross_entropy(classes, labels, reduction="none", ignore_index=IGNORED)
        return Outcome(classes.argmax(1).numpy(), labels.numpy(), losses.numpy())

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which decisions are right, in the samples' shape; an ignored one is not."""
        same: NDArray[np.bool_] = self.decided == self.labels
        return same

    def metric(self, name: Metric) -> float:
        """The share of right decisions, or the mean loss."""
        counted = self.labels != IGNORED
        if not counted.any():
            raise SystemExit("no labelled samples to measure")
        return float((self.right if name == "accuracy" else self.losses)[counted].mean())

    def flips(self, before: Outcome) -> int:
        """Decisions that were right before and are wrong now."""
        return int((before.right & ~self.right).sum())

    def recall(self, label: int) -> float:
        """The share of the samples of a class that are decided rightly."""
        own = self.labels == label
        return float(self.right[own].mean())

    def take(self, indices: NDArray[np.int64]) -> Outcome:
        """Some of the samples."""
        return Outcome(self.decided[indices], self.labels[indices], self.losses[indices])

    def arrays(self, name: str) -> dict[str, Array]:
        """For a file; see :meth:`read`."""
        return {f"{name}_{key}": getattr(self, key) for key in ("decided", "labels", "losses")}

    @staticmethod
    def read(name: str, arrays: Mapping[str, Array]) -> Outcome:
        """Take back :meth:`arrays`."""
        decided, labels, losses = (arrays[f"{name}_{key}"] for key in ("decided", "labels", "losses"))
        return Outcome(decided.astype(np.int64), labels.astype(np.int64), losses.astype(np.float32))


@torch.no_grad()
def judge_compressed(model: CompressedModel, inputs: torch.Tensor, labels: torch.Tensor) -> Outcome:
    """The compressed model on the integers that devices are fed."""
    outputs = []
    for batch in torch.split(inputs, _BATCH):
        if batch.is_floating_point():
            grid = float(model.input.scale), int(model.input.zero_point)
            batch = torch.from_numpy(dequantize(quantize(batch.numpy(), *grid), *grid))
        outputs.append(model.module(batch))
    return Outcome.of(torch.cat(outputs), labels)


@torch.no_grad()
def judge_float(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Outcome:
    """The float model in evaluation mode."""
    model.eval()
    return Outcome.of(torch.cat([model(batch) for batch in torch.split(inputs, _BATCH)]), labels)


@dataclass(frozen=True)
class Bytes:
    """A model's size.

    Parameters
    ----------
    learned: bytes of C code that packs each channel at the fewest bits that hold it: weights, widths, biases
        and scales.
    in_8_bits: the same layers as an int8 ``.tflite`` stores them.
    channels: output channels of all layers.
    bits: of a weight, mean.
    """

    learned: int
    in_8_bits: int
    channels: int
    bits: float

    @staticmethod
    def of(model: CompressedModel) -> Bytes:
        """Of a model without dead channels."""
        layers = [layer.weight.numpy() for layer in model.layers().values()]
        constants = sum(m.value.numel() for m in model.module.modules() if isinstance(m, FoldedConstant))
        weights = sum(layer.size for layer in layers)
        bits = sum(int(filter_widths(layer).sum()) * layer[0].size for layer in layers)
        each = BIAS_BYTES + RESCALING_BYTES
        return Bytes(
            learned=constants + sum(pack_filters(layer).size + each * len(layer) for layer in layers),
            in_8_bits=constants + sum(EIGHT_BITS.bytes(layer.size, len(layer)) for layer in layers),
            channels=sum(len(layer) for layer in layers),
            bits=bits / weights,
        )
