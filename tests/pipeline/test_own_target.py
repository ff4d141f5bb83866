"""Targets of the user's own, by path: another alignment, and devices that are too small or too old."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipeline.conftest import sgsc_edge

from sgsc_edge.artifacts import read_npz
from sgsc_edge.errors import InputError
from sgsc_edge.graph.flatbuffer import decode
from sgsc_edge.pipeline.context import Build
from sgsc_edge.pipeline.stages import STAGES
from sgsc_edge.project import load_project
from sgsc_edge.targets import load_target, target_folder

SHIPPED = "tflite-int8"
ALL = '["onnxruntime", "litert", "litert-reference", "tflm", "numpy"]'
RUNTIMES = (f'{ALL}\noptional = ["torch", "tensorflow", "tflite-runtime"]', '["litert", "tflm"]')
"""The shipped target's, and those that are quickly run."""


def target(folder: Path, name: str, *edits: tuple[str, str], limits: str = "") -> Path:
    """A copy of the shipped target under another name, edited."""
    text = (
        (target_folder() / f"{SHIPPED}.toml").read_text().replace(f'name = "{SHIPPED}"', f'name = "{name}"')
    )
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(f"{text}\n[limits]\n{limits}\n")
    return path


def test_each_target_of_ones_own_is_built_or_refused_by_what_it_states(built: Path) -> None:
    paths = [
        target(built, "small-flash", limits='flash = "1 kB"'),
        target(built, "small-ram", limits="arena = 200"),
        target(built, "old", ("MaxPool2D = 2", "MaxPool2D = 1"), ("Conv2D = 6", "Conv2D = 2")),
        target(
            built,
            "wide",
            ("alignment = 16", "alignment = 64"),
            RUNTIMES,
            limits="flash = '64 kB'\narena = 208",
        ),
    ]
    options = [part for path in paths for part in ("--target", path)]
    ran = sgsc_edge("build", built, *options, "--out", built / "build", "--json")
    assert ran.code == 2
    flash, ram, old, wide = ran.document["builds"]
    assert [row["exit_code"] for row in (flash, ram, old, wide)] == [2, 2, 2, 0], ran.err
    for row in (flash, ram, old):  # refused by the rehearsal, before samples are scored
        assert not (Path(row["folder"]) / "preservation.json").exists()
    assert flash["error"]["where"] == "target 'small-flash': limits.flash"
    assert "more than the flash for it (1,000)" in flash["error"]["message"]
    # The convolution's 1x8x8 in and 4x6x6 out.
    assert "208 bytes of values are in RAM: 8 more than the arena" in ram["error"]["message"]
    assert "takes version 3, and target 'old' executes up to version 2" in old["error"]["message"]
    assert "MaxPool2D" in old["error"]["remedy"]

    data = (Path(wide["folder"]) / "model.tflite").read_bytes()
    plain = (built / "build" / SHIPPED / "model.tflite").read_bytes()
    origin = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    contents = [buffer["data"] for buffer in decode(data, where="test")["buffers"]]
    starts = [c.__array_interface__["data"][0] - origin for c in contents if c is not None]
    assert starts
    assert not any(start % 64 for start in starts)
    assert data != plain
    rows = {row["name"]: row["status"] for row in wide["certificate"]["predicate"]["runtimes"]}
    assert (rows["litert"], rows["tflm"]) == ("ok", "ok")
    assert len(read_npz(Path(wide["folder"]) / "preservation.npz")["certify_inputs"])


def test_what_training_may_make_smaller_is_judged_when_it_is_lowered(built: Path) -> None:
    """Under a budget channels may leave: the rehearsal lets pass what lowering refuses."""
    path = target(built, "small", limits='flash = "1 kB"\narena = 200')
    folder = built / "build" / SHIPPED
    stages = {stage.name: stage for stage in STAGES}
    project = load_project(built, ["compress.budget=400 B"], known_targets={"small"})
    stages["rehearse"].run(Build(project, load_target(path), folder), "")
    (folder / "model.tflite").unlink()
    for limits, message in (
        ("arena = 200", "208 bytes of values are in RAM: 8 more than the arena"),
        ('flash = "1 kB"', "more than the flash for it"),
    ):
        path = target(built, "small", limits=limits)
        with pytest.raises(InputError, match=message):
            stages["lower"].run(Build(project, load_target(path), folder), "")
        assert not (folder / "model.tflite").exists()
    path = target(built, "small", limits='flash = "10 kB"\narena = 208')
    stages["lower"].run(Build(project, load_target(path), folder), "")
    assert (folder / "model.tflite").exists()
