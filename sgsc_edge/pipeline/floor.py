"""The search for the smallest model whose watch metric keeps above ``compress.floor``.

Each try is a compression of its own in ``.search/`` of the build folder, kept with its result, so a killed
search goes on. What is judged are the integers that would ship, on the watch samples; certify and test
samples take no part. What is found becomes the build's compressed model.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray

from sgsc_edge.artifacts import (
    content_key,
    read_bytes,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
)
from sgsc_edge.certification.metrics import METRICS, Metric, OutputGrid
from sgsc_edge.compression.compress import PLAN, Compression
from sgsc_edge.compression.floor_search import Found, Trial, search
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.snapshot import SNAPSHOT, read_snapshot
from sgsc_edge.errors import ConfigError, FileFormatError, NotMeasuredError
from sgsc_edge.pipeline.context import COMPRESSED, MAX_BYTES, Build
from sgsc_edge.pipeline.recording import Judge, compressed_integers, float_logits
from sgsc_edge.report.search import SEARCH, SEARCH_SCHEMA

log = logging.getLogger("sgsc_edge")

SHORT_SHARE = 0.25
"""Share of the epochs that a short try takes."""

_FOLDER = ".search"
_TRIAL = "trial.json"
_CHECKPOINT = ".compress.checkpoint.pt"


def check_floor(build: Build) -> None:
    """Refuse a floor that the float model itself misses.

    Raises
    ------
    ConfigError: it does, on the watch samples.
    """
    watch = _Watch(build)
    inputs, labels = watch.samples
    value, _ = watch.measured(float_logits(build, inputs).astype(np.float64))
    if not watch.holds(value):
        there = "lower" if watch.metric.higher_is_better else "raise"
        raise ConfigError(
            f"the float model's own {watch.metric.name} on the {len(labels)} watch samples is {value:.4f}, "
            f"which misses the floor of {watch.floor:g}",
            where=build.project.where("compress", "floor"),
            remedy=f"{there} it, or give a better float model",
        )


def find_smallest(build: Build, key: str, outputs: Sequence[str]) -> None:
    """Search, copy the files ``outputs`` of the try that was chosen, and write :data:`SEARCH`."""
    watch, compression = _Watch(build), build.compression()
    whole, smallest = compression.span()
    runs = _Runs(build.folder / _FOLDER, compression, watch, key)
    found = search(runs.attempt, watch.score(watch.floor), whole, smallest)
    folder = runs.place(found.best.budget, thorough=found.best.thorough)
    for name in outputs:
        write_bytes(build.folder / name, read_bytes(folder / name, MAX_BYTES))
    write_json(build.folder / SEARCH, _document(found, watch, whole, runs.bytes_of))
    runs.remove_others(found)
    if not found.reached:
        log.warning(
            "compress: the watch %s misses the floor of %g at every size; the best is %.4f",
            watch.metric.name,
            watch.floor,
            watch.score(found.best.score),
        )


class _Watch:
    """The gate's metric on the watch samples, and its floor."""

    def __init__(self, build: Build) -> None:
        assert build.floor is not None
        self.build, self.floor = build, build.floor
        self.metric: Metric = METRICS[build.project.config.gate.metric]
        self.samples = build.samples.parts["watch"].tensors()
        self._judge = Judge(self.metric, build.untrained.quantized().ends_with_softmax)

    def score(self, value: float) -> float:
        """A value of the metric as one of which more is better, and back."""
        return value if self.metric.higher_is_better else -value

    def holds(self, value: float) -> bool:
        """Whether a value is on the right side of the floor."""
        return self.score(value) >= self.score(self.floor)

    def of(self, compressed: CompressedModel) -> tuple[float, float]:
        """The metric of a compressed model's integers, and its standard error."""
        grid = OutputGrid(float(compressed.output.scale), int(compressed.output.zero_point))
        return self.measured(grid.to_real(compressed_integers(compressed, self.samples[0])))

    def measured(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """The metric of outputs [n, K], of sequences [n, T, K], and its standard error."""
        found = self._judge.with_error(values, self.samples[1].numpy())
        if found is None:
            raise NotMeasuredError(
                f"the {self.metric.name} of the watch samples cannot be measured: outputs are not finite",
                where="compress.floor",
                remedy="lower compress.learning_rate",
            )
        return found


class _Runs:
    """Tries of one search, each in a folder of its own; one that was made under the same key stays.

    Parameters
    ----------
    key: of everything that the tries follow from, beside what tells them apart.
    """

    def __init__(self, folder: Path, compression: Compression, watch: _Watch, key: str) -> None:
        self._folder, self._compression, self._watch, self._key = folder, compression, watch, key

    def place(self, budget: int, *, thorough: bool) -> Path:
        """The folder of a try."""
        return self._folder / f"{budget}-{'long' if thorough else 'short'}"

    def bytes_of(self, trial: Trial) -> int:
        """What the layers of a try take as they are stored."""
        plan: Any = read_json(self.place(trial.budget, thorough=trial.thorough) / PLAN)
        return int(plan["bytes"])

    def remove_others(self, found: Found) -> None:
        """Drop what tries of an earlier search left that this one has not made use of."""
        used = {self.place(trial.budget, thorough=trial.thorough).name for trial in found.trials}
        for path in self._folder.iterdir():
            if path.name not in used and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def attempt(self, budget: int, above: int | None, *, thorough: bool) -> Trial:
        """See :class:`sgsc_edge.compression.floor_search.Attempt`."""
        folder = self.place(budget, thorough=thorough)
        start = None if above is None else self.place(above, thorough=False) / SNAPSHOT
        key = content_key(self._key, budget, above, thorough, start and sha256_file(start))
        trial = _read_trial(folder / _TRIAL, key)
        if trial is None:
            log.info("compress: trying %d bytes%s ...", budget, " thoroughly" if thorough else "")
            compressed = self._how(budget, start, thorough=thorough).run(folder, key)
            write_bytes(folder / COMPRESSED, safetensors.torch.save(compressed.tensors()))
            value, error = self._watch.of(compressed)
            trial = Trial(budget, above, thorough, self._watch.score(value), error)
            write_json(folder / _TRIAL, {"key": key, **asdict(trial)})
            (folder / _CHECKPOINT).unlink(missing_ok=True)  # a try that is done goes on nowhere
        value = self._watch.score(trial.score)
        log.info("compress: %d bytes: watch %s %.4f", budget, self._watch.metric.name, value)
        return trial

    def _how(self, budget: int, start: Path | None, *, thorough: bool) -> Compression:
        whole = self._compression
        tried = whole if start is None else whole.going_on(read_snapshot(start))
        short = max(round(SHORT_SHARE * whole.recipe.epochs), 2)  # one to learn depths, one to settle
        epochs = tried.recipe.epochs if thorough else min(short, tried.recipe.epochs)
        return replace(
            tried, goal=replace(whole.goal, budget=budget), recipe=replace(tried.recipe, epochs=epochs)
        )


def _read_trial(path: Path, key: str) -> Trial | None:
    """A try that was made under ``key``; None where there is none that can be read."""
    try:
        document = read_json(path)
        if not isinstance(document, dict) or document.pop("key", None) != key:
            return None
        return Trial(**document)
    except (FileFormatError, TypeError):
        return None


def _document(found: Found, watch: _Watch, whole: int, bytes_of: Callable[[Trial], int]) -> dict[str, Any]:
    """What :data:`SEARCH` holds."""
    return {
        "schema": SEARCH_SCHEMA,
        "metric": watch.metric.name,
        "floor": watch.floor,
        "samples": len(watch.samples[1]),
        "whole": whole,
        "trials": [
            {
                "budget": trial.budget,
                "above": trial.above,
                "thorough": trial.thorough,
                "watch": watch.score(trial.score),
                "error": trial.error,
                "chosen": trial == found.best,
                "bytes": bytes_of(trial),
            }
            for trial in found.trials
        ],
        "reached": found.reached,
    }
