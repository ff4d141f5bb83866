"""From an installed wheel to a flashed virtual board, without a system package: how long, and does it pass?

A wheel of this tree goes into a new environment in an empty folder, with the extras `build` and `device`;
there, with no compiler and no emulator on the path, the digits example is trained, built and flashed::

    python -m benchmarks.device.fresh

Installing is reported and not judged: it is the network's and the disk's time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.record import ROOT, Row, finish

LIMIT_S = 60.0
BOARD = "virtual-cortex-m4"
_HIDDEN = ("gcc", "cc", "clang", "arm-none-eabi-gcc", "qemu-system-arm", "zig")


def main() -> int:
    """Install, train, build, flash."""
    with tempfile.TemporaryDirectory(prefix="sgsc-edge-fresh-") as name:
        folder = Path(name)
        environment = {
            "PATH": str(folder / "venv" / "bin"),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        install_s = timed(partial(install, folder))
        shutil.copytree(
            ROOT / "examples/digits",
            folder / "digits",
            ignore=shutil.ignore_patterns("build", "float.*", "__*"),
        )
        if visible := [tool for tool in _HIDDEN if shutil.which(tool, path=environment["PATH"])]:
            raise SystemExit(f"the environment holds {', '.join(visible)}: nothing would be shown")
        steps = {
            "train": ["python", "train.py"],
            "build": ["sgsc-edge", "build", ".", "--target", "tflite-int8"],
            "flash": ["sgsc-edge", "flash", "build/tflite-int8", "--board", BOARD],
        }
        times = {
            step: timed(partial(call, line, folder / "digits", environment)) for step, line in steps.items()
        }
        certificate = json.loads((folder / f"digits/build/tflite-int8/certificate.{BOARD}.json").read_text())
    verdict, compiler = certificate["predicate"]["verdict"], certificate["predicate"]["toolchain"]
    total = sum(times.values())
    rows = [
        Row("install of the wheel with its extras", f"{install_s:.0f} s"),
        Row(
            f"digits: train, build, flash to {BOARD} ({compiler})",
            f"{' + '.join(f'{seconds:.0f}' for seconds in times.values())} s, {verdict}",
            f"≤ {LIMIT_S:g} s, PASSED",
            total <= LIMIT_S and verdict == "PASSED",
        ),
    ]
    return finish("device.fresh", rows, {"install_s": install_s, **times})


def install(folder: Path) -> None:
    """A new environment with a wheel of this tree, pinned as the lock says."""
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    call([sys.executable, "-m", "venv", str(folder / "venv")], ROOT, dict(os.environ))
    call([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], ROOT, dict(os.environ))
    (wheel,) = folder.glob("*.whl")
    requirement = f"{wheel}[build,device]"
    call([*pip, "install", "-c", str(ROOT / "constraints.txt"), requirement], ROOT, dict(os.environ))


def timed(action: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def call(line: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command; its failure ends the benchmark."""
    path = shutil.which(line[0], path=environment["PATH"]) or line[0]
    done = subprocess.run([path, *line[1:]], cwd=folder, env=environment, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise SystemExit(f"exit code {done.returncode} from: {' '.join(line)}")


if __name__ == "__main__":
    raise SystemExit(main())
