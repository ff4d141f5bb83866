"""What users get wrong, each in a subprocess: a clear error, the right exit code, nothing lost."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from pipeline.conftest import CONFIG, DATA, MODEL, TESTED, sgsc_edge

from sgsc_edge.artifacts import read_npz, sha256_file, write_json, write_npz
from sgsc_edge.certification.certificate import read_certificate, seal
from sgsc_edge.certification.records import Digest
from sgsc_edge.certification.samples import SampleSet

COMMAND = (sys.executable, "-m", "sgsc_edge.cli.main")
LAST = "nn.Linear(36, 3)"
TARGET = ("--target", "tflite-int8")
FIELDS = ("inputs", "labels", "ids", "float_logits", "compressed_logits")
TWO_OUTPUTS = """class Two(nn.Module):
        def forward(self, x):
            return x, x
"""
LOWER_BOUND = """class LowerBound(nn.Module):
    def forward(self, x):
        return x.clamp(min=0.1)

"""
REFLECT = 'nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3)'


def build(folder: Path, *options: str) -> tuple[int, str]:
    ran = sgsc_edge("build", folder, *TARGET, "--out", folder / "build", *options)
    assert "Traceback" not in ran.err
    return ran.code, ran.err


@pytest.mark.parametrize(
    ("config", "messages"),
    [
        (CONFIG.replace("epochs", "epoch"), ("compress.epoch", "did you mean 'epochs'", "sgsc.toml:")),
        (CONFIG.replace("data:train", "data:trian"), ("trian",)),
        (CONFIG.replace("model:build", "modell:build"), ("modell",)),
        (CONFIG + 'budget = "2 kB"\ngamma = 1.0\n', ("compress", "exclude each other")),
        (CONFIG.replace("shape = [1, 8, 8]", "shape = [1, 9, 9]"), ("[1, 8, 8]", "[1, 9, 9]")),
    ],
)
def test_a_wrong_setting_is_named(project: Callable[..., Path], config: str, messages: tuple[str]) -> None:
    code, err = build(project(config=config))
    assert code == 2
    for message in messages:
        assert message in err


@pytest.mark.parametrize(
    ("model", "messages"),
    [
        (MODEL.replace("torch.manual_seed(0)", "raise KeyError('weights')"), ("KeyError", "model.py")),
        (MODEL.replace("return nn.Sequential", "return 3; nn.Sequential"), ("nn.Module",)),
        (
            MODEL.replace("return nn", f"{TWO_OUTPUTS}    return Two() or nn"),
            ("tuple",),
        ),
        (MODEL.replace(LAST, f"{LAST}, nn.LayerNorm(3)"), ("LayerNormalization", "cannot be lowered", "'6'")),
        (
            MODEL.replace("def build", f"{LOWER_BOUND}def build").replace("nn.ReLU()", "LowerBound()"),
            ("node '0'", "cannot be lowered"),
        ),
        (
            MODEL.replace(
                "nn.Conv2d(1, 4, 3)",
                'nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3)',
            ),
            ("reflect",),
        ),
        (MODEL.replace("nn.Conv2d(1, 4, 3)", "nn.Conv2d(3, 4, 3)"), ("3 channels", "model.factory")),
        (
            MODEL.replace("return nn.Sequential(", "model = nn.Sequential(")
            + "    model[0].weight.data[0, 0, 0, 0] = float('nan')\n    return model\n",
            ("0.weight", "NaN"),
        ),
        (
            MODEL.replace("return nn.Sequential(", "model = nn.Sequential(")
            + "    for layer in (model[0], model[5]):\n        layer.weight.data *= 1e30\n    return model\n",
            ("model.factory", "NaN or infinity for", "training data"),
        ),
    ],
    ids=[
        "factory raises",
        "no module",
        "tuple",
        "norm",
        "lower bound",
        "reflect",
        "channels",
        "nan",
        "overflow",
    ],
)
def test_a_wrong_model_is_refused_before_scoring(
    project: Callable[..., Path], model: str, messages: tuple[str]
) -> None:
    folder = project(model=model)
    code, err = build(folder)
    assert code == 2, err
    for message in messages:
        assert message in err
    written = {path.name for path in (folder / "build" / "tflite-int8").iterdir()}
    assert not written & {"preservation.json", "history.jsonl"}


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (DATA.replace("make(240, 0)", "make(0, 0)"), ("data.train",)),
        (DATA.replace("labels = torch.arange(n) % 3", "labels = torch.zeros(n).long()"), ("class",)),
        (DATA.replace("% 3", "% 4").replace("* label", "* (label % 3)"), ("label", "3")),
        (
            DATA.replace("return images, labels", "images[5] = float('nan')\n    return images, labels"),
            ("5",),
        ),
        (DATA.replace("make(60, 1)", "make(60, 0)"), ("samples are in both", "test")),
        (DATA.replace("make(240, 0)", "make(4, 0)"), ("pool",)),
        (DATA + "\ndef train():\n    raise OSError('no disk')\n", ("OSError", "no disk")),
    ],
    ids=["empty", "one class", "label range", "nan", "overlap", "tiny", "raises"],
)
def test_wrong_data_is_refused_before_training(
    project: Callable[..., Path], data: str, messages: tuple[str]
) -> None:
    folder = project(data=data, config=TESTED)
    code, err = build(folder)
    assert code == 2, err
    for message in messages:
        assert message in err
    assert not (folder / "build" / "tflite-int8" / "history.jsonl").exists()


def test_a_missing_checkpoint_is_named(project: Callable[..., Path]) -> None:
    config = CONFIG.replace("[data]", 'checkpoint = "gone.safetensors"\n[data]')
    code, err = build(project(config=config))
    assert code == 2
    assert "gone.safetensors" in err


def test_an_output_folder_that_cannot_be(project: Callable[..., Path]) -> None:
    folder = project()
    ran = sgsc_edge("build", folder, *TARGET, "--out", folder / "model.py")
    assert ran.code == 2
    assert "model.py" in ran.err


def test_a_full_disk_stops_the_build_and_loses_nothing(built: Path) -> None:
    """A limit on file sizes stands in for a full disk: both end in an OSError while writing."""
    folder = built / "build" / "tflite-int8"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = subprocess.run(
        [*COMMAND, "build", built, *TARGET, "--out", built / "build", "--set", "compress.epochs=1"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    for name in ("model.tflite", "certificate.json", "preservation.npz", "compressed.safetensors"):
        assert (folder / name).read_bytes() == before[name]


# --- verify ---------------------------------------------------------------------------------------


def folder_of(built: Path) -> Path:
    return built / "build" / "tflite-int8"


@pytest.mark.parametrize("name", ["model.tflite", "model.qdq.onnx", "preservation.npz", "certificate.json"])
def test_an_edited_file_is_refused_by_name(built: Path, name: str) -> None:
    path = folder_of(built) / name
    data = bytearray(path.read_bytes())
    if name == "certificate.json":
        data = bytearray(data.replace(b'"PASSED"', b'"FAILED"'))
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ran = sgsc_edge("verify", folder_of(built))
    assert ran.code == 2
    assert name in ran.err


def rewrite_samples(built: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """Change the samples and make manifest and certificate agree, as a careless script might."""
    folder = folder_of(built)
    arrays = read_npz(folder / "preservation.npz")
    change(arrays)
    before = sha256_file(folder / "preservation.npz")
    write_npz(folder / "preservation.npz", arrays)
    after = sha256_file(folder / "preservation.npz")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(before, after))
    certificate = read_certificate(folder / "certificate.json")
    subjects = tuple(
        subject.model_copy(update={"digest": Digest(sha256=after)})
        if subject.name == "preservation.npz"
        else subject
        for subject in certificate.statement.subject
    )
    sets = {
        name: row.model_copy(
            update={
                "samples": len(samples),
                "sha256": samples.sha256,
                "decisions": None if row.decisions is None else len(samples),
            }
        )
        for name, row in certificate.predicate.sets.items()
        for samples in [SampleSet(**{field: arrays[f"{name}_{field}"] for field in FIELDS})]
    }
    predicate = certificate.predicate.model_copy(update={"sets": sets})
    statement = seal(certificate.statement.model_copy(update={"subject": subjects, "predicate": predicate}))
    write_json(folder / "certificate.json", statement.model_dump(mode="json", by_alias=True))
    return folder


def test_zero_samples_are_not_a_pass(built: Path) -> None:
    def empty(arrays: dict[str, np.ndarray]) -> None:
        for name in list(arrays):
            if name.startswith("certify_"):
                arrays[name] = arrays[name][:0]

    ran = sgsc_edge("verify", rewrite_samples(built, empty))
    assert ran.code == 3, ran.err
    assert "NOT_MEASURED" in ran.out


def test_nan_logits_are_not_a_pass(built: Path) -> None:
    def spoil(arrays: dict[str, np.ndarray]) -> None:
        arrays["certify_float_logits"][0, 0] = np.nan

    ran = sgsc_edge("verify", rewrite_samples(built, spoil))
    assert ran.code == 3, ran.err


def test_a_sample_in_two_parts_is_refused(built: Path) -> None:
    def overlap(arrays: dict[str, np.ndarray]) -> None:
        arrays["measured_ids"] = arrays["certify_ids"][:1]

    ran = sgsc_edge("verify", rewrite_samples(built, overlap))
    assert ran.code == 2
    assert "certify" in ran.err


def test_a_required_runtime_that_is_missing_is_not_a_pass(built: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[runtimes]\nrequired = ["tensorflow"]\n')
    ran = sgsc_edge("verify", folder_of(built), "--policy", policy, "--json")
    assert ran.code == 3, ran.err
    assert ran.document["certificate"]["predicate"]["verdict"] == "NOT_MEASURED"


def test_a_stricter_policy_fails_the_gate(built: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[gate]\nmetric = "loss"\nmax_drop = 0.0\n')
    verdict = sgsc_edge("verify", folder_of(built), "--policy", policy, "--json")
    predicate = verdict.document["certificate"]["predicate"]
    (gate,) = (gate for gate in predicate["gates"] if gate["name"] == "compression")
    assert verdict.code == (0 if gate["measured"] <= 0 else 1)


def test_verify_agrees_and_needs_no_torch(built: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch must not be imported')")
    done = subprocess.run(
        [*COMMAND, "verify", folder_of(built), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["differences"] == []


# --- lowering a file ------------------------------------------------------------------------------


def lowered(source: Path, tmp_path: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "sgsc_edge.lowering", source, tmp_path / "out.tflite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.tflite").exists() == (done.returncode == 0)
    return done.returncode, done.stderr


def test_a_file_is_lowered_as_the_build_lowers_it(built: Path, tmp_path: Path) -> None:
    assert lowered(folder_of(built) / "model.qdq.onnx", tmp_path) == (0, "")
    assert (tmp_path / "out.tflite").read_bytes() == (folder_of(built) / "model.tflite").read_bytes()


def test_dynamic_axes_other_than_batch_are_refused(built: Path, tmp_path: Path) -> None:
    model = onnx.load(folder_of(built) / "model.qdq.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "dynamic.onnx")
    code, err = lowered(tmp_path / "dynamic.onnx", tmp_path)
    assert code == 2
    assert "batch" in err
    assert "height" in err


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_model_is_refused(built: Path, tmp_path: Path, keep: float) -> None:
    data = (folder_of(built) / "model.qdq.onnx").read_bytes()
    (tmp_path / "short.onnx").write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    code, err = lowered(tmp_path / "short.onnx", tmp_path)
    assert code == 2
    assert "short.onnx" in err
