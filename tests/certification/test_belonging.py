"""What a pass must withstand beside its gates: files that do not belong together, with hashes that fit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from build_folders import context, write_folder
from onnx import numpy_helper

from sgsc_edge.artifacts import read_npz, write_npz
from sgsc_edge.certification.verify import certify_folder, verify_folder
from sgsc_edge.cli.certificate_text import certificate_text
from sgsc_edge.errors import FileFormatError, NotMeasuredError
from sgsc_edge.graph import flatbuffer
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.stated import states
from sgsc_edge.graph.write_tflite import Form, write_tflite
from sgsc_edge.runtimes import RunResult, Status

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is not part of the installed package

from benchmarks.hostile import reseal


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("belonging") / "tflite-int8")
    assert certify_folder(folder, context(("numpy",))).verdict == "PASSED"
    return folder


@pytest.fixture
def folder(certified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(certified, tmp_path / "tflite-int8"))


def edit_tflite(folder: Path, edit: Callable[[Any], object]) -> None:
    path = folder / "model.tflite"
    model = flatbuffer.decode(path.read_bytes(), where="")
    edit(model)
    path.write_bytes(flatbuffer.encode(model))


def edit_onnx(folder: Path, edit: Callable[[onnx.ModelProto], object]) -> None:
    path = str(folder / "model.qdq.onnx")
    model = onnx.load_model(path)
    edit(model)
    onnx.save_model(model, path)


def edit_certificate(folder: Path, edit: Callable[[Any], object]) -> None:
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    edit(document["predicate"])
    path.write_text(json.dumps(document))


def refused(folder: Path, message: str) -> None:
    reseal(folder)
    with pytest.raises(FileFormatError, match=message) as caught:
        verify_folder(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 2


def constants(model: Any) -> list[Any]:
    """Buffers of constant tensors, the largest first."""
    used = [model["buffers"][tensor["buffer"]] for tensor in model["subgraphs"][0]["tensors"]]
    return sorted((one for one in used if one["data"] is not None), key=lambda one: -len(one["data"]))


def test_a_weight_whose_lowest_bit_is_flipped_is_noticed(folder: Path) -> None:
    def flip(model: Any) -> None:
        buffer = constants(model)[0]
        buffer["data"] = buffer["data"].copy()
        buffer["data"][0] ^= 1

    edit_tflite(folder, flip)
    refused(folder, "records other results of numpy on certify")


def test_a_weight_of_the_onnx_is_noticed_although_no_decision_changes(folder: Path) -> None:
    def flip(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) ^ 1, tensor.name))

    edit_onnx(folder, flip)
    refused(folder, r"model\.qdq\.onnx: is another model than model\.tflite")


def stretch_scale(folder: Path) -> None:
    def stretch(model: onnx.ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
        scale = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.nextafter(scale, np.float32(1)), tensor.name))

    edit_onnx(folder, stretch)


def test_a_scale_of_the_onnx_is_noticed_although_no_integer_changes(folder: Path) -> None:
    stretch_scale(folder)
    refused(folder, r"model\.qdq\.onnx: is another model than model\.tflite")


def test_what_only_some_interpreters_read_is_noticed(folder: Path) -> None:
    def turn(model: Any) -> None:
        for tensor in model["subgraphs"][0]["tensors"]:
            if tensor["shape"] is not None and len(tensor["shape"]) == 1 and tensor["quantization"]:
                tensor["quantization"]["quantized_dimension"] = 1

    edit_tflite(folder, turn)
    refused(folder, r"model\.tflite: tells interpreters what sgsc-edge does not write")


@pytest.mark.parametrize("names", ["full", "short", "none"])
@pytest.mark.parametrize("quantization", ["full", "shared", "needed"])
def test_every_form_of_a_file_states_the_same_graph(folder: Path, names: Any, quantization: Any) -> None:
    graph = read_tflite((folder / "model.tflite").read_bytes())
    data = write_tflite(graph, Form(names, quantization, "none"))
    assert states(data, graph, where="")
    assert states(data, read_tflite(data), where="")


def test_one_changed_label_is_noticed(folder: Path) -> None:
    arrays = read_npz(folder / "preservation.npz")
    arrays["certify_labels"][0] = (arrays["certify_labels"][0] + 1) % 3
    write_npz(folder / "preservation.npz", arrays)
    refused(folder, "records other results of float on certify")


def test_recorded_outputs_are_bound_to_the_last_step(folder: Path) -> None:
    arrays = read_npz(folder / "preservation.npz")
    arrays["guide_compressed_logits"][0, 0] -= 1
    write_npz(folder / "preservation.npz", arrays)
    refused(folder, "records other results of compressed on guide")


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p["policy"]["gate"].update(max_drop=1.0),
        lambda p: p["policy"]["runtimes"]["required"].append("tflm"),
        lambda p: p.update(verdict="FAILED"),
        lambda p: p["gates"].pop(),
        lambda p: p["gates"][0].update(measured=-0.5, margin=0.55),
        lambda p: p["runtimes"][1].update(required=False),
        lambda p: p["runtimes"].append({**p["runtimes"][1], "name": "litert"}),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(
    folder: Path, edit: Callable[[Any], object]
) -> None:
    edit_certificate(folder, edit)
    refused(folder, "contradicts itself")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p["runtimes"][0].update(status="ok"), "one recorded model"),
        (lambda p: p["sets"].pop("certify"), "the set certify"),
        (lambda p: p["references"]["float"]["certify"]["metrics"].pop("loss"), "metrics are accuracy, loss"),
        (
            lambda p: p["runtimes"][0]["sets"]["certify"].update(outputs_sha256="0" * 64),
            "results of compressed",
        ),
    ],
)
def test_a_certificate_without_what_is_judged_is_refused(
    folder: Path, edit: Callable[[Any], object], message: str
) -> None:
    edit_certificate(folder, edit)
    refused(folder, message)


def test_another_version_of_a_runtime_may_compute_otherwise(folder: Path) -> None:
    """Its row is judged by the gates; what differs is listed."""

    def of_another_version(predicate: Any) -> None:
        predicate["tools"]["sgsc-edge"] = "0.0.1"
        predicate["runtimes"][1]["sets"]["certify"]["outputs_sha256"] = "0" * 64

    edit_certificate(folder, of_another_version)
    reseal(folder)
    found = verify_folder(folder)
    assert found.verdict == "PASSED"
    here = version("sgsc-edge")
    assert found.not_repeated == (f"numpy: recorded by sgsc-edge 0.0.1, now sgsc-edge {here}",)
    assert any("outputs_sha256" in line for line in found.differences)
    assert f"not held to the recorded outputs:\n{found.not_repeated[0]}" in certificate_text(found, folder)


def other_outputs(predicate: Any) -> None:
    predicate["runtimes"][1]["sets"]["certify"]["outputs_sha256"] = "0" * 64


@pytest.mark.parametrize("where", ["row", "tools"])
def test_the_integer_executor_repeats_whatever_numpy_runs_it(folder: Path, where: str) -> None:
    def of_another_numpy(predicate: Any) -> None:
        (predicate["runtimes"][1] if where == "row" else predicate["tools"]).update(
            {"version" if where == "row" else "numpy": "1.0"}
        )

    edit_certificate(folder, of_another_numpy)
    reseal(folder)
    assert verify_folder(folder).not_repeated == ()
    edit_certificate(folder, other_outputs)
    refused(folder, "records other results of numpy on certify")


def test_tflm_repeats_on_its_own_version_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tflite-int8")
    certify_folder(folder, context(("tflm",)))
    edit_certificate(folder, lambda p: p["tools"].update({"numpy": "1.0", "sgsc-edge": "0.0.1"}))
    edit_certificate(folder, other_outputs)
    refused(folder, "records other results of tflm on certify")
    edit_certificate(folder, lambda p: p["runtimes"][1].update(version="0.1"))
    reseal(folder)
    (line,) = verify_folder(folder).not_repeated
    assert line.startswith("tflm: recorded by tflm 0.1, now tflm ")


def test_a_refusal_says_where_another_version_may_be_the_reason(folder: Path) -> None:
    stretch_scale(folder)
    edit_certificate(folder, lambda p: p["tools"].update({"sgsc-edge": "0.0.1"}))
    refused(folder, r"(?s)is another model than model\.tflite.*sgsc-edge 0\.0\.1, which certified it")


def test_a_comparison_that_does_not_end_is_not_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretch_scale(folder)
    reseal(folder)
    late = RunResult(Status.TIMEOUT, reason="killed after 1 s")
    monkeypatch.setattr("sgsc_edge.certification.belonging.execute", lambda *_, **__: late)
    with pytest.raises(
        NotMeasuredError, match=r"was not compared with model\.tflite: killed after"
    ) as caught:
        verify_folder(folder)
    assert caught.value.exit_code == 3


def test_a_failed_gate_is_shown_with_its_figures(folder: Path) -> None:
    """A model that decides otherwise is no file error: the table says what it decides."""

    def turn(model: Any) -> None:
        buffer = constants(model)[0]
        buffer["data"] = buffer["data"][::-1].copy()

    edit_tflite(folder, turn)
    reseal(folder)
    found = verify_folder(folder)
    assert found.exit_code == 1
    assert found.differences
