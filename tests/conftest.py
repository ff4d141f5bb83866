"""Makes helper modules of the tests importable by their folder: ``from compression.models import ...``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Doctest collection imports every file as a module of its own name, and there are several of this one.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]
