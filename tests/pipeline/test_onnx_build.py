"""A target that ships the QDQ .onnx: the whole command, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pipeline.conftest import sgsc_edge, write_project

from sgsc_edge.artifacts import read_npz, sha256_file
from sgsc_edge.report import read_build
from sgsc_edge.report.sections.sizes import sizes_view, stored_bytes

FILES = {
    "model.qdq.onnx",
    "compressed.safetensors",
    "preservation.json",
    "preservation.npz",
    "certificate.json",
    "manifest.json",
    "history.jsonl",
    "controller.jsonl",
    "channels.jsonl",
    "plan.json",
    "report.html",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = write_project(tmp_path_factory.mktemp("onnx"))
    options = ("--set", "gate.min_agreement=0.1", "--set", "compress.epochs=2")
    ran = sgsc_edge("build", project, "--target", "onnx-int8", "--out", project / "build", *options)
    assert ran.code == 0, ran.err
    return project / "build" / "onnx-int8"


def test_the_onnx_ships_and_nothing_is_lowered(folder: Path) -> None:
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == FILES
    predicate = json.loads((folder / "certificate.json").read_text())["predicate"]
    assert [row["name"] for row in predicate["runtimes"]] == ["compressed", "onnxruntime"]
    assert predicate["policy"]["runtimes"]["max_steps"] == {"onnxruntime": 8}
    assert [gate["name"] for gate in predicate["gates"]] == [
        "compression",
        "agreement",
        "lowering",
        "outputs",
    ]
    assert read_npz(folder / "preservation.npz")["certify_inputs"].shape[1:] == (8, 8, 1)


def test_it_is_verified_inspected_and_reported_from_its_files(folder: Path) -> None:
    for arguments in (("verify", folder), ("inspect", folder / "model.qdq.onnx")):
        assert sgsc_edge(*arguments).code == 0
    build = read_build(folder)
    sizes = sizes_view(build)
    assert (sizes.name, sizes.onnx_bytes) == ("model.qdq.onnx", None)
    plain, built = (row.nbytes for row in sizes.parameters[1:])
    assert plain == built  # no channel left: every one is stored in 8 bits
    assert "The file model.qdq.onnx" in (folder / "report.html").read_text()


def test_a_budget_counts_what_the_file_stores(folder: Path, tmp_path: Path) -> None:
    whole = stored_bytes(read_build(folder))
    budget = round(0.7 * whole)
    options = ("--set", "gate.min_agreement=0.1", "--set", "compress.epochs=2", "--budget", f"{budget} B")
    ran = sgsc_edge("build", folder.parent.parent, "--target", "onnx-int8", "--out", tmp_path, *options)
    assert ran.code in (0, 1), ran.err
    built = tmp_path / "onnx-int8"
    history = [json.loads(line) for line in (built / "history.jsonl").read_text().splitlines()]
    assert stored_bytes(read_build(built)) == history[-1]["bytes"] <= budget
    assert history[-1]["bytes"] == json.loads((built / "plan.json").read_text())["bytes"]


def test_a_policy_can_ask_for_more_than_the_build_keeps(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[gate]\nmetric = 'accuracy'\nmax_drop = 0.0\nmin_agreement = 1.0\n")
    predicate = json.loads((folder / "certificate.json").read_text())["predicate"]
    agreed = next(gate for gate in predicate["gates"] if gate["name"] == "agreement")["measured"]
    assert sgsc_edge("verify", folder, "--policy", policy).code == (0 if agreed == 1 else 1)
    policy.write_text("[runtimes]\nrequired = ['tflm']\n")
    ran = sgsc_edge("verify", folder, "--policy", policy)
    assert (ran.code, "no runtime that runs model.qdq.onnx" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("package", "--format", "c-code"),
        ("package", "--format", "c-array"),
        ("flash", "--board", "virtual-cortex-m4"),
        ("inspect", "--board", "virtual-cortex-m4"),
    ],
)
def test_what_is_for_microcontrollers_is_refused(folder: Path, arguments: tuple[str, ...]) -> None:
    ran = sgsc_edge(arguments[0], folder, *arguments[1:])
    assert (ran.code, ran.out) == (2, "")
    assert "ships model.qdq.onnx and no model.tflite" in ran.err


def test_a_board_for_it_is_refused_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    project = folder.parent.parent
    options = ("--target", "onnx-int8", "--board", "virtual-cortex-m4", "--out", tmp_path / "b")
    ran = sgsc_edge("build", project, *options)
    assert ran.code == 2
    assert "ships an .onnx, and no board runs that" in ran.err
    assert "rehearse" not in ran.err


def test_a_changed_weight_is_found_although_all_hashes_fit(folder: Path, tmp_path: Path) -> None:
    """Decisions may stay; the stored network does not hold that filter."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            (copy / path.name).write_bytes(path.read_bytes())
    model = onnx.load(copy / "model.qdq.onnx")
    tensor = next(one for one in model.graph.initializer if one.name.endswith("weight_quantized"))
    values = np.array(numpy_helper.to_array(tensor))
    values.flat[0] += 1 if values.flat[0] < 127 else -1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, copy / "model.qdq.onnx")
    digest = sha256_file(copy / "model.qdq.onnx")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["model.qdq.onnx"] = digest
    (copy / "manifest.json").write_text(json.dumps(manifest))
    ran = sgsc_edge("verify", copy)
    assert ran.code == 2
    assert "is about other files than those here: model.qdq.onnx" in ran.err
