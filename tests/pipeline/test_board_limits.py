"""A board that a build must fit: before training where that changes no size, and when it is lowered."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.conftest import sgsc_edge
from pipeline.test_own_target import of, target

from sgsc_edge import api
from sgsc_edge.boards.description import Board, board_folder, load_board
from sgsc_edge.errors import InputError
from sgsc_edge.pipeline.context import Build
from sgsc_edge.pipeline.stages import STAGES

M4 = "virtual-cortex-m4"
STAGE = {stage.name: stage for stage in STAGES}


def small_board(folder: Path, flash: str = "512 KiB", ram: str = "256 KiB") -> Path:
    text = (board_folder() / f"{M4}.toml").read_text()
    for old, new in (('"512 KiB"', f'"{flash}"'), ('"256 KiB"', f'"{ram}"'), (M4, "small")):
        assert old in text
        text = text.replace(old, new)
    path = folder / "small.toml"
    path.write_text(text)
    return path


def building(built: Path, board: Board | None, *settings: str) -> Build:
    plain = of(built, target(built, "plain"), *settings)
    return Build(plain.project, plain.target, plain.folder, board)


def test_a_project_takes_what_its_build_takes(built: Path) -> None:
    """Plain 8 bits: training changes numbers, not sizes."""
    before, after = (api.fit(path, M4) for path in (built, built / "build" / "tflite-int8"))
    assert before.ram == after.ram
    assert [layer.macs for layer in before.layers] == [layer.macs for layer in after.layers]
    assert before.flash.weights == pytest.approx(
        after.flash.weights, abs=64
    )  # equal constants are stored once


def test_a_board_that_is_too_small_is_refused_before_samples_are_scored(built: Path) -> None:
    path = small_board(built, flash="1 KiB")
    out = built / "small"
    ran = sgsc_edge("build", built, "--target", "tflite-int8", "--out", out, "--board", path, "--json")
    assert ran.code == 2, ran.err
    (outcome,) = ran.document["builds"]
    assert outcome["error"]["where"] == "board 'small'"
    assert "bytes of flash" in outcome["error"]["message"]
    assert "most of them in '" in outcome["error"]["message"]
    assert not (out / "tflite-int8" / "preservation.json").exists()


def test_under_a_budget_the_board_is_asked_when_the_model_is_lowered(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = load_board(small_board(built, ram="5 KiB"))
    tight = board.model_copy(update={"chip": board.chip.model_copy(update={"stack": 5000})})
    budget = building(built, tight, "compress.budget=400 B")
    STAGE["rehearse"].run(budget, "")
    with pytest.raises(InputError, match="bytes of RAM"):
        STAGE["fit"].run(budget, "")
    with caplog.at_level("INFO", logger="sgsc_edge"):
        STAGE["fit"].run(building(built, load_board(M4), "compress.budget=400 B"), "")
    assert f"fits {M4}: " in caplog.text


def test_a_board_changes_the_keys_of_what_checks_it(built: Path) -> None:
    boards = [None, load_board(M4), load_board(small_board(built, ram="128 KiB"))]
    without, first, second = (building(built, board) for board in boards)
    assert [STAGE["fit"].needed(build) for build in (without, first)] == [False, True]
    for name in ("preserve", "compress", "export", "lower", "record", "certify"):
        assert len({STAGE[name].key(build) for build in (without, first, second)}) == 1
    assert len({STAGE["rehearse"].key(build) for build in (without, first, second)}) == 3
    assert STAGE["fit"].key(first) != STAGE["fit"].key(second)
