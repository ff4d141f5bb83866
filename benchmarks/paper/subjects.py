"""The models that rows are measured on, each with its shortened schedule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.record import FLOATS, ROOT, WORK, own_float, trained

Metric = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Subject:
    """One model, its data, and how its rows are run.

    Parameters
    ----------
    name: of the table, for ``--model``.
    title: in the tables' headings.
    stem: what the project's folders in ``benchmarks/build`` are called, before the seed.
    train: seed -> that folder, with a float checkpoint of its own; made once.
    target: the rows' target; budgets are bytes as it stores weights, biases and scales.
    settings: of every row (``section.key=value``).
    epochs, batch_size: the shortened schedule; a quarter of a batch is drawn from the guide set, where there
        is one, and the batch is as much smaller where there is none: then all rows have the same steps.
    budgets: of the curves, bytes, falling.
    ablated: the budget of all other rows, one of ``budgets``.
    metric: of the table; a loss is in nats.
    variants: names of the rows; empty: all of them.
    rare: a class that has few samples, whose recall is the table.
    """

    name: str
    title: str
    stem: str
    train: Callable[[int], Path]
    target: str
    settings: tuple[str, ...]
    epochs: int
    batch_size: int
    budgets: tuple[int, ...]
    ablated: int
    metric: Metric = "accuracy"
    variants: tuple[str, ...] = ()
    rare: int | None = None

    def is_trained(self, seed: int) -> bool:
        """Whether there is a float model of a seed."""
        places = (
            WORK / f"{self.stem}-{seed}" / "float.safetensors",
            FLOATS / f"{self.stem}-{seed}.safetensors",
        )
        return any(path.is_file() for path in places)


RARE = "mnist-rare"
RARE_DIGIT = 9
"""Chosen before anything was measured: the digit that looks most like two others (4 and 7)."""


def _mnist(seed: int) -> Path:
    return trained("mnist", seed)


def _names(seed: int) -> Path:
    return trained("names", seed)


def _rare(seed: int) -> Path:
    """The MNIST example with most samples of one digit taken out of the training data."""
    project = WORK / f"{RARE}-{seed}"
    if not (project / "float.safetensors").is_file():
        ignored = shutil.ignore_patterns("build", "float.*", "__*")
        shutil.copytree(ROOT / "examples/mnist", project, ignore=ignored, dirs_exist_ok=True)
        (project / "data.py").rename(project / "whole.py")
        shutil.copyfile(Path(__file__).with_name("rare_data.py"), project / "data.py")
        own_float(project, seed)
    return project


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            name="mnist",
            title="MNIST CNN",
            stem="mnist",
            train=_mnist,
            target="c-learned",
            settings=(),
            epochs=2,
            batch_size=128,
            budgets=(20_000, 8_000, 3_000, 1_500),
            ablated=1_500,
        ),
        Subject(
            name="rare",
            title=f"MNIST CNN, 1 % of the samples of digit {RARE_DIGIT}",
            stem=RARE,
            train=_rare,
            target="c-learned",
            settings=(),
            epochs=2,
            batch_size=128,
            budgets=(12_000, 8_000, 5_000, 3_000, 2_000, 1_500),
            ablated=3_000,
            variants=("float", "unsafe", "balanced", "ours", "kept", "set-random", "controller-on"),
            rare=RARE_DIGIT,
        ),
        Subject(
            name="names",
            title="Names LM",
            stem="names",
            train=_names,
            target="onnx-learned",
            settings=(),
            epochs=2,
            batch_size=128,
            budgets=(164_000, 82_000, 41_000, 24_000),
            ablated=41_000,
            metric="loss",
        ),
    )
}
