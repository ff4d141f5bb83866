"""Small hand-made packages under ``packages/``, built once a run for each board and compiler."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.faults import Faults
from sgsc_edge.boards.link import Link
from sgsc_edge.boards.process import BoardProcess
from sgsc_edge.boards.run import open_board
from sgsc_edge.errors import BoardError
from sgsc_edge.firmware.chip import Chip
from sgsc_edge.firmware.image import Image, build_image
from sgsc_edge.firmware.package import Package, read_package
from sgsc_edge.firmware.toolchain import KINDS, Kind, find_toolchain

PACKAGES = Path(__file__).parent / "packages"
VIRTUAL = [f"virtual-cortex-{core}" for core in ("m0plus", "m3", "m4", "m7", "m33")]

# What a board needs beside the packages of the extra `device`, by what it is reached through.
PROGRAMS = {"cortex_m": "qemu-system-arm", "riscv32": "qemu-system-riscv32", "linux_aarch64": "qemu-aarch64"}


def needs(board: str, kind: Kind | None = None) -> list[pytest.MarkDecorator]:
    """Marks of a test of ``board`` with the compiler ``kind``."""
    described = load_board(board)
    architecture = described.chip.architecture
    programs = [PROGRAMS[architecture.name]] if described.reach.via != "unicorn" else []
    return [pytest.mark.needs(*programs, *([architecture.gcc] if kind == "gcc" else []))]


EVERY_COMPILER = [pytest.param(kind, marks=needs("virtual-cortex-m4", kind)) for kind in KINDS]


def any_compiler() -> Kind:
    """The system's where there is one: it takes a fifth of the time."""
    return find_toolchain(load_board("virtual-cortex-m4").chip).kind


@functools.cache
def package(name: str) -> Package:
    return read_package(PACKAGES / name)


def image(name: str, board: str, kind: Kind | None = None) -> Image:
    """Without ``kind`` by the system's compiler where there is one: it takes a fifth of the time."""
    chip = load_board(board).chip
    return _built(name, chip, find_toolchain(chip, kind).kind)


@functools.cache
def _built(name: str, chip: Chip, kind: Kind) -> Image:
    """Boards with one chip share an image."""
    return build_image(package(name), chip, find_toolchain(chip, kind))


def faults(name: str, board: str, kind: Kind | None = None) -> Faults:
    return Faults(image(name, board, kind), load_board(board).chip)


@functools.cache
def _dense_constants() -> tuple[NDArray[np.int64], ...]:
    text = (PACKAGES / "dense" / "weights.c").read_text(encoding="utf-8")
    lists = [re.findall(r"-?\d+", part.partition("=")[2]) for part in text.split("const")[1:]]
    weights, biases, multipliers = (np.array(list(map(int, numbers))) for numbers in lists)
    return weights.reshape(10, 16), biases, multipliers


def dense(inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """What the package ``dense`` computes: int8 [n, 16] -> int8 [n, 10]."""
    weights, biases, multipliers = _dense_constants()
    sums = inputs.astype(np.int64) @ weights.T + biases
    rounded = (sums * multipliers + 2**40) >> 41
    return np.clip(rounded, -128, 127).astype(np.int8)


def samples(count: int, width: int = 16) -> NDArray[np.int8]:
    return np.random.default_rng(count).integers(-128, 128, (count, width)).astype(np.int8)


def provoked(board: str, way: int, *, kind: Kind | None = None, timeout_s: float = 60.0) -> BoardError:
    """The error of the package ``traps`` that misbehaves in one of its ways on a board that is a process.

    The process has ended afterwards.
    """
    device = open_board(image("traps", board, kind), load_board(board))
    assert isinstance(device, BoardProcess)
    try:
        link = Link(device, 4, timeout_s=timeout_s, attempts=1, faults=faults("traps", board, kind))
        with pytest.raises(BoardError) as raised:
            link.run(bytes([way % 256]) + bytes(7))
    finally:
        device.close()
    assert device._process.poll() is not None
    return raised.value
