"""The commands as functions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

import sgsc_edge
from sgsc_edge import api
from sgsc_edge.errors import ConfigError, FileFormatError, SgscError

PROJECT = """\
project.name = "net"
model = { factory = "model:build", input = { shape = [1, 8, 8] } }
data.train = "data:train"
gate = { max_drop = 0.01, max_lowering_flips = 0.005 }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sgsc.toml").write_text(PROJECT)
    return tmp_path


def test_targets_and_runtimes_are_listed() -> None:
    assert "tflite-int8" in {target.name for target in sgsc_edge.available_targets()}
    assert "numpy" in {runtime.name for runtime in sgsc_edge.available_runtimes()}


def test_the_folder_of_several_budgets_is_no_build_and_names_those_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "sizes" / "tflite-int8"
    for point in ("2kB", "3kB"):
        (folder / point).mkdir(parents=True)
        (folder / point / "manifest.json").write_text("{}")
    (folder / "frontier.json").write_text("{}")
    board = "virtual-cortex-m4"
    asked: list[Callable[[], object]] = [
        lambda: api.verify(folder),
        lambda: api.report(folder),
        lambda: api.explain(folder, "0"),
        lambda: api.package(folder),
        lambda: api.fit(folder, board),
        lambda: api.flash(folder, board),
        lambda: api.flash_steps(folder, board),
    ]
    for ask in asked:
        with pytest.raises(FileFormatError, match="a build for each of several budgets") as caught:
            ask()
        assert caught.value.remedy == f"give one of {folder / '2kB'}, {folder / '3kB'}"


def test_a_build_validates_everything_first(project: Path) -> None:
    with pytest.raises(ConfigError, match="unknown target 'tflite-int9'"):
        sgsc_edge.build(project, targets=["tflite-int8", "tflite-int9"])
    with pytest.raises(ConfigError, match="no target is given"):
        sgsc_edge.build(project, targets=[])
    with pytest.raises(ConfigError, match="1 problem") as caught:
        sgsc_edge.build(project, targets=["tflite-int8"], settings=["targets.tflite-int9.compress.epochs=1"])
    assert "did you mean 'tflite-int8'?" in caught.value.problems[0]


def test_a_build_without_its_packages_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(ConfigError, match="build needs torch, not installed here") as caught:
        sgsc_edge.build(project, targets=["tflite-int8"])
    assert "pip install 'sgsc-edge[build]'" in str(caught.value)


def test_verify_and_inspect_take_paths_as_text(project: Path) -> None:
    with pytest.raises(SgscError):
        sgsc_edge.verify(str(project))
    with pytest.raises(SgscError):
        sgsc_edge.inspect(str(project / "absent.onnx"))
