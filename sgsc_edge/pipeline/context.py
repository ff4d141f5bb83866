"""What the stages of one build share: its project, target and folder, and what is loaded from them once."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from torch import nn

from sgsc_edge.artifacts import content_key, read_bytes, sha256_file
from sgsc_edge.boards.description import Board
from sgsc_edge.compression.compress import Compression, Guard, float_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, load_tensors
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guide import GuideSamples
from sgsc_edge.compression.loop import Recipe
from sgsc_edge.compression.shrink import Shrunk, shrink
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.split import Split, split_widths
from sgsc_edge.preservation.selection import read_selection
from sgsc_edge.preservation.sets import Data, PreservationSet, divide, load_data
from sgsc_edge.project import Project
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")

COMPRESSED = "compressed.safetensors"
CONTROL = ".control.safetensors"
CONTROL_HISTORY = "control.jsonl"
ONNX = "model.qdq.onnx"
TFLITE = "model.tflite"
SELECTION = "preservation.json"
PRESERVATION = "preservation.npz"
MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
MAX_BYTES = 1 << 31

_NOBODY = (torch.empty(0), torch.empty(0, dtype=torch.int64))
"""A watch set of no samples."""


@dataclass(frozen=True, eq=False)
class Build:
    """One run of the road.

    Parameters
    ----------
    folder: where the files go.
    board: what the model must fit; None where nothing is asked.
    frontier: the build of the whole frontier that this one is a point of; model and data are its.
    start: the folder of the next larger point, from whose learned model compression goes on.
    rehearsed: whether a smaller point of the frontier has been rehearsed, which says the same of this one.
    """

    project: Project
    target: Target
    folder: Path
    board: Board | None = None
    frontier: Build | None = None
    start: Path | None = None
    rehearsed: bool = False

    @cached_property
    def model(self) -> nn.Module:
        """The user's float model."""
        return self.project.load_model() if self.frontier is None else self.frontier.model

    @cached_property
    def data(self) -> Data:
        """The user's data sets, the pool set apart."""
        if self.frontier is not None:
            return self.frontier.data
        model = self.model
        return load_data(self.project, self.project.output_size(model), self.project.vocabulary(model))

    @property
    def out(self) -> Path:
        """The folder that holds the folders of all targets."""
        return (self if self.frontier is None else self.frontier).folder.resolve().parent

    @cached_property
    def samples(self) -> PreservationSet:
        """Who is trained on, looked at, judged, as ``preservation.json`` has it."""
        return divide(self.data, read_selection(self.folder / SELECTION))

    @cached_property
    def samples_key(self) -> str:
        """Hash of all samples and of the part each one has."""
        parts = {name: part.key() for name, part in self.samples.parts.items()}
        return content_key(self.samples.train.key(), parts)

    @cached_property
    def untrained(self) -> Compression:
        """What compression starts from, without a preservation set: enough to calibrate and to restore."""
        settings, rest = self.project.config.compress, self.data.rest
        return Compression(
            model=self.model,
            sample=rest.dataset[0][0],
            train=rest.dataset,
            watch=_NOBODY,
            recipe=Recipe(settings.epochs, settings.batch_size, settings.learning_rate, settings.seed),
            method=settings.chosen_method(narrow=self.target.narrow),
            device=Device.of(self.target),
            augment=self.project.augment(),
            weights=None if settings.weights is None else self.project.root / settings.weights,
            goal=_goal(self),
            keep_softmax=self.project.config.model.final_softmax == "keep",
            input_grid=_input_grid(self.project),
        )

    def compression(self) -> Compression:
        """What training starts from; made anew, for the guard follows from the control's history."""
        return replace(
            self.untrained,
            watch=self.samples.parts["watch"].tensors(),
            guide=GuideSamples(
                self.samples.guide,
                () if self.project.config.model.is_text else self.samples.parts["guide"].labels,
                self.samples.must_keep,
            ),
            guard=self.guard,
        )

    @property
    def guard(self) -> Guard:
        """The controller's baseline: float, or the control where float training saw the watch set."""
        gate = self.project.config.gate
        metric: Literal["accuracy", "loss"] = "loss" if gate.metric == "loss" else "accuracy"
        history = self.folder / CONTROL_HISTORY
        baseline = None
        if self.has_control and history.exists():
            last = json.loads(history.read_text().splitlines()[-1])
            baseline = last["watch_accuracy"] if metric == "accuracy" else -last["watch_loss"]
        return Guard(metric, gate.max_drop, baseline)

    @cached_property
    def compressed(self) -> CompressedModel:
        """What ships."""
        return self.split.model

    @cached_property
    def split(self) -> Split:
        """:attr:`shrunk`, with one width a layer."""
        return split_widths(self.shrunk.model, self.untrained.sample)

    @cached_property
    def shrunk(self) -> Shrunk:
        """The compressed model that ``compressed.safetensors`` holds, without its dead channels."""
        compressed = self.untrained.restore()
        data = read_bytes(self.folder / COMPRESSED, MAX_BYTES)
        load_tensors(compressed, safetensors.torch.load(data))
        shrunk = shrink(compressed, self.untrained.sample)
        for layer in shrunk.report.layers:
            if layer.removed or layer.kept:
                log.info("shrink: %s", layer)
        return shrunk

    @property
    def floor(self) -> float | None:
        """The watch metric that is to be kept; None where a budget is given, or nothing is learned."""
        return self.project.config.compress.floor if self.untrained.method == "sgsc" else None

    @property
    def shipped(self) -> str:
        """The file that ships."""
        return TFLITE if self.target.is_lowered else ONNX

    @property
    def has_control(self) -> bool:
        """Whether the gate compares with a control, the float model fine-tuned as the compressed one."""
        return self.project.gate_reference == "control"

    def digest(self, name: str) -> str:
        """SHA-256 of a file of the folder."""
        return sha256_file(self.folder / name)


def _goal(build: Build) -> Goal:
    """What ``[compress]`` asks for: the smallest of several budgets; a ratio is of the float parameters."""
    settings = build.project.config.compress
    limits = [budget.limit(float_bytes(build.model)) for budget in settings.budget or ()]
    return Goal(
        budget=min(limits, default=None),
        alpha=settings.alpha or 0.0,
        gamma=settings.gamma or 0.0,
        guide_weight=settings.lambda_,
        controller=settings.controller,
        depths=settings.bits,
    )


def _input_grid(project: Project) -> tuple[float, int] | None:
    """The input's (scale, zero point) where the project states the raw value range.

    With 256 raw levels, whole-number steps of the raw values are then steps of the integers: a device
    needs no floating point in front of the model where the zero point comes out exact.
    """
    stated = project.config.model.input
    if stated.range is None:
        return None
    means, deviations = np.atleast_1d(stated.mean or 0.0), np.atleast_1d(stated.std or 1.0)
    low = min(0.0, float(((stated.range[0] - means) / deviations).min()))
    high = max(0.0, float(((stated.range[1] - means) / deviations).max()))
    scale = float(np.float32((high - low) / 255))
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))
