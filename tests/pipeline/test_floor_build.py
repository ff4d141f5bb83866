"""A floor in place of a budget, as a user asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline.conftest import Ran, sgsc_edge, write_project
from pipeline.trained import NOISY, SETTINGS, TRAINED

from sgsc_edge import api
from sgsc_edge.artifacts import read_json
from sgsc_edge.cli.certificate_text import search_text
from sgsc_edge.report import read_build
from sgsc_edge.report.sections.sizes import stored_bytes

TARGET = "tflite-int8"
FLOOR = 0.85


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The floor of the command line takes the place of the file's budget.
    config = SETTINGS + 'budget = "400 B"\n'
    return write_project(tmp_path_factory.mktemp("floor"), model=TRAINED, data=NOISY, config=config)


@pytest.fixture(scope="module")
def ran(project: Path) -> Ran:
    return build(project, "--floor", str(FLOOR), "--json")


def build(project: Path, *options: str) -> Ran:
    return sgsc_edge("build", project, "--target", TARGET, "--out", project / "build", *options)


def test_the_smallest_that_was_found_is_an_ordinary_build(project: Path, ran: Ran) -> None:
    assert ran.code == 0, ran.err
    folder = project / "build" / TARGET
    (document,) = ran.document["builds"]
    search = document["search"]
    assert search == read_json(folder / "search.json")
    (chosen,) = (trial for trial in search["trials"] if trial["chosen"])
    assert search["reached"]
    assert chosen["thorough"]
    assert chosen["watch"] >= FLOOR
    assert chosen["budget"] < search["whole"]
    # Every smaller budget that was tried thoroughly, or missed by far, did miss.
    held = {trial["budget"] for trial in search["trials"] if trial["watch"] >= FLOOR}
    assert chosen["budget"] == min(held)
    predicate = document["certificate"]["predicate"]
    (row,) = (row for row in predicate["runtimes"] if row["name"] == "compressed")
    assert row["sets"]["watch"]["metrics"]["accuracy"] == chosen["watch"]
    assert read_json(folder / "plan.json")["bytes"] <= chosen["budget"]
    assert api.verify(folder).exit_code == 0
    report = (folder / "report.html").read_text()
    assert chosen["bytes"] == read_json(folder / "plan.json")["bytes"] == stored_bytes(read_build(folder))
    sentence = (
        f"{chosen['budget']:,} bytes (its model takes {chosen['bytes']:,}) is the smallest budget that was "
        "found to keep an accuracy on 21 watch samples of at least 85.00 %."
    )
    assert sentence in report
    assert all(trial["bytes"] <= trial["budget"] for trial in search["trials"])


def test_the_text_has_the_bytes_of_each_try_and_says_which_count(project: Path, ran: Ran) -> None:
    found = api.search(project / "build" / TARGET)
    assert found is not None
    lines = search_text(found).splitlines()
    assert lines[0].split() == ["budget", "bytes", "from", "training", "watch", "accuracy", "floor"]
    chosen = next(line for line in lines if line.endswith("chosen"))
    assert chosen.split()[:2] == [f"{found.chosen.budget:,}", f"{found.chosen.bytes:,}"]
    thorough = {trial.budget for trial in found.trials if trial.thorough}
    again = [trial for trial in found.trials if trial.budget in thorough and not trial.thorough]
    assert again
    assert sum("made again" in line for line in lines) == len(again)
    assert "count where a budget has both" in lines[len(found.trials) + 1]


def test_another_floor_makes_use_of_the_tries(project: Path, ran: Ran) -> None:
    """A little lower: the same budgets are tried and judged alike."""
    before = ran.document["builds"][0]["search"]["trials"]
    again = build(project, "--floor", str(FLOOR - 1e-3), "--json")
    assert again.code == 0, again.err
    assert "trying" not in again.err
    assert again.document["builds"][0]["search"]["trials"] == before


def test_a_floor_that_the_float_model_misses_is_refused_before_training(project: Path) -> None:
    done = sgsc_edge(
        *("build", project, "--target", TARGET, "--out", project / "refused", "--floor", "0.999"),
        *("--set", "model.saw_pool=true", "--json"),
    )
    assert done.code == 2
    (document,) = done.document["builds"]
    assert "the float model's own accuracy on the 21 watch samples is 0.9524" in document["error"]["message"]
    assert not list((project / "refused").rglob("*.jsonl"))


def test_a_floor_that_no_size_keeps_gives_the_best_and_exit_code_1(project: Path) -> None:
    """Training at a rate that breaks more than it mends."""
    done = sgsc_edge(
        *("build", project, "--target", TARGET, "--out", project / "missed", "--floor", "0.95"),
        *("--set", "compress.learning_rate=3.0", "--set", "compress.epochs=2"),
        *("--set", "gate.max_drop=1.0"),
    )
    assert done.code == 1, done.err
    assert "the watch accuracy misses the floor of 0.95 at every size" in done.err
    assert "PASSED: tflite-int8" in done.out
    assert "FLOOR MISSED: No budget kept an accuracy on 21 watch samples of at least 95.00 %; " in done.out
    search = api.search(project / "missed" / TARGET)
    assert search is not None
    assert not search.reached
    assert search.chosen.watch == max(trial.watch for trial in search.trials if trial.thorough)
