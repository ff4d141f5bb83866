"""How a row's model is made: from a project to integers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks.paper import baselines
from benchmarks.paper.variants import Case
from sgsc_edge import preservation
from sgsc_edge.artifacts import content_key, sources_hash
from sgsc_edge.compression.compress import Compression
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.pipeline.context import SELECTION, Build
from sgsc_edge.preservation.selection import write_selection
from sgsc_edge.preservation.sets import choose


@dataclass(frozen=True)
class Made:
    """A compressed model without its dead channels, and how long it took."""

    model: CompressedModel
    seconds: float


def make(build: Build, case: Case, key: str) -> Made:
    """Compress as a row says; checkpoints lie in the build's folder under ``key``."""
    started = time.monotonic()
    compressed = compression_of(build, case).run(build.folder, key)
    return Made(shrink(compressed, build.untrained.sample).model, time.monotonic() - started)


def train_longer(build: Build, key: str) -> tuple[nn.Module, float]:
    """The float model trained for as long as the others, and how many seconds it took."""
    started = time.monotonic()
    control = build.compression().run_control(build.folder, key)
    return control.module, time.monotonic() - started


def select(build: Build, kept: Path) -> None:
    """Choose the build's preservation set; those that were chosen before are in ``kept``."""
    settings = build.project.config_hash("model", "data", "preservation")
    seed, code = build.project.config.compress.seed, sources_hash(Path(preservation.__file__).parent)
    known = kept / f"{content_key(settings, seed, build.project.source_hash(), code)}.json"
    if not known.is_file():
        write_selection(known, choose(build.project, build.model, build.data))
    (build.folder / SELECTION).write_bytes(known.read_bytes())


def compression_of(build: Build, case: Case) -> Compression:
    """What a row trains; SystemExit where it lacks a budget or a rare class."""
    compression, how = build.compression(), case.variant.how
    if how == "uniform":
        return baselines.uniform(compression)
    if how == "balanced":
        if case.subject.rare is None:
            raise SystemExit(f"{case.name}: {case.subject.name} has no rare class")
        return baselines.balanced(compression, build.data.rest.tensors()[1], case.subject.rare)
    if how == "pruned":
        if case.budget is None:
            raise SystemExit(f"{case.name}: pruning needs a budget")
        return baselines.pruned(compression, case.budget)
    return compression
