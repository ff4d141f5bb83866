from __future__ import annotations

from pathlib import Path

import pytest
from build_folders import context

from sgsc_edge.certification.policy import Policy, read_policy
from sgsc_edge.certification.verify import check_runtime_names
from sgsc_edge.errors import ConfigError

BASE = context(required=("numpy", "tflm"), optional=("litert", "tensorflow")).policy


def read(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path, BASE)


def test_the_file_replaces_the_keys_that_it_gives(tmp_path: Path) -> None:
    policy = read(tmp_path, "[gate]\nmax_drop = 0\nmetric = 'loss'\n")
    assert (policy.gate.max_drop, policy.gate.metric) == (0.0, "loss")
    assert policy.gate.reference == BASE.gate.reference
    assert policy.runtimes == BASE.runtimes
    assert policy.sha256 != BASE.sha256
    assert read(tmp_path, "") == BASE


def test_a_runtime_that_the_file_requires_is_no_longer_optional(tmp_path: Path) -> None:
    policy = read(tmp_path, '[runtimes]\nrequired = ["litert"]\n')
    assert (policy.runtimes.required, policy.runtimes.optional) == (("litert",), ("tensorflow",))


def test_every_problem_is_listed_with_its_line_and_the_nearest_key(tmp_path: Path) -> None:
    gate = "[gate]\nmax_dorp = 0.1\nmax_lowering_flips = 2\nmetric = 'f1'\n"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{gate}[runtimes]\nrequired = []\n[gates]\nx = 1\n")
    expected = {2: "did you mean 'max_drop'", 3: "max_lowering_flips", 4: "metric", 6: "required"}
    for line, words in expected.items():
        found = [text for text in caught.value.problems if f"policy.toml:{line}:" in text]
        assert len(found) == 1, caught.value.problems
        assert words in found[0]
    assert any("did you mean 'gate'" in found for found in caught.value.problems)
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gate]\nmetric = 'loss'\n", "max_drop"),  # the recorded one is a share of samples
        ("gate = 3\n", "gate"),
        ("[gate]\nmax_drop = nan\n", "max_drop"),
        ("[gate]\nmax_drop = inf\n", "max_drop"),
        ("[gate]\nmax_drop = -0.1\n", "max_drop"),
        ("[gate]\nmax_drop = 1.5\n", "is a share"),
        ("[gate]\nmax_drop = '0.1'\n", "max_drop"),
        ("[gate]\nmax_drop = true\n", "max_drop"),
        ("[gate]\nmax_drop = 2020-01-01\n", "max_drop"),
        ('[runtimes]\nrequired = "tflm"\n', "required"),
        ("[runtimes]\nrequired = [3]\n", "required"),
        ("[runtimes]\nrequired = [['tflm']]\n", "required"),
        ('[runtimes]\nrequired = ["tflm", "tflm"]\n', "named twice: tflm"),
        ('[runtimes]\noptional = ["tflm"]\n', "named twice: tflm"),
        ("[gate\n", "TOML"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_the_users_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_policy(tmp_path / "none.toml", BASE)


def test_unknown_runtimes_are_named_with_the_nearest() -> None:
    names = context(required=("tflmm",), optional=("compressed", "lite-rt")).policy.runtimes
    with pytest.raises(ConfigError) as caught:
        check_runtime_names(names, "model.tflite")
    assert caught.value.problems == ("'tflmm'; did you mean 'tflm'?", "'lite-rt'; did you mean 'litert'?")


@pytest.mark.parametrize("required", [("compressed",), ("onnxruntime",), ("compressed", "onnxruntime")])
def test_a_policy_under_which_the_tflite_file_never_runs_is_refused(required: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"no runtime that runs model\.tflite") as caught:
        check_runtime_names(context(required=required, optional=("tflm",)).policy.runtimes, "model.tflite")
    assert "tflm" in str(caught.value.remedy)


def test_the_hash_is_of_the_values_not_of_their_spelling(tmp_path: Path) -> None:
    one = read(tmp_path, "[gate]\nmax_drop = 0.10\n[runtimes]\nrequired = ['tflm']\n")
    other = read(tmp_path, "runtimes.required = ['tflm']\ngate.max_drop = 1e-1\n")
    assert one.sha256 == other.sha256


def test_a_policy_of_an_onnx_build_names_runtimes_of_the_onnx() -> None:
    check_runtime_names(
        context(required=("onnxruntime",), optional=("compressed",)).policy.runtimes, "model.qdq.onnx"
    )
    with pytest.raises(ConfigError, match=r"no runtime that runs model\.qdq\.onnx"):
        check_runtime_names(context(required=("tflm",)).policy.runtimes, "model.qdq.onnx")
    names = context(required=("onnxruntime",), optional=("tflm",)).policy.runtimes
    with pytest.raises(ConfigError, match=r"ships none: tflm"):
        check_runtime_names(names, "model.qdq.onnx")


def test_steps_are_of_required_runtimes_alone(tmp_path: Path) -> None:
    base = context(required=("numpy",)).policy
    path = tmp_path / "policy.toml"
    path.write_text("[runtimes]\nrequired = ['onnxruntime']\nmax_steps = { onnxruntime = 2 }\n")
    held = read_policy(path, base)
    assert held.runtimes.max_steps == {"onnxruntime": 2}
    path.write_text("[runtimes]\nrequired = ['numpy']\n")  # who is no longer required is held to nothing
    assert read_policy(path, held).runtimes.max_steps == {}
    path.write_text("[runtimes]\nmax_steps = { tflm = 0 }\n")
    with pytest.raises(ConfigError, match="max_steps names tflm"):
        read_policy(path, base)
