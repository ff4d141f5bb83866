"""Rows that are run, kept, and found again.

A finished row is a JSON file and an archive of the pool's outcomes in ``benchmarks/rows/<subject>/<seed>``,
which are part of the repository: the tables can be made again, and rows added, without hours of training.
A row holds for the settings, the project, the float model, the code and the schedule that its key was made
of. A run that is killed goes on after its last epoch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paper.measure import Bytes, Outcome, Scores, judge_compressed, judge_float
from benchmarks.paper.methods import make, select, train_longer
from benchmarks.paper.subjects import Subject
from benchmarks.paper.variants import UNCOMPRESSED, Case, cases
from benchmarks.record import ROWS, WORK
from sgsc_edge.artifacts import content_key, read_json, read_npz, sources_hash, write_json, write_npz
from sgsc_edge.compression.compress import CONTROLLER_LOG, HISTORY, float_bytes
from sgsc_edge.errors import ConfigError
from sgsc_edge.pipeline.context import Build
from sgsc_edge.project import load_project
from sgsc_edge.targets import load_target

TRAIN_SAMPLES = 5_000
"""Of the training samples, evenly spaced, for the gap between training and test."""

THREADS = 1
"""Of every row (rows are run side by side); another number rounds sums in another order."""

FROM_POOL = ("watch", "certify")
"""Parts of the preservation set that are measured as samples of the pool."""

_PACKAGE = Path(__file__).parents[2] / "sgsc_edge"
_TRAINING_CODE = ("compression", "preservation", "project")
_TRAINED_FOR = {"format", "activations", "weights", "limits", "code"}
"""Of a target; which runtimes judge it, and what they execute, changes no training."""
_TRAINING_MODULES = ("numerics.py", "placement.py", "size.py")


@dataclass(frozen=True, eq=False)
class Result:
    """One row of one seed.

    Parameters
    ----------
    figures: plain values; ``watch`` and ``certify`` are positions in the pool.
    scores: of some training samples ("train"), the whole pool and the test set, by these names.
    pool: sample by sample.
    """

    figures: dict[str, Any]
    scores: dict[str, Scores]
    pool: Outcome


@dataclass(frozen=True)
class Run:
    """A row of one seed.

    Parameters
    ----------
    root: what is kept of all subjects.
    work: scratch.
    """

    case: Case
    seed: int
    root: Path = ROWS
    work: Path = WORK / "paper"

    @property
    def folder(self) -> Path:
        """What is kept of the seed."""
        return self.root / self.case.subject.name / str(self.seed)

    @property
    def scratch(self) -> Path:
        """The seed's builds and choices of a preservation set."""
        return self.work / self.case.subject.name / str(self.seed)

    @cached_property
    def build(self) -> Build:
        """The project with the row's settings; raises ``ConfigError`` for a key that is unknown."""
        project = load_project(self.case.subject.train(self.seed), self.case.settings(self.seed))
        target = load_target(self.case.subject.target)
        return Build(project, target, self.scratch / self.case.name)

    @cached_property
    def key(self) -> str:
        """Of everything that the row follows from."""
        project = self.build.project
        how = [self.case.variant.how, self.case.budget, TRAIN_SAMPLES, THREADS]
        target = self.build.target.model_dump(mode="json", include=_TRAINED_FOR)
        return content_key(project.config_hash(), project.source_hash(), target, how, training_code())

    def needs(self) -> str | None:
        """The row's settings where this version lacks some of them; None where it can be run.

        Raises ``ConfigError`` where the project is wrong without them, too.
        """
        try:
            _ = self.build
        except ConfigError:
            plain = dataclasses.replace(
                self.case, variant=dataclasses.replace(self.case.variant, settings=())
            )
            load_project(self.case.subject.train(self.seed), plain.settings(self.seed))
            return ", ".join(self.case.variant.settings)
        return None

    def kept(self) -> Result | None:
        """The row, if it has been run with the same key."""
        path = self.folder / f"{self.case.name}.json"
        if not path.is_file():
            return None
        figures = read_json(path)
        if not isinstance(figures, dict) or figures.pop("key", None) != self.key:
            return None
        scores = {name: Scores.read(one) for name, one in figures.pop("scores").items()}
        return Result(figures, scores, Outcome.read(read_npz(path.with_suffix(".npz"))))

    def result(self) -> Result:
        """The row, run now where it is not kept."""
        return self.kept() or self._run()

    def _run(self) -> Result:
        build = dataclasses.replace(self.build)  # another one: its data sets go when the row is finished
        build.folder.mkdir(parents=True, exist_ok=True)
        select(build, self.scratch / "selections")
        data, train = build.data, build.data.rest
        spaced = train.take(range(0, len(train), max(len(train) // TRAIN_SAMPLES, 1)))
        measured = {"train": spaced, "pool": data.pool} | ({} if data.test is None else {"test": data.test})
        samples = {name: part.tensors() for name, part in measured.items()}
        how = self.case.variant.how
        if how in UNCOMPRESSED:
            model, seconds = (build.model, 0.0) if how == "float" else train_longer(build, self.key)
            outcomes = {name: judge_float(model, *part) for name, part in samples.items()}
            size = float_bytes(build.model)
            figures: dict[str, Any] = {"learned": size, "in_8_bits": size, "seconds": seconds}
        else:
            made = make(build, self.case, self.key)
            started = time.monotonic()
            outcomes = {name: judge_compressed(made.model, *part) for name, part in samples.items()}
            judged = time.monotonic() - started
            figures = {**asdict(Bytes.of(made.model)), "seconds": made.seconds, "judged_seconds": judged}
            figures["actions"] = len(read_lines(build.folder / CONTROLLER_LOG))
            figures["history"] = read_lines(build.folder / HISTORY)
        place = {digest: index for index, digest in enumerate(data.pool.hashes)}
        for name in FROM_POOL:
            figures[name] = [place[digest] for digest in build.samples.parts[name].hashes]
        scores = {name: Scores.of(one, samples[name][1]) for name, one in outcomes.items()}
        result = Result(figures, scores, outcomes["pool"])
        self._keep(result)
        return result

    def _keep(self, result: Result) -> None:
        """The JSON comes last: a row that has one is whole."""
        path = self.folder / f"{self.case.name}.json"
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path.with_suffix(".npz"), result.pool.arrays())
        scores = {name: asdict(one) for name, one in result.scores.items()}
        write_json(path, {"key": self.key, "scores": scores, **result.figures})
        shutil.rmtree(self.scratch / self.case.name, ignore_errors=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The documents of a ``.jsonl`` file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def training_code() -> str:
    """Hash of the code and packages that rows follow from; what only exports or reports is not in it."""
    rooms = [sources_hash(_PACKAGE / room) for room in _TRAINING_CODE]
    modules = [(_PACKAGE / name).read_text(encoding="utf-8") for name in _TRAINING_MODULES]
    own = [
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("baselines.py", "methods.py", "measure.py")
    ]
    return content_key(rooms, modules, own, torch.__version__, np.__version__)


def subject_runs(subject: Subject, names: tuple[str, ...], seeds: tuple[int, ...]) -> list[Run]:
    """The runs of rows by name (all where none is named): a variant's, or of one size of it."""
    chosen = [case for case in cases(subject) if not names or {case.name, case.variant.name} & set(names)]
    return [Run(case, seed) for seed in seeds for case in chosen]
