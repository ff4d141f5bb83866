"""Makes helper modules of the tests importable by their folder: ``from compression.models import ...``."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from pathlib import Path

import pytest

# Before anything imports torch: two workers share two cores, and threads of one wait for those of the other.
os.environ["OMP_NUM_THREADS"] = "1"

sys.path.insert(0, str(Path(__file__).parent))

# Doctest collection imports every file as a module of its own name, and there are several of this one.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]


_EXPORTER = "torch.onnx._internal.exporter._registration"


def _keep_exporter_tables() -> None:
    """Let torch.onnx parse its table of operators once a process, not for each export: a fifth of one."""
    registry = sys.modules[_EXPORTER].ONNXRegistry
    make, tables = registry.from_torchlib, {}
    if hasattr(make, "tables"):
        return

    def kept(**options: int) -> object:
        key = tuple(options.items())
        if key not in tables:
            tables[key] = make(**options)
        found = copy.copy(tables[key])
        found.functions = {name: list(row) for name, row in found.functions.items()}  # exports add to them
        return found

    kept.tables = tables  # type: ignore[attr-defined]
    registry.from_torchlib = staticmethod(kept)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.needs("program", ...)``: without one of them a test is skipped; in CI it fails."""
    if _EXPORTER in sys.modules:
        _keep_exporter_tables()
    wanted = dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)
    if missing := [name for name in wanted if shutil.which(name) is None]:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI runs every test: see .ci/packages)", pytrace=False)
        pytest.skip(reason)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: the workers of one run must agree on every name, whatever is in them."""
    return f"{len(val)}bytes" if isinstance(val, bytes) else None
