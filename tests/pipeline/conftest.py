from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
"""

DATA = """
import torch
from torch.utils.data import TensorDataset

def make(n, seed):
    labels = torch.arange(n) % 3
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.3
    for index, label in enumerate(labels.tolist()):
        images[index, :, :, 3 * label : 3 * label + 2] += 0.7
    return images, labels

def train():
    return TensorDataset(*make(240, 0))

def test():
    return TensorDataset(*make(60, 1))
"""

CONFIG = """
[project]
name = "stripes"
version = "2.1"
[model]
factory = "model:build"
input = { shape = [1, 8, 8], dtype = "float32" }
saw_pool = false
[data]
train = "data:train"
[preservation]
fraction = 0.4
[gate]
max_drop = 1.0
max_lowering_flips = 0.1
[compress]
epochs = 3
batch_size = 32
learning_rate = 1e-2
"""

TESTED = CONFIG.replace("[preservation]", 'test = "data:test"\n[preservation]')
"""With a test set, which every runtime computes: a third of a build's time."""


@dataclass(frozen=True)
class Ran:
    """One run of the command: exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as its one JSON document."""
        return json.loads(self.out)


def sgsc_edge(*arguments: str | Path, cwd: Path | None = None, timeout: float = 300) -> Ran:
    """Run the command as a user would."""
    done = warm.run([str(argument) for argument in arguments], cwd, timeout)
    return Ran(done.returncode, done.stdout, done.stderr)


def write_project(folder: Path, *, model: str = MODEL, data: str = DATA, config: str = CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("model.py", model), ("data.py", data), ("sgsc.toml", config)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small project, any of its files replaced."""

    def write(**files: str) -> Path:
        return write_project(tmp_path / "project", **files)

    return write


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    folder = write_project(tmp_path_factory.mktemp("built"), config=TESTED)
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build", "--json")
    return folder, ran


@pytest.fixture(scope="session")
def built_run(_built: tuple[Path, Ran]) -> Ran:
    """The run that built the shared project."""
    return _built[1]


@pytest.fixture
def built(_built: tuple[Path, Ran], tmp_path: Path) -> Path:
    """A copy of the shared project with its build folder, free to be changed."""
    assert _built[1].code == 0, _built[1].err
    copy = tmp_path / "copy"
    shutil.copytree(_built[0], copy)
    return copy
