"""Language models as projects: tokens in, a label for each next token, everything else refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sgsc_edge.errors import ConfigError, DataError, ModelError
from sgsc_edge.project import Project, load_project

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.tokens(x))

def build():
    return Net()

class Pooled(Net):
    def forward(self, x):
        return super().forward(x).mean(1)
"""

DATA = """
import numpy as np
import torch

TOKENS = torch.tensor([[0, 1, 2], [6, 3, 4]])
LABELS = torch.tensor([[1, 2, -100], [3, 4, 0]])

def pairs(tokens=TOKENS, labels=LABELS):
    return list(zip(tokens, labels))

def train(): return pairs()
def arrays(): return [(np.array([0, 1, 2]), np.array([1, 2, -100]))] * 2
def token_too_large(): return pairs(TOKENS + 1)
def token_negative(): return pairs(TOKENS - 1)
def label_too_large(): return pairs(labels=LABELS.clamp(min=0) + 1)
def label_negative(): return pairs(labels=torch.where(LABELS == 0, -1, LABELS))
def all_ignored(): return pairs(labels=torch.full_like(LABELS, -100))
def floats(): return pairs(TOKENS.float())
def one_label(): return [(one, 3) for one in TOKENS]
def short(): return pairs(labels=LABELS[:, :2])
"""

CONFIG = """
[project]
name = "text"
[model]
factory = "model:build"
input = { shape = [3], dtype = "int64" }
task = "language-model"
[data]
train = "data:train"
[gate]
metric = "loss"
max_drop = 0.1
max_lowering_flips = 0.1
[compress]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("model.py", MODEL), ("data.py", DATA), ("sgsc.toml", CONFIG)):
        (tmp_path / name).write_text(text)
    return tmp_path


def load(project: Path, *settings: str) -> Project:
    return load_project(project, settings)


def test_a_language_model_has_a_vocabulary_and_as_many_logits_a_token(project: Path) -> None:
    loaded = load(project)
    model = loaded.load_model()
    assert (loaded.output_size(model), loaded.vocabulary(model)) == (5, 7)
    dataset = loaded.load_dataset("train", 5, 7)
    tokens, following = dataset[0]
    assert (tokens.dtype, following.dtype) == (torch.int64, torch.int64)
    assert following.tolist() == [1, 2, -100]


def test_arrays_become_tensors(project: Path) -> None:
    tokens, following = load(project, "data.train=data:arrays").load_dataset("train", 5, 7)[0]
    assert isinstance(tokens, torch.Tensor)
    assert isinstance(following, torch.Tensor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("token_too_large", "sample 1 has the token 7"),
        ("token_negative", "sample 0 has the token -1"),
        ("label_too_large", "sample 1 has the label 5"),
        ("label_negative", "sample 1 has the label -1"),
        ("all_ignored", "sample 0 has no next token to predict"),
        ("floats", "sample 0 has an input that is float32 [3]; expected int64 [3]"),
        ("one_label", "sample 0 has a label that is an int"),
        ("short", "sample 0 has a label that is int64 [2]; expected int64 [3]"),
    ],
)
def test_wrong_sequences_are_refused_by_index(project: Path, name: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(project, f"data.train=data:{name}").load_dataset("train", 5, 7)
    assert message in str(caught.value)
    assert "data.train" in str(caught.value.where)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.input.dtype=float32", "task 'language-model' takes tokens: set input.dtype to 'int64'"),
        ("model.task=classification", "input.dtype 'int64' is for tokens: set task to 'language-model'"),
        ("model.input.shape=[3, 4]", "tokens (int64) have the shape [T], not [3, 4]"),
        ("model.input.mean=0.5", "mean is about real values: tokens (int64) have none"),
        ("preservation.must_keep=3", "name sequences by a callable"),
    ],
)
def test_settings_of_text_fit_together(project: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(project, setting)
    assert message in str(caught.value)


def test_a_model_that_gives_one_decision_a_sequence_is_none(project: Path) -> None:
    with pytest.raises(ModelError, match=r"returned float32 \[2, 5\] for a batch of 2") as caught:
        load(project, "model.factory=model:Pooled").load_model()
    assert "for each token the one that follows" in str(caught.value.remedy)
