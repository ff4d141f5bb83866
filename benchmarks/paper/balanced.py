"""The baseline without a preservation set that draws a rare class more often."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch.utils.data import Subset

from benchmarks.paper.methods import Made
from benchmarks.paper.variants import Case
from sgsc_edge.compression.guide import MOST_OFTEN
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.pipeline.context import Build

TIMES = MOST_OFTEN
"""As often as a guide sample of a rare class is drawn at most."""


def make_balanced(build: Build, case: Case, key: str) -> Made:
    """Compress as the row says, with the samples of the subject's rare class :data:`TIMES` times."""
    started = time.monotonic()
    _, labels = build.data.rest.tensors()
    rare = torch.nonzero(labels == case.subject.rare).flatten().tolist()
    compression = build.compression()
    drawn = [*range(len(labels)), *rare * (TIMES - 1)]  # the guide part's indices stay what they are
    compressed = dataclasses.replace(compression, train=Subset(compression.train, drawn)).run(
        build.folder, key
    )
    return Made(shrink(compressed, build.untrained.sample).model, time.monotonic() - started)
