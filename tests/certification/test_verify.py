"""Whole build folders, certified and verified with real interpreters in real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from build_folders import BUILT, Arrays, context, without_certify_samples, write_folder

from sgsc_edge.artifacts import (
    MANIFEST_NAME,
    canonical_json,
    read_json,
    sha256_bytes,
    write_json,
    write_manifest,
)
from sgsc_edge.certification.certificate import CERTIFICATE_NAME, seal
from sgsc_edge.certification.records import Statement
from sgsc_edge.certification.verify import certify_folder, verify_folder
from sgsc_edge.errors import ConfigError, DataError, FileFormatError, SgscError

ENGINES = ("onnxruntime", "litert", "litert-reference", "tflm", "numpy")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder certified by one cheap runtime; tests work on copies."""
    folder = write_folder(tmp_path_factory.mktemp("build") / "tflite-int8")
    assert certify_folder(folder, context()).verdict == "PASSED"
    return folder


@pytest.fixture
def folder(certified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(certified, tmp_path / "tflite-int8"))


def rewrite(folder: Path, edit: Callable[[Arrays], object]) -> Path:
    """The folder built anew from edited arrays, with a manifest that fits and no certificate."""
    shutil.rmtree(folder)
    return write_folder(folder, edit)


def test_all_engines_agree_and_verification_repeats_the_bytes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tflite-int8")
    first = certify_folder(folder, context(ENGINES, ("compressed", "tensorflow")))
    assert first.verdict == "PASSED", first.gate_lines()
    rows = {row.name: row for row in first.predicate.runtimes}
    assert list(rows) == ["compressed", *ENGINES, "tensorflow"]
    assert all(rows[name].status == "ok" and rows[name].version for name in ENGINES)
    for name in ENGINES:
        assert rows[name].sets["certify"].differs_from_compressed == ()
        assert rows[name].sets["must_keep"].negative_flips == ()
    for name in ("tflm", "numpy"):  # the others round some values otherwise, by one step
        assert rows[name].sets["certify"].max_lsb == 0
    assert set(rows["litert"].sets) == {"guide", "watch", "certify", "must_keep"}
    assert set(rows["tflm"].sets) == {"certify", "must_keep"}
    assert rows["tensorflow"].status in ("ok", "not_run")
    recorded = (folder / "certificate.json").read_bytes()
    again = verify_folder(folder)
    assert again.differences == ()
    assert again.exit_code == 0
    assert (folder / "certificate.json").read_bytes() == recorded


def test_verification_needs_no_torch(folder: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from sgsc_edge.certification.verify import verify_folder\n"
        "sys.exit(verify_folder(Path(sys.argv[1])).exit_code)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, timeout=120)


def test_informational_parts_are_optional(folder: Path) -> None:
    policy = folder.parent / "policy.toml"
    policy.write_text('[runtimes]\nrequired = ["litert"]\n')
    found = verify_folder(folder, policy, parts=()).predicate.runtimes[1]
    assert set(found.sets) == {"certify", "must_keep"}
    with pytest.raises(ConfigError, match="cannot run with parts"):
        verify_folder(folder, parts=("test",))


@pytest.mark.parametrize("name", ["model.tflite", "model.qdq.onnx", "preservation.npz"])
def test_an_edited_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        verify_folder(folder)
    assert str(folder / name) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_manifest_rewritten_to_fit_does_not_help(folder: Path) -> None:
    path = folder / "model.qdq.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")
    write_manifest(folder, BUILT, tools={}, seeds={}, inputs={}, code={})
    with pytest.raises(FileFormatError, match=r"other files than those here: model\.qdq\.onnx"):
        verify_folder(folder)


def test_a_certificate_about_other_samples_is_refused(folder: Path) -> None:
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    document["predicate"]["sets"]["certify"]["sha256"] = "0" * 64
    document["predicate"].pop("digest")
    document["predicate"]["digest"] = sha256_bytes(canonical_json(document))
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=r"other samples than those in preservation\.npz"):
        verify_folder(folder)


@pytest.mark.parametrize(
    "name", ["model.tflite", "model.qdq.onnx", "preservation.npz", "certificate.json", MANIFEST_NAME]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileFormatError) as caught:
        verify_folder(folder)
    assert name in str(caught.value)


