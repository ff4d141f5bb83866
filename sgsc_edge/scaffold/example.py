"""Projects that ship with the package: the starter, trained at once, and the examples as they are."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sgsc_edge.artifacts import read_bytes, scratch_errors
from sgsc_edge.c_names import LONGEST_NAME
from sgsc_edge.config_text import parse_toml
from sgsc_edge.errors import ConfigError
from sgsc_edge.hints import nearest
from sgsc_edge.project.load import FILE_NAME, load_project
from sgsc_edge.scaffold.prove import prove
from sgsc_edge.scaffold.write import Scaffolded, build_command, check_folder, quoted, superseded, write_files
from sgsc_edge.shipped import example_names, shipped
from sgsc_edge.targets import available_targets

log = logging.getLogger("sgsc_edge")

STARTER = "starter"
_CHECKPOINT = "float.safetensors"
_TRAIN = "train.py"
_IGNORE_FILE = ".gitignore"
_IGNORED = b"build/\n__pycache__/\n"
_TRAIN_LIMIT_S = 600
_SHOWN_LINES = 8
_MAX_BYTES = 2**24  # of the starter's checkpoint


def new_example(folder: Path, name: str, target: str, *, force: bool) -> Scaffolded:
    """Write an example as it is, not trained yet; a language model is to be built for an ``.onnx`` target."""
    files = _files(folder, name)
    check_folder(folder, files, force=force)
    notes = superseded(folder)
    written = write_files(folder, files)
    model = parse_toml(files[FILE_NAME].decode(), FILE_NAME).tables["model"]
    if model.get("task") == "language-model":
        target = next(one.name for one in available_targets() if not one.is_lowered)
    steps = (f"python {quoted(folder / _TRAIN)}", build_command(folder, target))
    return Scaffolded(folder, written, (), notes, steps)


def new_starter(folder: Path, target: str, *, force: bool) -> Scaffolded:
    """Write the starter under the folder's name, its network trained.

    Everything is made and tried in a folder of its own first, so that a failure leaves nothing behind.
    """
    files = _files(folder, STARTER)
    name = project_name(folder)
    files[FILE_NAME] = files[FILE_NAME].replace(f'"{STARTER}"'.encode(), f'"{name}"'.encode(), 1)
    own = f"; for a network of your own: sgsc-edge init {quoted(folder)} --from FILE.py:NAME"
    check_folder(folder, [*files, _CHECKPOINT], force=force, otherwise=own)
    with scratch_errors():
        scratch = tempfile.TemporaryDirectory(prefix="sgsc-edge-")
    with scratch:
        staged = Path(scratch.name)
        write_files(staged, files)
        log.info("training the starter's network ...")
        said = _train(staged)
        log.info("checking that it builds ...")
        proof = prove(load_project(staged), target)
        files[_CHECKPOINT] = read_bytes(staged / _CHECKPOINT, _MAX_BYTES)
    notes = ("model.py, data.py and train.py are yours to change.", *proof.notes, *superseded(folder))
    findings = (("network", f"model:build, trained by train.py ({said})"), ("checked", proof.text))
    return Scaffolded(folder, write_files(folder, files), findings, notes, (build_command(folder, target),))


def project_name(folder: Path) -> str:
    """What a project in ``folder`` is called: the folder's name, without what a name may not hold.

    >>> project_name(Path("/home/ada/my net"))
    'my-net'
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
    return name[:LONGEST_NAME] or "model"


def _files(folder: Path, name: str) -> dict[str, bytes]:
    """The files of an example for ``folder``; what that ignores already is its own."""
    names = example_names()
    if name not in names:
        raise ConfigError(
            f"there is no example '{name}'{nearest(name, names)}",
            where="--example",
            remedy=f"choose one of {', '.join(names)}",
        )
    paths = [path for path in (shipped("examples") / name).iterdir() if path.suffix in (".py", ".toml")]
    files = {path.name: path.read_bytes() for path in sorted(paths)}
    ignores = False
    with contextlib.suppress(OSError):  # check_folder says what is wrong with the folder
        ignores = (folder / _IGNORE_FILE).exists()
    return files if ignores else {**files, _IGNORE_FILE: _IGNORED}


def _train(folder: Path) -> str:
    """Run the project's training script; returns what it says last."""
    try:
        done = subprocess.run(
            [sys.executable, _TRAIN],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRAIN_LIMIT_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        stderr = getattr(error, "stderr", None)
        said = stderr if isinstance(stderr, str) else str(error)  # bytes after a time-out
        raise ConfigError(
            "\n".join(["training the starter failed:", *said.strip().splitlines()[-_SHOWN_LINES:]]),
            where=_TRAIN,
            remedy="see what is missing here: sgsc-edge doctor",
        ) from error
    return done.stdout.strip().splitlines()[-1]
