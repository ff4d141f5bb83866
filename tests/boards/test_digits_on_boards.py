"""The digits' certified build on every board: the certify set, integer for integer what was certified."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from examples.example_modules import EXAMPLES, load_example
from safetensors.torch import save_file

import sgsc_edge
from sgsc_edge import flash
from sgsc_edge.api import build
from sgsc_edge.boards.available import available_boards
from sgsc_edge.boards.run import run_image
from sgsc_edge.firmware.chip import Chip, Uart
from sgsc_edge.firmware.image import Image, build_image
from sgsc_edge.firmware.package import read_package
from sgsc_edge.firmware.toolchain import find_toolchain
from sgsc_edge.graph import reference
from sgsc_edge.packaging import package_c_code, read_source
from sgsc_edge.targets import target_folder

# Boards with a twin: the same ELF runs on QEMU's machine of the core, over all samples; here over some.
TWINS = {f"virtual-cortex-{core}" for core in ("m3", "m4", "m7", "m33")} | {"qemu-mps2-an386-uart"}
SOME = 12


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for an epoch, calibrated, certified on the integer executor and TFLite Micro."""
    folder = tmp_path_factory.mktemp("digits")
    for name in ("data.py", "model.py", "sgsc.toml"):
        shutil.copyfile(EXAMPLES / "digits" / name, folder / name)
    modules = load_example("digits", "data", "model", "train")
    rest, _ = sgsc_edge.pool_split(modules.data.train())
    network = modules.train.train(*modules.train.stack(rest), seed=0, epochs=1)
    save_file(network.state_dict(), folder / "float.safetensors")
    text = (target_folder() / "tflite-int8.toml").read_text().partition("[[tolerances]]")[0]
    text = text.replace("tflite-int8", "quick")
    text = re.sub(r"^required = .*", 'required = ["numpy"]', text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^optional = .*", 'optional = ["tflm"]', text, count=1, flags=re.MULTILINE)
    (folder / "quick.toml").write_text(text)
    settings = ["compress.method=ptq", "preservation.method=random", "gate.max_drop=1.0"]
    (made,) = build(folder, targets=[folder / "quick.toml"], out=folder / "build", settings=settings).values()
    assert made.exit_code == 0
    return folder / "build" / "quick"


def test_every_board_computes_what_was_certified(digits: Path, tmp_path: Path) -> None:
    """One test, so that one worker builds once; boards with one chip and link share an image."""
    source = read_source(digits)
    package_c_code(source, tmp_path)
    package = read_package(tmp_path)
    certified = flash._Build.read(digits)
    everything, some = certified.choose(None).inputs, certified.choose(SOME).inputs
    assert len(everything) == 143
    images: dict[tuple[Chip, Uart | None], Image] = {}
    for row in available_boards():
        board = row.board
        if row.missing:
            assert not os.environ.get("CI"), f"{board.name}: {row.missing}"
            continue
        key = (board.chip, board.link)
        if key not in images:
            images[key] = build_image(package, board.chip, find_toolchain(board.chip), board.link)
        samples = some if board.name in TWINS else everything
        run = run_image(images[key], package, board, samples.reshape(len(samples), -1), toolchain="any")
        expected = reference.run(source.graph, samples).reshape(len(samples), -1)
        np.testing.assert_array_equal(run.outputs, expected, err_msg=board.name)
        assert run.selftest == 0
