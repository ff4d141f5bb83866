"""The training loop: fine-tunes a quantized model, epoch by epoch, and can go on after a kill.

Everything random in an epoch follows from the seed and the epoch's number, so a run that was stopped
between two epochs ends with the same bytes as one that was not.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from sgsc_edge.artifacts import write_bytes
from sgsc_edge.compression.layers import BATCH_NORMS, QuantizedModel
from sgsc_edge.compression.strategy import Strategy
from sgsc_edge.errors import FileFormatError, ModelError

log = logging.getLogger("sgsc_edge")

CALIBRATION_SAMPLES = 1024
_WARM_UP = 0.05


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Parameters
    ----------
    epochs, batch_size: over the training samples.
    learning_rate: Adam's peak; 5 % linear warm-up, cosine decay to 0 (from the start, or once depths settle).
    seed: everything random follows from it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True, eq=False)
class Trainer:
    """Fine-tunes one model.

    Parameters
    ----------
    model: trained in place.
    data: (input, label) samples; the pool is not among them.
    strategy: what is minimised.
    guide: indices of guide samples; ``guide_share`` of every batch is drawn from them.
    figures: called after each epoch; what history.jsonl records of the model beside the strategy's figures.
    augment: distorts a batch of inputs, given a seed.
    checkpoint, history: files; a checkpoint of the same ``key`` is continued.
    """

    model: QuantizedModel
    data: Dataset[Any]
    recipe: Recipe
    strategy: Strategy
    figures: Callable[[], Mapping[str, float]]
    checkpoint: Path
    history: Path
    key: str
    label: str
    augment: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    guide: Sequence[int] = ()
    guide_share: float = 0.0

    def run(self) -> None:
        """Train to the end of the recipe.

        Raises
        ------
        ModelError: the loss is not finite.
        FileFormatError: the checkpoint is damaged.
        """
        optimizer = torch.optim.Adam(self.strategy.parameter_groups(self.recipe.learning_rate))
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        rows = self._resume(optimizer)
        if rows:
            self._write_history(rows)  # a kill may have come between the checkpoint and it
        steps = steps_per_epoch(_size(self.data), self.recipe.batch_size, self.guide_share)
        with tqdm(
            total=steps * self.recipe.epochs,
            initial=len(rows) * steps,
            desc=self.label,
            unit="step",
            disable=_silent(),
            leave=False,
        ) as progress:
            for epoch in range(len(rows), self.recipe.epochs):
                loss = self._epoch(epoch, optimizer, progress)
                re_estimate_norms(self.model, self.data, self.recipe.batch_size)
                own = self.strategy.end_epoch(epoch)
                rows.append({"epoch": epoch + 1, "loss": loss, **self.figures(), **own})
                self._save(optimizer, rows)
                log.info("%s: %s", self.label, _readable(rows[-1], self.recipe.epochs))
        self.model.observe(False)
        self.model.enable(True)

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer, progress: Any) -> float:
        """One pass over the data; returns the mean loss."""
        seed = self.recipe.seed * 100_003 + epoch
        torch.manual_seed(seed)
        order = list(self._batches(torch.Generator().manual_seed(seed)))
        self.strategy.start_epoch(epoch)
        self.model.module.train()
        total = len(order) * self.recipe.epochs
        summed, seen = 0.0, 0
        for step, (inputs, labels, indices) in enumerate(
            DataLoader(_Indexed(self.data), batch_sampler=order), start=epoch * len(order)
        ):
            progress.update()
            if len(inputs) == 1 and seen:
                continue  # BatchNorm cannot train on a single sample
            for group in optimizer.param_groups:
                constant = group.get("constant", False)
                group["lr"] = group["peak"] * (1.0 if constant else _rate(step, total, self.strategy.steady))
            optimizer.zero_grad(set_to_none=True)
            if self.augment is not None:
                inputs = self.augment(inputs, (self.recipe.seed * 1_000_003 + step) % 2**32)
            loss = self.strategy.loss(inputs, labels, indices)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.strategy.after_step(step)
            self._forget(optimizer)
            value = loss.item()
            if not math.isfinite(value):
                raise ModelError(
                    f"the loss became {value} in epoch {epoch + 1}",
                    where=self.label,
                    remedy="lower compress.learning_rate",
                )
            summed, seen = summed + value * len(inputs), seen + len(inputs)
            progress.set_postfix(loss=f"{summed / seen:.4f}", refresh=False)
        return summed / seen

    def _batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        """Every sample once, in random order; each batch is filled up with guide samples."""
        drawn = guide_samples(self.recipe.batch_size, self.guide_share)
        order = torch.randperm(_size(self.data), generator=generator)
        used = 0
        guide = torch.tensor(self.guide, dtype=torch.int64)
        shuffled = guide[torch.randperm(len(guide), generator=generator)]
        for part in torch.split(order, self.recipe.batch_size - drawn):
            picks = [int(shuffled[(used + i) % len(guide)]) for i in range(drawn)]
            used += drawn
            yield [*part.tolist(), *picks]

    def _forget(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop the moments of parameters that the strategy has set anew."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self.strategy.forget:
                    optimizer.state.pop(parameter, None)
        self.strategy.forget.clear()

    def _save(self, optimizer: torch.optim.Optimizer, rows: list[dict[str, float]]) -> None:
        buffer = io.BytesIO()
        state = {
            "key": self.key,
            "history": json.dumps(rows),
            "model": self.model.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "strategy": self.strategy.state(),
        }
        torch.save(state, buffer)
        write_bytes(self.checkpoint, buffer.getvalue())
        self._write_history(rows)

    def _write_history(self, rows: list[dict[str, float]]) -> None:
        write_bytes(self.history, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())

    def _resume(self, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
        """Continue a checkpoint of this run; returns the history of the finished epochs."""
        if not self.checkpoint.exists():
            return []
        try:
            state = torch.load(self.checkpoint, weights_only=True)
            if state["key"] != self.key:
                return []
            rows: list[dict[str, float]] = json.loads(state["history"])
            self.model.module.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            self.strategy.load(state["strategy"])
        except Exception as error:
            raise FileFormatError(
                f"the checkpoint cannot be read: {error}",
                where=str(self.checkpoint),
                remedy="delete it; training starts again",
            ) from error
        log.info("%s: going on after epoch %d", self.label, len(rows))
        return rows


class _Indexed(Dataset[Any]):
    """A data set whose samples carry their index."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return _size(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        inputs, label = self.data[index]
        return inputs, label, index


