"""Where the data files lie that come with the package: targets, boards, examples."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The folder ``name``: in the package once installed, at the top of a checkout."""
    package = Path(__file__).parent
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name


def example_names() -> list[str]:
    """The examples that ship."""
    return sorted(path.parent.name for path in shipped("examples").glob("*/sgsc.toml"))
