"""Targets of the user's own, by path: another alignment, and devices that are too small or too old."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pipeline.conftest import sgsc_edge

from sgsc_edge.errors import InputError
from sgsc_edge.graph.flatbuffer import decode
from sgsc_edge.pipeline.context import Build
from sgsc_edge.pipeline.stages import STAGES
from sgsc_edge.project import load_project
from sgsc_edge.targets import load_target, target_folder

SHIPPED = "tflite-int8"
RUN = {stage.name: stage.run for stage in STAGES}


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


def of(built: Path, path: Path, *settings: str) -> Build:
    """The built project for a target, in the folder of the shipped one."""
    project = load_project(built, settings, known_targets={path.stem})
    return Build(project, load_target(path), built / "build" / SHIPPED)


def test_a_device_that_is_too_small_is_refused_before_samples_are_scored(built: Path) -> None:
    path = target(built, "small", limits='flash = "1 kB"')
    ran = sgsc_edge("build", built, "--target", path, "--out", built / "build", "--json")
    assert ran.code == 2
    (outcome,) = ran.document["builds"]
    assert outcome["error"]["where"] == "target 'small': limits.flash"
    assert "more than the flash for it (1,000)" in outcome["error"]["message"]
    assert "compress.budget" in outcome["error"]["remedy"]
    assert not (built / "build" / "small" / "preservation.json").exists()


def test_the_rehearsal_finds_too_little_ram_and_unknown_ops(built: Path) -> None:
    # The convolution's 1x8x8 in and 4x6x6 out.
    with pytest.raises(InputError, match="208 bytes of values are in RAM: 8 more than the arena"):
        RUN["rehearse"](of(built, target(built, "small", limits="arena = 200")), "")
    old = target(built, "old", ("MaxPool2D = 2\n", ""), ("Conv2D = 6", "Conv2D = 2"))
    with pytest.raises(InputError, match="takes version 3, and target 'old' executes up to") as caught:
        RUN["rehearse"](of(built, old), "")
    assert "(MaxPool2D): target 'old' does not execute it" in str(caught.value)


def test_a_target_of_ones_own_has_its_alignment(built: Path) -> None:
    path = target(built, "wide", ("alignment = 16", "alignment = 64"), limits='flash = "64 kB"\narena = 208')
    build = of(built, path)
    RUN["rehearse"](build, "")
    RUN["lower"](build, "")
    data = (build.folder / "model.tflite").read_bytes()
    origin = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    contents = [buffer["data"] for buffer in decode(data, where="test")["buffers"]]
    starts = [c.__array_interface__["data"][0] - origin for c in contents if c is not None]
    assert starts
    assert not any(start % 64 for start in starts)


def test_what_training_may_make_smaller_is_judged_when_it_is_lowered(built: Path) -> None:
    """Under a budget channels may leave: the rehearsal lets pass what lowering refuses."""
    budget = "compress.budget=400 B"
    path = target(built, "small", limits='flash = "1 kB"\narena = 200')
    RUN["rehearse"](of(built, path, budget), "")
    written = built / "build" / SHIPPED / "model.tflite"
    written.unlink()
    for limits, message in (
        ("arena = 200", "208 bytes of values are in RAM: 8 more than the arena"),
        ('flash = "1 kB"', "more than the flash for it"),
    ):
        with pytest.raises(InputError, match=message):
            RUN["lower"](of(built, target(built, "small", limits=limits), budget), "")
        assert not written.exists()


def test_flash_holds_the_constants_of_code_that_packs_them(built: Path) -> None:
    """Not the ``.tflite`` that is certified, which is larger than the limit."""
    code = '[code]\nweights = "learned"'
    RUN["lower"](of(built, target(built, "packs", limits=f"flash = 500\n{code}")), "")
    assert (built / "build" / SHIPPED / "model.tflite").stat().st_size > 500
    with pytest.raises(InputError, match=r"the C code's constants take .* more than the flash for it"):
        RUN["lower"](of(built, target(built, "packs", limits=f"flash = 100\n{code}")), "")
