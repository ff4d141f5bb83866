"""``[export]``: a smaller file from the same build, certified like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline.conftest import sgsc_edge

from sgsc_edge import api
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.pipeline.context import Build
from sgsc_edge.pipeline.stages import STAGES

TARGET = "tflite-int8"
SMALL = ["export.names=none", "export.quantization=needed", "export.metadata=none"]


def test_a_small_file_is_written_and_certified_without_training_again(built: Path) -> None:
    folder = built / "build" / TARGET
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    options = [word for setting in SMALL for word in ("--set", setting)]
    ran = sgsc_edge("build", built, "--target", TARGET, "--out", built / "build", "--json", *options)
    assert ran.code == 0, ran.err
    predicate = json.loads((folder / "certificate.json").read_text())["predicate"]
    assert predicate["verdict"] == "PASSED"
    small = (folder / "model.tflite").read_bytes()
    assert len(small) < 0.7 * len(before["model.tflite"])
    assert read_tflite(small).metadata == {}
    for name in ("compressed.safetensors", "model.qdq.onnx"):
        assert (folder / name).read_bytes() == before[name]
    assert sgsc_edge("verify", folder).code == 0


@pytest.mark.parametrize("setting", SMALL)
def test_only_the_file_is_made_again(built: Path, setting: str) -> None:
    keys = []
    for settings in ((), (setting,)):
        ((loaded, target),) = api.prepare(built, [TARGET], settings)
        build = Build(loaded, target, built / "build" / TARGET)
        keys.append({stage.name: stage.key(build) for stage in STAGES[:8]})  # to lower
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"lower"}
