"""Finds the runtimes by scanning this folder, and says which of them are installed."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import pkgutil
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sgsc_edge.errors import InternalError
from sgsc_edge.runtimes._spec import RuntimeSpec

_VERSION_SCRIPT = """
import importlib.metadata, json, sys
found = None
for name in sys.argv[1:]:
    try:
        found = importlib.metadata.version(name)
        break
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_VERSION_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Available:
    """A row of the ``runtimes`` command.

    ``version`` is None when it is not installed; only then ``install`` says what to do.
    """

    name: str
    summary: str
    reads: str
    version: str | None
    install: str


def index(rows: Iterable[RuntimeSpec]) -> Mapping[str, RuntimeSpec]:
    """Rows by name; InternalError when two share one."""
    found: dict[str, RuntimeSpec] = {}
    for spec in rows:
        if spec.name in found:
            raise InternalError(
                f"two runtimes are named '{spec.name}'",
                where=f"{found[spec.name].entry} and {spec.entry}",
            )
        found[spec.name] = spec
    return MappingProxyType(dict(sorted(found.items())))


@functools.cache
def specs() -> Mapping[str, RuntimeSpec]:
    """Every runtime of this folder by name, sorted. Imports no engine."""
    package = str(Path(__file__).parent)
    names = sorted(info.name for info in pkgutil.iter_modules([package]) if not info.name.startswith("_"))
    modules = [importlib.import_module(f"sgsc_edge.runtimes.{name}") for name in names]
    return index(row for module in modules for row in module.ROWS)


def python_of(spec: RuntimeSpec) -> str:
    """The Python that runs ``spec``: this one, or the one that its environment variable names."""
    return os.environ.get(spec.python_variable) or sys.executable


def installed_version(spec: RuntimeSpec) -> str | None:
    """Version of the first of ``spec.distributions`` that its Python has, or None."""
    python = python_of(spec)
    if python != sys.executable:
        return _version_elsewhere(python, spec.distributions)
    for name in spec.distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _version_elsewhere(python: str, distributions: tuple[str, ...]) -> str | None:
    command = [python, "-P", "-c", _VERSION_SCRIPT, *distributions]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_VERSION_TIMEOUT_S, check=True)
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return found if isinstance(found, str) else None


def has_package(spec: RuntimeSpec) -> bool:
    """Whether there is a package of ``spec`` for this machine."""
    return not spec.platforms or (sys.platform, platform.machine()) in spec.platforms


def install_hint(spec: RuntimeSpec) -> str:
    """What to do to get ``spec``; where nothing helps, what runs instead."""
    if not has_package(spec):
        none = f"{spec.distributions[0]} has no package for {sys.platform} on {platform.machine()}"
        return none if spec.stand_in is None else f"{none}; {spec.stand_in} stands in"
    hint = f"pip install {spec.distributions[0]}"
    if not spec.own_python:
        return hint
    return f"{hint} into a Python of its own ({spec.own_python}) and set {spec.python_variable} to its path"


def available() -> list[Available]:
    """One row a runtime, sorted by name."""
    rows = []
    for spec in specs().values():
        version = installed_version(spec)
        hint = install_hint(spec) if version is None else ""
        rows.append(Available(spec.name, spec.summary, spec.artifact, version, hint))
    return rows
