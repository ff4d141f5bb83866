"""How a row's model is made: from a project to integers."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.paper.variants import Case
from sgsc_edge import preservation
from sgsc_edge.artifacts import content_key, sources_hash
from sgsc_edge.compression.channels import living_masks, set_masks
from sgsc_edge.compression.compress import Compression
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.fit import Masks
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.objective import Objective
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.compression.widths.legal import Device, Storages
from sgsc_edge.pipeline.context import SELECTION, Build
from sgsc_edge.preservation.selection import write_selection
from sgsc_edge.preservation.sets import choose
from sgsc_edge.size import WIDE_BITS

NARROW = 4
"""Bits of the row in which all weights have as many."""


@dataclass(frozen=True)
class Made:
    """A compressed model without its dead channels, and how long it took."""

    model: CompressedModel
    seconds: float


def make(build: Build, case: Case, key: str) -> Made:
    """Compress as a row says; checkpoints lie in the build's folder under ``key``."""
    started = time.monotonic()
    compressed = _compression(build, case).run(build.folder, key)
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


def _compression(build: Build, case: Case) -> Compression:
    compression = build.compression()
    if case.variant.how == "uniform":
        return dataclasses.replace(compression, device=Uniform(bits=NARROW))
    if case.variant.how == "pruned":
        if case.budget is None:
            raise SystemExit(f"{case.name}: pruning needs a budget")
        fields = {field.name: getattr(compression, field.name) for field in dataclasses.fields(compression)}
        return Pruned(**fields | {"device": Uniform(bits=WIDE_BITS)}, limit=case.budget)
    return compression


@dataclass(frozen=True)
class Uniform(Device):
    """A device whose C code packs all weights at the same width, in bits."""

    packs: bool = True
    bits: int = WIDE_BITS

    def storages(self, model: QuantizedModel) -> Storages:
        """One way for each layer."""
        return {name: (layer.packed((self.bits,) * len(layer.mask)),) for name, layer in model.layers()}


@dataclass(frozen=True, eq=False)
class Pruned(Compression):
    """Compression of what magnitude pruning leaves within ``limit`` bytes."""

    limit: int = 0

    def compressor(self) -> tuple[Compressor, Objective]:
        """What trains the channels that stay."""
        compressor, objective = super().compressor()
        full = compressor._full  # nothing but a budget removes channels by itself
        compressor._decide(lambda: set_masks(full, prune(full, self.limit)))
        return compressor, objective


def prune(model: QuantizedModel, limit: int) -> Masks:
    """The channels that stay when those with the smallest norms leave until ``limit`` bytes are met.

    A channel's norm is the mean magnitude of its weights over that of its layer, for layers differ in scale;
    channels that an op keeps together count by their mean. No layer loses its last channel, outputs and the
    rows of tables stay; of the others, those that still fit come back, the largest first. SystemExit where
    what must stay takes more.
    """
    ledger = Ledger.of(model)
    alive = ledger.living(living_masks(model))
    sums, counts = np.zeros(len(alive)), np.zeros(len(alive))
    for name, layer in model.layers():
        if not layer.is_table:
            norms = layer.weight.detach().abs().flatten(1).mean(1).numpy()
            np.add.at(sums, ledger.members[name], norms / norms.mean())
            np.add.at(counts, ledger.members[name], 1)
    pruned = np.flatnonzero((counts > 0) & ledger.removable[ledger.kinds])
    ranked = sorted(pruned.tolist(), key=lambda number: sums[number] / counts[number])

    def size() -> int:
        return ledger.size(ledger.counts(alive))

    gone = []
    for number in ranked:
        if size() <= limit:
            break
        if ledger.room(ledger.counts(alive))[ledger.kinds[number]] > 0:
            alive[number] = False
            gone.append(number)
    if size() > limit:
        raise SystemExit(f"pruning cannot meet {limit} bytes: {size()} are left")
    for number in reversed(gone):
        alive[number] = True
        alive[number] = size() <= limit
    return {name: torch.from_numpy(alive[own]).float() for name, own in ledger.members.items()}
