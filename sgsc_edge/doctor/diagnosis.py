"""All findings, and the verdict."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sgsc_edge.doctor import packages, programs
from sgsc_edge.doctor import project as projects
from sgsc_edge.doctor.finding import Finding, State
from sgsc_edge.errors import InputError

log = logging.getLogger("sgsc_edge")

NOT_MEASURED = 3
UNSEEN = (
    "Packages are looked up, not imported: one that is installed and broken shows only in use. "
    "Whether they fit each other: pip check. Whether the runtimes agree: sgsc-edge verify."
)


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order of its parts."""

    findings: tuple[Finding, ...]

    @property
    def wanting(self) -> tuple[Finding, ...]:
        """What is missing or wrong and ``build`` and ``verify`` need."""
        return tuple(row for row in self.findings if row.required and row.state != "ok")

    @property
    def project_is_wrong(self) -> bool:
        """Whether the project would be refused; one that could not be examined has a required finding."""
        return any(
            row.part == projects.PART and row.state != "ok" and not row.required for row in self.findings
        )

    @property
    def exit_code(self) -> int:
        """2: the project would be refused; 3: something required is missing; else 0."""
        return InputError.exit_code if self.project_is_wrong else NOT_MEASURED if self.wanting else 0

    @property
    def verdict(self) -> str:
        """The same as a sentence."""
        missing = ", ".join(dict.fromkeys(row.name for row in self.wanting))
        ready = f"build and verify cannot run: {missing}" if missing else "build and verify can run here"
        return f"{ready}; the project would be refused" if self.project_is_wrong else ready


def diagnose(project: Path | None) -> Diagnosis:
    """Look at everything.

    Parameters
    ----------
    project: a project's folder or file; None for the current folder, where it is one.
    """
    findings = [
        *_examined("python", packages.python, required=True),
        *_examined(packages.PART, packages.packages, required=True),
        *_examined("runtimes", _runtimes, required=True),
        *_examined("compilers", programs.compilers),
        *_examined("emulators", programs.emulators),
        *_examined("boards", programs.boards),
        *_examined("serial ports", programs.serial_ports),
        *_examined(projects.PART, lambda: projects.project(project), required=True),
    ]
    return Diagnosis(tuple(findings))


def _examined(part: str, examine: Callable[[], list[Finding]], *, required: bool = False) -> list[Finding]:
    """The findings of a part; where a package that it needs is missing or broken, that is the finding."""
    try:
        return examine()
    except ModuleNotFoundError as error:
        detail = f"not examined: {error}"
        package = (error.name or part).partition(".")[0]
        return [Finding(part, package, "missing", detail, mend=f"pip install {package}", required=required)]
    except Exception as error:  # a package may raise anything when it is imported
        log.debug("%s:", part, exc_info=error)
        detail = f"not examined: {type(error).__name__}: {error}"
        broken = _package_of(error)
        mend = f"pip install --force-reinstall {broken}" if broken else "sgsc-edge doctor -v shows where"
        return [Finding(part, broken or part, "wrong", detail, mend=mend, required=required)]


def _package_of(error: Exception) -> str | None:
    """The installed package whose code raised; None where it is none's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        folder, _, rest = frame.filename.replace(os.sep, "/").rpartition("-packages/")
        if folder.endswith(("site", "dist")):
            return rest.partition("/")[0].removesuffix(".py")
    return None


def _runtimes() -> list[Finding]:
    """The runtimes; those that a shipped target requires are required."""
    from sgsc_edge.runtimes import available
    from sgsc_edge.targets import available_targets

    needed = {name for target in available_targets() for name in target.runtimes.required}
    rows = []
    for row in available():
        use = f"{row.summary}{' (targets require it)' if row.name in needed else ''}"
        state: State = "ok" if row.version else "missing"
        detail = row.version or "not installed"
        rows.append(Finding("runtimes", row.name, state, detail, use, row.install))
    return rows
