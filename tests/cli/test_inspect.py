"""``inspect`` as a process: one file, two files, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering.qdq_builder import Float

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.write_tflite import SMALLEST, write_tflite


def inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def dense(outputs: int) -> Graph:
    """x [1,8] -> dense -> y [1,outputs], int8."""
    grid = Quantization.per_tensor(0.5, -3)
    one = np.zeros(1, np.int64)
    weights = Quantization(np.array([0.25], np.float32), one)
    bias = Quantization(np.array([0.125], np.float32), one)
    tensors = (
        Tensor("x", (1, 8), DType.INT8, grid),
        Tensor("w", (outputs, 8), DType.INT8, weights, np.ones((outputs, 8), np.int8)),
        Tensor("b", (outputs,), DType.INT32, bias, np.arange(outputs, dtype=np.int32)),
        Tensor("y", (1, outputs), DType.INT8, grid),
    )
    nodes = (Node(ir.FullyConnected(), ("x", "w", "b"), ("y",)),)
    return Graph("dense", {tensor.name: tensor for tensor in tensors}, nodes, ("x",), ("y",))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.tflite", tmp_path / "b.tflite"
    paths[0].write_bytes(write_tflite(dense(6)))
    paths[1].write_bytes(write_tflite(dense(4), SMALLEST))
    return paths


def test_one_file(files: tuple[Path, Path]) -> None:
    done = inspect(files[0])
    assert done.returncode == 0, done.stderr
    for text in ("FULLY_CONNECTED", "- vtables", "scale 0.25, zero point 0", "6x8"):
        assert text in done.stdout
    document = json.loads(inspect(files[0], "--json").stdout)
    assert sum(entry["nbytes"] for entry in document["overhead"]) == document["totals"]["overhead_bytes"]
    (weights,) = [tensor for tensor in document["tensors"] if tensor["share"] == "weights"]
    assert (weights["payload_bytes"], weights["parameter_bytes"], weights["channels"]) == (48, 12, 6)


def test_two_files(files: tuple[Path, Path]) -> None:
    done = inspect(*files)
    assert done.returncode == 0, done.stderr
    assert f"a  {files[0]}" in done.stdout
    assert "6x8 | 4x8" in done.stdout
    document = json.loads(inspect(*files, "--json").stdout)
    assert [model["file"] for model in document["models"]] == [str(path) for path in files]
    (weights,) = [pair for pair in document["tensors"] if pair["name"] == "w"]
    assert (weights["payload_difference"], weights["channels_removed"]) == (-16, 2)
    totals = {total["name"]: total["difference"] for total in document["totals"]}
    assert totals["file"] == files[1].stat().st_size - files[0].stat().st_size


@pytest.mark.parametrize("position", [0, 1])
def test_a_file_that_is_not_there_is_named(files: tuple[Path, Path], position: int) -> None:
    arguments = [*files]
    arguments[position] = files[0].with_name("absent.tflite")
    done = inspect(*arguments, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (2, "FileFormatError")
    assert "absent.tflite" in f"{error['where']} {error['message']}"
    assert "Traceback" not in done.stderr


def test_three_files_are_one_too_many(files: tuple[Path, Path]) -> None:
    done = inspect(*files, files[0])
    assert done.returncode == 2
    assert "unexpected extra argument" in done.stderr


def test_which_nodes_a_target_runs(tmp_path: Path) -> None:
    q = Float()
    dense = q.node("Gemm", q.node("Flatten", q.image(3, 4, 4)), q.real(5, 48), q.real(5), transB=1)
    onnx.save(q.model(dense), tmp_path / "runs.onnx")
    onnx.save(q.model(q.node("Hardmax", q.node("LogSoftmax", dense))), tmp_path / "refused.onnx")
    done = inspect(tmp_path / "runs.onnx", "--target", "tflite-int8")
    assert done.returncode == 0, done.stderr
    assert "all 2 nodes can be lowered for tflite-int8" in done.stdout
    done = inspect(tmp_path / "refused.onnx", "--target", "tflite-int8", "--json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert document["lowers"] is False
    assert document["ops"] == {"Flatten": 1, "Gemm": 1, "Hardmax": 1, "LogSoftmax": 1}
    assert [refusal["op"] for refusal in document["refusals"]] == ["LogSoftmax", "Hardmax"]
    assert all(refusal["remedy"] for refusal in document["refusals"])
    text = inspect(tmp_path / "refused.onnx", "--target", "tflite-int8").stdout
    assert "cannot be lowered for tflite-int8, 2 nodes are refused" in text


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("a.tflite", "tflite-int8", "this is not an ONNX file"),
        ("runs.onnx", "onnx-int8", "ships an .onnx"),
        ("runs.onnx", "tflite-int9", "did you mean 'tflite-int8'"),
    ],
)
def test_what_no_target_can_be_asked_about(
    files: tuple[Path, Path], tmp_path: Path, name: str, target: str, says: str
) -> None:
    q = Float()
    onnx.save(q.model(q.node("Flatten", q.image(3, 4, 4))), tmp_path / "runs.onnx")
    done = inspect(tmp_path / name, "--target", target)
    assert done.returncode == 2
    assert says in done.stderr
    assert inspect(tmp_path / name, tmp_path / name, "--target", target).returncode == 2
