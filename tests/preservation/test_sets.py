"""The preservation set of whole projects: the same contents whatever the order, apart, and explained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from sgsc_edge.errors import ConfigError, DataError, FileFormatError, ModelError
from sgsc_edge.preservation.pool import content_hash, in_pool
from sgsc_edge.preservation.selection import Selection, write_selection
from sgsc_edge.preservation.sets import Data, choose, divide, load_data
from sgsc_edge.preservation.summary import summarize
from sgsc_edge.project import Project, load_project

CONFIG = """
project.name = "stripes"
model = { factory = "stripes_model:build", input = { shape = [1, 8, 8] } }
data.train = "stripes_data:train"
gate = { max_drop = 0.1, max_lowering_flips = 0.1 }
[preservation]
fraction = 0.4
"""
MODEL = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(80, 3),
    )
"""
DATA = """
import torch
from torch.utils.data import TensorDataset
def samples(n=240, seed=0):
    labels = torch.arange(n) % 3
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.3
    for index, label in enumerate(labels.tolist()):
        images[index, :, :, 3 * label : 3 * label + 2] += 0.7
    return images, labels
def train():
    return TensorDataset(*samples())
"""
SHUFFLED = """
def train():
    images, labels = samples()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))
    return TensorDataset(images[order], labels[order])
"""
DOUBLED = """
def train():
    images, labels = samples()
    return TensorDataset(torch.cat([images[:50], images]), torch.cat([(labels[:50] + 1) % 3, labels]))
"""


def write(
    folder: Path, *settings: str, model: str = MODEL, data: str = DATA, config: str = CONFIG
) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("stripes_model.py", model), ("stripes_data.py", data), ("sgsc.toml", config)):
        (folder / name).write_text(text)
    return load_project(folder, settings)


def chosen(project: Project) -> tuple[Data, Selection]:
    model = project.load_model()
    data = load_data(project, project.output_size(model))
    return data, choose(project, model, data)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return write(tmp_path / "project")


def test_parts_are_apart_and_cover_every_class(project: Project) -> None:
    data, selection = chosen(project)
    samples = divide(data, selection)
    hashes = {name: set(part.hashes) for name, part in samples.parts.items()}
    assert {name: len(found) for name, found in hashes.items()} == {"guide": 48, "watch": 24, "certify": 24}
    assert len(set.union(*hashes.values())) == 96
    assert not any(in_pool(digest, 0.2) for digest in hashes["guide"])
    assert all(in_pool(digest, 0.2) for name in ("watch", "certify") for digest in hashes[name])
    for part in samples.parts.values():
        assert set(part.labels) == {0, 1, 2}
    assert summarize(selection).uncovered == {"guide": (), "watch": (), "certify": ()}
    train_hashes = [content_hash(samples.train.dataset[index][0]) for index in samples.guide]
    assert train_hashes == list(samples.parts["guide"].hashes)


def test_the_same_data_give_the_same_bytes(tmp_path: Path, project: Project) -> None:
    for name in ("one.json", "two.json"):
        write_selection(tmp_path / name, chosen(project)[1])
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_another_order_of_the_data_chooses_the_same_contents_for_the_same_reasons(
    tmp_path: Path, project: Project
) -> None:
    shuffled = write(tmp_path / "shuffled", data=DATA + SHUFFLED)
    assert chosen(shuffled)[1] == chosen(project)[1]


def test_equal_contents_count_once_whatever_their_labels_and_order(tmp_path: Path) -> None:
    """50 contents stand in the data twice, with two labels; the lower one counts."""
    data, selection = chosen(write(tmp_path / "a", data=DATA + DOUBLED))
    assert len(data.rest) + len(data.pool) == 290
    assert selection.rest.different + selection.pool.different == 240
    assert max(Counter(one.hash for one in selection.samples).values()) == 1
    truth = {content_hash(x): int(y) for x, y in load_data(write(tmp_path / "b"), 3).rest.dataset}
    doubled = {one.hash: one.label for one in selection.part("guide") if one.label != truth[one.hash]}
    assert set(doubled.values()) == {0}  # labels 2 became 0, which is lower; the others kept theirs
    turned = DOUBLED.replace("[images[:50], images]", "[images, images[:50]]").replace(
        "[(labels[:50] + 1) % 3, labels]", "[labels, (labels[:50] + 1) % 3]"
    )
    assert chosen(write(tmp_path / "c", data=DATA + turned))[1] == selection


def test_at_random_the_sizes_are_the_same_and_the_samples_others(tmp_path: Path, project: Project) -> None:
    _, critical = chosen(project)
    random = write(tmp_path / "random", "preservation.method=random")
    _, by_chance = chosen(random)
    for part in ("guide", "watch", "certify"):
        assert len(critical.part(part)) == len(by_chance.part(part))
        assert {one.hash for one in critical.part(part)} != {one.hash for one in by_chance.part(part)}
    assert all(one.reasons == ("random",) for one in by_chance.samples)
    other_seed = write(tmp_path / "seed", "preservation.method=random", "compress.seed=1")
    assert chosen(other_seed)[1].samples != by_chance.samples


