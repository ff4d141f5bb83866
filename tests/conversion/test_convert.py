"""``sgsc-edge lower``, as a user runs it: an ONNX file and samples in, a certified folder out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowering.qdq_builder import Float, Qdq
from onnx import numpy_helper

from sgsc_edge import api
from sgsc_edge.artifacts import read_npz
from sgsc_edge.errors import ConfigError, DataError, InputError, ModelError, OutputError, UnsupportedError
from sgsc_edge.numerics import quantize
from sgsc_edge.runtimes.onnxruntime import float_outputs, model_edges

CLI = [sys.executable, "-m", "sgsc_edge.cli.main"]
QUICK = '[runtimes]\nrequired = ["numpy", "litert-reference"]\noptional = []\n'
"""A policy without what takes long to start."""


def network(q: Float) -> str:
    x = q.node("Relu", q.norm(q.node("Conv", q.image(3, 8, 8), q.real(6, 3, 3, 3)), 6))
    x = q.node("Conv", x, q.real(6, 1, 3, 3), q.real(6), group=6, pads=[1, 1, 1, 1])
    x = q.node("MaxPool", q.node("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    return q.node("Gemm", q.node("Flatten", x), q.real(5, 54), transB=1)


def float_model(path: Path) -> Path:
    q = Float()
    onnx.save(q.model(network(q)), path)
    return path


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    float_model(tmp_path / "net.onnx")
    inputs = samples(200)
    labels = float_outputs((tmp_path / "net.onnx").read_bytes(), inputs).argmax(1)
    np.savez(tmp_path / "labelled.npz", inputs=inputs, labels=labels)
    np.savez(tmp_path / "bare.npz", inputs)
    np.savez(tmp_path / "others.npz", inputs=samples(50, seed=1))
    (tmp_path / "quick.toml").write_text(QUICK)
    return tmp_path


def lower(place: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "lower", *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def initializers(path: Path) -> list[bytes]:
    return sorted(numpy_helper.to_array(one).tobytes() for one in onnx.load(path).graph.initializer)


def test_a_float_model_becomes_a_folder_that_the_other_commands_take(place: Path) -> None:
    done = lower(place, "net.onnx", "--calibration", "labelled.npz", "--max-drop", "0.2", "--json")
    (made,) = json.loads(done.stdout)["conversions"]
    folder = place / "build" / "net" / "tflite-int8"
    assert (made["target"], made["folder"], made["exit_code"]) == ("tflite-int8", "build/net/tflite-int8", 0)
    assert made["samples"] == {"calibrated": 160, "judged": 40}
    assert made["ranges"] in ("minmax", "percentile", "mse", "entropy")
    predicate = made["certificate"]["predicate"]
    assert (predicate["labels"], predicate["reference_saw_certify"]) == ("given", True)
    assert {row["name"] for row in predicate["runtimes"] if row["status"] == "ok"} >= {
        "tflm",
        "litert",
        "numpy",
    }
    arrays = read_npz(folder / "preservation.npz")
    assert [len(arrays[f"{part}_inputs"]) for part in ("guide", "watch", "certify")] == [160, 0, 40]
    for arguments in (
        ["verify", str(folder)],
        ["package", str(folder), "--format", "c-code"],
        ["inspect", str(folder / "model.tflite")],
        ["report", str(folder)],
    ):
        again = subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False, timeout=300)
        assert again.returncode == 0, again.stderr
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "quantized by samples" in page
    assert "does not hold history.jsonl" not in page
    refused = subprocess.run([*CLI, "explain", str(folder)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "lowered as it was" in refused.stderr


def test_recorded_outputs_are_those_of_the_two_models(place: Path) -> None:
    made = convert(place, ranges="minmax")
    arrays = read_npz(made.folder / "preservation.npz")
    model = (made.folder / "model.qdq.onnx").read_bytes()
    edges = model_edges(model)
    assert edges.source is not None
    given = np.load(place / "labelled.npz")["inputs"]
    integers = quantize(given, float(edges.source.scale), edges.source.zero_point).transpose(0, 2, 3, 1)
    order = [int(np.flatnonzero((integers == one).all((1, 2, 3)))[0]) for one in arrays["certify_inputs"]]
    assert len(set(order)) == 40
    reference = float_outputs((place / "net.onnx").read_bytes(), given[order])
    assert (arrays["certify_float_logits"] == reference).all()
    fed = edges.source.to_float(arrays["certify_inputs"].transpose(0, 3, 1, 2))
    quantized = float_outputs(model, fed)
    assert (edges.sink.to_integers(quantized) == arrays["certify_compressed_logits"]).all()
    assert (arrays["certify_labels"] == reference.argmax(1)).all()


def convert(place: Path, model: str = "net.onnx", **options: Any) -> Any:
    given: dict[str, Any] = {"calibration": place / "labelled.npz", "policy": place / "quick.toml"}
    return api.lower(place / model, out=place / "out", **(given | options))["tflite-int8"]


def test_without_labels_the_float_model_is_right(place: Path) -> None:
    done = lower(
        place, "net.onnx", "-c", "bare.npz", "--check", "others.npz", "--policy", "quick.toml",
        "--max-drop", "0.3", "--unseen", "--out", "there",
    )  # fmt: skip
    assert "a decision is right where it is the float model's" in done.stdout
    document = json.loads((place / "there/tflite-int8/certificate.json").read_text())
    predicate = document["predicate"]
    assert (predicate["labels"], predicate["reference_saw_certify"]) == ("float", False)
    assert (
        predicate["references"]["float"]["certify"]["correct"]
        == 50
        == predicate["sets"]["certify"]["samples"]
    )
    assert predicate["sets"]["guide"]["samples"] == 200


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse", "entropy"])
def test_ranges_are_chosen_as_asked_for(place: Path, ranges: Any) -> None:
    made = convert(place, ranges=ranges)
    assert made.ranges == ranges


def test_left_open_ranges_are_those_with_the_least_error_on_calibration_samples(place: Path) -> None:
    chosen = convert(place)
    arrays = read_npz(chosen.folder / "preservation.npz")
    inputs = np.load(place / "labelled.npz")["inputs"]
    errors = {}
    for method in ("minmax", "percentile", "mse", "entropy"):
        made = convert(place, ranges=method)
        model = (made.folder / "model.qdq.onnx").read_bytes()
        ids = read_npz(made.folder / "preservation.npz")["guide_ids"]
        assert (ids == arrays["guide_ids"]).all()
        guided = inputs[_positions(inputs, ids)]
        wanted = float_outputs((place / "net.onnx").read_bytes(), guided)
        errors[method] = float(np.square(float_outputs(model, guided).astype(float) - wanted).mean())
    assert chosen.ranges == min(errors, key=lambda method: errors[method])


def _positions(inputs: np.ndarray, ids: np.ndarray) -> list[int]:
    from sgsc_edge.conversion.samples import _digest

    place = {_digest(one): index for index, one in enumerate(inputs)}
    return [place[name] for name in ids.tolist()]


def test_a_quantized_model_keeps_its_parameters_and_is_judged_by_all_samples(place: Path) -> None:
    q = Qdq(opset=21)
    x = q.qdq(q.node("Relu", q.conv(q.input((3, 8, 8)), (4, 3, 3, 3))), 0.1, -128)
    x = q.qdq(q.node("GlobalAveragePool", x), 0.1, -128)
    out = q.qdq(q.gemm(q.node("Flatten", x), 4, 5), 0.2, 0)
    onnx.save(q.model(out), place / "qdq.onnx")
    made = convert(place, "qdq.onnx")
    assert (made.ranges, made.calibrated, made.judged) == (None, 0, 200)
    assert initializers(made.folder / "model.qdq.onnx") == initializers(place / "qdq.onnx")
    others = convert(place, "qdq.onnx", calibration=None, check=place / "others.npz")
    assert others.judged == 50


def test_the_onnx_ships_as_it_is_where_the_target_says_so(place: Path) -> None:
    done = lower(place, "net.onnx", "-c", "labelled.npz", "-t", "onnx-int8", "--max-drop", "0.2", "--json")
    (made,) = json.loads(done.stdout)["conversions"]
    names = {path.name for path in (place / made["folder"]).iterdir()}
    assert "model.qdq.onnx" in names
    assert "model.tflite" not in names


def test_a_gate_that_fails_is_exit_code_1(place: Path) -> None:
    """Samples that the float model can hardly decide: eight bits decide some of them otherwise."""
    many = samples(4000, seed=2)
    *_, second, first = np.sort(float_outputs((place / "net.onnx").read_bytes(), many), axis=1).T
    np.savez(place / "close.npz", inputs=many[np.argsort(first - second)[:50]])
    arguments = ["-c", "bare.npz", "--check", "close.npz", "--policy", "quick.toml", "--max-drop", "0"]
    done = lower(place, "net.onnx", *arguments, code=1)
    assert "failed       compression (compressed, certify)" in done.stdout
    assert "FAILED: tflite-int8" in done.stdout
    verified = [*CLI, "verify", str(place / "build/net/tflite-int8")]
    assert subprocess.run(verified, capture_output=True, check=False, timeout=300).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.onnx", "-c", "labelled.npz"], "absent.onnx: cannot be read"),
        (["net.onnx"], "--calibration: a float model is quantized by the ranges of its values"),
        (["net.onnx", "-c", "absent.npz"], "absent.npz: is no file"),
        (["labelled.npz", "-c", "labelled.npz"], "this is not an ONNX file"),
        (["net.onnx", "-c", "labelled.npz", "-t", "tflite-int9"], "tflite-int8"),
        (["net.onnx", "-c", "labelled.npz", "--max-drop", "2"], "--max-drop: 2 is no share"),
        (["net.onnx", "-c", "labelled.npz", "--max-drop", "nan"], "--max-drop: nan is no share"),
        (["net.onnx", "-c", "labelled.npz", "--ranges", "mean"], "'mean' is not one of"),
        (
            ["net.onnx", "-c", "labelled.npz", "--check", "labelled.npz"],
            "200 samples are in labelled.npz too",
        ),
        (["net.onnx", "-c", "labelled.npz", "--policy", "absent.toml"], "absent.toml"),
        (["net.onnx", "-c", "labelled.npz", "--out", "net.onnx"], "net.onnx"),
    ],
)
def test_wrong_input_is_exit_code_2_and_says_where(place: Path, arguments: list[str], says: str) -> None:
    done = lower(place, *arguments, code=2)
    assert says in done.stderr


def test_what_cannot_be_lowered_is_refused_before_anything_is_read(place: Path) -> None:
    q = Float()
    x = q.node("Gemm", q.node("Flatten", q.image(3, 8, 8)), q.real(5, 192), q.real(5), transB=1)
    onnx.save(q.model(q.node("Hardmax", x)), place / "hard.onnx")
    with pytest.raises(UnsupportedError, match="Hardmax cannot be lowered"):
        convert(place, "hard.onnx", calibration=place / "absent.npz")
    assert not (place / "out").exists()


def test_outputs_that_are_no_class_scores_are_refused(place: Path) -> None:
    q = Float()
    onnx.save(q.model(q.node("Conv", q.image(3, 8, 8), q.real(6, 3, 3, 3))), place / "image.onnx")
    with pytest.raises(UnsupportedError, match=r"cannot be certified: its shape is \[1, 6, 6, 6\]"):
        convert(place, "image.onnx")


def test_labels_beyond_the_classes_are_refused(place: Path) -> None:
    np.savez(place / "labelled.npz", inputs=samples(10), labels=np.full(10, 5))
    with pytest.raises(DataError, match=r"label 5 is not in 0\.\.4"):
        convert(place)


def test_one_sample_cannot_be_divided(place: Path) -> None:
    np.savez(place / "labelled.npz", inputs=samples(1))
    with pytest.raises(DataError, match="none can be kept apart"):
        convert(place)


def test_a_conversion_that_fails_leaves_the_earlier_one(place: Path) -> None:
    made = convert(place)
    before = {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
    text = (Path(__file__).parents[2] / "targets/tflite-int8.toml").read_text()
    tiny = place / "tflite-int8.toml"
    tiny.write_text(text + '\n[limits]\nflash = "1 kB"\n')
    with pytest.raises(InputError, match="flash"):
        convert(place, targets=[tiny], ranges="entropy")
    after = {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
    assert after == before


def test_a_folder_that_is_no_folder_is_refused(place: Path) -> None:
    (place / "out").write_text("")
    with pytest.raises(OutputError):
        convert(place)
    with pytest.raises(ConfigError, match="no target"):
        convert(place, targets=[])


def test_a_model_that_onnx_runtime_cannot_run_is_the_users(place: Path) -> None:
    """Weights that do not fit what they are multiplied with."""
    q = Float()
    x = q.node("Gemm", q.node("Flatten", q.image(3, 8, 8)), q.real(5, 192), q.real(5), transB=1)
    model = q.model(x)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((5, 190), np.float32), "real_2"))
    with pytest.raises(ModelError, match="ONNX Runtime cannot run it"):
        float_outputs(model.SerializeToString(), samples(2))


def test_names_of_the_users_are_not_taken(place: Path) -> None:
    """A divisor that is called what the input's scale would be."""
    q = Float()
    q.image(3, 8, 8)
    q.initializers.append(numpy_helper.from_array(np.float32(20), "image_scale"))
    x = q.node("Flatten", q.node("Elu", q.node("Div", "image", "image_scale")))
    onnx.save(q.model(q.node("Gemm", x, q.real(5, 192), transB=1)), place / "named.onnx")
    made = convert(place, "named.onnx", max_drop=0.2)
    inputs = samples(20, seed=3)
    wanted = float_outputs((place / "named.onnx").read_bytes(), inputs)
    found = float_outputs((made.folder / "model.qdq.onnx").read_bytes(), inputs)
    assert np.square(found - wanted).mean() < 0.01 * np.square(wanted).mean()


def test_a_graph_that_mixes_a_batch_is_run_sample_by_sample(place: Path) -> None:
    q = Float()
    x = q.node("Elu", q.node("Reshape", q.image(3, 8, 8), q.const(np.array([1, 192]))))
    onnx.save(q.model(q.node("Gemm", x, q.real(5, 192), transB=1)), place / "one.onnx")
    assert convert(place, "one.onnx", max_drop=0.5).judged == 40


def test_ways_to_choose_ranges_that_do_not_exist_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="'bogus' is no way"):
        convert(place, ranges="bogus")
