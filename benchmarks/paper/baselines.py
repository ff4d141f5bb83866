"""Ways to compress that sgsc-edge is compared with, as compressions with a change."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Subset

from sgsc_edge.compression.channels import living_masks, set_masks
from sgsc_edge.compression.compress import Compression
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.fit import Masks
from sgsc_edge.compression.guide import MOST_OFTEN
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.objective import Objective
from sgsc_edge.compression.widths.legal import Device, Storages
from sgsc_edge.size import WIDE_BITS

NARROW = 4
"""Bits of the row in which all weights have as many."""

TIMES = MOST_OFTEN
"""Repetitions of a rare class's samples: as often as a guide sample of one is drawn at most."""


@dataclass(frozen=True)
class Uniform(Device):
    """A device whose C code packs all weights at the same width, in bits."""

    packs: bool = True
    bits: int = WIDE_BITS

    def storages(self, model: QuantizedModel) -> Storages:
        """One way for each layer."""
        return {name: (layer.packed((self.bits,) * len(layer.mask)),) for name, layer in model.layers()}


def uniform(compression: Compression) -> Compression:
    """Training with all weights at :data:`NARROW` bits."""
    return dataclasses.replace(compression, device=Uniform(bits=NARROW))


def balanced(compression: Compression, labels: torch.Tensor, rare: int) -> Compression:
    """Training on the samples of a class :data:`TIMES` times.

    Parameters
    ----------
    labels: int64 [n], of the training samples.
    """
    own = torch.nonzero(labels == rare).flatten().tolist()
    drawn = [*range(len(labels)), *own * (TIMES - 1)]  # the guide part's indices stay what they are
    return dataclasses.replace(compression, train=Subset(compression.train, drawn))


def pruned(compression: Compression, limit: int) -> Compression:
    """Training in 8 bits of the channels that magnitude pruning leaves within ``limit`` bytes."""
    fields = {field.name: getattr(compression, field.name) for field in dataclasses.fields(compression)}
    return _Pruned(**fields | {"device": Uniform()}, limit=limit)


@dataclass(frozen=True, eq=False)
class _Pruned(Compression):
    limit: int = 0

    def compressor(self) -> tuple[Compressor, Objective]:
        compressor, objective = super().compressor()
        full = compressor._full  # nothing but a budget removes channels by itself
        compressor._decide(lambda: set_masks(full, prune(full, self.limit)))
        return compressor, objective


def prune(model: QuantizedModel, limit: int) -> Masks:
    """The channels that stay when those with the smallest norms leave until ``limit`` bytes are met.

    Of each layer the same share leaves, as is usual with norms of filters (arXiv 1608.08710): those of
    different layers do not compare. A norm is the mean magnitude of a channel's weights over that of its
    layer; channels that an op keeps together count by their mean, and as one layer. No layer loses its last
    channel, outputs and the rows of tables stay; of the others, those that still fit come back, the ones that
    left last first. SystemExit where what must stay takes more.
    """
    ledger = Ledger.of(model)
    alive = ledger.living(living_masks(model))
    sums, counts = np.zeros(len(alive)), np.zeros(len(alive))
    for name, layer in model.layers():
        if not layer.is_table:
            norms = layer.weight.detach().abs().flatten(1).mean(1).numpy()
            np.add.at(sums, ledger.members[name], norms / norms.mean())
            np.add.at(counts, ledger.members[name], 1)
    places: list[tuple[float, int]] = []
    for kind in np.flatnonzero(ledger.removable):
        own = np.flatnonzero((ledger.kinds == kind) & (counts > 0))
        rising = own[np.argsort(sums[own] / counts[own], kind="stable")].tolist()
        places += [(place / len(rising), number) for place, number in enumerate(rising, 1)]

    def size() -> int:
        return ledger.size(ledger.counts(alive))

    gone = []
    for _, number in sorted(places):
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
