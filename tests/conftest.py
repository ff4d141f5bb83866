"""Makes helper modules of the tests importable by their folder: ``from compression.models import ...``."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path

import pytest

# Before anything imports torch: two workers share two cores, and threads of one wait for those of the other.
os.environ["OMP_NUM_THREADS"] = "1"

sys.path.insert(0, str(Path(__file__).parent))

import exporter_tables

# Exporting makes millions of small objects: a tenth of the tests' time was looking for garbage among them.
gc.set_threshold(20_000, 20, 20)

# Doctest collection imports every file as a module of its own name, and there are several of this one.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.needs("program", ...)``: without one of them a test is skipped; in CI it fails."""
    if exporter_tables.EXPORTER in sys.modules:
        exporter_tables.keep()
    wanted = dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)
    if missing := [name for name in wanted if shutil.which(name) is None]:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (CI runs every test: see .ci/packages)", pytrace=False)
        pytest.skip(reason)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: the workers of one run must agree on every name, whatever is in them."""
    return f"{len(val)}bytes" if isinstance(val, bytes) else None
