"""Builds for targets with 4-bit weights, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from pipeline.conftest import Ran, sgsc_edge, write_project

from sgsc_edge.graph.ir import DType
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.targets import target_folder

TARGETS = ("tflm-int4", "tflite-int4")


def build(folder: Path, *options: str | Path) -> Ran:
    return sgsc_edge("build", folder, "--out", folder / "build", *options)


def widths(folder: Path) -> dict[str, int]:
    """Bits of each layer's weights, as planned."""
    plan = json.loads((folder / "plan.json").read_text())
    return {layer["name"]: layer["chosen"]["bits"] for layer in plan["layers"]}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """Both targets in one command, without a budget."""
    folder = write_project(tmp_path_factory.mktemp("narrow"))
    return folder, build(folder, *(part for name in TARGETS for part in ("--target", name)))


def test_all_layers_are_narrow_where_the_watch_set_stands_it(narrow: tuple[Path, Ran]) -> None:
    folder, ran = narrow
    assert ran.code == 0, ran.err
    for name in TARGETS:
        built = folder / "build" / name
        assert widths(built) == {"0": 4, "5": 4}
        weights = [
            tensor.dtype
            for tensor in read_tflite((built / "model.tflite").read_bytes()).tensors.values()
            if tensor.data is not None and len(tensor.shape) in (2, 4)
        ]
        assert weights == [DType.INT4, DType.INT4]
        stored = onnx.load(built / "model.qdq.onnx").graph.initializer
        assert [tensor.data_type for tensor in stored].count(onnx.TensorProto.INT4) == 2
        assert sgsc_edge("verify", built).code == 0
    assert "plan: 5: 36 -> 3 channels" in ran.err


def test_targets_that_store_alike_are_compressed_once(narrow: tuple[Path, Ran], tmp_path: Path) -> None:
    """tflite-int4 stores a dense layer with scales by channel at less cost: it is compressed by itself."""
    folder, ran = narrow
    assert "compress: the same as for tflm-int4" not in ran.err
    shipped = (target_folder() / "tflm-int4.toml").read_text()
    own = tmp_path / "mine.toml"
    own.write_text(shipped.replace('name = "tflm-int4"', 'name = "mine"'))
    again = build(folder, "--target", own)
    assert again.code == 0, again.err
    assert "compress: the same as for tflm-int4" in again.err
    one, two = (folder / "build" / name / "compressed.safetensors" for name in ("tflm-int4", "mine"))
    assert one.read_bytes() == two.read_bytes()


def test_a_budget_counts_narrow_bytes(project: Callable[..., Path]) -> None:
    folder = project()
    ran = build(folder, "--target", "tflm-int4", "--set", "compress.budget=200 B")
    assert ran.code == 0, ran.err
    plan = json.loads((folder / "build" / "tflm-int4" / "plan.json").read_text())
    assert plan["bytes"] <= 200
    assert plan["bytes"] < plan["bytes_in_8_bits"]
    assert all(layer["reason"] and layer["options"] for layer in plan["layers"])


def test_8_bits_on_request(project: Callable[..., Path]) -> None:
    folder = project()
    ran = build(folder, "--target", "tflm-int4", "--method", "ptq")
    assert ran.code in (0, 1), ran.err
    assert set(widths(folder / "build" / "tflm-int4").values()) == {8}
