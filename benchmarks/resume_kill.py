"""A build that is killed and started again: does it end with the files of an unbroken one?

Digits under a budget, with a control, so that every stage is there, and few epochs. A first build runs
unbroken; its duration is cut into equal parts, and in each part, at a random moment, a build from scratch is
killed (SIGKILL to all of its processes) and started again with the same command until it is done::

    python -m benchmarks.resume_kill [--moments 50] [--seed 0]

What is compared are all files that a user sees; a temporary file that a killed writer left behind counts as a
difference.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.record import ROOT, TARGET, WORK, Row, command, finish, run
from sgsc_edge.artifacts import sha256_file

SETTINGS = ("compress.budget=0.08x", "model.saw_pool=true", "compress.epochs=4")


@dataclass(frozen=True)
class Killed:
    """One build that was killed.

    Parameters
    ----------
    moment: seconds from its start to the kill.
    stage: that it was in; "start" before the first.
    differing: files that are not the unbroken build's, by name.
    """

    moment: float
    stage: str
    differing: tuple[str, ...]


def main() -> int:
    """Build once unbroken, then once for each moment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    project = WORK / "resume-kill"
    shutil.rmtree(project, ignore_errors=True)
    ignored = shutil.ignore_patterns("build", "float.*", "__*")
    shutil.copytree(ROOT / "examples/digits", project, ignore=ignored)
    run(sys.executable, project / "train.py")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    build = [command(), "build", project, "--target", TARGET, *settings]
    started = time.perf_counter()
    until_done([*build, "--out", project / "unbroken"])
    seconds = time.perf_counter() - started
    whole = digests(project / "unbroken" / TARGET)
    killed = [
        kill_once(build, project / f"killed-{index}", share, seconds, whole)
        for index, share in enumerate(spread(options.moments, options.seed))
    ]
    return finish("resume_kill", rows(killed, seconds), {"killed": [asdict(one) for one in killed]})


def spread(count: int, seed: int) -> list[float]:
    """One random moment in each of ``count`` equal parts of a build, as shares of its duration.

    >>> [round(share, 2) for share in spread(3, 0)]
    [0.28, 0.59, 0.81]
    """
    generator = random.Random(seed)
    return [(part + generator.random()) / count for part in range(count)]


def kill_once(
    build: Sequence[str | Path], out: Path, share: float, seconds: float, whole: dict[str, str]
) -> Killed:
    """Kill a build from scratch, start it again until it is done, and compare its files.

    ``share`` of the duration ``seconds`` is when; a build that is done by then tells a better duration.
    """
    stage = None
    while stage is None:
        shutil.rmtree(out, ignore_errors=True)
        moment, started = share * seconds, time.perf_counter()
        stage = killed_stage([*build, "--out", out], moment, out.with_suffix(".log"))
        seconds = time.perf_counter() - started
    until_done([*build, "--out", out])
    found = digests(out / TARGET)
    names = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
    print(f"killed after {moment:.1f} s in {stage}: {', '.join(names) or 'no'} file differs", file=sys.stderr)
    return Killed(moment, stage, tuple(names))


def killed_stage(build: Sequence[str | Path], moment: float, log: Path) -> str | None:
    """Run a command and kill it after ``moment`` seconds; the stage it was in, None if it was done before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in build],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            started = [line for line in log.read_text().splitlines() if line.endswith(" ...")]
            return started[-1].removesuffix(" ...").split()[-1] if started else "start"
    if process.returncode not in (0, 1):
        raise SystemExit(f"exit code {process.returncode}, see {log}")
    return None


def until_done(build: Sequence[str | Path]) -> None:
    """Run a command to its end; a gate that fails is an end too."""
    run(*build, allowed=(0, 1))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that a build leaves for its user, and of what killed writers left behind."""
    files = (path for path in folder.iterdir() if not path.name.startswith(".") or path.suffix == ".tmp")
    return {path.name: sha256_file(path) for path in files}


def rows(killed: Sequence[Killed], seconds: float) -> list[Row]:
    """How many ended as the unbroken build did, and where they were hit."""
    same, count = sum(not one.differing for one in killed), len(killed)
    stages = collections.Counter(one.stage for one in killed)
    return [
        Row(
            f"killed at {count} random moments: artifacts with the hashes of an unbroken run",
            f"{same} of {count}",
            f"{count} of {count}",
            same == count,
        ),
        Row("stages that the kills hit", ", ".join(f"{name} {hits}" for name, hits in stages.items())),
        Row("duration of the unbroken run", f"{seconds:.0f} s"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
