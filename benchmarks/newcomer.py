"""A newcomer's two ways in, each step as it is typed: how long it takes, and what is read on the way::

    python -m benchmarks.newcomer [--only checkout|wheel]

*checkout*: clone, ``make demo``, then a network of one's own (``newcomer_project/``, which knows nothing of
sgsc-edge): train, ``init --from``, ``doctor``, ``build``, ``verify``, ``package``. *wheel*: the wheel in an
empty environment, ``init --example digits``, train, ``build``, ``verify``, ``package``, ``boards`` and
``flash``; and the starter. Everything that is printed is kept in ``benchmarks/build/newcomer/``, for reading.
Installing is reported and not judged: it is the network's and the disk's time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.device.fresh import install, timed
from benchmarks.record import ROOT, WORK, Row, finish
from sgsc_edge.cli.main import COMMANDS

LIMIT_S = 600.0
BOARD = "virtual-cortex-m4"
OWN = Path(__file__).parent / "newcomer_project"
TRANSCRIPTS = WORK / "newcomer"
_TIME_LIMIT_S = 3600


@dataclass(frozen=True)
class Step:
    """A command as it was typed, the seconds that it took, its exit code and all that it printed."""

    line: str
    seconds: float
    code: int
    output: str


def main() -> int:
    """Walk both ways; a step that fails ends its way and fails the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["checkout", "wheel"])
    only = parser.parse_args().only
    rows: list[Row] = []
    detail: dict[str, object] = {}
    for name, way in {"checkout": checkout, "wheel": wheel}.items():
        if only in (None, name):
            with tempfile.TemporaryDirectory(prefix="sgsc-edge-newcomer-") as folder:
                made, steps = way(Path(folder))
            rows += made
            detail[name] = {step.line: step.seconds for step in steps}
    return finish("newcomer", rows, detail)


def checkout(home: Path) -> tuple[list[Row], list[Step]]:
    """From a clone to a package of one's own network."""
    shutil.copytree(OWN, home / "own")
    environment = clean(home, home / "sgsc-edge/.venv/bin")
    first = walk(home, environment, [f"git clone --quiet {ROOT} sgsc-edge", "make -C sgsc-edge demo"])
    lines = [
        "python train.py",
        "sgsc-edge init --from model.py:Net",
        "sgsc-edge doctor",
        *after_init(".", "build/tflite-int8"),
    ]
    steps = walk(home / "own", environment, lines) if well(first) else []
    keep("checkout", home, [*first, *steps])
    return [
        Row("clone, and `make demo` with its installation", total(first), "exit code 0", well(first)),
        row("a network of one's own: train, init, doctor, build, verify, package", steps),
    ], [*first, *steps]


def wheel(home: Path) -> tuple[list[Row], list[Step]]:
    """From a wheel in an empty environment to a virtual board."""
    install_s = timed(partial(install, home))
    environment = clean(home, home / "venv/bin")
    steps = walk(
        home,
        environment,
        [
            "sgsc-edge doctor",
            "sgsc-edge init --example digits demo",
            "python demo/train.py",
            *after_init("demo", "build/tflite-int8"),
            "sgsc-edge boards",
            f"sgsc-edge flash build/tflite-int8 --board {BOARD}",
        ],
    )
    starter = walk(
        home,
        environment,
        ["sgsc-edge init starter", "sgsc-edge build starter --target tflite-int8 --out built"],
    )
    keep("wheel", home, [*steps, *starter])
    return [
        Row("install of the wheel with its extras", f"{install_s:.0f} s"),
        row(f"wheel: example, train, build, verify, package, flash to {BOARD}", steps),
        row("wheel: the starter, from nothing to a certificate", starter),
    ], [*steps, *starter]


def after_init(project: str, built: str) -> list[str]:
    """The commands from a project to a package."""
    return [
        f"sgsc-edge build {project} --target tflite-int8",
        f"sgsc-edge verify {built}",
        f"sgsc-edge package {built} --format c-code",
        *([f"sgsc-edge report {built}"] if "report" in COMMANDS else []),
    ]


def clean(home: Path, programs: Path) -> dict[str, str]:
    """An environment without what a developer has set."""
    path = f"{programs}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def walk(folder: Path, environment: Mapping[str, str], lines: Sequence[str]) -> list[Step]:
    """Run the commands one after the other, up to the first that fails."""
    steps: list[Step] = []
    for line in lines:
        started = time.monotonic()
        done = subprocess.run(
            line.split(),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_TIME_LIMIT_S,
        )
        typed = line.replace(str(ROOT), "<repository>")
        steps.append(Step(typed, time.monotonic() - started, done.returncode, done.stdout))
        if done.returncode != 0:
            break
    return steps


def keep(name: str, home: Path, steps: Sequence[Step]) -> None:
    """Write what a newcomer reads to a file."""
    texts = (f"$ {step.line}\n{step.output}[exit code {step.code}, {step.seconds:.1f} s]\n" for step in steps)
    TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
    path = TRANSCRIPTS / f"{name}.txt"
    path.write_text("\n".join(texts).replace(str(home), "~"), encoding="utf-8")
    print(f"{name}: {path}")


def row(measure: str, steps: Sequence[Step]) -> Row:
    """Seconds of all steps against the limit; a failure among them does not meet it."""
    met = well(steps) and sum(step.seconds for step in steps) <= LIMIT_S
    return Row(measure, total(steps), f"≤ {LIMIT_S:g} s, exit code 0", met)


def total(steps: Sequence[Step]) -> str:
    """Seconds of the steps, and the command that failed, if one did."""
    failed = "".join(f"; exit code {step.code}: `{step.line}`" for step in steps if step.code)
    return f"{sum(step.seconds for step in steps):.0f} s{failed}"


def well(steps: Sequence[Step]) -> bool:
    """Whether there were steps, and every one ended with 0."""
    return bool(steps) and all(step.code == 0 for step in steps)


if __name__ == "__main__":
    raise SystemExit(main())
