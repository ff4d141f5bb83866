"""The floors: a module imports only its own room or lower floors, and torch only where training needs it.

The table is the architecture; a new room gets a row here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgsc_edge

PACKAGE = Path(sgsc_edge.__file__).parent

FLOORS = {
    "errors": 0,  # under everything
    "hints": 1,
    "numerics": 1,
    "shipped": 1,
    "artifacts": 2,
    "c_names": 2,
    "config_text": 2,
    "graph": 2,  # targets name its ops
    "placement": 3,
    "size": 3,
    "targets": 3,
    "project": 3,
    "pictures": 4,
    "preservation": 5,
    "compression": 4,
    "lowering": 4,
    "c_code": 4,
    "firmware": 4,
    "runtimes": 4,
    "export": 5,
    "calibration": 5,
    "inspection": 5,
    "certification": 5,
    "boards": 5,
    "footprint": 5,
    "packaging": 6,
    "config_reference": 6,  # names the keys of every kind of file
    "operator_reference": 6,  # asks lowering, targets and the C code
    "report": 6,
    "pipeline": 7,
    "flash": 7,
    "explanation": 7,
    "conversion": 7,
    "scaffold": 8,
    "doctor": 7,
    "api": 9,
    "cli": 10,
    "command_reference": 11,  # reads every command
}
# Everything else (verify, inspect, targets, runtimes) starts without torch.
TORCH_ROOMS = {"project", "preservation", "compression", "export", "pipeline"}
# The package's front door hands out names of any floor, when they are asked for.
FRONT_DOOR = "__init__"

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            if base == "sgsc_edge":
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_imports_only_its_own_room_or_lower_floors(path: Path) -> None:
    own = room(path)
    if own == FRONT_DOOR:
        return
    assert own in FLOORS, f"give the room '{own}' a floor in this table"
    for line, name in imports(path):
        if name.startswith("sgsc_edge."):
            other = name.split(".")[1]
            where = f"{named(path)}:{line}: '{own}' (floor {FLOORS[own]})"
            assert other == own or FLOORS[other] < FLOORS[own], f"{where} imports '{other}'"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_torch_is_imported_only_where_training_needs_it(path: Path) -> None:
    found = [line for line, name in imports(path) if name.split(".")[0] in {"torch", "torchvision"}]
    assert not found or room(path) in TORCH_ROOMS, f"{named(path)}:{found[0]} imports torch"


def test_what_a_gate_needs_starts_without_torch() -> None:
    code = """
import sys
import sgsc_edge.api, sgsc_edge.cli.main, sgsc_edge.certification, sgsc_edge.inspection, sgsc_edge.lowering
import sgsc_edge.project, sgsc_edge.runtimes, sgsc_edge.targets
import sgsc_edge.boards.qemu, sgsc_edge.boards.run, sgsc_edge.boards.virtual, sgsc_edge.firmware.image
import sgsc_edge.footprint, sgsc_edge.report
for name in sgsc_edge.cli.main.COMMANDS:
    __import__(f"sgsc_edge.cli.{name}")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_help_imports_neither_arrays_nor_models() -> None:
    code = """
import sys
from sgsc_edge.cli.main import main
assert main(["--help"]) == 0
heavy = {"numpy", "onnx", "onnxruntime", "pydantic", "torch", "ai_edge_litert"} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_public_names_exist() -> None:
    # These bring torch, and are tested where they live.
    for name in set(sgsc_edge.__all__) - {"pool_split", "Compressor"}:
        assert getattr(sgsc_edge, name)
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        sgsc_edge.biuld  # noqa: B018