def test_each_sample_keeps_its_reasons_and_scores(project: Project) -> None:
    _, selection = chosen(project)
    assert (selection.grad_cam, selection.features) == ("2", "5")
    shares = Counter((one.part, one.criterion) for one in selection.samples)
    assert shares == {
        (part, name): size // 3
        for part, size in (("guide", 48), ("watch", 24), ("certify", 24))
        for name in ("saliency", "uncertainty", "diversity")
    }
    for one in selection.samples:
        assert one.criterion in one.reasons
        assert 0 <= one.scores.uncertainty <= 2 / 3
        assert 0 <= one.scores.margin <= 1 - one.scores.uncertainty
        assert one.scores.saliency >= 0


def test_a_pool_of_its_own_is_kept_whole(tmp_path: Path) -> None:
    data = DATA + "def pool():\n    return TensorDataset(*samples(60, 1))\n"
    config = CONFIG.replace("[preservation]", '[data]\npool = "stripes_data:pool"\n[preservation]').replace(
        'data.train = "stripes_data:train"', ""
    )
    config = config.replace("[data]\n", '[data]\ntrain = "stripes_data:train"\n')
    found, selection = chosen(write(tmp_path, data=data, config=config))
    assert (len(found.rest), len(found.pool)) == (240, 60)
    assert len(selection.part("watch")) == len(selection.part("certify")) == 30
    assert len(selection.part("guide")) == 60


@pytest.mark.parametrize(
    ("layer", "message"),
    [("1", "'1' is no convolution but ReLU"), ("9", "no layer '9'"), ("2x", "did you mean '2'?")],
)
def test_a_wrong_layer_is_named_where_it_was_set(tmp_path: Path, layer: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(write(tmp_path, f'preservation.layer="{layer}"'))
    assert message in caught.value.message
    assert caught.value.where == "--set: preservation.layer"


def test_another_layer_changes_the_saliency_alone(tmp_path: Path, project: Project) -> None:
    scores = {one.hash: one.scores for one in chosen(project)[1].samples}
    other = chosen(write(tmp_path / "other", 'preservation.layer="0"'))[1]
    assert other.grad_cam == "0"
    common = [(scores[one.hash], one.scores) for one in other.samples if one.hash in scores]
    assert common
    for first, second in common:
        assert first.saliency != second.saliency
        assert first.margin == second.margin


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    data = DATA.replace("% 3", "* 0")
    with pytest.raises(DataError, match="samples of at least two classes") as caught:
        chosen(write(tmp_path, data=data))
    assert "240 training samples have the label 0" in caught.value.message


def test_a_class_too_small_for_both_parts_is_reported(tmp_path: Path) -> None:
    """One sample of class 2 cannot be in watch and in certify."""
    data = DATA.replace("labels = torch.arange(n) % 3", "labels = torch.arange(n) % 2; labels[7] = 2")
    uncovered = summarize(chosen(write(tmp_path, data=data))[1]).uncovered
    assert {part for part, labels in uncovered.items() if labels} <= {"watch", "certify"}
    assert sum(labels == (2,) for labels in uncovered.values()) in (0, 1)


def test_test_samples_are_refused(tmp_path: Path) -> None:
    config = CONFIG.replace("data.train =", 'data.test = "stripes_data:train"\ndata.train =')
    with pytest.raises(DataError, match="48 samples are in both guide and test"):
        chosen(write(tmp_path, config=config))


def test_a_model_that_fails_on_a_real_sample_names_the_users_line(tmp_path: Path) -> None:
    model = MODEL.replace(
        "    torch.manual_seed(0)\n    return nn.Sequential(",
        "    torch.manual_seed(0)\n    return nn.Sequential(Picky(), ",
    ).replace(
        "def build",
        "class Picky(nn.Module):\n    def forward(self, x):\n"
        "        if x.sum() > 0:\n            raise KeyError('table')\n        return x\n\ndef build",
    )
    with pytest.raises(ModelError, match=r"KeyError: 'table'.*stripes_model.py:7"):
        chosen(write(tmp_path, model=model))


def test_a_selection_of_other_data_is_refused(tmp_path: Path, project: Project) -> None:
    _, selection = chosen(project)
    other = load_data(write(tmp_path / "other", data=DATA.replace("seed=0", "seed=3")), 3)
    with pytest.raises(FileFormatError, match="guide part lists samples that the data sets do not have"):
        divide(other, selection)


def test_progress_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sgsc_edge.preservation.scores._LOG_EVERY_S", 0.0)
    monkeypatch.setattr("sgsc_edge.preservation.scores._BATCH", 64)
    with caplog.at_level("INFO", logger="sgsc_edge"):
        chosen(project)
    assert any("training data: 64 of " in message and "s left" in message for message in caplog.messages)


def test_features_wider_than_the_limit_are_projected(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgsc_edge.preservation.scores.MAX_FEATURES", 16)
    one, two = chosen(project)[1], chosen(project)[1]
    assert one == two
    monkeypatch.setattr("sgsc_edge.preservation.scores.MAX_FEATURES", 1024)
    assert chosen(project)[1].samples != one.samples


def test_the_global_random_state_is_as_before(project: Project) -> None:
    before = torch.random.get_rng_state()
    chosen(project)
    assert torch.equal(torch.random.get_rng_state(), before)
