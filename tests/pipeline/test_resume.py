"""A build that dies goes on to the same files: killed at any moment, or between any two of its writes."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline.conftest import CONFIG, sgsc_edge

from sgsc_edge import api
from sgsc_edge.artifacts import Earlier, sha256_file
from sgsc_edge.pipeline import road
from sgsc_edge.pipeline.context import Build
from sgsc_edge.pipeline.stages import STAGES

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks.resume_kill import Killed, kill_once, rows, spread  # noqa: E402

TARGET = "tflite-int8"
# With a control, a budget and few epochs: every stage that there is without a board.
SMALL = CONFIG.replace("saw_pool = false\n", "").replace("epochs = 3", 'epochs = 2\nbudget = "400 B"')
MOMENTS = 1  # benchmarks/resume_kill.py has fifty
UNDER_A_BUDGET = [stage for stage in STAGES if stage.name not in ("fit", "floor", "search")]


class DiedError(BaseException):
    """Stands in for a kill: nothing handles it."""


def files(folder: Path) -> dict[str, str]:
    """Everything but the lock and what only training needs."""
    passing = (".lock", ".compress.checkpoint.pt", ".control.checkpoint.pt")
    return {path.name: sha256_file(path) for path in folder.iterdir() if path.name not in passing}


def test_killed_at_random_moments_it_ends_with_the_same_files(project: Callable[..., Path]) -> None:
    folder = project(config=SMALL)
    build = (sys.executable, "-m", "sgsc_edge.cli.main", "build", folder, "--target", TARGET)
    started = time.perf_counter()
    ran = sgsc_edge(*build[3:], "--out", folder / "whole")
    seconds = time.perf_counter() - started
    assert ran.code == 0, ran.err
    whole = {name: digest for name, digest in files(folder / "whole" / TARGET).items() if name[0] != "."}
    for index, share in enumerate(spread(MOMENTS, seed=1)):
        killed = kill_once(build, folder / f"killed-{index}", share, seconds, whole)
        assert killed.differing == ()
        assert killed.stage


def test_a_build_that_dies_after_each_of_its_writes_ends_with_the_same_files(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of runs: each dies where no run before it did, as soon as it has written a file of a stage."""
    folder = project(config=SMALL)
    api.build(folder, targets=[TARGET], out=folder / "whole")
    rename = Path.replace
    died: dict[str, list[str]] = {stage.name: [] for stage in UNDER_A_BUDGET}

    def dying(self: Path, target: Path) -> Path:
        if self.suffix != ".tmp":  # what is kept of an earlier build, or put back
            return rename(self, target)
        stamps = folder / "dying" / TARGET / ".stamps.json"
        done = len(json.loads(stamps.read_text())) if stamps.exists() else 0
        # Of a stage that was done before the build was stopped, the files are copied once more.
        here = died[UNDER_A_BUDGET[done].name] if done < len(UNDER_A_BUDGET) else [target.name]
        moved = rename(self, target)
        if target.name not in here:
            here.append(target.name)
            raise DiedError
        return moved

    leave = Earlier.__exit__

    def leaving(self: Earlier, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:  # whoever is killed puts nothing back
            leave(self, kind, error, trace)

    monkeypatch.setattr(Path, "replace", dying)
    monkeypatch.setattr(Earlier, "__exit__", leaving)
    alive = False
    while not alive:
        with contextlib.suppress(DiedError):
            api.build(folder, targets=[TARGET], out=folder / "dying")
            alive = True
    for stage in UNDER_A_BUDGET:
        checkpoint = [f".{stage.name}.checkpoint.pt"] if stage.name in ("control", "compress") else []
        assert sorted(died[stage.name]) == sorted([*stage.outputs, *checkpoint, ".stamps.json"])
    assert files(folder / "dying" / TARGET) == files(folder / "whole" / TARGET)


def test_an_epoch_lost_between_checkpoint_and_history_is_in_the_history_again(built: Path) -> None:
    history = built / "build" / TARGET / "history.jsonl"
    whole = history.read_bytes()
    history.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    ran = sgsc_edge("build", built, "--target", TARGET, "--out", built / "build")
    assert ran.code == 0, ran.err
    assert history.read_bytes() == whole
    assert "going on after epoch 3" in ran.err


def test_what_a_killed_writer_left_is_removed(built: Path) -> None:
    folder = built / "build" / TARGET
    (folder / ".model.tflite.4711.0123abcd.tmp").write_bytes(b"half")
    (folder / "notes.tmp").write_text("the user's own")
    assert sgsc_edge("build", built, "--target", TARGET, "--out", built / "build").code == 0
    assert [path.name for path in folder.glob("*.tmp")] == ["notes.tmp"]


def test_the_benchmark_counts_builds_that_differ() -> None:
    killed = [Killed(1.0, "compress", ()), Killed(2.0, "export", ("model.tflite",))]
    first, stages, _ = rows(killed, 3.0)
    assert (first.value, first.limit, first.met) == ("1 of 2", "2 of 2", False)
    assert stages.value == "compress 1, export 1"


# --- what stages follow ----------------------------------------------------------------------------


def test_the_controllers_baseline_is_the_controls(project: Callable[..., Path]) -> None:
    """Also in a build that was never stopped: the guard is looked up when the control is there."""
    folder = project(config=SMALL)
    ((loaded, target),) = api.prepare(folder, [TARGET])
    this = Build(loaded, target, folder / "out")
    for stage in STAGES:
        if stage.name == "compress":
            break
        if stage.needed(this):
            stage.run(this, "key")
    last = json.loads((folder / "out" / "control.jsonl").read_text().splitlines()[-1])
    assert this.compression().guard.baseline == last["watch_accuracy"]


@pytest.mark.parametrize(
    ("setting", "again"),
    [
        ("compress.budget=300 B", {"rehearse", "compress"}),
        ("compress.method=qat8", {"rehearse", "compress"}),
        ("compress.batch_size=16", {"rehearse", "control", "compress"}),
        ("compress.epochs=3", {"control", "compress"}),
        ("compress.alpha=0.1", {"compress"}),
        ("gate.max_drop=0.5", {"compress"}),
        ("gate.max_lowering_flips=0.5", set()),
        ("project.name=other", set()),
        ("preservation.fraction=0.3", {"preserve"}),
        ("compress.seed=1", {"preserve", "control", "compress"}),
    ],
)
def test_a_stage_follows_the_settings_that_it_takes_and_no_others(
    project: Callable[..., Path], setting: str, again: set[str]
) -> None:
    """Up to compress; what the choice of samples changes shows in its file, which is the same here."""
    folder = project(config=SMALL)
    keys = []
    for settings in ((), (setting,)):
        ((loaded, target),) = api.prepare(folder, [TARGET], settings)
        this = Build(loaded, target, folder / "out")
        if not keys:
            STAGES[1].run(this, "key")
        keys.append({stage.name: stage.key(this) for stage in UNDER_A_BUDGET[:4]})
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == again


@pytest.mark.parametrize("code", ["as it was", "other"])
def test_other_code_makes_every_stage_run_again(
    built: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as in the build that was copied
    if code == "other":
        monkeypatch.setattr(road, "package_hash", lambda: code)
    ran: list[str] = []
    stages = [replace(stage, run=lambda build, key, name=stage.name: ran.append(name)) for stage in STAGES]
    monkeypatch.setattr(road, "STAGES", stages)
    api.build(built, targets=[TARGET], out=built / "build")
    wanted = [stage.name for stage in UNDER_A_BUDGET if stage.name != "control"]
    assert ran == (wanted if code == "other" else [])
