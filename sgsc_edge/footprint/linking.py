"""Generated C code, compiled and linked as ``flash`` does it, without leaving anything behind."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.c_code.interface import selftest_samples
from sgsc_edge.c_code.write import CCode, c_code
from sgsc_edge.errors import ToolchainError
from sgsc_edge.firmware.chip import Chip, Uart
from sgsc_edge.firmware.package import Package
from sgsc_edge.firmware.toolchain import INSTALL, Kind, Toolchain, find_toolchain
from sgsc_edge.graph.ir import Graph
from sgsc_edge.targets import Target

if TYPE_CHECKING:  # needs a package of the extra `device`
    from sgsc_edge.firmware.image import Image

PACKAGE_FOLDER = Path(__file__).parents[1]
"""Of sgsc_edge itself, with all C sources."""

_NO_MODEL = "0" * 64


def compiler_for(chip: Chip, kind: Kind | None = None) -> Toolchain | None:
    """What can link an image for ``chip`` here, and measure it; None where there is nothing.

    Raises ``ToolchainError`` where a compiler is asked for by its kind and is not there.
    """
    try:
        if importlib.util.find_spec("elftools") is None:
            raise ToolchainError("an image cannot be read: pyelftools is not installed", remedy=INSTALL)
        return find_toolchain(chip, kind)
    except ToolchainError:
        if kind is not None:
            raise
        return None


def link(code: CCode, chip: Chip, toolchain: Toolchain, uart: Uart | None = None) -> Image:
    """The image of ``code`` for ``chip``, however large; raises ``ToolchainError``."""
    from sgsc_edge.firmware.image import link_image

    with tempfile.TemporaryDirectory(prefix="sgsc-edge-") as name:
        return link_image(write_package(code, Path(name)), chip, toolchain, uart)


def write_code(graph: Graph, name: str, *, learned: bool = False) -> CCode:
    """A graph as C, its self-test as large as in a package; raises what ``c_code`` does."""

    def blank(names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        shapes = {name: (selftest_samples(graph), *graph[name].shape) for name in names}
        return {name: np.zeros(shape, graph[name].dtype.numpy) for name, shape in shapes.items()}

    samples = blank(graph.inputs), blank(graph.outputs)
    return c_code(graph, name=name, model_hash=_NO_MODEL, samples=samples, learned=learned)


def flash_bytes(graph: Graph, tflite: bytes, target: Target) -> int:
    """Bytes of what a target keeps in flash: the ``.tflite``, or the constants of packed C code."""
    if not target.packs:
        return len(tflite)
    return c_code(graph, name=graph.name, model_hash=_NO_MODEL, learned=True).constant_bytes


def write_package(code: CCode, folder: Path) -> Package:
    """Write what firmware takes of generated code into ``folder``."""
    for file, text in code.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    paths = sorted(folder / file for file in code.files)
    return Package(
        folder,
        code.name,
        _NO_MODEL,
        code.input_bytes,
        code.output_bytes,
        code.arena.size,
        sources=tuple(path for path in paths if path.suffix == ".c"),
        headers=tuple(path for path in paths if path.suffix == ".h"),
    )
