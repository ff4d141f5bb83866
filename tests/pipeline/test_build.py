"""The road as a user walks it: subprocesses, real runtimes, a small project."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
from pipeline.conftest import CONFIG, Ran, sgsc_edge

from sgsc_edge.artifacts import read_npz, sha256_file
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.inspection import inspect_model
from sgsc_edge.report import read_build
from sgsc_edge.report.sections.layers import layers_view

FILES = {
    "model.qdq.onnx",
    "model.tflite",
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


def target(folder: Path) -> Path:
    return folder / "build" / "tflite-int8"


def test_a_build_ends_with_a_certified_folder(built_run: Ran, built: Path) -> None:
    assert built_run.code == 0, built_run.err
    folder = target(built)
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == FILES
    certificate = json.loads((folder / "certificate.json").read_text())
    predicate = certificate["predicate"]
    assert predicate["verdict"] == "PASSED"
    assert predicate["reference_saw_certify"] is False
    ok = {row["name"] for row in predicate["runtimes"] if row["status"] == "ok"}
    assert ok >= {"onnxruntime", "litert", "litert-reference", "tflm", "numpy"}
    assert set(predicate["test"]) >= {"float", "compressed", "tflm"}
    assert built_run.document  # one JSON document, nothing else on standard output


def test_parts_are_apart_and_hold_integers(built: Path) -> None:
    arrays = read_npz(target(built) / "preservation.npz")
    ids = [set(arrays[f"{part}_ids"]) for part in ("guide", "watch", "certify")]
    ids.append(set(arrays["measured_ids"]))
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert all(ids)
    assert arrays["certify_inputs"].dtype == np.int8
    assert arrays["certify_inputs"].shape[1:] == (8, 8, 1)


def test_an_unchanged_build_runs_no_stage(built: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in target(built).iterdir()}
    ran = sgsc_edge("build", built, "--target", "tflite-int8", "--out", built / "build", "-v")
    assert ran.code == 0, ran.err
    assert ran.err.count("unchanged") == 8
    after = {path.name: path.stat().st_mtime_ns for path in target(built).iterdir()}
    del before[".lock"], after[".lock"]
    assert before == after


def test_two_builds_are_byte_identical(built: Path, tmp_path: Path) -> None:
    ran = sgsc_edge("build", built, "--target", "tflite-int8", "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    for name in sorted(FILES):
        one, two = target(built) / name, tmp_path / "again" / "tflite-int8" / name
        assert one.read_bytes() == two.read_bytes(), name


def test_the_shipped_files_state_the_models_version(built: Path, tmp_path: Path) -> None:
    assert read_tflite((target(built) / "model.tflite").read_bytes()).metadata["sgsc.version"] == b'"2.1"'
    assert sgsc_edge("package", target(built), "--format", "c-code", "--out", tmp_path / "c").code == 0
    assert '#define SGSC_STRIPES_VERSION "2.1"' in (tmp_path / "c" / "sgsc_stripes.h").read_text()


def test_a_lost_artifact_is_made_again_without_training(built: Path) -> None:
    model = (target(built) / "model.tflite").read_bytes()
    (target(built) / "model.tflite").unlink()
    ran = sgsc_edge("build", built, "--target", "tflite-int8", "--out", built / "build", "-v")
    assert ran.code == 0, ran.err
    assert "compress: unchanged" in ran.err
    assert (target(built) / "model.tflite").read_bytes() == model


def test_the_sources_are_stated_as_they_are_where_the_models_bytes_stay(built: Path) -> None:
    model = (target(built) / "model.tflite").read_bytes()
    before = json.loads((target(built) / "certificate.json").read_text())["predicate"]["inputs"]
    source = built / "model.py"
    source.write_text(source.read_text() + "# a remark\n")
    ran = sgsc_edge("build", built, "--target", "tflite-int8", "--out", built / "build")
    assert ran.code == 0, ran.err
    assert (target(built) / "model.tflite").read_bytes() == model
    manifest = json.loads((target(built) / "manifest.json").read_text())
    assert manifest["inputs"]["model.py"] == sha256_file(source)
    after = json.loads((target(built) / "certificate.json").read_text())["predicate"]["inputs"]
    assert {name for name in after if after[name] != before[name]} == {"sources"}


def stored_bytes(folder: Path) -> int:
    """Weights, biases and their scales in the file that ships."""
    model = sgsc_edge("inspect", target(folder) / "model.tflite", "--json").document
    return sum(
        tensor["payload_bytes"] + tensor["parameter_bytes"]
        for tensor in model["tensors"]
        if tensor["share"] in ("weights", "bias")
    )


def test_a_budget_is_met_in_the_file_that_ships(built: Path, project: Callable[..., Path]) -> None:
    budget = 280
    assert stored_bytes(built) > budget
    folder = project(config=CONFIG.replace("epochs = 3", f'epochs = 12\nbudget = "{budget} B"'))
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code == 0, ran.err
    assert "shrink:" in ran.err
    history = [json.loads(row) for row in (target(folder) / "history.jsonl").read_text().splitlines()]
    assert stored_bytes(folder) == history[-1]["bytes"] <= budget
    whole = safetensors.numpy.load_file(target(folder) / "compressed.safetensors")
    before = [len(whole[f"{layer}.weight"]) for layer in ("0", "5")]
    for name in ("model.tflite", "model.qdq.onnx"):
        weights = [tensor for tensor in inspect_model(target(folder) / name).tensors if tensor.channels]
        removed = [tensor.channels_removed for tensor in weights]
        assert removed == [count - tensor.channels for count, tensor in zip(before, weights, strict=True)]
        assert removed[0]
    shown = layers_view(read_build(target(folder)))
    assert shown is not None
    assert [row.before - row.kept for row in shown.rows] == removed
    assert [row.strip.removed != "" for row in shown.rows] == [count > 0 for count in removed]
    predicate = json.loads((target(folder) / "certificate.json").read_text())["predicate"]
    assert predicate["verdict"] == "PASSED"


def test_calibration_alone_is_a_baseline_from_the_same_command(built: Path, tmp_path: Path) -> None:
    ran = sgsc_edge("build", built, "--target", "tflite-int8", "--out", tmp_path, "--method", "ptq")
    assert ran.code in (0, 1), ran.err
    assert (tmp_path / "tflite-int8" / "history.jsonl").read_bytes() == b""


def test_a_model_that_saw_the_pool_is_compared_with_a_control(project: Callable[..., Path]) -> None:
    folder = project(config=CONFIG.replace("saw_pool = false\n", ""))
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code == 0, ran.err
    predicate = json.loads((target(folder) / "certificate.json").read_text())["predicate"]
    assert predicate["reference_saw_certify"] is True
    assert predicate["policy"]["gate"]["reference"] == "control"
    assert set(predicate["references"]) == {"float", "control"}


def test_must_keep_gates_and_softmax_is_kept_on_request(project: Callable[..., Path]) -> None:
    from pipeline.conftest import DATA, MODEL

    folder = project(
        model=MODEL.replace("nn.Linear(36, 3)", "nn.Linear(36, 3), nn.Softmax(dim=-1)"),
        data=DATA + "\ndef keep():\n    return TensorDataset(*make(9, 2))\n",
        config=CONFIG.replace("[preservation]", '[preservation]\nmust_keep = "data:keep"').replace(
            "saw_pool = false", 'saw_pool = false\nfinal_softmax = "keep"'
        ),
    )
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code in (0, 1), ran.err  # the float model is untrained: flips are possible, errors are not
    predicate = json.loads((target(folder) / "certificate.json").read_text())["predicate"]
    assert predicate["sets"]["must_keep"]["samples"] == 9
    assert any(gate["name"] == "must_keep" for gate in predicate["gates"])
    inspected = sgsc_edge("inspect", target(folder) / "model.tflite")
    assert "SOFTMAX" in inspected.out.upper()


def test_an_augmentation_is_tried_first_and_trained_with(built: Path, project: Callable[..., Path]) -> None:
    from pipeline.conftest import DATA

    folder = project(
        data=DATA
        + "\ndef augment(x):\n    return x + 0.01 * torch.randn(x.shape)\n\ndef broken(x):\n    return x[0]\n"
    )
    build = ("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    ran = sgsc_edge(*build, "--set", "data.augment=data:broken")
    assert ran.code == 2
    assert "'data:broken' made" in ran.err
    assert not (target(folder) / "preservation.json").exists()
    assert sgsc_edge(*build, "--set", "data.augment=data:augment").code in (0, 1)
    plain, augmented = (losses(target(of)) for of in (built, folder))
    assert len(plain) == len(augmented)
    assert all(one != other for one, other in zip(plain, augmented, strict=True))


def losses(folder: Path) -> list[float]:
    """The loss of each epoch, as the build kept it."""
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


def test_ctrl_c_ends_with_130_and_the_build_goes_on(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "build", str(built)]
    command += ["--target", "tflite-int8", "--out", str(out), "--set", "compress.epochs=60"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    history = out / "tflite-int8" / "history.jsonl"
    deadline = time.monotonic() + 120
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    finished = len(history.read_text().splitlines())
    assert 1 <= finished < 60
    ran = sgsc_edge(
        *["build", built, "--target", "tflite-int8", "--out", out, "-v"],
        *["--set", "compress.epochs=60"],
    )
    assert ran.code == 0, ran.err
    (resumed,) = re.findall(r"going on after epoch (\d+)", ran.err)
    assert int(resumed) in (finished, finished + 1)  # the checkpoint is written before the history
