"""Makes helper modules of the tests importable by their folder: ``from compression.models import ...``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before anything imports torch: two workers share two cores, and threads of one wait for those of the other.
os.environ["OMP_NUM_THREADS"] = "1"

sys.path.insert(0, str(Path(__file__).parent))

# Doctest collection imports every file as a module of its own name, and there are several of this one.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: the workers of one run must agree on every name, whatever is in them."""
    return f"{len(val)}bytes" if isinstance(val, bytes) else None
