"""Walks the road: runs each stage whose outputs are not current."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path

from sgsc_edge.artifacts import (
    STAMPS_NAME,
    Earlier,
    FolderLock,
    Stamps,
    content_key,
    output_errors,
    package_hash,
    remove_leftovers,
)
from sgsc_edge.boards.description import Board
from sgsc_edge.certification import Certificate, check_runtime_names, read_certificate
from sgsc_edge.pipeline.context import CERTIFICATE, Build
from sgsc_edge.pipeline.stages import STAGES, Stage, check_format, stated_policy
from sgsc_edge.project import Project
from sgsc_edge.report import costs_only_the_report
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")

# What stages write. Checkpoints of training are not among it: training goes on however a build ended.
_FILES = (*dict.fromkeys(name for stage in STAGES for name in stage.outputs), STAMPS_NAME)


def build(project: Project, target: Target, folder: Path, board: Board | None = None) -> Certificate:
    """Build a project (with the target's overrides in force) into ``folder`` and certify it there.

    ``board``: what is too large for its flash or RAM is refused, before training where that changes no size.

    Raises
    ------
    InputError: the project, its model or its data are wrong, an op cannot be lowered, the model does not
        fit the board, or the folder cannot be written or is in use.
    ToolchainError: what the board's chip would hold can neither be compiled here nor estimated.

    A gate that fails, or is not measured, raises nothing: see ``Certificate.exit_code``.
    """
    budgets = project.config.compress.budget or ()
    if len(budgets) > 1 and len(set(budgets)) == 1:
        labels = " and ".join(budget.label for budget in budgets)
        log.warning("compress: the budgets %s are the same; it is an ordinary build, in %s", labels, folder)
        project = project.under(budgets[0])
    return walk(Build(project, target, folder, board))


def walk(this: Build, *, views: bool = True) -> Certificate:
    """Make every stage of a build current; see :func:`build`.

    ``views``: also what only shows it, which :func:`show` makes later where it is not.
    """
    folder = this.folder
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        remove_leftovers(folder)
        check_format(this)
        check_runtime_names(stated_policy(this).runtimes, this.shipped)
        with Earlier(folder, _FILES) as earlier:
            for stage in STAGES:
                if stage.needed(this) and not stage.view:
                    make_current(stage, this, earlier)
        if views:
            _show(this)  # the build is certified, and the earlier one gone
        return read_certificate(folder / CERTIFICATE)


def show(this: Build) -> None:
    """Make what only shows a certified build current."""
    with FolderLock(this.folder):
        _show(this)


def _show(this: Build) -> None:
    for stage in STAGES:
        if stage.view:
            with costs_only_the_report(this.folder):
                make_current(stage, this)


def made(name: str, build: Build) -> Path | None:
    """Where a stage's outputs of the present inputs lie; None where it has not run to its end.

    That is the build folder, or what a build left that was stopped and put an earlier one back.
    """
    (stage,) = (stage for stage in STAGES if stage.name == name)
    key = _key(stage, build)
    places = (build.folder, Earlier(build.folder, ()).unfinished)
    return next((place for place in places if Stamps(place).is_current(name, key)), None)


def _key(stage: Stage, build: Build) -> str:
    return content_key(stage.name, version("sgsc-edge"), package_hash(), stage.key(build))


def make_current(stage: Stage, build: Build, earlier: Earlier | None = None) -> None:
    """Make a stage's outputs current: they are already, or another build's are the same, or it runs.

    ``earlier``: None where no earlier build is to be kept, nor one that was stopped to go on with.
    """
    key = _key(stage, build)
    stamps = Stamps(build.folder)
    if stamps.is_current(stage.name, key):
        log.info("%s: unchanged", stage.name)
        return
    if earlier is not None:
        if stage.outputs and (build.folder / CERTIFICATE).exists():
            earlier.keep()
        if stamps.adopt(stage.name, key, stage.outputs, earlier.unfinished):
            log.info("%s: done before the build was stopped", stage.name)
            return
    if stage.shared:
        for other in _neighbours(build):
            if stamps.adopt(stage.name, key, stage.outputs, other):
                log.info("%s: the same as for %s", stage.name, other.relative_to(build.out))
                return
    log.info("%s ...", stage.name)
    stage.run(build, key)
    stamps.record(stage.name, key, [build.folder / name for name in stage.outputs])


def _neighbours(build: Build) -> list[Path]:
    """The other build folders of the same ``--out``, by name: other targets, and points of frontiers."""
    here = build.folder.resolve()
    try:
        found = {path.parent for below in ("*", "*/*") for path in build.out.glob(f"{below}/{STAMPS_NAME}")}
    except OSError:
        return []  # a parent that may be entered and not listed
    return sorted(path for path in found if path != here and not path.name.startswith("."))
