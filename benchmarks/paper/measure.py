"""What is measured of a model: its decisions and losses on the samples, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """What a model makes of samples, one decision each or one a token; one row of each array a sample.

    Parameters
    ----------
    right: bool [n] or [n, T], decisions that are right; not those without a label.
    counted: int64 [n], decisions that have a label.
    losses: float32 [n], nats, the sum over a sample's labelled decisions.
    """

    right: NDArray[np.bool_]
    counted: NDArray[np.int64]
    losses: NDArray[np.float32]

    @staticmethod
    def of(outputs: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Of logits float32 [n, K] or [n, T, K] and labels [n] or [n, T]."""
        classes = outputs.movedim(-1, 1)
        losses = F.cross_entropy(classes, labels, reduction="none", ignore_index=IGNORED)
        counted = (labels != IGNORED).reshape(len(labels), -1).sum(1)
        right = classes.argmax(1) == labels
        return Outcome(right.numpy(), counted.numpy(), losses.reshape(len(labels), -1).sum(1).numpy())

    def metric(self, name: Metric) -> float:
        """The share of right decisions, or the mean loss; SystemExit where nothing has a label."""
        if not self.counted.any():
            raise SystemExit("no labelled samples to measure")
        total = self.right.sum() if name == "accuracy" else self.losses.sum(dtype=np.float64)
        return float(total / self.counted.sum())

    def flips(self, before: Outcome) -> int:
        """Decisions that were right before and are wrong now."""
        return int((before.right & ~self.right).sum())

    def take(self, indices: NDArray[np.int64]) -> Outcome:
        """Some of the samples."""
        return Outcome(self.right[indices], self.counted[indices], self.losses[indices])

    def arrays(self) -> dict[str, Array]:
        """For a small file; see :meth:`read`. Losses lose what float16 has no room for."""
        shape = np.array(self.right.shape, np.int64)
        counted, losses = self.counted.astype(np.uint8), self.losses.astype(np.float16)
        return {"right": np.packbits(self.right), "shape": shape, "counted": counted, "losses": losses}

    @staticmethod
    def read(arrays: Mapping[str, Array]) -> Outcome:
        """Take back :meth:`arrays`."""
        shape = arrays["shape"].tolist()
        bits = np.unpackbits(arrays["right"].astype(np.uint8), count=int(np.prod(shape)))
        counted, losses = arrays["counted"].astype(np.int64), arrays["losses"].astype(np.float32)
        return Outcome(bits.astype(np.bool_).reshape(shape), counted, losses)


@dataclass(frozen=True)
class Scores:
    """A model's metrics on one data set.

    Parameters
    ----------
    recalls: by class; empty where decisions are of tokens.
    """

    accuracy: float
    loss: float
    recalls: Mapping[int, float]

    @staticmethod
    def of(outcome: Outcome, labels: torch.Tensor) -> Scores:
        """Of outcomes and the labels that they were judged by."""
        recalls = {}
        if labels.ndim == 1:
            own = labels.numpy()
            recalls = {int(label): float(outcome.right[own == label].mean()) for label in np.unique(own)}
        return Scores(outcome.metric("accuracy"), outcome.metric("loss"), recalls)

    def metric(self, name: Metric) -> float:
        """One of them by its name."""
        return self.accuracy if name == "accuracy" else self.loss

    @staticmethod
    def read(document: Mapping[str, Any]) -> Scores:
        """Take back what ``dataclasses.asdict`` gave to a JSON file."""
        recalls = {int(label): share for label, share in document["recalls"].items()}
        return Scores(document["accuracy"], document["loss"], recalls)


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
