"""Several targets of one project: what does not depend on the target is made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pipeline.conftest import TESTED, sgsc_edge

from sgsc_edge import api
from sgsc_edge.artifacts import write_bytes
from sgsc_edge.pipeline import road
from sgsc_edge.pipeline.context import Build
from sgsc_edge.pipeline.stages import STAGES
from sgsc_edge.targets import target_folder

FIRST, TWIN = "tflite-int8", "tflite-twin"
SHARED = (
    "preservation.json",
    "compressed.safetensors",
    "history.jsonl",
    "controller.jsonl",
    "channels.jsonl",
    "plan.json",
)


class StopError(BaseException):
    """Ends a build where a test has seen enough."""


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """A second target: the first with another name."""
    text = (target_folder() / f"{FIRST}.toml").read_text()
    path = tmp_path / f"{TWIN}.toml"
    path.write_text(text.replace(f'name = "{FIRST}"', f'name = "{TWIN}"'))
    return path


def test_a_second_target_is_neither_scored_nor_trained_again(built: Path, twin: Path) -> None:
    command = ("build", built, "--target", FIRST, "--target", twin, "--out", built / "build")
    ran = sgsc_edge(*command)
    assert ran.code == 0, ran.err
    for stage in ("preserve", "compress"):
        assert f"{stage}: the same as for {FIRST}" in ran.err
    for stage in ("rehearse", "export", "lower", "record", "certify"):
        assert f"{stage} ..." in ran.err
    one, two = built / "build" / FIRST, built / "build" / TWIN
    for name in (*SHARED, "model.tflite", "model.qdq.onnx", "preservation.npz", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    again = sgsc_edge(*command)
    assert again.err.count("unchanged") == 16, again.err
    for folder in (one, two):
        assert sgsc_edge("verify", folder).code == 0


def ran_stages(built: Path, twin: Path | str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages up to compress that run for another target; they write nothing but marks."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as in the build that was copied
    ran: list[str] = []

    def marked(name: str, outputs: tuple[str, ...]) -> Callable[[Build, str], None]:
        def run(build: Build, key: str) -> None:
            ran.append(name)
            for output in outputs:
                write_bytes(build.folder / output, b"mark")
            if name in ("compress", "export"):
                raise StopError

        return run

    stages = [replace(stage, run=marked(stage.name, stage.outputs)) for stage in STAGES]
    monkeypatch.setattr(road, "STAGES", stages)
    with pytest.raises(StopError):
        api.build(built, targets=[twin], out=built / "build")
    return ran


def test_a_target_with_settings_of_its_own_is_trained_on_its_own(
    built: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (built / "sgsc.toml").write_text(f"{TESTED}[targets.{TWIN}.compress]\nepochs = 2\n")
    assert ran_stages(built, twin, monkeypatch) == ["rehearse", "compress"]


def test_what_another_target_has_lost_is_made_again(
    built: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (built / "build" / FIRST / "compressed.safetensors").write_bytes(b"edited")
    (built / "build" / "a-file").write_text("no folder")
    assert ran_stages(built, twin, monkeypatch) == ["rehearse", "compress"]


def test_a_build_that_died_while_copying_copies_again(
    built: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(built / "build" / TWIN / "compressed.safetensors", b"of another run")
    assert ran_stages(built, twin, monkeypatch) == ["rehearse", "export"]
    for name in SHARED:
        one, two = built / "build" / FIRST / name, built / "build" / TWIN / name
        assert one.read_bytes() == two.read_bytes()


def test_a_target_that_counts_bytes_in_another_way_is_trained_on_its_own(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran_stages(built, "onnx-int8", monkeypatch) == ["rehearse", "compress"]
