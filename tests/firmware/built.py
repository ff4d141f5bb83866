"""Small hand-made packages under ``packages/``, built once a run for each board and compiler."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sgsc_edge.boards.description import load_board
from sgsc_edge.firmware.image import Image, build_image
from sgsc_edge.firmware.package import Package, read_package
from sgsc_edge.firmware.toolchain import KINDS, Kind, find_toolchain

PACKAGES = Path(__file__).parent / "packages"
VIRTUAL = [f"virtual-cortex-{core}" for core in ("m0plus", "m3", "m4", "m7", "m33")]

needs_gcc = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
)
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"
)
EVERY_COMPILER = [pytest.param(kind, marks=needs_gcc if kind == "gcc" else ()) for kind in KINDS]


@functools.cache
def package(name: str) -> Package:
    return read_package(PACKAGES / name)


@functools.cache
def any_compiler() -> Kind:
    """The system's where there is one: it takes a fifth of the time."""
    return find_toolchain(load_board("virtual-cortex-m4").chip).kind


@functools.cache
def image(name: str, board: str, kind: Kind | None = None) -> Image:
    chip = load_board(board).chip
    return build_image(package(name), chip, find_toolchain(chip, kind or any_compiler()))


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
