"""The real engines agree on a real model, integer for integer, and refuse what is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_model

from sgsc_edge.errors import InternalError
from sgsc_edge.runtimes import MODEL_ONNX, MODEL_TFLITE, RuntimeSpec, Status, available, run_runtime, specs
from sgsc_edge.runtimes._registry import index
from sgsc_edge.runtimes.onnxruntime import Grid, model_edges

NAMES = {"onnxruntime", "litert", "litert-reference", "tflm", "numpy", "tensorflow", "tflite-runtime"}
INSTALLED = ("onnxruntime", "litert", "litert-reference", "tflm", "numpy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    (path / MODEL_TFLITE).write_bytes(tiny_model.tflite_bytes())
    (path / MODEL_ONNX).write_bytes(tiny_model.onnx_bytes())
    return path


def expected_outputs(inputs: np.ndarray) -> np.ndarray:
    """The model in float64 on the real values, rounded where its grids are; no tie occurs in the samples."""

    def real(values: np.ndarray, grid: tuple[np.float32, int]) -> np.ndarray:
        return float(grid[0]) * (values.astype(np.float64) - grid[1])

    def on_grid(values: np.ndarray, grid: tuple[np.float32, int]) -> np.ndarray:
        return np.clip(np.rint(values / float(grid[0])) + grid[1], -128, 127).astype(np.int8)

    x = real(inputs, tiny_model.INPUT)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))  # n, 2, 2, c, kh, kw
    kernel = tiny_model.CONV_WEIGHTS * tiny_model.CONV_SCALES.astype(np.float64)[:, None, None, None]
    bias = tiny_model.CONV_BIAS * (tiny_model.INPUT[0] * tiny_model.CONV_SCALES).astype(np.float64)
    hidden = np.maximum(np.einsum("nabchw,ohwc->nabo", windows, kernel) + bias, 0)
    flat = real(on_grid(hidden, tiny_model.HIDDEN), tiny_model.HIDDEN).reshape(len(x), -1)
    dense = tiny_model.DENSE_WEIGHTS * tiny_model.DENSE_SCALES.astype(np.float64)[:, None]
    bias = tiny_model.DENSE_BIAS * (tiny_model.HIDDEN[0] * tiny_model.DENSE_SCALES).astype(np.float64)
    return on_grid(flat @ dense.T + bias, tiny_model.OUTPUT)


@pytest.mark.parametrize("name", INSTALLED)
def test_each_engine_computes_the_model(folder: Path, name: str) -> None:
    inputs = tiny_model.samples(100)
    result = run_runtime(name, folder / specs()[name].artifact, inputs, timeout_s=120)
    assert result.status is Status.OK, result.reason
    assert result.version
    assert result.stand_in is None
    assert np.array_equal(result.outputs, expected_outputs(inputs))


@pytest.mark.parametrize("name", INSTALLED)
def test_samples_of_another_shape_fail_as_a_row(folder: Path, name: str) -> None:
    inputs = np.zeros((3, 4, 5, 2), np.int8)
    result = run_runtime(name, folder / specs()[name].artifact, inputs, timeout_s=120)
    assert result.status is Status.FAILED
    assert result.reason


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"TFL3" * 40, lambda data: b""])
def test_a_damaged_tflite_file_reaches_no_interpreter(tmp_path: Path, damage) -> None:
    path = tmp_path / MODEL_TFLITE
    path.write_bytes(damage(tiny_model.tflite_bytes()))
    result = run_runtime("tflm", path, tiny_model.samples(2), timeout_s=60)
    assert result.status is Status.FAILED
    assert "refused before running" in result.reason


def test_the_table_is_complete_and_names_are_unique() -> None:
    assert set(specs()) == NAMES
    rows = {row.name: row for row in available()}
    assert set(rows) == NAMES
    assert all((row.version is None) == bool(row.install) for row in rows.values())
    assert rows["onnxruntime"].reads == MODEL_ONNX
    assert rows["tflm"].reads == MODEL_TFLITE
    with pytest.raises(InternalError, match="two runtimes are named 'numpy'"):
        index([specs()["numpy"], specs()["numpy"]])
    with pytest.raises(InternalError, match="which no build writes"):
        RuntimeSpec("x", "", "model.pt", ("numpy",), specs()["numpy"].run)


def test_grids_are_read_from_the_edges_of_the_qdq_model() -> None:
    edges = model_edges(tiny_model.onnx_bytes())
    source, sink = edges.source, edges.sink
    assert (source, sink) == (Grid(*tiny_model.INPUT), Grid(*tiny_model.OUTPUT))
    model = onnx.load_model_from_string(tiny_model.onnx_bytes())
    model.graph.node[-1].op_type = "Identity"
    del model.graph.node[-1].input[1:]
    with pytest.raises(ValueError, match="one DequantizeLinear, found \\['Identity'\\]"):
        model_edges(model.SerializeToString())


GRIDS = (Grid(np.float32(0.1), -128), Grid(np.float32(3e-5), 127), Grid(np.float32(7), 0))


@pytest.mark.parametrize("grid", GRIDS)
def test_every_integer_survives_the_way_through_floats(grid: Grid) -> None:
    integers = np.arange(-128, 128).astype(np.int8)
    assert np.array_equal(grid.to_integers(grid.to_float(integers)), integers)
    with pytest.raises(ValueError, match="does not lie on the grid"):
        grid.to_integers(np.array([grid.scale * np.float32(0.25)], np.float32))
    with pytest.raises(ValueError, match="NaN, infinite or beyond"):
        grid.to_integers(np.array([np.nan], np.float32))
    with pytest.raises(ValueError, match="NaN, infinite or beyond"):
        grid.to_integers(np.array([grid.scale * np.float32(256 - grid.zero_point)], np.float32))
