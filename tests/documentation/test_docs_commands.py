"""What README.md and docs/ tell to type works, in the order in which they tell it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation.pages import PAGES, ROOT, commands, read

TUTORIAL = ROOT / "docs" / "getting-started.md"

# Documented commands that no test runs, by their beginning, and why. Everything else runs.
NOT_RUN = {
    "pip install": "changes the environment that the tests run in",
    "make demo": "creates an environment of its own; tests/examples builds the example",
    ".venv/bin/sgsc-edge verify examples/": "is about what make demo made",
    "ssh-keygen": "signs with a key of the user's",
    "python3.11 -m venv old": "installs packages; make test-runtimes does the same",
    "old/bin/": "is about that environment",
    "sgsc-edge verify build/tflite-int8 --require tensorflow": "make test-runtimes has TensorFlow",
    "sgsc-edge build . --target m7-board.toml": "takes its time; tests/test_targets.py reads the file",
    "sgsc-edge build . --target tflite-int8 --budget 2kB --out": "the tutorial's at another size",
    "sgsc-edge build . --target tflite-int8 --budget 3kB,": "takes its time; tests/pipeline has its like",
    "sgsc-edge build . --target tflite-int8 --floor": "takes its time; tests/pipeline has its like",
    "sgsc-edge build examples/digits --target c-learned": "needs what a loop has saved; in tests/pipeline",
    "sgsc-edge build examples/names --target onnx-learned": "trains for long; tests/pipeline has its like",
    "sgsc-edge build . --target tflite-int8 --method ptq": "takes its time; tests/pipeline builds by ptq",
}


def test_each_exception_is_one_of_a_documented_command() -> None:
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for line in documented()), beginning


def documented() -> list[str]:
    return [
        line
        for path in (TUTORIAL, *PAGES)
        for block in read(path).blocks
        if block.language == "sh"
        for line in commands(block)
    ]


@pytest.mark.timeout(900)
@pytest.mark.needs("bash")
def test_every_documented_command_runs(tmp_path: Path) -> None:
    """The tutorial first, file by file and command by command; the other pages then speak of its project."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SGSC_EDGE_")}
    ran: set[str] = set()
    for path in dict.fromkeys((TUTORIAL, *PAGES)):
        for block in read(path).blocks:
            if block.file is not None and block.language != "sh":
                (tmp_path / block.file).write_text(block.text, encoding="utf-8")
            for line in commands(block) if block.language == "sh" else ():
                if line in ran or line.startswith(tuple(NOT_RUN)):
                    continue
                ran.add(line)
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", line],
                    cwd=tmp_path,
                    env=environment | {"PATH": programs},
                    capture_output=True,
                    text=True,
                    timeout=300,
                    check=False,
                )
                said = f"{path.name}:{block.line}: {line}: exit code {done.returncode}\n{done.stderr}"
                assert done.returncode == 0, said
                assert "Traceback" not in done.stderr, said
    assert (tmp_path / "build" / "tflite-int8" / "certificate.virtual-cortex-m4.json").is_file()
    assert (tmp_path / "motor-c" / "sgsc_motor.h").is_file()


def test_targets_of_make_and_benchmarks_that_pages_name_exist() -> None:
    spans = [text for path in PAGES for text in read(path).code]
    made = {name for text in spans for name in re.findall(r"^make ([a-z][a-z-]*)", text, re.MULTILINE)}
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "docs"} <= made <= targets
    modules = {name for text in spans for name in re.findall(r"python -m (benchmarks\.[\w.]+)", text)}
    paths = {name: ROOT / name.replace(".", "/") for name in modules}
    missing = [
        name
        for name, path in paths.items()
        if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file())
    ]
    assert modules
    assert not missing
