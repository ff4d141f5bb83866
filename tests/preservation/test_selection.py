from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgsc_edge.errors import FileFormatError
from sgsc_edge.preservation.selection import (
    MustKept,
    SampleScores,
    Selected,
    Selection,
    SideCounts,
    read_selection,
    write_selection,
)
from sgsc_edge.preservation.summary import summarize


def sample(number: int, part: str, label: int, margin: float, **changes: Any) -> Selected:
    scores = SampleScores(saliency=0.5, uncertainty=0.25, margin=margin, entropy=0.1, cluster=number % 3)
    fields = {
        "hash": f"{number:064x}",
        "part": part,
        "label": label,
        "prediction": label,
        "criterion": "saliency",
        "reasons": ("saliency",),
        "ranks": {"saliency": 1},
        "scores": scores,
    }
    return Selected(**(fields | changes))


def kept(number: int, margin: float, **changes: Any) -> MustKept:
    fields = {"label": 0, "prediction": 0, "reason": "named", "part": None, "trained_on": False}
    return MustKept(hash=f"{number:064x}", margin=margin, **(fields | changes))


def selection() -> Selection:
    return Selection(
        method="critical",
        shares={"saliency": 0.5, "diversity": 0.5},
        seed=0,
        grad_cam="features.3",
        features="head",
        rest=SideCounts(samples=9, different=8, labels={"0": 4, "1": 4}),
        pool=SideCounts(samples=5, different=5, labels={"0": 4, "1": 1}),
        samples=(
            sample(1, "guide", 0, 0.9),
            sample(2, "guide", 1, 0.1, criterion="diversity", prediction=0),
            sample(3, "watch", 0, 0.2),
            sample(4, "certify", 0, 0.3),
        ),
        must_keep=(kept(1, 0.9, trained_on=True), kept(7, 0.2, prediction=1), kept(4, 0.3, part="certify")),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "preservation.json"
    write_selection(path, selection())
    assert read_selection(path) == selection()
    before = path.read_bytes()
    write_selection(path, read_selection(path))
    assert path.read_bytes() == before


def spoil_schema(document: dict[str, Any]) -> None:
    document["schema"] = "sgsc-edge-preservation/1"


def spoil_part(document: dict[str, Any]) -> None:
    document["samples"][0]["part"] = "test"


def spoil_hash(document: dict[str, Any]) -> None:
    document["samples"][1]["hash"] = "../../etc/passwd"


def spoil_score(document: dict[str, Any]) -> None:
    document["samples"][0]["scores"]["margin"] = "high"


def spoil_label(document: dict[str, Any]) -> None:
    document["samples"][0]["label"] = -1


def spoil_mark(document: dict[str, Any]) -> None:
    document["must_keep"][0]["trained_on"] = 1


def spoil_reason(document: dict[str, Any]) -> None:
    document["must_keep"][0]["reason"] = "guessed"


def drop_must_keep(document: dict[str, Any]) -> None:
    del document["must_keep"]


def spoil_key(document: dict[str, Any]) -> None:
    document["trusted"] = True


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_schema, "is no sgsc-edge-preservation/3 document"),
        (spoil_part, "samples.0.part"),
        (spoil_hash, "samples.1.hash"),
        (spoil_score, "samples.0.scores.margin"),
        (spoil_label, "samples.0.label"),
        (spoil_mark, "must_keep.0.trained_on"),
        (spoil_reason, "must_keep.0.reason"),
        (drop_must_keep, "must_keep"),
        (spoil_key, "trusted"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    path = tmp_path / "preservation.json"
    write_selection(path, selection())
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=message):
        read_selection(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"schema": "sgsc-edge-preservation/2"}'])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "preservation.json").write_text(text)
    with pytest.raises(FileFormatError):
        read_selection(tmp_path / "preservation.json")


def test_the_summary_counts_by_part_and_criterion() -> None:
    summary = summarize(selection())
    counted = {(group.part, group.criterion): group for group in summary.groups}
    assert set(counted) == {
        ("guide", "saliency"),
        ("guide", "diversity"),
        ("guide", "all"),
        ("watch", "saliency"),
        ("watch", "all"),
        ("certify", "saliency"),
        ("certify", "all"),
    }
    whole = counted["guide", "all"]
    assert (whole.samples, whole.share, whole.classes, whole.clusters, whole.errors) == (2, 1.0, 2, 2, 1)
    assert counted["guide", "diversity"].share == 0.5
    assert whole.quantiles["margin"] == pytest.approx((0.18, 0.5, 0.82))
    assert [one.scores.margin for one in summary.hardest["guide"]] == [0.1, 0.9]
    assert summary.labels["guide"] == {"0": 1, "1": 1}
    assert summary.uncovered == {"guide": (), "watch": (1,), "certify": (1,)}
    json.dumps(summary.to_json(), allow_nan=False)


def test_the_summary_has_the_must_keep_samples_lowest_margins_first() -> None:
    found = summarize(selection()).must_keep
    assert [one.margin for one in found.samples] == [0.2, 0.3, 0.9]
    assert (found.trained_on, found.right) == (1, 2)
    document = found.to_json()
    assert (document["count"], document["trained_on"], document["right"]) == (3, 1, 2)
    assert [one["id"] for one in document["samples"]] == [f"{number:064x}"[:16] for number in (7, 4, 1)]
