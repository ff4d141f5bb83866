"""What every benchmark shares: rows, the environment they hold for, and where results are kept."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import write_json

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
IMAGES = ROOT / "docs" / "images"
ROWS = Path(__file__).parent / "rows"
"""Rows of benchmarks that take hours, kept one by one; part of the repository."""
FLOATS = Path(__file__).parent / "floats"
"""Float checkpoints that several benchmarks start from; part of the repository."""
WORK = Path(__file__).parent / "build"
"""Scratch for builds that a benchmark makes; git-ignored, removed by ``make clean``."""

TARGET = "tflite-int8"
STAMPED = ("torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "tflite-micro")


@dataclass(frozen=True)
class Row:
    """One measured figure: what was measured, the value as text, the limit as text, whether it is met.

    ``limit`` is empty and ``met`` None for figures that only inform.
    """

    measure: str
    value: str
    limit: str = ""
    met: bool | None = None

    def markdown(self) -> str:
        """The row of a table with the columns measure, value, limit, met."""
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return f"| {self.measure} | {self.value} | {self.limit} | {met} |"


@dataclass(frozen=True)
class Table:
    """A table of its own columns beside the rows; the first column is text, the others are figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Title and table."""
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


@dataclass(frozen=True)
class Picture:
    """A file in docs/images, and what it shows in words."""

    name: str
    text: str

    def markdown(self) -> str:
        """For a page in docs."""
        return f"![{self.text}](images/{self.name})"


HEADER = "| measure | value | limit | met |\n|---|---|---|---|"


def equal_integers(measure: str, outputs: NDArray[np.int8], expected: NDArray[np.int8]) -> Row:
    """How many integers [n, K] differ; no outputs at all, or of another shape or dtype, end the benchmark."""
    if outputs.shape != expected.shape or outputs.dtype != expected.dtype or not outputs.size:
        raise SystemExit(f"{measure}: outputs {outputs.shape} {outputs.dtype}, expected {expected.shape}")
    differing = int((outputs != expected).sum())
    value = f"{differing} of {outputs.size:,} ({len(outputs):,} samples)"
    return Row(measure, value, "0", differing == 0)


def environment() -> dict[str, object]:
    """Processor, Python, package versions and the commit that a measurement holds for."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in STAMPED},
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def finish(
    name: str,
    rows: Sequence[Row],
    detail: Mapping[str, object] | None = None,
    *,
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
) -> int:
    """Write the result file, print the tables; 1 when a limit is not met, else 0."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "benchmark": name,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
        "detail": dict(detail or {}),
    }
    if tables:
        result["tables"] = [asdict(table) for table in tables]
    if pictures:
        result["pictures"] = [asdict(picture) for picture in pictures]
    write_json(RESULTS / f"{name}.json", result)
    print(HEADER, *(row.markdown() for row in rows), sep="\n")
    for table in tables:
        print("", table.markdown(), sep="\n")
    return int(any(row.met is False for row in rows))


def read_rows(path: Path) -> tuple[list[Row], dict[str, object]]:
    """The rows and the environment of a result file."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return [Row(**row) for row in result["rows"]], result["environment"]


def read_shown(path: Path) -> list[Table | Picture]:
    """The tables and pictures of a result file."""
    result = json.loads(path.read_text(encoding="utf-8"))
    tables = [
        Table(one["title"], tuple(one["columns"]), tuple(map(tuple, one["rows"])))
        for one in result.get("tables", ())
    ]
    return [*(Picture(**one) for one in result.get("pictures", ())), *tables]


def run(*command: str | Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command from the repository's top, its output on standard error.

    An exit code that is not ``allowed`` ends the benchmark: what follows would measure something else.
    """
    done = subprocess.run([str(part) for part in command], cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"exit code {done.returncode} from: {' '.join(map(str, command))}")


def trained(example: str, seed: int, model: Path | None = None) -> Path:
    """A copy of an example with a float checkpoint of its own; made once, and kept in :data:`FLOATS`.

    ``model``: a file with another network in place of the example's, whose checkpoint is not kept.
    """
    project = WORK / (f"{example}-{seed}" if model is None else f"{example}-{model.stem}-{seed}")
    if not (project / "float.safetensors").is_file():
        ignored = shutil.ignore_patterns("build", "float.*", "__*")
        shutil.copytree(ROOT / "examples" / example, project, ignore=ignored, dirs_exist_ok=True)
        if model is not None:
            shutil.copyfile(model, project / "model.py")
        own_float(project, seed, kept=model is None)
    return project


def own_float(project: Path, seed: int, *, kept: bool = True) -> None:
    """Give a project its float checkpoint: the kept one, else train it (and keep it)."""
    known, own = FLOATS / f"{project.name}.safetensors", project / "float.safetensors"
    if kept and known.is_file():
        shutil.copyfile(known, own)
        return
    run(sys.executable, project / "train.py", "--seed", str(seed))
    if kept:
        FLOATS.mkdir(exist_ok=True)
        shutil.copyfile(own, known)


def build(project: Path, out: Path, *options: str, target: str = TARGET) -> Path:
    """Build a project for a target and return the build folder.

    A build whose gate fails (exit code 1) is measured like any other: the figures are about all of them.
    """
    run(command(), "build", project, "--target", target, "--out", out, *options, allowed=(0, 1))
    return out / target


def command() -> Path:
    """The ``sgsc-edge`` command beside this interpreter."""
    return Path(sys.executable).with_name("sgsc-edge")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit's short name, with ``+changes`` when the package differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "sgsc_edge", "targets", "examples")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
