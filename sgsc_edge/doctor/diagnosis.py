"""All findings, and the verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sgsc_edge.doctor import packages, programs
from sgsc_edge.doctor import project as projects
from sgsc_edge.doctor.finding import Finding, State, Stops
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

    def wanting(self, command: Stops) -> tuple[str, ...]:
        """The names of what is missing or wrong and stops ``command``."""
        stopping = (row.name for row in self.findings if row.stops == command and row.state != "ok")
        return tuple(dict.fromkeys(stopping))

    @property
    def project_is_wrong(self) -> bool:
        """Whether the project would be refused; one that could not be examined stops ``verify``."""
        return any(row.part == projects.PART and row.state != "ok" and not row.stops for row in self.findings)

    @property
    def exit_code(self) -> int:
        """2: the project would be refused; 3: ``verify`` cannot run; else 0.

        Where only ``build`` cannot, that is 0: a gate in CI installs no more than it needs.
        """
        if self.project_is_wrong:
            return InputError.exit_code
        return NOT_MEASURED if self.wanting("verify") else 0

    @property
    def verdict(self) -> str:
        """The same as a sentence."""
        both, build = (", ".join(self.wanting(command)) for command in ("verify", "build"))
        if both:
            ready = f"build and verify cannot run: {both}"
            ready += f" (and build not without {build})" if build else ""
        else:
            ready = (
                f"verify can run here; build cannot: {build}" if build else "build and verify can run here"
            )
        return f"{ready}; the project would be refused" if self.project_is_wrong else ready


def diagnose(project: Path | None) -> Diagnosis:
    """Look at everything.

    Parameters
    ----------
    project: a project's folder or file; None for the current folder, where it is one.
    """
    findings = [
        *_examined("python", packages.python, stops="verify"),
        *_examined(packages.PART, packages.packages, stops="verify"),
        *_examined("runtimes", _runtimes, stops="verify"),
        *_examined("compilers", programs.compilers),
        *_examined("emulators", programs.emulators),
        *_examined("boards", programs.boards),
        *_examined("serial ports", programs.serial_ports),
        *_examined(projects.PART, lambda: projects.project(project), stops="verify"),
    ]
    return Diagnosis(tuple(findings))


def _examined(part: str, examine: Callable[[], list[Finding]], *, stops: Stops = "") -> list[Finding]:
    """The findings of a part; where a package that it needs is missing or broken, that is the finding."""
    try:
        return examine()
    except ModuleNotFoundError as error:
        detail = f"not examined: {error}"
        package = packages.distribution_of((error.name or part).partition(".")[0])
        return [Finding(part, package, "missing", detail, mend=packages.mend(package), stops=stops)]
    except Exception as error:  # a package may raise anything when it is imported
        log.debug("%s:", part, exc_info=error)
        detail = f"not examined: {type(error).__name__}: {error}"
        module = packages.raised_by(error)
        if module is None:
            return [Finding(part, part, "wrong", detail, mend="sgsc-edge doctor -v shows where", stops=stops)]
        broken = packages.distribution_of(module)
        return [Finding(part, broken, "wrong", detail, mend=packages.mend(broken), stops=stops)]


def _runtimes() -> list[Finding]:
    """The runtimes, and which of them the shipped targets require."""
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
