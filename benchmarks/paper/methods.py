"""How a row's model is made: from a project to integers."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.variants import Case
from sgsc_edge import preservation
from sgsc_edge.artifacts import content_key, sources_hash
from sgsc_edge.compression.channels import answering, living_masks, set_masks
from sgsc_edge.compression.compress import Compression
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.fit import Masks, stored_bytes
from sgsc_edge.compression.fold import CompressedModel
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.objective import Objective
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.compression.widths.legal import Device, Storages
from sgsc_edge.pipeline.context import SELECTION, Build
from sgsc_edge.preservation.selection import write_selection
from sgsc_edge.preservation.sets import choose
from sgsc_edge.size import WIDE_BITS, Storage

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
        return {name: (Storage.packing((self.bits,) * len(layer.mask)),) for name, layer in model.layers()}


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

    A channel's norm is the mean magnitude of its weights over that of its layer, for layers differ in scale.
    Each layer keeps its largest channel, and the outputs stay; of the others, those that still fit come back,
    the largest first. SystemExit where what must stay takes more.
    """
    masks, answers = living_masks(model), answering(model)
    ranked: list[tuple[float, str, int]] = []
    for name, layer in model.layers():
        norms = layer.weight.detach().abs().flatten(1).mean(1)
        norms = norms / norms.mean()
        if name not in answers:
            largest = int(norms.argmax())
            ranked += [(float(norm), name, i) for i, norm in enumerate(norms) if i != largest]
    gone: list[tuple[str, int]] = []
    for _, name, channel in sorted(ranked):
        if stored_bytes(model, masks) <= limit:
            break
        masks[name][channel] = 0.0
        gone.append((name, channel))
    if stored_bytes(model, masks) > limit:
        raise SystemExit(f"pruning cannot meet {limit} bytes: {stored_bytes(model, masks)} are left")
    for name, channel in reversed(gone):
        masks[name][channel] = 1.0
        if stored_bytes(model, masks) > limit:
            masks[name][channel] = 0.0
    return masks
