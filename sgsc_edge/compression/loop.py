"""The training loop of ``build``: fine-tunes a model, epoch by epoch, and can go on after a kill.

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
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sgsc_edge.artifacts import write_bytes
from sgsc_edge.compression.objective import Objective
from sgsc_edge.compression.schedule import rate
from sgsc_edge.errors import FileFormatError, ModelError

log = logging.getLogger("sgsc_edge")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Parameters
    ----------
    epochs, batch_size: over the training samples; one sample more in a batch that would leave a single one.
    learning_rate: Adam's peak; 5 % linear warm-up, cosine decay to 0 (from the start, or once depths settle).
    seed: everything random follows from it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


class Trainable(Protocol):
    """What the loop trains: a :class:`sgsc_edge.compression.compressor.Compressor`, or a model as it is."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def learning_share(self) -> float:
        """Share of the steps after which the learning rate decays."""

    def penalty(self, loss: torch.Tensor) -> torch.Tensor:
        """A term of the loss beside the objective: a scalar."""

    def step(self, *optimizers: torch.optim.Optimizer) -> None:
        """Called after every optimizer step."""

    def refresh(self) -> None:
        """Called before the model is evaluated."""

    def record(self, epoch: int) -> None:
        """Called after every epoch."""

    def figures(self) -> dict[str, float]:
        """What history.jsonl records."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""


@dataclass(frozen=True, eq=False)
class Trainer:
    """Fine-tunes one model.

    Parameters
    ----------
    trained: its model is trained in place.
    data: (input, label) samples; the pool is not among them.
    objective: what is minimised.
    guide: indices of guide samples; ``guide_share`` of every batch is drawn from them.
    figures: called after each epoch; what history.jsonl records of the model beside its own figures.
    augment: distorts a batch of inputs, given a seed.
    checkpoint, history: files; a checkpoint of the same ``key`` is continued.
    """

    trained: Trainable
    data: Dataset[Any]
    recipe: Recipe
    objective: Objective
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
        ModelError: the loss is not finite, or every parameter is frozen.
        FileFormatError: the checkpoint is damaged.
        """
        parameters = [p for p in self.trained.model.parameters() if p.requires_grad]
        if not parameters:
            raise ModelError(
                "nothing can be trained: every parameter has requires_grad=False",
                where=self.label,
                remedy="let model.factory return a model whose layers may be trained, or take --method ptq",
            )
        optimizer = torch.optim.Adam(parameters, self.recipe.learning_rate)
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
                self.trained.refresh()
                self.trained.record(epoch + 1)
                own = self.trained.figures()
                rows.append({"epoch": epoch + 1, "loss": loss, **self.figures(), **own})
                self._save(optimizer, rows)
                log.info("%s: %s", self.label, _readable(rows[-1], self.recipe.epochs))

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer, progress: Any) -> float:
        """One pass over the data; returns the mean loss."""
        seed = self.recipe.seed * 100_003 + epoch
        torch.manual_seed(seed)
        order = list(self._batches(torch.Generator().manual_seed(seed)))
        self.trained.model.train()
        total = len(order) * self.recipe.epochs
        summed, seen = 0.0, 0
        for step, (inputs, labels, indices) in enumerate(
            DataLoader(_Indexed(self.data), batch_sampler=order), start=epoch * len(order)
        ):
            progress.update()
            for group in optimizer.param_groups:
                share = rate(step, total, self.trained.learning_share)
                group["lr"] = self.recipe.learning_rate * share
            optimizer.zero_grad(set_to_none=True)
            if self.augment is not None:
                inputs = self.augment(inputs, (self.recipe.seed * 1_000_003 + step) % 2**32)
            loss = self.objective(self.trained.model, inputs, labels, indices)
            loss = loss + self.trained.penalty(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.trained.step(optimizer)
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
        """Every sample once, in random order; each batch is filled up with guide samples.

        A single sample that is left over goes into the batch before it: BatchNorm cannot train on one.
        """
        drawn = guide_samples(self.recipe.batch_size, self.guide_share)
        order = torch.randperm(_size(self.data), generator=generator)
        used = 0
        guide = torch.tensor(self.guide, dtype=torch.int64)
        shuffled = guide[torch.randperm(len(guide), generator=generator)]
        parts = [part.tolist() for part in torch.split(order, self.recipe.batch_size - drawn)]
        if _leaves_one(len(order), self.recipe.batch_size, drawn):
            parts[-2:] = [parts[-2] + parts[-1]]
        for part in parts:
            picks = [int(shuffled[(used + i) % len(guide)]) for i in range(drawn)]
            used += drawn
            yield [*part, *picks]

    def _save(self, optimizer: torch.optim.Optimizer, rows: list[dict[str, float]]) -> None:
        buffer = io.BytesIO()
        state = {
            "key": self.key,
            "history": json.dumps(rows),
            "trained": self.trained.state_dict(),
            "optimizer": optimizer.state_dict(),
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
            self.trained.load_state_dict(state["trained"])
            optimizer.load_state_dict(state["optimizer"])
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

    >>> steps_per_epoch(1000, 100, 0.0), steps_per_epoch(1000, 100, 0.25), steps_per_epoch(1001, 100, 0.0)
    (10, 14, 10)
    """
    drawn = guide_samples(batch_size, guide_share)
    return math.ceil(samples / (batch_size - drawn)) - _leaves_one(samples, batch_size, drawn)


def _leaves_one(samples: int, batch_size: int, drawn: int) -> bool:
    """Whether the last batch of several would be a single sample, with no guide samples beside it."""
    return not drawn and samples > batch_size > 1 and samples % batch_size == 1


def _size(data: Dataset[Any]) -> int:
    return len(data)  # type: ignore[arg-type]


def _silent() -> bool:
    """Progress bars are for people: a terminal, and no ``--quiet``."""
    return not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO)


def _readable(row: dict[str, float], epochs: int) -> str:
    """A line of history.jsonl for people.

    >>> _readable({"epoch": 2, "loss": 0.1947112, "bytes": 34695.0, "learned_bytes": 72449.8}, 8)
    'epoch 2/8: loss 0.1947, bytes 34,695, learned_bytes 72,450'
    """
    figures = ", ".join(
        f"{name} {value:,.0f}" if abs(value) >= 1000 else f"{name} {value:.4g}"
        for name, value in row.items()
        if name != "epoch"
    )
    return f"epoch {row['epoch']:.0f}/{epochs}: {figures}"