def guide_samples(batch_size: int, share: float) -> int:
    """Guide samples in a batch: at least one where there is a share, and never the whole batch."""
    return min(max(round(share * batch_size), 1), batch_size - 1) if share else 0


def steps_per_epoch(samples: int, batch_size: int, guide_share: float) -> int:
    """Optimizer steps in one pass over the samples.

    >>> steps_per_epoch(1000, 100, 0.0), steps_per_epoch(1000, 100, 0.25)
    (10, 14)
    """
    return math.ceil(samples / (batch_size - guide_samples(batch_size, guide_share)))


def calibrate(model: QuantizedModel, data: Dataset[Any], batch_size: int) -> None:
    """Set every activation range from the float model's values on :data:`CALIBRATION_SAMPLES` samples."""
    training = model.module.training
    model.module.eval()
    model.enable(False)
    model.observe(True)
    with torch.no_grad():
        for inputs in _batches(data, batch_size, CALIBRATION_SAMPLES):
            model.module(inputs)
    model.observe(False)
    model.enable(True)
    model.module.train(training)


def re_estimate_norms(model: QuantizedModel, data: Dataset[Any], batch_size: int) -> None:
    """Replace every BatchNorm's running statistics by those of the present weights.

    While weights move, the running averages lag behind; whatever is decided by evaluation needs them fresh.
    """
    norms = [module for module in model.module.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with model.evaluating() as module:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        for inputs in _batches(data, batch_size, CALIBRATION_SAMPLES):
            module(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _batches(data: Dataset[Any], batch_size: int, samples: int) -> Iterator[torch.Tensor]:
    """Inputs of evenly spaced samples, in batches; a last batch of one is left out."""
    total = _size(data)
    chosen = [index * total // samples for index in range(samples)] if total > samples else range(total)
    for inputs, _ in DataLoader(Subset(data, list(chosen)), batch_size):
        if len(inputs) > 1 or total == 1:
            yield inputs


def _size(data: Dataset[Any]) -> int:
    return len(data)  # type: ignore[arg-type]


def _rate(step: int, total: int, steady: float = 0.0) -> float:
    """Linear warm-up, then cosine decay to 0: the share of the peak learning rate at a step.

    ``steady`` is the share of the steps before the decay begins.

    >>> [round(_rate(step, 100), 2) for step in (0, 4, 52, 99)]
    [0.2, 1.0, 0.51, 0.0]
    >>> [round(_rate(step, 100, steady=0.6), 2) for step in (0, 59, 80, 99)]
    [0.2, 1.0, 0.5, 0.0]
    """
    warm = max(round(_WARM_UP * total), 1)
    if step < warm:
        return (step + 1) / warm
    first = max(warm, round(steady * total))
    return 0.5 * (1 + math.cos(math.pi * max(step - first, 0) / max(total - first, 1)))


def _silent() -> bool:
    """Progress bars are for people: a terminal, and no ``--quiet``."""
    return not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)


def _readable(row: dict[str, float], epochs: int) -> str:
    figures = ", ".join(f"{name} {value:.6g}" for name, value in row.items() if name != "epoch")
    return f"epoch {row['epoch']:.0f}/{epochs}: {figures}"
