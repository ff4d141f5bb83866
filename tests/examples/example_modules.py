"""Example modules are imported by file: both examples have a `data` and a `model`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str, *modules: str) -> SimpleNamespace:
    """The named modules of one example, leaving sys.path and sys.modules as they were."""
    folder = EXAMPLES / name
    own = {path.stem for path in folder.glob("*.py")}
    hidden: dict[str, ModuleType] = {key: sys.modules.pop(key) for key in own if key in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        return SimpleNamespace(**{module: importlib.import_module(module) for module in modules})
    finally:
        sys.path.remove(str(folder))
        for key in own:
            sys.modules.pop(key, None)
        sys.modules.update(hidden)
