"""A model as its learning phase left it: where compression to a smaller budget goes on.

Depths are learned and channels gone, but nothing has settled yet: weights, ranges, depths, masks, norms and
activation ranges still move. What was spent on the way down to one budget is not spent again for the next.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from sgsc_edge.artifacts import read_bytes, write_bytes
from sgsc_edge.compression.channels import living_masks, set_masks
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.errors import FileFormatError

SNAPSHOT = ".learned.safetensors"
"""The file of a build folder that holds one; without tensors where no depths were learned."""

EPOCHS_SHARE = 0.5
"""Share of the epochs of a whole compression that one takes which starts from a snapshot."""

_MAX_BYTES = 1 << 31
_MODEL, _MULTIPLIERS = "model.", "multipliers"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the next compression takes over.

    Parameters
    ----------
    model: the state of the model in its trained form, by name.
    multiplier, scale: of the size term (``pressure``).
    guide_weight: λ.
    """

    model: Mapping[str, torch.Tensor]
    multiplier: float
    scale: float
    guide_weight: float

    @staticmethod
    def of(model: QuantizedModel, *, multiplier: float, scale: float, guide_weight: float) -> Snapshot:
        """The present state, copied."""
        state = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)  # files store no other
            for name, tensor in model.module.state_dict().items()
        }
        return Snapshot(state, multiplier, scale, guide_weight)

    def put_into(self, model: QuantizedModel) -> None:
        """Let a fresh model of the same architecture go on from here.

        Raises
        ------
        FileFormatError: it is of another architecture.
        """
        own, other = (_shapes(state) for state in (model.module.state_dict(), self.model))
        if own != other:
            name = next(name for name in (*own, *other) if own.get(name) != other.get(name))
            raise FileFormatError(
                f"is of another network: '{name}' is {other.get(name, 'missing')} there and "
                f"{own.get(name, 'missing')} here",
                where=SNAPSHOT,
                remedy="compress this network to the larger budget first, and go on from there",
            )
        model.module.load_state_dict(self.model)
        set_masks(model, living_masks(model))

    def fingerprint(self) -> str:
        """Tells two snapshots apart."""
        return hashlib.sha256(safetensors.torch.save(self.tensors())).hexdigest()[:16]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as tensors by name, for files and checkpoints."""
        multipliers = torch.tensor([self.multiplier, self.scale, self.guide_weight], dtype=torch.float64)
        return {f"{_MODEL}{name}": tensor for name, tensor in self.model.items()} | {
            _MULTIPLIERS: multipliers
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Snapshot:
        """Take back :meth:`tensors`; KeyError or ValueError where they are none."""
        multiplier, scale, guide_weight = tensors[_MULTIPLIERS].tolist()
        if not all(map(math.isfinite, (multiplier, scale, guide_weight))):
            raise ValueError("a multiplier is not finite")
        state = {
            name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)
        }
        return Snapshot(state, multiplier, scale, guide_weight)


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def write_snapshot(path: Path, snapshot: Snapshot | None) -> None:
    """Write a snapshot; None, of a method that learns no depths, is a file without tensors."""
    write_bytes(path, safetensors.torch.save({} if snapshot is None else snapshot.tensors()))


def read_snapshot(path: Path) -> Snapshot:
    """Read what :func:`write_snapshot` wrote; ``FileFormatError`` where that holds no snapshot."""
    data = read_bytes(path, _MAX_BYTES)
    try:
        return Snapshot.from_tensors(safetensors.torch.load(data))
    except Exception as error:
        raise FileFormatError(
            f"holds no model that compression can go on from: {error}",
            where=str(path),
            remedy="delete it; the build makes it again",
        ) from error
