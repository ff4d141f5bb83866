"""A project's data and settings for a training loop of the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from sgsc_edge.compression.compress import Compression
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.pipeline.context import SELECTION, Build
from sgsc_edge.preservation.selection import write_selection
from sgsc_edge.preservation.sets import choose
from sgsc_edge.project import Project
from sgsc_edge.targets import Target


@dataclass(frozen=True, eq=False)
class OwnLoop:
    """What a training loop needs of a project: the model, and who may enter a gradient.

    Parameters
    ----------
    model: the float model, in evaluation mode.
    train: (input, label) samples that may enter a gradient: watch and certify samples are not among them.
    guide: indices into ``train`` of the preservation set's guide part.
    watch: inputs and labels that may be looked at, and never enter a gradient.
    """

    model: nn.Module
    train: Dataset[Any]
    guide: tuple[int, ...]
    watch: tuple[torch.Tensor, torch.Tensor]
    _compression: Compression

    def compressor(self, steps: int, data: Iterable[Any]) -> Compressor:
        """What compresses the model by the project's settings, guarded by its watch set.

        Parameters
        ----------
        steps, data: see :class:`sgsc_edge.compression.compressor.Compressor`.
        """
        return self._compression.compressor_of(steps, data)


def own_loop(project: Project, target: Target) -> OwnLoop:
    """Load a project (with the target's overrides in force) and choose its preservation set, as a build does.

    Raises ``InputError`` as a build does.
    """
    with tempfile.TemporaryDirectory() as folder:
        build = Build(project, target, Path(folder))
        write_selection(build.folder / SELECTION, choose(project, build.model, build.data))
        compression = build.compression()
        return OwnLoop(build.model, compression.train, compression.guide.part, compression.watch, compression)
