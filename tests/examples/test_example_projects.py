"""The examples' models, data and training scripts."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from example_modules import EXAMPLES, load_example

from sgsc_edge.preservation.pool import content_hashes
from sgsc_edge.project import load_project

digits = load_example("digits", "data", "model", "train")
mnist = load_example("mnist", "data", "model", "train")


def test_digits_split_is_fixed_stratified_and_disjoint() -> None:
    train, test = digits.data.train(), digits.data.test()
    assert (len(train), len(test)) == (1442, 355)
    images, labels = test.tensors
    assert images.shape[1:] == (1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    share = np.bincount(labels) / (np.bincount(labels) + np.bincount(train.tensors[1]))
    assert (abs(share - 0.2) < 0.006).all()
    assert not set(content_hashes(train)) & set(content_hashes(test))
    digest = hashlib.sha256((images * 16).to(torch.uint8).numpy().tobytes()).hexdigest()
    assert digest == "208645cd23e830184fd2fd044f441db9e420ba10f04e1caaee49bc0bb5941240"


def test_digits_model_is_small() -> None:
    network = digits.model.build()
    assert sum(parameter.numel() for parameter in network.parameters()) == 15418
    assert network.eval()(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_mnist_model_is_the_papers() -> None:
    network = mnist.model.build()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if "weight" in name}
    assert shapes == {
        "f.0.weight": (32, 1, 5, 5),
        "f.2.weight": (32, 32, 5, 5),
        "f.3.weight": (32,),
        "f.6.weight": (64, 32, 3, 3),
        "f.8.weight": (64, 64, 3, 3),
        "f.9.weight": (64,),
        "c.weight": (10, 576),
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == 87850
    assert network.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_digits_shift_moves_by_at_most_one_pixel() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 1, 8, 8)
    moved = digits.train.shift(images)
    padded = torch.nn.functional.pad(images, (1, 1))
    options = torch.stack([padded[..., start : start + 8] for start in range(3)])
    matches = (options == moved).flatten(2).all(-1)  # [3, 64]
    assert matches.any(0).all()
    assert matches.any(1).all()


def test_mnist_distortion_of_nothing_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 1, 28, 28)
    assert not torch.allclose(mnist.data.augment(images), images, atol=0.1)
    for name in ("MAX_ROTATION", "MAX_SHIFT", "MAX_SCALE"):
        monkeypatch.setattr(mnist.data, name, 0.0)
    torch.testing.assert_close(mnist.data.augment(images), images, rtol=0, atol=1e-4)


def test_digits_training_reaches_98_percent(tmp_path: Path) -> None:
    checkpoint = tmp_path / "float.safetensors"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "digits" / "train.py"), "--out", str(checkpoint)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = re.search(r"test: (\d+) of 355 right", done.stdout)
    assert found is not None
    assert int(found[1]) >= 0.98 * 355
    assert "left out as the pool" in done.stdout
    assert safetensors.torch.load(checkpoint.read_bytes()).keys() == digits.model.build().state_dict().keys()


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_project_files_are_valid_and_say_that_the_pool_was_left_out(name: str) -> None:
    project = load_project(EXAMPLES / name)
    assert project.saw_pool is False
    assert project.gate_reference == "float"


def test_digits_training_depends_on_the_seed_alone() -> None:
    images, labels = (part[:256] for part in digits.data.train().tensors)

    def weights(seed: int) -> torch.Tensor:
        network = digits.train.train(images, labels, seed=seed, epochs=1)
        return torch.cat([value.flatten() for value in network.state_dict().values()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
