"""Python and its packages, against what the installed metadata of sgsc-edge asks for.

Packages are looked up in their metadata. One that is there and fails when it is imported looks well here.
"""

from __future__ import annotations

import os
import platform
import re
import traceback
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, version

from sgsc_edge.doctor.finding import Finding, Stops

DISTRIBUTION = "sgsc-edge"
# Extras by name; what they are for, and what stops without them. "" is no extra.
_GROUPS: dict[str, tuple[str, Stops]] = {
    "": ("verify, inspect, package", "verify"),
    "build": ("build, preserve, init", "build"),
    "device": ("flash, inspect --board", ""),
}
PART = "packages"
# Of the packages that we ask for, those that are imported by another name than they are installed by.
_INSTALLED_AS = {"PIL": "pillow", "elftools": "pyelftools", "serial": "pyserial", "sklearn": "scikit-learn"}


def python() -> list[Finding]:
    """The interpreter, and sgsc-edge itself, which installs for Pythons that it runs on alone."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    interpreter = Finding("python", "Python", "ok", detail)
    try:
        return [interpreter, Finding("python", DISTRIBUTION, "ok", version(DISTRIBUTION))]
    except PackageNotFoundError:
        mend = f"pip install '{DISTRIBUTION}[build]'"
        missing = "runs, but is not installed"
        return [interpreter, Finding("python", DISTRIBUTION, "wrong", missing, mend=mend, stops="verify")]


def packages() -> list[Finding]:
    """Every package that sgsc-edge and its extras ask for on this platform."""
    return list(_packages())


def _packages() -> Iterator[Finding]:
    try:
        texts: list[str] = metadata(DISTRIBUTION).get_all("Requires-Dist") or []
    except PackageNotFoundError:
        return  # python() has said so
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield from _by_name(texts)
        return
    asked = [Requirement(text) for text in texts]
    for extra, (use, stops) in _GROUPS.items():
        for requirement in asked:
            marker = requirement.marker
            wanted = marker is None or marker.evaluate({"extra": extra})
            in_base = marker is None or marker.evaluate({"extra": ""})
            if wanted and (not extra or not in_base):
                yield _package(requirement.name, str(requirement.specifier), extra, use, stops)


def _by_name(texts: list[str]) -> Iterator[Finding]:
    """The packages without their versions and platforms, which only ``packaging`` reads."""
    for text in texts:
        asked, _, marker = text.partition(";")
        split = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[.*\])?(.*)", asked.strip())
        of_extra = re.search(r"""extra\s*==\s*["']([^"']+)""", marker)
        extra = of_extra[1] if of_extra else ""
        if split is None or extra not in _GROUPS:
            continue
        name, found = split[1], _version(split[1])
        part, (use, stops) = _part(extra), _GROUPS[extra]
        if found is not None:
            yield Finding(part, name, "ok", found, use, stops=stops)
        elif not marker or extra:  # else perhaps not wanted on this platform
            yield _missing(name, split[2].strip(), extra, use, stops)


def _part(extra: str) -> str:
    return f"extra {extra}" if extra else PART


def _missing(name: str, specifier: str, extra: str, use: str, stops: Stops) -> Finding:
    mend = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install '{name}{specifier}'"
    return Finding(_part(extra), name, "missing", "not installed", use, mend, stops)


def _package(name: str, specifier: str, extra: str, use: str, stops: Stops) -> Finding:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    found = _version(name)
    if found is None:
        return _missing(name, specifier, extra, use, stops)
    part = _part(extra)
    try:
        fits = SpecifierSet(specifier).contains(found, prereleases=True)
    except InvalidVersion:
        fits = False
    if fits:
        return Finding(part, name, "ok", found, use, stops=stops)
    mend = f"pip install --upgrade '{name}{specifier}'"
    return Finding(part, name, "wrong", f"{found}; {specifier} is needed", use, mend, stops)


def _version(name: str) -> str | None:
    """The version that a package's metadata states; None without the package, or where they are damaged."""
    try:
        stated: str | None = version(name)
    except (PackageNotFoundError, KeyError):
        return None
    return stated


# --- from modules to what is installed ------------------------------------------------------------


def raised_by(error: Exception) -> str | None:
    """The top module of the installed package whose code raised; None where it is none's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        folder, _, rest = frame.filename.replace(os.sep, "/").rpartition("-packages/")
        if folder.endswith(("site", "dist")):
            return rest.partition("/")[0].removesuffix(".py")
    return None


def distribution_of(module: str) -> str:
    """What a top module is installed by; its own name where nothing says otherwise."""
    if module in _INSTALLED_AS:
        return _INSTALLED_AS[module]
    try:
        names = packages_distributions().get(module)
    except Exception:  # the metadata of any package may be damaged
        names = None
    return names[0] if names else module


def mend(distribution: str) -> str:
    """The command for a package that is missing, or there and broken: that one pip would leave as it is."""
    again = "--force-reinstall " if _version(distribution) is not None else ""
    return f"pip install {again}{distribution}"
