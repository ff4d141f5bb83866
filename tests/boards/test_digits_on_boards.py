"""The digits' certified build on every board: the certify set, integer for integer what was certified."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from examples.example_modules import EXAMPLES, load_example
from safetensors.torch import save_file

import sgsc_edge
from sgsc_edge import flash
from sgsc_edge.api import build
from sgsc_edge.boards.available import available_boards
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


def test_every_board_computes_what_was_certified(digits: Path) -> None:
    """One test, so that one worker builds once."""
    ran = {}
    for row in available_boards():
        if row.missing:
            assert not os.environ.get("CI"), f"{row.board.name}: {row.missing}"
            continue
        samples = SOME if row.board.name in TWINS else None
        ran[row.board.name] = flash.flash(digits, row.board, samples=samples).predicate
    assert {name: made["verdict"] for name, made in ran.items()} == dict.fromkeys(ran, "PASSED")
    assert "virtual-cortex-m0plus" in ran
    everything = flash._Build.read(digits)
    assert everything.total == 143
    for name, made in ran.items():
        assert made["samples"] == (len(everything.choose(SOME).ids) if name in TWINS else 143)
        assert 0 < made["verified_bytes"] <= made["sizes"]["flash"]
