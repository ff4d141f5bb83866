"""The examples' models, data and training scripts."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from example_modules import EXAMPLES, load_example

from sgsc_edge.errors import DataError
from sgsc_edge.preservation.pool import content_hashes
from sgsc_edge.project import load_project

digits = load_example("digits", "data", "model", "train")
mnist = load_example("mnist", "data", "model", "train")
names = load_example("names", "data", "model", "train")


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


@pytest.mark.parametrize("name", ["digits", "mnist", "names"])
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


# --- names ----------------------------------------------------------------------------------------


@pytest.fixture
def few_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A names.txt of a few names, one of them twice, one that no token spells."""
    (tmp_path / "names.txt").write_text(
        "Emma\nolivia\nemma\nzoë\nal\n" + "\n".join(f"{a}{b}a" for a in "bcdfg" for b in "aeiou")
    )
    monkeypatch.setenv("SGSC_EDGE_DATA", str(tmp_path))
    names.data.names.cache_clear()
    yield
    names.data.names.cache_clear()


def test_names_are_different_spelled_in_tokens_and_split_by_their_own_hash(few_names: None) -> None:
    found = names.data.names()
    assert len(found) == 28
    assert {"emma", "olivia", "al"} <= set(found)
    train, test = names.data.train(), names.data.test()
    assert len(train) + len(test) == len(found)
    assert not set(content_hashes(train)) & set(content_hashes(test))
    assert all(names.data.is_test(name) == names.data.is_test(name) for name in found)


def test_a_name_is_read_behind_its_dot_and_answered_up_to_the_last_one(few_names: None) -> None:
    tokens, following = names.data.encode(["abc"])[0]
    assert tokens.tolist()[:5] == [0, 1, 2, 3, 0]
    assert following.tolist()[:5] == [1, 2, 3, 0, -100]
    assert (following[4:] == -100).all()


def test_the_names_model_is_the_papers_and_reads_only_what_is_in_front() -> None:
    network = names.model.build().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 205_595
    tokens = torch.randint(27, (2, 32), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 20:] = 0
    with torch.no_grad():
        whole, changed, short = network(tokens), network(other), network(tokens[:, :20])
    assert whole.shape == (2, 32, 27)
    torch.testing.assert_close(whole[:, :20], changed[:, :20])
    torch.testing.assert_close(whole[:, :20], short)


def test_names_training_lowers_the_loss_and_depends_on_the_seed_alone(
    few_names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names.model, "build", lambda: names.model.Names(blocks=1, width=16, heads=2))
    tokens, following = names.data.stack(names.data.train())

    def trained(seed: int, steps: int) -> float:
        network = names.train.train(tokens, following, seed=seed, steps=steps)
        return names.train.mean_loss(network, tokens, following)

    assert trained(0, 40) == trained(0, 40) != trained(1, 40)
    assert trained(0, 40) < trained(0, 2) - 0.5


def test_without_names_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGSC_EDGE_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "faker.providers.person.en", None)
    names.data.names.cache_clear()
    with pytest.raises(DataError, match="Faker is not installed") as caught:
        names.data.names()
    assert "sgsc-edge[names]" in str(caught.value.remedy)


def test_without_a_file_the_names_are_those_that_faker_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGSC_EDGE_DATA", str(tmp_path))
    names.data.names.cache_clear()
    found = names.data.names()
    names.data.names.cache_clear()
    assert len(set(found)) == len(found) > 2000
    assert {"emma", "liam"} <= set(found)
    assert all(name.isalpha() and name.islower() for name in found)
