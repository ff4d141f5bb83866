"""Networks that benchmarks build on the digits example's data, with its training script and recipe."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn


def network(path: Path) -> nn.Module:
    """The network that the ``build`` of a project's model file makes."""
    spec = importlib.util.spec_from_file_location("benchmarked_model", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: nn.Module = module.build()
    return made
