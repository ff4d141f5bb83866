"""What is measured of a model: its decisions and losses on the samples, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.paper.subjects import Metric
from sgsc_edge.compression.folding.fold import CompressedModel, FoldedConstant
from sgsc_edge.compression.folding.integers import FoldedNorm, FoldedTable
from sgsc_edge.numerics import dequantize, filter_widths, quantize
from sgsc_edge.size import EIGHT_BITS, SCALE_BYTES, TABLE, Storage

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
        if model.input is not None:  # tokens are fed as they are
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
        modules = list(model.module.modules())
        layers = [(layer.weight.numpy(), False) for layer in model.layers().values()]
        tables = [(m.weight.numpy(), True) for m in modules if isinstance(m, FoldedTable)]
        operands = [m.value for m in modules if isinstance(m, FoldedConstant)]
        for norm in (m for m in modules if isinstance(m, FoldedNorm)):
            operands += norm.parameters_in_int8().values()
        values = sum(operand.numel() for operand in operands)
        weights, bits, learned, in_8_bits = 0, 0, values, values + SCALE_BYTES * len(operands)
        for integers, is_table in (*layers, *tables):
            widths = filter_widths(integers)
            if is_table:  # what is removed keeps its place, and no bits
                widths = np.where(integers.any(1), widths, 0)
            weights += integers.size
            bits += int(widths.sum()) * integers[0].size
            packed = Storage.packing(widths.tolist(), table=is_table)
            learned += packed.bytes(integers.size, len(integers))
            in_8_bits += (TABLE if is_table else EIGHT_BITS).bytes(integers.size, len(integers))
        channels = sum(len(integers) for integers, _ in layers)
        return Bytes(learned, in_8_bits, channels, bits / weights)
