"""Python and its packages, against what the installed metadata of sgsc-edge asks for.

Packages are looked up in their metadata. One that is there and fails when it is imported looks well here.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version

from sgsc_edge.doctor.finding import Finding

DISTRIBUTION = "sgsc-edge"
# Extras by name; what they are for, and whether `build` and `verify` need them. "" is no extra.
_GROUPS = {
    "": ("verify, inspect, package", True),
    "build": ("build, preserve, init", True),
    "device": ("flash, inspect --board", False),
}
PART = "packages"


def python() -> list[Finding]:
    """The interpreter, and sgsc-edge itself, which installs for Pythons that it runs on alone."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    interpreter = Finding("python", "Python", "ok", detail)
    try:
        return [interpreter, Finding("python", DISTRIBUTION, "ok", version(DISTRIBUTION))]
    except PackageNotFoundError:
        mend = f"pip install '{DISTRIBUTION}[build]'"
        missing = "runs, but is not installed"
        return [interpreter, Finding("python", DISTRIBUTION, "wrong", missing, mend=mend, required=True)]


def packages() -> list[Finding]:
    """Every package that sgsc-edge and its extras ask for on this platform."""
    return list(_packages())


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in metadata(DISTRIBUTION).get_all("Requires-Dist") or []]
    except PackageNotFoundError:
        return  # python() has said so
    for extra, (use, required) in _GROUPS.items():
        for requirement in asked:
            marker = requirement.marker
            wanted = marker is None or marker.evaluate({"extra": extra})
            in_base = marker is None or marker.evaluate({"extra": ""})
            if wanted and (not extra or not in_base):
                yield _package(requirement.name, str(requirement.specifier), extra, use, required)


def _package(name: str, specifier: str, extra: str, use: str, required: bool) -> Finding:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    part = f"extra {extra}" if extra else PART
    found = _version(name)
    if found is None:
        mend = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install '{name}{specifier}'"
        return Finding(part, name, "missing", "not installed", use, mend, required)
    try:
        fits = SpecifierSet(specifier).contains(found, prereleases=True)
    except InvalidVersion:
        fits = False
    if fits:
        return Finding(part, name, "ok", found, use, required=required)
    mend = f"pip install --upgrade '{name}{specifier}'"
    return Finding(part, name, "wrong", f"{found}; {specifier} is needed", use, mend, required)


def _version(name: str) -> str | None:
    """The version that a package's metadata states; None without the package, or where they are damaged."""
    try:
        stated: str | None = version(name)
    except (PackageNotFoundError, KeyError):
        return None
    return stated