def test_an_edited_certificate_is_refused(folder: Path) -> None:
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    document["predicate"]["policy"]["gate"]["max_drop"] = 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="has been edited"):
        verify_folder(folder)


def test_a_folder_that_is_no_finished_build_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError) as raised:
        verify_folder(tmp_path)
    assert str(raised.value).startswith(
        f"{tmp_path}: is no finished build: it has no certificate.json\n  -> give"
    )


def test_a_runtime_that_a_policy_leaves_out_is_listed_and_one_that_it_adds_is_not(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    certify_folder(folder, context(required=("numpy", "onnxruntime")))
    policy = tmp_path / "policy.toml"
    policy.write_text('[runtimes]\nrequired = ["numpy", "litert-reference"]\noptional = []\n')
    certificate = verify_folder(folder, policy)
    assert certificate.runtime_names == {"compressed", "numpy", "litert-reference"}
    assert certificate.differences == ("runtimes.onnxruntime: recorded, and left out by this policy",)


def test_a_required_runtime_that_is_missing_is_not_measured(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[runtimes]\nrequired = ["numpy", "tflite-runtime"]\n')
    found = verify_folder(folder, policy)
    assert (found.verdict, found.exit_code) == ("NOT_MEASURED", 3)
    row = found.predicate.runtimes[2]
    assert (row.name, row.required, row.status, row.version) == ("tflite-runtime", True, "not_run", None)
    assert "pip install tflite-runtime" in row.reason
    policy.write_text('[runtimes]\noptional = ["tflite-runtime"]\n')
    assert verify_folder(folder, policy).exit_code == 0


def test_a_stricter_policy_fails_and_a_measured_failure_wins(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[gate]\nmax_drop = 0.01\n[runtimes]\nrequired = ["numpy", "tflite-runtime"]\n')
    before = (folder / "certificate.json").read_bytes()
    found = verify_folder(folder, policy)
    assert (found.verdict, found.exit_code) == ("FAILED", 1)
    assert (folder / "certificate.json").read_bytes() == before


def test_unknown_runtimes_are_refused_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[runtimes]\nrequired = ["numpie"]\n')
    with pytest.raises(ConfigError, match="unknown runtimes"):
        verify_folder(folder, policy)


def test_a_time_limit_is_not_measured(folder: Path) -> None:
    found = verify_folder(folder, timeout_s=0.001)
    assert found.exit_code == 3
    assert found.predicate.runtimes[1].status == "timeout"
    assert any(line.startswith("runtimes.numpy.status") for line in found.differences)


def test_zero_certify_samples_are_not_measured(folder: Path) -> None:
    rewrite(folder, without_certify_samples)
    found = certify_folder(folder, context(("numpy", "litert")))
    assert (found.verdict, found.exit_code) == ("NOT_MEASURED", 3)
    assert {gate.status for gate in found.gates if gate.set == "certify"} == {"not_measured"}
    assert verify_folder(folder).exit_code == 3


def test_nan_in_the_float_logits_is_not_measured(folder: Path) -> None:
    def poison(arrays: Arrays) -> None:
        arrays["certify_float_logits"][4, 0] = np.nan

    found = certify_folder(rewrite(folder, poison), context())
    assert found.exit_code == 3
    assert found.gates[0].status == "not_measured"
    assert "NaN" not in (folder / "certificate.json").read_text()


def test_a_flipped_must_keep_sample_fails(folder: Path) -> None:
    def expect_otherwise(arrays: Arrays) -> None:
        label = (arrays["must_keep_labels"][2] + 1) % 3
        arrays["must_keep_labels"][2] = label
        arrays["must_keep_float_logits"][2] = np.eye(3, dtype=np.float32)[label]

    found = certify_folder(rewrite(folder, expect_otherwise), context())
    assert found.exit_code == 1
    failed = [gate for gate in found.gates if gate.status == "failed"]
    assert [(gate.name, gate.subject) for gate in failed] == [
        ("must_keep", "compressed"),
        ("must_keep", "numpy"),
    ]
    assert found.predicate.runtimes[0].sets["must_keep"].negative_flips == ("must_keep0002",)


def test_must_keep_goes_by_the_float_model_whatever_the_reference(folder: Path) -> None:
    """The control decides one sample as compressed, wrongly; float decides another wrongly: no flip."""

    def disagree(arrays: Arrays) -> None:
        for part in ("certify", "must_keep"):
            arrays[f"{part}_control_logits"] = arrays[f"{part}_compressed_logits"].astype(np.float32)
        for index, float_is_right in ((2, True), (3, False)):
            label = (arrays["must_keep_labels"][index] + 1) % 3
            arrays["must_keep_labels"][index] = label
            if float_is_right:
                arrays["must_keep_float_logits"][index] = np.eye(3, dtype=np.float32)[label]

    found = certify_folder(rewrite(folder, disagree), context(reference="control"))
    assert found.exit_code == 1
    failed = [(gate.name, gate.subject, gate.measured) for gate in found.gates if gate.status == "failed"]
    assert failed == [("must_keep", "compressed", 1.0), ("must_keep", "numpy", 1.0)]
    assert found.predicate.runtimes[1].sets["must_keep"].negative_flips == ("must_keep0002",)
    assert found.must_keep_line() == "must_keep: 6 samples (4 trained on), 5 decided rightly by float"


@pytest.mark.parametrize("marks", [(False,) * 6, (True,) * 6])
def test_marks_other_than_the_certificate_says_are_refused(folder: Path, marks: tuple[bool, ...]) -> None:
    """Samples and manifest are replaced alike: the certificate still has another number of trained ones."""

    def forge(arrays: Arrays) -> None:
        arrays["must_keep_trained_on"] = np.array(marks)

    certify_folder(folder, context())
    recorded = read_json(folder / CERTIFICATE_NAME, 2**20)
    certify_folder(rewrite(folder, forge), context())
    fresh = read_json(folder / CERTIFICATE_NAME, 2**20)
    fresh["predicate"]["sets"] = recorded["predicate"]["sets"]
    statement = Statement.model_validate_json(json.dumps(fresh))
    write_json(folder / CERTIFICATE_NAME, seal(statement).model_dump(mode="json", by_alias=True))
    with pytest.raises(FileFormatError, match="is about other samples"):
        verify_folder(folder)


def test_a_device_that_decides_otherwise_fails_the_lowering_gate(folder: Path) -> None:
    def disagree(arrays: Arrays) -> None:
        arrays["certify_compressed_logits"][5] = np.roll(arrays["certify_compressed_logits"][5], 1)

    found = certify_folder(rewrite(folder, disagree), context())
    assert found.exit_code == 1
    assert [gate.name for gate in found.gates if gate.status == "failed"] == ["lowering"]
    assert found.predicate.runtimes[1].sets["certify"].differs_from_compressed == ("certify0005",)


def test_the_control_is_the_reference_where_the_policy_says_so(folder: Path) -> None:
    def with_control(arrays: Arrays) -> None:
        # Decides as the compressed model does, so nothing is lost against it.
        arrays["certify_control_logits"] = arrays["certify_compressed_logits"].astype(np.float32)

    rewrite(folder, with_control)
    assert certify_folder(folder, context(max_drop=0.0)).exit_code == 1
    found = certify_folder(folder, context(max_drop=0.0, reference="control"))
    assert found.exit_code == 0
    assert set(found.predicate.references) == {"float", "control"}


@pytest.mark.parametrize(
    ("name", "index", "value", "error"),
    [("certify_ids", 3, "guide0001", DataError), ("certify_labels", 0, 7, DataError)],
)
def test_bad_samples_are_refused(
    folder: Path, name: str, index: int, value: object, error: type[SgscError]
) -> None:
    def edit(arrays: Arrays) -> None:
        arrays[name][index] = value

    rewrite(folder, edit)
    with pytest.raises(error):
        certify_folder(folder, context())


def test_samples_for_another_model_are_refused(folder: Path) -> None:
    def narrow(arrays: Arrays) -> None:
        for name in arrays:
            if name.endswith("_inputs"):
                arrays[name] = arrays[name][:, :3]

    rewrite(folder, narrow)
    with pytest.raises(FileFormatError, match="but the recorded samples are"):
        certify_folder(folder, context())


def test_a_hostile_model_is_refused_before_it_runs(folder: Path) -> None:
    path = folder / "model.tflite"
    path.write_bytes(path.read_bytes()[:300])
    write_manifest(folder, BUILT, tools={}, seeds={}, inputs={}, code={})
    with pytest.raises(FileFormatError):
        certify_folder(folder, context())
