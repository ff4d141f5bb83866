"""What a training loop of the user's own hands to a build: integers, and how they came about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from sgsc_edge.artifacts import output_errors, read_bytes, write_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, load_tensors
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.errors import FileFormatError

MAX_WEIGHTS = 1 << 31

_PLAN, _ACTIONS, _CHANNELS = "sgsc.plan", "sgsc.controller", "sgsc.channels"
"""Keys of the file's metadata."""


@dataclass(frozen=True)
class Saved:
    """Integers, the plan, the controller's actions, channels by epoch."""

    model: CompressedModel
    plan: Plan
    actions: list[dict[str, Any]]
    channels: list[dict[str, Any]]


def write_saved(path: Path, saved: Saved) -> None:
    """Write it as safetensors; raises ``OutputError``."""
    metadata = {_PLAN: saved.plan.to_json(), _ACTIONS: saved.actions, _CHANNELS: saved.channels}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    with output_errors(path.parent):
        write_bytes(path, safetensors.torch.save(saved.model.tensors(), texts))


def read_saved(path: Path, model: CompressedModel) -> Saved:
    """Read it, its integers into ``model``; raises ``FileFormatError``."""
    remedy = "save it again with Compressor.save, for the same model.factory, checkpoint and data"
    if not path.exists():
        raise FileFormatError(
            "does not exist",
            where=f"compress.weights: {path}",
            remedy="give the file of Compressor.save by its path from the project's folder",
        )
    try:
        data = read_bytes(path, MAX_WEIGHTS)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load(data)
        plan = Plan.from_json(json.loads(metadata[_PLAN]))
        actions, channels = json.loads(metadata[_ACTIONS]), json.loads(metadata[_CHANNELS])
        load_tensors(model, tensors)
    except FileFormatError as error:
        raise FileFormatError(error.message, where=f"compress.weights: {path}", remedy=remedy) from error
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise FileFormatError(reason, where=f"compress.weights: {path}", remedy=remedy) from error
    return Saved(model, plan, actions, channels)
