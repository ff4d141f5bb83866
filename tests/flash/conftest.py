"""A certified build for each test of flash."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from certification.build_folders import context, write_folder

from sgsc_edge.certification.verify import certify_folder


@pytest.fixture(scope="session")
def _certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("flash") / "build")
    certify_folder(folder, context())
    return folder


@pytest.fixture
def folder(_certified: Path, tmp_path: Path) -> Path:
    """A certified build of 50 certify and 6 must_keep samples, free to be changed."""
    return Path(shutil.copytree(_certified, tmp_path / "build"))
