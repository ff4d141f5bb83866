"""Walks the road: runs each stage whose outputs are not current."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path

from sgsc_edge.artifacts import FolderLock, Stamps, content_key, output_errors
from sgsc_edge.certification import Certificate, check_runtime_names, read_certificate
from sgsc_edge.pipeline.context import CERTIFICATE, Build
from sgsc_edge.pipeline.stages import STAGES, stated_policy
from sgsc_edge.project import Project
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")


def build(project: Project, target: Target, folder: Path) -> Certificate:
    """Build a project (with the target's overrides in force) into ``folder`` and certify it there.

    Raises
    ------
    InputError: the project, its model or its data are wrong, an op cannot be lowered, or the folder
        cannot be written or is in use.

    A gate that fails, or is not measured, raises nothing: see ``Certificate.exit_code``.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        this = Build(project, target, folder)
        stamps = Stamps(folder)
        check_runtime_names(stated_policy(this).runtimes)
        for stage in STAGES:
            if not stage.needed(this):
                continue
            key = content_key(stage.name, version("sgsc-edge"), stage.key(this))
            if stamps.is_current(stage.name, key):
                log.info("%s: unchanged", stage.name)
                continue
            log.info("%s ...", stage.name)
            stage.run(this, key)
            stamps.record(stage.name, key, [folder / name for name in stage.outputs])
        return read_certificate(folder / CERTIFICATE)
