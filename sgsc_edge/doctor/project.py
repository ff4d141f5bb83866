"""A project as far as it can be judged without running its code: settings, files, names of functions."""

from __future__ import annotations

import ast
import shlex
import tomllib
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from sgsc_edge.doctor.finding import Finding

if TYPE_CHECKING:
    from sgsc_edge.project import Project

PART = "project"


def has_project(folder: Path) -> bool:
    """Whether a folder holds a project file; a ``pyproject.toml`` counts where it has our table."""
    return (folder / "sgsc.toml").is_file() or has_table(folder / "pyproject.toml")


def has_table(file: Path) -> bool:
    """Whether a ``pyproject.toml`` has ``[tool.sgsc-edge]``; a damaged one: whether it names that."""
    if not file.is_file():
        return False
    text = file.read_text("utf-8", "replace")
    try:
        tool = tomllib.loads(text).get("tool")
    except (tomllib.TOMLDecodeError, RecursionError):
        return "[tool.sgsc-edge" in text
    return isinstance(tool, dict) and isinstance(tool.get("sgsc-edge"), dict)


def project(named: Path | None) -> list[Finding]:
    """What is wrong with a project; one finding where nothing is. Its code is read and not run.

    ``named``: its folder or file; None for the current folder, and no finding where that is no project.
    """
    if named is None and not has_project(Path()):
        return []
    path = Path() if named is None else named
    from sgsc_edge.errors import ConfigError, InputError
    from sgsc_edge.project import load_project
    from sgsc_edge.targets import target_names

    try:
        loaded = load_project(path, known_targets=target_names())
    except InputError as error:
        said = error.problems if isinstance(error, ConfigError) else ()
        mend = error.remedy or ""
        return [Finding(PART, str(path), "wrong", text, mend=mend) for text in said or (error.message,)]
    problems = list(_problems(loaded))
    return problems or [
        Finding(PART, loaded.config.project.name, "ok", f"settings and files of {loaded.file.label}")
    ]


def _problems(loaded: Project) -> Iterator[Finding]:
    config, root = loaded.config, loaded.root
    checkpoint = config.model.checkpoint
    if checkpoint is not None and not (root / checkpoint).is_file():
        train = root / "train.py"
        mend = (
            f"python {shlex.quote(str(train))}"
            if train.is_file()
            else "train the float model, or correct the path"
        )
        yield Finding(PART, f"model.checkpoint = {checkpoint}", "missing", "no such file", mend=mend)
    specs = {
        "model.factory": config.model.factory,
        **{f"data.{name}": getattr(config.data, name) for name in ("train", "test", "pool", "augment")},
        "preservation.must_keep": config.preservation.must_keep,
    }
    for key, spec in specs.items():
        if isinstance(spec, str) and (wrong := _wrong(root, spec)):
            yield Finding(PART, f"{key} = {spec}", "wrong", wrong, mend="correct the name or the file")


def _wrong(root: Path, spec: str) -> str | None:
    """What is wrong with a ``module:function``; None where it is there, or cannot be seen from the text."""
    from sgsc_edge.hints import nearest

    module, _, name = spec.partition(":")
    path = root.joinpath(*module.split("."))
    file = next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)
    if file is None:
        if PathFinder.find_spec(module.partition(".")[0]) is not None:
            return None  # of an installed package
        return f"there is no {module}.py{nearest(module, (one.stem for one in root.glob('*.py')))}"
    try:
        names = set(_names(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError, OSError) as error:
        return f"{file.name} cannot be read: {error}"
    return None if {name, "*"} & names else f"{file.name} does not define '{name}'{nearest(name, names)}"


def _names(tree: ast.AST) -> Iterator[str]:
    """What a module's text defines or imports at any depth of its statements; ``*`` where it imports all."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
