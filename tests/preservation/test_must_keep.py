"""Must-keep samples: which ones, whether they are trained on, and what training makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from preservation.test_sets import CONFIG, DATA, MODEL, SHUFFLED, chosen, write

from sgsc_edge.errors import ConfigError, DataError, FileFormatError, ModelError
from sgsc_edge.preservation.must_keep import lowest_margins
from sgsc_edge.preservation.pool import content_hash
from sgsc_edge.preservation.scores import Scores, decide
from sgsc_edge.preservation.selection import MustKept, Selection
from sgsc_edge.preservation.sets import divide
from sgsc_edge.preservation.taps import find_taps
from sgsc_edge.project import Project

NAMED = 'preservation.must_keep="stripes_data:keep"'
KEEP = """
def keep():
    images, labels = samples()
    fresh, other = samples(6, 4)
    return TensorDataset(torch.cat([images[:30], fresh]), torch.cat([labels[:30], other]))
"""


def scores(margins: list[float], wrong: tuple[int, ...] = (), names: str = "") -> Scores:
    """Samples of these margins, with the letters of ``names`` as content hashes."""
    count = len(margins)
    zeros = np.zeros(count)
    labels = np.zeros(count, dtype=np.int64)
    prediction = labels.copy()
    prediction[list(wrong)] = 1
    hashes = tuple(letter * 64 for letter in names or "0123456789abcdef"[:count])
    margin = np.array(margins)
    return Scores(hashes, labels, labels, prediction, zeros, zeros, margin, zeros, labels, zeros)


def margins_of(found: tuple[MustKept, ...]) -> list[float]:
    return [one.margin for one in found]


def test_the_closest_right_decisions_of_the_guide_are_kept() -> None:
    given = scores([0.5, 0.1, 0.2, 0.3, 0.4], wrong=(1,))
    found = lowest_margins(given, [0, 1, 3, 4], 2, where="here")  # 2 is no guide sample, 1 is wrong
    assert [one.hash[0] for one in found] == ["3", "4"]
    assert margins_of(found) == [0.3, 0.4]
    assert all((one.part, one.reason, one.trained_on) == ("guide", "lowest_margin", True) for one in found)
    assert all(one.label == one.prediction for one in found)


def test_equal_margins_go_by_content() -> None:
    for names, guide in (("cadb", [0, 1, 2, 3]), ("cadb", [3, 2, 1, 0]), ("bdac", [1, 3, 0, 2])):
        found = lowest_margins(scores([1.0] * 4, names=names), guide, 3, where="here")
        assert [one.hash[0] for one in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("wrong", "wanted", "message", "remedy"),
    [
        ((), 5, "asks for 5 samples, but the float model decides 4 of the 4 guide", "ask for at most 4"),
        ((0, 2), 3, "decides 2 of the 4 guide samples rightly", "ask for at most 2"),
        ((0, 1, 2, 3), 1, "decides 0 of the 4 guide samples rightly", "train the float model first"),
    ],
)
def test_too_few_right_decisions_are_refused(
    wrong: tuple[int, ...], wanted: int, message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        lowest_margins(scores([0.5] * 4, wrong), range(4), wanted, where="sgsc.toml:9: key")
    assert message in caught.value.message
    assert remedy in str(caught.value.remedy)
    assert caught.value.where == "sgsc.toml:9: key"


def numbered(folder: Path, count: int, data: str = DATA) -> Project:
    return write(folder, f"preservation.must_keep={count}", data=data)


def test_a_number_takes_guide_samples_that_are_marked_as_trained_on(tmp_path: Path) -> None:
    data, selection = chosen(numbered(tmp_path, 5))
    guide = {one.hash: one for one in selection.part("guide")}
    kept = [guide[one.hash] for one in selection.must_keep]
    right = [one for one in guide.values() if one.label == one.prediction]
    expected = sorted(right, key=lambda one: (one.scores.margin, one.hash))[:5]
    assert kept == expected
    assert margins_of(selection.must_keep) == [one.scores.margin for one in expected]
    divided = divide(data, selection)
    part = divided.parts["must_keep"]
    assert part.hashes == tuple(one.hash for one in expected)
    assert part.labels == tuple(one.label for one in expected)
    assert part.trained_on == (True,) * 5
    assert set(divided.must_keep) < set(divided.guide)


def replace_kept(selection: Selection, kept: tuple[MustKept, ...]) -> Selection:
    return selection.model_copy(update={"must_keep": kept})


def test_a_number_chooses_the_same_whatever_the_order_of_the_data(tmp_path: Path) -> None:
    first, second = numbered(tmp_path / "a", 9), numbered(tmp_path / "b", 9, DATA + SHUFFLED)
    assert chosen(first)[1].must_keep == chosen(second)[1].must_keep


def test_a_number_without_enough_right_decisions_names_the_setting(tmp_path: Path) -> None:
    project = numbered(tmp_path, 49)
    with pytest.raises(ConfigError, match=r"asks for 49 samples, but .* of the 48 guide") as caught:
        chosen(project)
    assert caught.value.where == "--set: preservation.must_keep"


def test_named_samples_are_marked_by_content(tmp_path: Path) -> None:
    """30 training samples, of the pool or not, and 6 that no data set has."""
    data, selection = chosen(write(tmp_path, NAMED, data=DATA + KEEP))
    divided = divide(data, selection)
    part = divided.parts["must_keep"]
    rest, pool = set(data.rest.hashes), set(data.pool.hashes)
    assert part.trained_on == tuple(digest in rest for digest in part.hashes)
    in_pool = [digest in pool for digest in part.hashes]
    assert sum(part.trained_on) + sum(in_pool) == 30
    assert 0 < sum(in_pool) < 15
    assert part.trained_on[30:] == (False,) * 6
    parts = {one.hash: one.part for one in selection.samples}
    assert [one.part for one in selection.must_keep] == [parts.get(digest) for digest in part.hashes]
    assert [one.trained_on for one in selection.must_keep] == list(part.trained_on)
    assert {one.reason for one in selection.must_keep} == {"named"}
    assert {one.part for one in selection.must_keep} > {None, "guide"}


def test_named_training_samples_are_guarded(tmp_path: Path) -> None:
    """Each once, in the guide part or not; samples of the pool and unknown ones never."""
    data, selection = chosen(write(tmp_path, NAMED, data=DATA + KEEP))
    divided = divide(data, selection)
    assert tuple(data.rest.hashes[index] for index in divided.guide) == divided.parts["guide"].hashes
    part = divided.parts["must_keep"]
    trained = {digest for digest, yes in zip(part.hashes, part.trained_on, strict=True) if yes}
    assert sorted(data.rest.hashes[index] for index in divided.must_keep) == sorted(trained)
    assert trained - set(divided.parts["guide"].hashes)


def test_a_named_sample_with_another_label_than_training_is_not_guarded(tmp_path: Path) -> None:
    """It is marked, for its content is trained on; to train on it more would work against it."""
    contrary = KEEP.replace("labels[:30], other", "(labels[:30] + 1) % 3, other")
    data, selection = chosen(write(tmp_path, NAMED, data=DATA + contrary))
    divided = divide(data, selection)
    assert sum(divided.parts["must_keep"].trained_on or ()) > 15
    assert divided.must_keep == ()


def test_margins_of_named_samples_are_the_float_models(tmp_path: Path) -> None:
    project = write(tmp_path, NAMED, data=DATA + KEEP)
    data, selection = chosen(project)
    assert data.must_keep is not None
    inputs, labels = data.must_keep.tensors()
    with torch.no_grad():
        probabilities = project.load_model()(inputs).double().softmax(1).sort(1).values
    expected = (probabilities[:, -1] - probabilities[:, -2]).tolist()
    assert margins_of(selection.must_keep) == pytest.approx(expected, abs=1e-6)
    assert [one.label for one in selection.must_keep] == labels.tolist()
    assert [one.hash for one in selection.must_keep] == [content_hash(one) for one in inputs]


def test_nan_for_a_named_sample_is_refused(tmp_path: Path) -> None:
    project = write(tmp_path, NAMED, data=DATA + KEEP)
    data, _ = chosen(project)
    assert data.must_keep is not None
    model = project.load_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    taps = find_taps(model, data.rest.dataset[0][0], None, "here")
    with pytest.raises(ModelError, match="NaN or infinity for 36 samples of the must_keep samples"):
        decide(model, data.must_keep.dataset, data.must_keep.hashes, taps=taps, name="the must_keep samples")


def test_test_samples_cannot_be_kept(tmp_path: Path) -> None:
    data = DATA + "def test():\n    return TensorDataset(*samples(12, 8))\ndef keep():\n    return test()\n"
    config = CONFIG.replace("data.train =", 'data.test = "stripes_data:test"\ndata.train =')
    with pytest.raises(DataError, match="12 samples are in both must_keep and test"):
        chosen(write(tmp_path, NAMED, data=data, config=config))


def test_a_list_of_other_samples_is_refused(tmp_path: Path) -> None:
    data, selection = chosen(write(tmp_path / "named", NAMED, data=DATA + KEEP))
    kept = selection.must_keep
    turned = kept[0].model_copy(update={"trained_on": not kept[0].trained_on})
    for listed in ((), kept[1:], kept[::-1], (turned, *kept[1:])):
        with pytest.raises(FileFormatError, match="must_keep part lists samples that the data sets"):
            divide(data, replace_kept(selection, listed))
    with pytest.raises(FileFormatError, match="must_keep part lists"):
        divide(replace(data, must_keep=None), selection)


def test_a_numbered_list_holds_guide_samples_only(tmp_path: Path) -> None:
    data, selection = chosen(numbered(tmp_path, 3))
    first, watch = selection.must_keep[0], selection.part("watch")[0].hash
    guide = {one.hash for one in selection.part("guide")}
    beside = next(digest for digest in data.rest.hashes if digest not in guide)
    edits = [{"hash": watch}, {"hash": beside}, {"label": (first.label + 1) % 3}, {"trained_on": False}]
    for edit in edits:
        edited = (first.model_copy(update=edit), *selection.must_keep[1:])
        with pytest.raises(FileFormatError, match="must_keep part lists"):
            divide(data, replace_kept(selection, edited))


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    data, selection = chosen(write(tmp_path, model=MODEL))
    assert selection.must_keep == ()
    assert "must_keep" not in divide(data, selection).parts
