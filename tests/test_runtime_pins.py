"""The pinned environments of ``make test-runtimes`` have what the base package requires."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = sorted((ROOT / ".ci" / "runtimes").glob("*.txt"))
MACHINE = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}


def test_there_is_a_file_of_pins_for_each_environment() -> None:
    assert [path.stem for path in PINS] == ["tensorflow", "tflite-runtime"]


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_base_requirements_are_pinned_at_a_version_that_they_allow(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(MACHINE):
            pinned = pins.get(canonicalize_name(requirement.name))
            assert pinned is not None, f"{path.name} does not pin {requirement.name}: run make lock"
            assert requirement.specifier.contains(pinned, prereleases=True), f"{text}: {pinned}"
