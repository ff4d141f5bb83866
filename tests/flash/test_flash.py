"""``flash``: the certificate repeated on a (virtual) board, as a process and as functions."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certification.build_folders import BUILT, WRONG, context, write_folder

from sgsc_edge import api
from sgsc_edge import flash as flashing
from sgsc_edge.artifacts import canonical_json, sha256_bytes, sha256_file, write_manifest
from sgsc_edge.boards.description import board_folder, load_board
from sgsc_edge.boards.run import BoardRun
from sgsc_edge.certification.verify import certify_folder
from sgsc_edge.errors import InternalError
from sgsc_edge.graph import reference
from sgsc_edge.packaging import read_source
from sgsc_edge.report import write_report
from sgsc_edge.runtimes import RunResult, Status

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

BOARD = "virtual-cortex-m4"


def flash(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "flash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_the_board_computes_what_was_certified(folder: Path) -> None:
    assert BOARD.encode() not in write_report(folder).read_bytes()
    done = flash(folder, "--board", BOARD, "--samples", "all", "--json")
    assert done.returncode == 0, done.stderr
    assert BOARD.encode() in (folder / "report.html").read_bytes()
    document = json.loads(done.stdout)
    assert json.loads((folder / f"certificate.{BOARD}.json").read_text()) == document
    predicate = document["predicate"]
    assert (predicate["verdict"], predicate["samples"], predicate["differing"]) == ("PASSED", 56, [])
    assert predicate["expected_from"] == ("tflm" if importlib.util.find_spec("tflite_micro") else "numpy")
    assert predicate["instructions_per_inference"] > 1000
    assert predicate["sizes"]["code"] < predicate["verified_bytes"] <= predicate["sizes"]["flash"]
    assert 0 < predicate["stack"]["inference"] <= predicate["stack"]["total"]
    assert predicate["sizes"]["flash"] <= predicate["limits"]["flash"]
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]}
    assert subjects == {
        name: sha256_file(folder / name)
        for name in ("model.tflite", "certificate.json", f"package/firmware.{BOARD}.elf")
    }
    digest = predicate.pop("digest")
    assert digest == sha256_bytes(canonical_json(document))
    certified = json.loads((folder / "certificate.json").read_text())
    assert predicate["build_certificate_digest"] == certified["predicate"]["digest"]


@pytest.mark.parametrize("weights", ["stored", "learned"])
def test_code_that_the_user_packaged_stays_and_the_certificate_says_which_weights_ran(
    weights: str, folder: Path
) -> None:
    write_manifest(folder, BUILT, tools={}, seeds={}, inputs={}, code={"weights": weights})
    certify_folder(folder, context())
    api.package(folder, name="mine", learned=weights != "learned")
    packaged = {path: path.read_bytes() for path in (folder / "package" / "c-code").glob("*.*")}
    made = flashing.flash(folder, load_board(BOARD), samples=1)
    assert {path: path.read_bytes() for path in packaged} == packaged
    assert (made.predicate["verdict"], made.predicate["weights"]) == ("PASSED", weights)
    assert f"({weights})" in made.to_text()


def test_a_dry_run_says_the_steps_and_takes_none(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = flash(folder, "--board", BOARD, "--samples", "10", "--dry-run")
    assert done.returncode == 0, done.stderr
    for text in ("model.tflite as C99", "cortex-m4", f"firmware.{BOARD}.elf", f"certificate.{BOARD}.json"):
        assert text in done.stdout
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("link", ["package", "package/firmware", "package/firmware/example"])
def test_a_folder_that_is_a_link_is_refused_and_nothing_is_touched(
    link: str, folder: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    leftover = theirs / ".report.html.1.0123abcd.tmp"
    for path in (leftover, theirs / "main.c"):
        path.write_text("theirs")
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).symlink_to(theirs)
    if link == "package/firmware/example":
        earlier = {"schema": "sgsc-edge-package/1", "files": ["example/main.c"]}
        (folder / "package" / "firmware" / "package.json").write_text(json.dumps(earlier))
    done = flash(folder, "--board", BOARD)
    assert done.returncode == 2
    assert f"{link}: is a symbolic link" in done.stderr
    assert "put a folder in its place" in done.stderr
    assert {path.read_text() for path in theirs.iterdir()} == {"theirs"}
    assert len(list(theirs.iterdir())) == 2


def test_changed_decisions_and_must_keep_samples_always_run(folder: Path) -> None:
    build = flashing._Build.read(folder)
    chosen = build.choose(4)
    changed = build._changed()
    assert {f"certify{i:04d}" for i in WRONG} & changed
    assert changed <= set(chosen.ids)
    assert {f"must_keep{i:04d}" for i in range(6)} <= set(chosen.ids)
    assert len(chosen.ids) == len(set(chosen.ids)) == len(chosen.inputs)
    assert len(chosen.ids) < build.total == len(build.choose(None).ids) == 56
    for name, inputs in zip(chosen.ids, chosen.inputs, strict=True):
        part = build.sets["certify" if name.startswith("certify") else "must_keep"]
        np.testing.assert_array_equal(part.inputs[list(part.ids).index(name)], inputs)


def test_an_integer_that_differs_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_image = flashing.run_image

    def other(*arguments: Any, **options: Any) -> BoardRun:
        run = run_image(*arguments, **options)
        outputs = run.outputs.copy()
        outputs[3, 0] ^= 1
        return replace(run, outputs=outputs)

    monkeypatch.setattr(flashing, "run_image", other)
    made = flashing.flash(folder, load_board(BOARD), samples=20)
    assert (made.predicate["verdict"], made.exit_code) == ("FAILED", 1)
    (name,) = made.predicate["differing"]
    assert name == flashing._Build.read(folder).choose(20).ids[3]
    assert f"differs: {name}" in made.to_text()


def test_answers_are_compared_with_tflite_micro_or_what_else_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, (inputs,) = read_source(folder).graph, read_source(folder).inputs.values()
    expected = flashing._expected(folder / "model.tflite", graph, inputs)
    wanted = "tflm" if importlib.util.find_spec("tflite_micro") else "numpy"
    assert expected.source == wanted
    outputs = reference.run(graph, inputs).reshape(len(inputs), -1)
    np.testing.assert_array_equal(expected.outputs, outputs)
    results = [
        RunResult(Status.NOT_RUN, reason="not installed"),
        RunResult(Status.OK, outputs ^ 1, stand_in="numpy"),
    ]
    for result in results:
        monkeypatch.setattr(flashing, "run_runtime", lambda *_, result=result, **__: result)
        stood_in = flashing._expected(folder / "model.tflite", graph, inputs)
        assert stood_in.source == "numpy"
        np.testing.assert_array_equal(stood_in.outputs, outputs)
    monkeypatch.setattr(flashing, "run_runtime", lambda *_, **__: RunResult(Status.OK, outputs ^ 1))
    with pytest.raises(InternalError, match=r"differ in 8 of 8 samples") as raised:
        flashing._expected(folder / "model.tflite", graph, inputs)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(("size", "says"), [("512", "bytes of flash"), ("256", "bytes of RAM")])
def test_a_board_that_is_too_small(size: str, says: str, folder: Path, tmp_path: Path) -> None:
    text = (board_folder() / f"{BOARD}.toml").read_text()
    small = tmp_path / "small.toml"
    changed = text.replace(f'"{size} KiB"', '"1 KiB"').replace(BOARD, "small")
    small.write_text(changed.replace('"4 KiB"', "1016"))
    done = flash(folder, "--board", small)
    assert done.returncode == 4, done.stderr
    assert says in done.stderr
    assert not list(folder.glob("certificate.small.json"))


def uncertified(folder: Path) -> None:
    (folder / "certificate.json").unlink()


def edited_model(folder: Path) -> None:
    with (folder / "model.tflite").open("ab") as file:
        file.write(b"\0")


def edited_certificate(folder: Path) -> None:
    path = folder / "certificate.json"
    path.write_text(path.read_text().replace('"PASSED"', '"FAILED"', 1))


def edited_samples(folder: Path) -> None:
    with (folder / "preservation.npz").open("ab") as file:
        file.write(b"\0")


def certificate_of_another_build(folder: Path) -> None:
    """The same model, judged by other samples."""
    other = write_folder(folder.parent / "other", without_last_certify_sample)
    certify_folder(other, context())
    shutil.copyfile(other / "certificate.json", folder / "certificate.json")


def without_last_certify_sample(arrays: dict[str, np.ndarray]) -> None:
    for name in [name for name in arrays if name.startswith("certify_")]:
        arrays[name] = arrays[name][:-1]


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (removed, "is no folder"),
        (edited_samples, "preservation.npz: has changed since manifest.json was written"),
        (certificate_of_another_build, "is about another preservation.npz than the one here"),
        (uncertified, "certificate.json"),
        (edited_model, "manifest.json"),
        (edited_certificate, "has been edited"),
    ],
)
def test_files_that_do_not_belong_together(spoil, says: str, folder: Path) -> None:
    spoil(folder)
    done = flash(folder, "--board", BOARD)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert not (folder / f"certificate.{BOARD}.json").exists()


def test_a_build_that_failed_gets_no_pass_on_a_board(tmp_path: Path) -> None:
    """It runs, so that one can look, and the board's certificate says what the build's does."""
    folder = write_folder(tmp_path / "build")
    assert certify_folder(folder, context(max_drop=0.0)).exit_code == 1
    made = flashing.flash(folder, load_board(BOARD), samples=5)
    verdicts = (made.predicate["verdict"], made.predicate["build_verdict"], made.exit_code)
    assert verdicts == ("FAILED", "FAILED", 1)
    assert made.predicate["differing"] == []
    assert "the build's own certificate says FAILED" in made.to_text()


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_a_file_is_no_build(option: tuple[str, ...], folder: Path) -> None:
    done = flash(folder / "model.tflite", "--board", BOARD, *option)
    assert done.returncode == 2
    assert "model.tflite: is no folder\n  -> give build/<target> of a build" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--board", BOARD, "--timeout", "0"), "--timeout"),
        (("--board", "virtual-cortex-m44"), "did you mean 'virtual-cortex-m4'"),
        (("--board", BOARD, "--samples", "0"), "neither a number nor 'all'"),
        (("--board", BOARD, "--samples", "some"), "neither a number nor 'all'"),
        ((), "--board"),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], says: str, folder: Path) -> None:
    done = flash(folder, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
