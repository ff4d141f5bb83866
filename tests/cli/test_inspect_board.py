"""``inspect --board`` as a process: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from certification.build_folders import write_folder
from firmware.built import any_compiler

from sgsc_edge.boards.description import board_folder

BOARD = "virtual-cortex-m4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("inspect") / "build")


def inspect(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "inspect", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
    )


def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    text = (board_folder() / f"{BOARD}.toml").read_text()
    path.write_text(text.replace('"512 KiB"', '"1 KiB"').replace(BOARD, "small"))
    return path


def test_a_build_folder_that_fits(folder: Path) -> None:
    done = inspect(folder, "--board", BOARD, "--toolchain", any_compiler())
    assert done.returncode == 0, done.stderr
    assert f"fits {BOARD}: " in done.stdout
    for text in ("MACs", "instructions", "linked", "exact", "estimated"):
        assert text in done.stdout


def test_a_model_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    done = inspect(folder / "model.tflite", "--board", small(tmp_path), "--json")
    assert done.returncode == 2, done.stderr
    document = json.loads(done.stdout)
    assert document["fits"] is False
    assert document["verdict"].startswith("does not fit small: ")
    (excess,) = document["excesses"]
    assert excess["limit"] == "flash"
    assert excess["bytes"] == document["flash"]["total"] - document["flash"]["limit"] > 0
    assert document["instructions"] == sum(layer["instructions"] for layer in document["layers"]) > 1000


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("model.qdq.onnx", "--board", BOARD), 2, "an .onnx is not what a board runs"),
        (("model.tflite", "model.tflite", "--board", BOARD), 2, "--board takes one model"),
        (("model.tflite", "--board", "virtual-cortex-m44"), 2, "did you mean 'virtual-cortex-m4'?"),
        ((".", "--board", BOARD, "--target", "tflite-int8"), 2, "a target is for projects"),
        (("..", "--board", BOARD), 2, "neither a project (sgsc.toml) nor a build"),
        (("model.tflite", "--board", BOARD, "--toolchain", "gcc"), 4, "no cross-compiler for a cortex-m4"),
    ],
)
def test_what_cannot_be_said(arguments: tuple[str, ...], code: int, says: str, folder: Path) -> None:
    first, *rest = arguments
    paths = [folder / part if part.startswith("model.") else part for part in rest]
    done = inspect(folder / first, *paths, PATH=str(folder))  # where no compiler lies
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_torch_is_not_needed(folder: Path) -> None:
    code = f"""
import sys
from sgsc_edge import api
for name in (".", "model.tflite"):
    assert api.fit({str(folder)!r} + "/" + name, {BOARD!r}).layers
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_the_environment_asks_no_other_question(folder: Path) -> None:
    of_build = {"SGSC_EDGE_BUILD_BOARD": BOARD, "SGSC_EDGE_BUILD_TARGET": "tflite-int8 tflm-int4"}
    done = inspect(folder / "model.tflite", **of_build)
    assert done.returncode == 0, done.stderr
    assert "quantization" in done.stdout
