"""The certificate's JSON: what is in it, and what its reader refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from build_folders import WRONG, context, recorded_arrays

from sgsc_edge.artifacts import canonical_json, sha256_bytes, write_json
from sgsc_edge.certification.certificate import Certificate, differences, read_certificate
from sgsc_edge.certification.certify import RuntimeRun, certify
from sgsc_edge.certification.metrics import OutputGrid
from sgsc_edge.certification.samples import read_samples
from sgsc_edge.errors import FileFormatError

SETS = read_samples(recorded_arrays(), where="preservation.npz")
SUBJECTS = {"model.tflite": "1" * 64, "preservation.npz": "2" * 64}


def issue(differing: int = 0, **gate: object) -> Certificate:
    """A certificate of one required runtime, ``differing`` of whose certify decisions differ."""
    outputs = {part: samples.compressed_logits.copy() for part, samples in SETS.items()}
    for i in range(differing):
        outputs["certify"][i] = [-128, -128, -128]
        outputs["certify"][i, (SETS["certify"].compressed_logits[i].argmax() + 1) % 3] = 127
    runs = {
        "numpy": RuntimeRun("ok", version="2.4", outputs=outputs),
        "tensorflow": RuntimeRun("not_run", reason="not installed"),
    }
    given = context(("numpy",), ("tensorflow", "tflm"), **gate)
    return certify(given, SETS, runs, OutputGrid(0.1, 3), subjects=SUBJECTS, tools={"python": "3"})


def test_it_is_an_in_toto_statement_about_the_files() -> None:
    document = issue().to_json()
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "urn:sgsc-edge:certificate:v4"
    assert document["subject"] == [
        {"name": "model.tflite", "digest": {"sha256": "1" * 64}},
        {"name": "preservation.npz", "digest": {"sha256": "2" * 64}},
    ]
    predicate = document["predicate"]
    assert predicate["verdict"] == "PASSED"
    assert predicate["target"] == "tflite-int8"
    assert predicate["policy_sha256"] == sha256_bytes(canonical_json(predicate["policy"]))
    row = {
        "samples": 50,
        "decisions": 50,
        "sha256": SETS["certify"].sha256,
        "gated": True,
        "trained_on": None,
    }
    assert predicate["sets"]["certify"] == row
    assert predicate["sets"]["must_keep"]["trained_on"] == 4
    assert predicate["warnings"] == []
    assert predicate["sets"]["guide"]["gated"] is False
    assert predicate["reference_saw_certify"] is False
    assert [row["name"] for row in predicate["runtimes"]] == ["compressed", "numpy", "tensorflow", "tflm"]
    assert [row["status"] for row in predicate["runtimes"]] == ["recorded", "ok", "not_run", "not_run"]
    certify_row = predicate["runtimes"][1]["sets"]["certify"]
    assert certify_row["metrics"]["accuracy"] == 1 - len(WRONG) / 50
    assert certify_row["negative_flips"] == ["certify0003", "certify0021"]
    assert certify_row["positive_flips"] == ["certify0030"]
    assert predicate["references"]["float"]["certify"]["correct"] == 48


@pytest.mark.parametrize(
    ("differing", "gate", "verdict", "code"),
    [
        (0, {}, "PASSED", 0),
        (1, {}, "FAILED", 1),
        (1, {"max_lowering_flips": 0.02}, "PASSED", 0),
        (0, {"max_drop": 0.01}, "FAILED", 1),
        (0, {"reference": "control"}, "NOT_MEASURED", 3),
        (1, {"reference": "control"}, "FAILED", 1),
    ],
)
def test_verdict_and_exit_code(differing: int, gate: dict[str, object], verdict: str, code: int) -> None:
    certificate = issue(differing, **gate)
    assert (certificate.verdict, certificate.exit_code) == (verdict, code)


def test_writing_and_reading_give_the_same_bytes(tmp_path: Path) -> None:
    path, again = tmp_path / "certificate.json", tmp_path / "again.json"
    write_json(path, issue(1).to_json())
    read = read_certificate(path)
    write_json(again, read.to_json())
    assert again.read_bytes() == path.read_bytes()
    assert read.context == context(("numpy",), ("tensorflow", "tflm"))
    assert read.subjects == SUBJECTS
    assert differences(read, issue(1)) == ()


def change(*keys: str | int, value: object) -> Callable[[Any], None]:
    def edit(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("predicate", "verdict", value="FAILED"), "has been edited"),
        (change("predicate", "policy", "gate", "max_drop", value=0.5), "has been edited"),
        (change("predicate", "runtimes", 1, "sets", "certify", "correct", value=50), "has been edited"),
        (change("subject", 0, "digest", "sha256", value="f" * 64), "has been edited"),
        (change("predicate", "digest", value="0" * 64), "has been edited"),
        (change("predicateType", value="urn:sgsc-edge:certificate:v1"), "this version reads"),
        (change("_type", value="https://in-toto.io/Statement/v0.1"), "this version reads"),
        (change("predicate", "verdict", value="MAYBE"), "predicate.verdict"),
        (change("predicate", "note", value="hello"), "predicate.note"),
        (change("extra", value=1), "extra"),
        (change("predicate", "sets", "certify", "samples", value="50"), "predicate.sets.certify.samples"),
        (change("predicate", "sets", "certify", "samples", value=-1), "predicate.sets.certify.samples"),
        (change("predicate", "sets", "certify", "sha256", value="xyz"), "predicate.sets.certify.sha256"),
        (change("predicate", "gates", value=[{}]), "predicate.gates.0"),
        (lambda document: document["predicate"].pop("policy"), "predicate.policy"),
        (lambda document: document["predicate"].pop("warnings"), "predicate.warnings"),
        (change("predicate", "sets", "must_keep", "trained_on", value=0), "has been edited"),
        (change("predicate", "sets", "must_keep", "trained_on", value=True), "must_keep.trained_on"),
        (lambda document: document.pop("predicate"), "predicate"),
    ],
)
def test_an_edited_or_foreign_certificate_is_refused(tmp_path: Path, edit, words: str) -> None:
    document = json.loads(json.dumps(issue().to_json()))
    edit(document)
    path = tmp_path / "certificate.json"
    write_json(path, document)
    with pytest.raises(FileFormatError) as caught:
        read_certificate(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"_type": NaN}', "[" * 100_000, '{"a": 1, "a": 2}'])
def test_what_is_no_certificate_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(text)
    with pytest.raises(FileFormatError):
        read_certificate(path)


def test_numbers_beyond_floats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    text = json.dumps(issue().to_json())
    assert '"max_drop": 0.05' in text
    path.write_text(text.replace('"max_drop": 0.05', '"max_drop": 1e999'))
    with pytest.raises(FileFormatError):
        read_certificate(path)


def test_differences_name_what_was_measured_otherwise() -> None:
    found = differences(issue(0), issue(2))
    assert "verdict: recorded 'PASSED', now 'FAILED'" in found
    assert any(
        line.startswith("runtimes.numpy.sets.certify.differs_from_compressed") and line.endswith("now 2 ids")
        for line in found
    )
    assert [line for line in found if line.endswith("decisions: recorded 0 entries, now 2 entries")]
    assert not [line for line in found if not line.startswith(("verdict", "runtimes.numpy.sets.certify"))]
    assert differences(issue(0), issue(0, max_drop=1.0)) == ()


def test_the_summary_shows_every_model_and_gate() -> None:
    certificate = issue(1)
    headings, *rows = certificate.summary_rows()
    assert {len(row) for row in rows} == {len(headings)}
    table = {row[0]: dict(zip(headings, row, strict=True)) for row in rows}
    assert list(table) == ["float", "compressed", "numpy", "tensorflow", "tflm"]
    assert table["float"]["accuracy"] == "96.00 %"
    assert table["compressed"]["flips -/+"] == "2/1"
    assert (table["numpy"]["role"], table["numpy"]["differs"]) == ("required", "1")
    assert (table["tensorflow"]["status"], table["tensorflow"]["note"]) == ("not_run", "not installed")
    assert issue(0, metric="loss").summary_rows()[0][4:6] == ("accuracy", "loss")
    lines = certificate.gate_lines()
    assert len(lines) == len(certificate.gates) == 4
    assert lines[0].startswith("passed")
    assert lines[-1].startswith("failed")
    assert lines[-1].endswith("0.02, at most 0")


def test_must_keep_is_shown_with_how_many_were_trained_on() -> None:
    assert issue().must_keep_line() == "must_keep: 6 samples (4 trained on), 6 decided rightly by float"
    without = {part: samples for part, samples in SETS.items() if part != "must_keep"}
    runs = {"numpy": RuntimeRun("not_run")}
    certificate = certify(context(), without, runs, OutputGrid(0.1, 3), subjects=SUBJECTS, tools={})
    assert certificate.must_keep_line() == ""


def test_a_threshold_finer_than_the_set_is_a_warning_and_no_verdict(tmp_path: Path) -> None:
    certificate = issue(max_drop=0.05, max_lowering_flips=0.004)
    assert (certificate.verdict, certificate.exit_code) == ("PASSED", 0)
    (line,) = certificate.warning_lines()
    assert line == (
        "warning: the lowering gate is finer than its set can decide: one of 50 certify decisions is 0.02, "
        "more than max_lowering_flips = 0.004; 250 would be needed"
    )
    (found,) = certificate.to_json()["predicate"]["warnings"]
    assert (found["gate"], found["set"], found["decisions"], found["needed"]) == (
        "lowering",
        "certify",
        50,
        250,
    )
    write_json(tmp_path / "certificate.json", certificate.to_json())
    assert read_certificate(tmp_path / "certificate.json").warning_lines() == [line]
