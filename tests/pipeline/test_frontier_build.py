"""Several budgets, as a user asks for them: one way down, a certified model at each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline.conftest import Ran, sgsc_edge, write_project
from pipeline.test_board_limits import small_board
from pipeline.trained import NOISY, SETTINGS, TRAINED

from sgsc_edge import api
from sgsc_edge.artifacts import sha256_file
from sgsc_edge.report.frontier import read_frontier

TARGET = "tflite-int8"
KEPT = ("compressed.safetensors", "model.tflite", "history.jsonl", "certificate.json", ".learned.safetensors")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """Budgets unsorted, in mixed forms, one of them twice, and one too small for the task."""
    folder = write_project(tmp_path_factory.mktemp("frontier"), model=TRAINED, data=NOISY, config=SETTINGS)
    budgets = "150 B,0.5x,0.318kB"  # of 636 bytes
    ran = sgsc_edge(
        *("build", folder, "--target", TARGET, "--out", folder / "build"),
        *("--budget", f"{budgets},290B", "--json"),
    )
    return folder / "build" / TARGET, ran


def files(folder: Path) -> dict[Path, str]:
    """Everything of every point but its lock, which names its last holder."""
    return {path: sha256_file(path) for path in folder.glob("*/*") if path.name != ".lock"}


def test_each_budget_has_a_certified_model_and_the_worst_is_the_exit_code(ran: tuple[Path, Ran]) -> None:
    folder, done = ran
    assert done.code == 1, done.err
    builds = done.document["builds"]
    assert [Path(build["folder"]).name for build in builds] == ["0.5x", "290B", "150B"]
    assert [build["budget"]["bytes"] for build in builds] == [318, 290, 150]
    assert [build["exit_code"] for build in builds] == [0, 0, 1]
    for build in builds:
        assert build["certificate"]["predicate"]["target"] == TARGET
        assert Path(build["report"]).is_file()
    assert "the budgets 0.5x and 318B are the same 318 bytes" in done.err
    assert api.verify(folder / "290B").exit_code == 0


def test_the_overview_says_what_the_points_files_say(ran: tuple[Path, Ran]) -> None:
    folder, done = ran
    (shown,) = done.document["frontiers"]
    overview = read_frontier(folder / "frontier.json")
    assert shown["points"] == overview.model_dump(mode="json")["points"]
    floats, in_8_bits = overview.references
    assert (floats.bytes, in_8_bits.bytes) == (636, 4 * (9 + 28) + 3 * (4 * 9 + 28))
    for point in overview.points:
        certificate = json.loads((folder / point.label / "certificate.json").read_text())["predicate"]
        (row,) = (row for row in certificate["runtimes"] if row["name"] == "compressed")
        assert point.figures is not None
        assert point.figures.certify == row["sets"]["certify"]["metrics"]["accuracy"]
        assert point.figures.watch == row["sets"]["watch"]["metrics"]["accuracy"]
        assert point.figures.test == certificate["test"]["compressed"]["metrics"]["accuracy"]
        assert point.bytes is not None
        assert point.bytes <= point.budget
        assert point.verdict == certificate["verdict"]
        missed = [gate for gate in certificate["gates"] if gate["status"] != "passed"]
        assert len(point.missed) == len(missed)
        for words, gate in zip(point.missed, missed, strict=True):
            assert gate["quantity"] in words
            assert f"{gate['measured']:.4g}, at most {gate['threshold']:g}" in words
    assert [bool(point.missed) for point in overview.points] == [False, False, True]


def test_every_report_has_the_curve_and_the_overview_leads_to_them(ran: tuple[Path, Ran]) -> None:
    folder, _ = ran
    page = (folder / "frontier.html").read_text()
    for label in ("0.5x", "290B", "150B"):
        assert f'href="{label}/report.html"' in page
        report = (folder / label / "report.html").read_text()
        assert f"{label}<small>this page</small>" in report
        assert report.count("<small>this page</small>") == 1
        assert "Accuracy on watch" in report
    assert "accuracy drop against" in page, "why a point failed"


def test_a_report_is_written_once_a_point(ran: tuple[Path, Ran]) -> None:
    assert ran[1].err.count("report ...") == 3


def test_a_point_starts_from_what_the_one_above_it_learned(ran: tuple[Path, Ran]) -> None:
    folder, _ = ran
    first, *later = (
        len((folder / label / "history.jsonl").read_text().splitlines()) for label in ("0.5x", "290B", "150B")
    )
    assert (first, later) == (3, [2, 2])  # half of three epochs, and no fewer than two


def test_what_a_larger_point_lost_is_told_of_it_and_not_of_an_epoch(ran: tuple[Path, Ran]) -> None:
    folder, _ = ran

    def rows(label: str) -> list[dict[str, Any]]:
        lines = (folder / label / "channels.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    assert rows("0.5x")[0]["epoch"] == 1
    told = 0
    for label in ("290B", "150B"):
        start = rows(label)[0]
        assert start["epoch"] == 0
        for layer, depths in start["layers"].items():
            text = sgsc_edge("explain", folder / label, layer).out
            before = [number for number, depth in enumerate(depths) if not depth]
            assert ("gone before, in the model of a larger budget" in text) == bool(before)
            told += len(before)
    assert told


def test_the_text_is_a_table_and_nothing_is_made_again(ran: tuple[Path, Ran]) -> None:
    folder, _ = ran
    (folder / "7kB").mkdir()
    (folder / "7kB" / "manifest.json").write_text("{}")
    before = files(folder)
    again = sgsc_edge(
        *("build", folder.parents[1], "--target", TARGET, "--out", folder.parent),
        *("--budget", "290B,0.5x,150B"),
    )
    assert again.code == 1
    assert " ...\n" not in again.err.replace("bytes ...", "")
    lines = [line.split() for line in again.out.splitlines()]
    assert lines[0][-2:] == ["flips", "verdict"]
    assert [line[0] for line in lines[1:6]] == ["float", "8", "0.5x", "290B", "150B"]
    assert [line[-1] for line in lines[1:5]] == ["reference", "reference", "passed", "passed"]
    assert "failed: compression (compressed): accuracy drop against " in again.out
    paths = [str(folder / label) for label in ("0.5x", "290B", "150B")]
    assert "\n".join([f"{TARGET} in", *paths, "report: "]) in again.out
    assert f"earlier builds, none of this run: {folder / '7kB'}\n" in again.out
    assert files(folder) == before
    shutil.rmtree(folder / "7kB")


def test_one_budget_given_twice_is_an_ordinary_build(ran: tuple[Path, Ran], tmp_path: Path) -> None:
    """Refused here, for that is soonest."""
    done = sgsc_edge(
        *("build", ran[0].parents[1], "--target", TARGET, "--out", tmp_path),
        *("--budget", "100B,0.1kB", "--json"),
    )
    assert done.code == 2
    assert "the budgets 100B and 100B are the same; it is an ordinary build" in done.err
    (build,) = done.document["builds"]
    assert build["folder"] == str(tmp_path / TARGET)
    assert (build["error"]["where"], "budget" in build) == ("--budget", False)


def test_killed_in_its_second_point_it_keeps_the_first_and_ends_alike(
    ran: tuple[Path, Ran], tmp_path: Path
) -> None:
    folder, _ = ran
    out = tmp_path / "build"
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "build", str(folder.parents[1]), "-t", TARGET]
    budgets = ["--out", str(out), "--budget", "318B,290B"]
    process = subprocess.Popen([*command, *budgets], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    second = out / TARGET / "290B"
    deadline = time.monotonic() + 240
    while not (second / ".compress.checkpoint.pt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    first = {name: sha256_file(out / TARGET / "318B" / name) for name in KEPT}
    assert not (second / "certificate.json").exists()
    again = sgsc_edge(*command[3:], *budgets)
    assert again.code == 0, again.err
    assert "going on after epoch" in again.err
    assert {name: sha256_file(out / TARGET / "318B" / name) for name in KEPT} == first
    # 0.5x and 318 B are the same bytes, and so are the models.
    for label, other in (("318B", "0.5x"), ("290B", "290B")):
        for name in ("model.tflite", "compressed.safetensors", ".learned.safetensors"):
            assert sha256_file(out / TARGET / label / name) == sha256_file(folder / other / name)


def test_a_budget_that_cannot_be_met_is_refused_before_the_largest_is_trained(
    ran: tuple[Path, Ran], tmp_path: Path
) -> None:
    project = ran[0].parents[1]
    done = sgsc_edge(
        "build", project, "--target", TARGET, "--out", tmp_path, "--budget", "300B,100B", "--json"
    )
    assert done.code == 2
    (build,) = done.document["builds"]
    assert "a budget of 100 bytes cannot be met" in build["error"]["message"]
    assert build["error"]["where"] == "--budget: 100B"
    assert done.document["frontiers"] == []
    assert not list(tmp_path.rglob("history.jsonl"))


def test_a_point_that_does_not_fit_the_board_keeps_no_other_from_being_tried(
    ran: tuple[Path, Ran], tmp_path: Path
) -> None:
    """Each is compressed already, and goes as far as it can; what was built before stands."""
    project = tmp_path / "project"
    shutil.copytree(ran[0].parents[1], project)
    folder = project / "build" / TARGET
    before = (folder / "frontier.json").read_bytes()
    board = small_board(tmp_path, flash="1 KiB")
    done = sgsc_edge(
        *("build", project, "--target", TARGET, "--out", project / "build", "--board", board),
        *("--budget", "0.5x,290B,150B", "--json"),
    )
    assert done.code == 2, done.err
    assert [Path(build["folder"]).name for build in done.document["builds"]] == ["0.5x", "290B", "150B"]
    for build in done.document["builds"]:
        assert "bytes of flash" in build["error"]["message"]
    assert "compress ..." not in done.err
    assert done.document["frontiers"] == []
    assert (folder / "frontier.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "3kB,6"), "--budget: '6' is not a size"),
        (("--budget", "3zB"), "command line: 1 problem"),
        (("--budget", "3zB"), "--budget: '3zB' is not a size such as \"6 kB\""),
        (("--budget", "3kB,,4kB"), "in '3kB,,4kB'"),
        (("--floor", "2"), "compress.floor of an accuracy is a share"),
        (("--budget", "3kB", "--floor", "0.9"), "a budget and a floor exclude each other"),
        (("--budget", ""), "'' is not a size"),
        (("--floor", "high"), "'high' is not a number such as 0.97, a share for an accuracy"),
        (("--floor", "97%"), "Did you mean 0.97?"),
        (("--floor", "nan"), "--floor: must be a finite number"),
        (("--budget", "2kB", "--method", "ptq"), "--method, --budget: method 'ptq' takes no budget"),
        (("--budget", "1kB,2kB", "--method", "qat8"), "--method, --budget: method 'qat8' takes no budget"),
        (("--floor", "0.97", "--method", "qat8"), "--method, --floor: method 'qat8' takes no floor"),
        (("--budget", "3kB", "--set", "compress.gamma=1"), "budget and gamma exclude each other"),
    ],
)
def test_goals_that_are_wrong_are_refused(
    project: Callable[..., Path], options: tuple[str, ...], message: str
) -> None:
    done = sgsc_edge("build", project(), "--target", TARGET, *options)
    assert done.code == 2
    assert message in done.err
