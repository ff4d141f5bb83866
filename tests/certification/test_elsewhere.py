"""Machines where a runtime is missing: what stands in is named, what did not run never passes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from build_folders import context, write_folder

from sgsc_edge.artifacts import read_json
from sgsc_edge.certification.certificate import Certificate, read_certificate
from sgsc_edge.certification.verify import certify_folder, verify_folder
from sgsc_edge.cli.certificate_text import certificate_text
from sgsc_edge.errors import ConfigError
from sgsc_edge.runtimes import _execute, _registry, available


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of runtimes that are then not installed."""
    names: set[str] = set()
    version = _registry.installed_version

    def found(spec: _registry.RuntimeSpec) -> str | None:
        return None if spec.name in names else version(spec)

    for module in (_execute, _registry):
        monkeypatch.setattr(module, "installed_version", found)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_folder(tmp_path / "tflite-int8")
    assert certify_folder(folder, context(("tflm", "numpy"), ("tensorflow",))).verdict == "PASSED"
    return folder


def row(certificate: Certificate, name: str) -> dict:
    return next(r.model_dump() for r in certificate.predicate.runtimes if r.name == name)


def test_the_executor_stands_in_for_tflm_and_is_named_everywhere(
    folder: Path, missing: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing.add("tflm")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    found = verify_folder(folder)
    assert (found.verdict, found.exit_code) == ("PASSED", 0)
    assert (row(found, "tflm")["status"], row(found, "tflm")["stand_in"]) == ("ok", "numpy")
    assert (row(found, "numpy")["status"], row(found, "numpy")["stand_in"]) == ("ok", None)
    lines = certificate_text(found, folder).splitlines()
    (shown,) = (line for line in lines if line.startswith("tflm "))
    assert shown.endswith("numpy stands in")
    gates = [line for line in lines if "(tflm, " in line]
    assert len(gates) == 2  # lowering and must_keep
    assert all(line.endswith("(numpy stands in)") for line in gates)
    assert not any("stands in" in line for line in lines if "(numpy, " in line)
    assert any("runtimes.tflm.stand_in: recorded absent, now 'numpy'" in line for line in lines)
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(found.to_json()))
    assert row(read_certificate(path), "tflm") == row(found, "tflm")
    (listed,) = (each for each in available() if each.name == "tflm")
    assert listed.install == "tflite-micro has no package for linux on aarch64; numpy stands in"


def test_nothing_stands_in_where_a_package_exists(folder: Path, missing: set[str]) -> None:
    missing.add("tflm")
    found = verify_folder(folder)
    assert (found.verdict, found.exit_code) == ("NOT_MEASURED", 3)
    assert row(found, "tflm")["status"] == "not_run"
    assert "pip install tflite-micro" in row(found, "tflm")["reason"]


def test_an_optional_runtime_that_is_demanded_has_to_run(folder: Path, missing: set[str]) -> None:
    missing.add("tensorflow")
    assert verify_folder(folder).exit_code == 0
    found = verify_folder(folder, require=["tensorflow"])
    assert (found.verdict, found.exit_code) == ("NOT_MEASURED", 3)
    assert row(found, "tensorflow")["required"]
    policy = found.predicate.policy.runtimes
    assert (policy.required, policy.optional) == (("tflm", "numpy", "tensorflow"), ())
    demanded = verify_folder(folder, require=["litert", "numpy"])  # litert is none of the build's
    assert (demanded.verdict, row(demanded, "litert")["status"]) == ("PASSED", "ok")
    with pytest.raises(ConfigError, match="unknown runtimes") as raised:
        verify_folder(folder, require=["tensorflo"])
    assert "did you mean 'tensorflow'" in str(raised.value)


def test_a_policy_without_a_required_runtime_is_in_the_certificate(folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[runtimes]\nrequired = ["numpy"]\noptional = []\n')
    found = verify_folder(folder, policy)
    assert found.exit_code == 0
    assert [row.name for row in found.predicate.runtimes] == ["compressed", "numpy"]
    recorded = read_certificate(folder / "certificate.json").predicate
    assert "tflm" in [row.name for row in recorded.runtimes]
    assert found.predicate.policy_sha256 != recorded.policy_sha256


def test_the_command_keeps_the_certificate(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "verify", str(folder), "--require", "litert"]
    done = subprocess.run([*command, "--certificate", str(kept), "--json"], capture_output=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["certificate"] == read_json(kept)
    assert row(read_certificate(kept), "litert")["required"]
