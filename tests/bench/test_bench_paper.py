"""The comparison with the paper: keys and resume, statistics, candidate sets, tables and plots."""

from __future__ import annotations

import dataclasses
import doctest
import json
import shutil
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from compression.attention_networks import SAMPLE, LanguageModel, calibrated
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import record, report  # noqa: E402
from benchmarks.paper import __main__ as command  # noqa: E402
from benchmarks.paper import (  # noqa: E402
    baselines,
    methods,
    plots,
    prediction,
    scale,
    statistics,
    tables,
    variants,
)
from benchmarks.paper.measure import IGNORED, Bytes, Outcome, Scores  # noqa: E402
from benchmarks.paper.resnet18 import build as resnet18  # noqa: E402
from benchmarks.paper.running import Result, Run  # noqa: E402
from benchmarks.paper.statistics import Spread, mean_spearman, ranks, spearman  # noqa: E402
from benchmarks.paper.subjects import SUBJECTS, Subject  # noqa: E402
from benchmarks.paper.variants import Case, Variant, cases  # noqa: E402
from sgsc_edge.compression.channels import set_masks  # noqa: E402
from sgsc_edge.compression.compress import Compression  # noqa: E402
from sgsc_edge.compression.fit import stored_bytes  # noqa: E402
from sgsc_edge.compression.folding.fold import CompressedModel, fold  # noqa: E402
from sgsc_edge.compression.layers import QuantizedModel, quantize_model  # noqa: E402
from sgsc_edge.compression.shrink import shrink  # noqa: E402
from sgsc_edge.project.schema import CompressSection  # noqa: E402
from sgsc_edge.targets import load_target  # noqa: E402

FLOATS = st.floats(-1e3, 1e3).map(lambda value: round(value, 1))


# --- statistics -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=30))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    one, other = np.array(pairs).T
    assert ranks(one).tolist() == stats.rankdata(one).tolist()
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-9)
    else:
        assert np.isnan(spearman(one, other))


def test_rank_correlation_by_hand() -> None:
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 · Σd² / (n (n² - 1)) = 1 - 24 / 60
    assert spearman(np.array([0.1, 0.2, 0.3, 0.4]), np.array([5.0, 4.0, 9.0, 7.0])) == pytest.approx(0.6)


def test_a_group_in_which_nothing_varies_says_nothing() -> None:
    rising, flat = np.array([1.0, 2.0, 3.0]), np.ones(3)
    assert mean_spearman([(rising, rising), (rising, flat)]) == 1
    assert np.isnan(mean_spearman([(rising, flat)]))


@given(st.lists(FLOATS, min_size=2, max_size=10))
def test_students_interval_is_that_of_scipy(values: list[float]) -> None:
    spread = Spread.of(values)
    interval = spread.interval()
    assert interval is not None
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert interval[1] - interval[0] == pytest.approx(high - low, rel=1e-4)
        assert sum(interval) / 2 == pytest.approx(spread.mean)
    assert Spread.of(values[:1]).interval() is None


# --- outcomes and bytes ---------------------------------------------------------------------------


def outcome(right: list[bool], losses: list[float] | None = None) -> Outcome:
    counted, each = np.ones(len(right), np.int64), np.array(losses or [0.5] * len(right), np.float32)
    return Outcome(np.array(right), counted, each)


def scores(right: list[bool]) -> Scores:
    return Scores.of(outcome(right), torch.ones(len(right), dtype=torch.int64))


def test_a_token_without_a_label_counts_nowhere() -> None:
    labels = torch.tensor([[0, 1, IGNORED], [1, IGNORED, IGNORED]])
    logits = torch.tensor([[[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]], [[0.0, 2.0], [2.0, 0.0], [2.0, 0.0]]])
    one = Outcome.of(logits, labels)
    assert one.metric("accuracy") == pytest.approx(2 / 3)
    wrong, right = np.log(1 + np.exp(2)), np.log(1 + np.exp(-2))
    assert one.metric("loss") == pytest.approx((2 * right + wrong) / 3, rel=1e-6)
    assert one.take(np.array([1])).metric("accuracy") == 1
    with pytest.raises(SystemExit, match="no labelled samples"):
        Outcome.of(logits, torch.full_like(labels, IGNORED)).metric("accuracy")


def test_flips_are_decisions_that_were_right() -> None:
    before, after = outcome([True, True, False]), outcome([True, False, False])
    assert (after.flips(before), before.flips(after)) == (1, 0)


def test_outcomes_come_back_from_arrays() -> None:
    one = outcome([True, False], [0.1, 2.0])
    back = Outcome.read(one.arrays())
    assert back.right.tolist() == [True, False]
    assert back.losses == pytest.approx(one.losses, rel=1e-3)
    tokens = Outcome(np.arange(15).reshape(5, 3) % 4 == 0, np.arange(5), np.ones(5, np.float32))
    again = Outcome.read(tokens.arrays())
    assert (again.right == tokens.right).all()
    assert (again.counted == tokens.counted).all()
    assert (again.losses == tokens.losses).all()


def test_scores_come_back_from_json() -> None:
    one = Scores.of(outcome([True, False, True], [0.1, 2.0, 0.3]), torch.tensor([4, 4, 7]))
    assert one == Scores(pytest.approx(2 / 3), pytest.approx(0.8), {4: 0.5, 7: 1.0})
    assert Scores.read(json.loads(json.dumps(dataclasses.asdict(one)))) == one
    assert not Scores.of(outcome([True]), torch.tensor([[4, IGNORED]])).recalls


def small() -> QuantizedModel:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 3)
    )
    model = quantize_model(network.eval(), torch.zeros(1, 8, 8))
    model.enable(False)
    model.observe(True)
    with torch.no_grad():
        model.module.train()(torch.randn(16, 1, 8, 8))
    model.observe(False)
    model.module.eval()
    model.enable(True)
    return model


def language_model() -> QuantizedModel:
    torch.manual_seed(0)
    return calibrated(LanguageModel())


def stored(model: QuantizedModel, bits: int) -> None:
    for name, (storage,) in baselines.Uniform(bits=bits).storages(model).items():
        dict(model.layers())[name].snap_to(storage)


@pytest.mark.parametrize("limit", [600, 1200])
def test_pruning_meets_its_bytes_with_the_largest_channels_of_each_layer(limit: int) -> None:
    model = small()
    stored(model, 8)
    masks = baselines.prune(model, limit)
    assert 0.7 * limit < stored_bytes(model, masks) <= limit
    layers = dict(model.layers())
    *hidden, outputs = masks
    assert masks[outputs].all()
    shares = []
    for name in hidden:
        norms, stays = layers[name].weight.detach().abs().flatten(1).mean(1), masks[name] > 0
        shares.append(float(stays.float().mean()))
        assert norms[stays].min() > norms[~stays].max()
    assert max(shares) - min(shares) <= 2 / 8  # one channel of the smaller layer, and one that still fitted
    with pytest.raises(SystemExit, match="cannot meet"):
        baselines.prune(model, 10)


def test_pruning_takes_heads_of_attention_as_they_are_kept() -> None:
    model = language_model()
    stored(model, 8)
    whole = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    limit = round(0.8 * stored_bytes(model, whole))
    masks = baselines.prune(model, limit)
    assert 0.8 * limit < stored_bytes(model, masks) <= limit
    for name, layer in model.layers():
        assert not layer.is_table or masks[name].all()
    set_masks(model, masks)
    shrunk = shrink(fold(model), SAMPLE).model
    assert Bytes.of(shrunk).learned <= limit


@pytest.mark.parametrize("make", [small, language_model])
def test_bytes_of_a_model_are_those_that_the_ledger_counts(make: Callable[[], QuantizedModel]) -> None:
    model = make()
    stored(model, 4)
    sample = SAMPLE if make is language_model else torch.zeros(1, 8, 8)
    size = Bytes.of(shrink(fold(model), sample).model)
    whole = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    # Each layer fills its last byte; a channel whose integers need fewer bits has fewer.
    assert 0.97 * stored_bytes(model, whole) <= size.learned <= stored_bytes(model, whole)
    assert size.bits == pytest.approx(4, abs=0.1)
    if make is small:
        weights = sum(layer.weight.numel() for _, layer in model.layers())
        assert (size.channels, size.in_8_bits) == (23, weights + 23 * 28)


# --- rows -----------------------------------------------------------------------------------------


def test_every_row_has_a_name_of_its_own_and_refers_to_rows_that_exist() -> None:
    names = [variant.name for variant in variants.VARIANTS]
    assert len(set(names)) == len(names)
    assert set(variants.SETS.values()) <= set(names)
    assert set(variants.SAME_AS_OURS) <= {variant.group for variant in variants.VARIANTS}
    for subject in SUBJECTS.values():
        own = [case.name for case in cases(subject)]
        assert len(set(own)) == len(own)
        assert subject.ablated in subject.budgets
        assert list(subject.budgets) == sorted(subject.budgets, reverse=True)
        assert set(subject.variants) <= set(names)
        load_target(subject.target)


def test_rows_without_a_guide_take_as_many_steps() -> None:
    subject = SUBJECTS["mnist"]
    by_name = {case.name: case.settings(3) for case in cases(subject)}
    ours, unsafe = by_name[f"ours@{subject.ablated}"], by_name[f"unsafe@{subject.ablated}"]
    assert "compress.batch_size=128" in ours
    assert "compress.batch_size=96" in unsafe  # and 32 guide samples are left out
    assert "compress.seed=3" in ours
    assert f"compress.budget={subject.ablated} B" in unsafe
    assert not [setting for setting in by_name["ptq8"] if "budget" in setting]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example with an untrained network: rows need one that loads."""
    project = tmp_path_factory.mktemp("paper") / "digits"
    shutil.copytree(
        ROOT / "examples/digits", project, ignore=shutil.ignore_patterns("build", "float.*", "__*")
    )
    text = (project / "sgsc.toml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith("checkpoint")]
    (project / "sgsc.toml").write_text("\n".join(kept))
    return project


def subject_of(project: Path) -> Subject:
    settings = ("preservation.fraction=0.2", "gate.max_drop=0.5", "model.saw_pool=false")
    return Subject(
        name="digits",
        title="Digits",
        stem="digits",
        train=lambda seed: project,
        target="c-learned",
        settings=settings,
        epochs=2,
        batch_size=256,
        budgets=(2_000,),
        ablated=2_000,
    )


def test_a_row_is_run_once_and_again_when_its_settings_change(digits: Path, tmp_path: Path) -> None:
    subject = subject_of(digits)
    case = next(case for case in cases(subject) if case.name == "ptq8")
    run = Run(case, 0, tmp_path / "rows", tmp_path)
    assert run.kept() is None
    first = run.result()
    assert set(first.scores) == {"train", "pool", "test"}
    assert max(first.figures["certify"]) < len(first.pool.right)
    assert not set(first.figures["watch"]) & set(first.figures["certify"])
    again = Run(case, 0, tmp_path / "rows", tmp_path).kept()
    assert again is not None
    assert again.scores == first.scores
    assert (again.pool.right == first.pool.right).all()
    assert again.figures == json.loads(json.dumps(first.figures))
    longer = dataclasses.replace(case, subject=dataclasses.replace(subject, epochs=3))
    assert Run(longer, 0, tmp_path / "rows", tmp_path).kept() is None
    assert Run(case, 1, tmp_path / "rows", tmp_path).kept() is None


@pytest.mark.parametrize("name", ["pruned@2000", "int4"])
def test_baselines_have_the_sizes_that_they_are_named_for(digits: Path, tmp_path: Path, name: str) -> None:
    case = next(case for case in cases(subject_of(digits)) if case.name == name)
    figures = Run(case, 0, tmp_path / "rows", tmp_path).result().figures
    assert figures["bits"] == pytest.approx(8 if case.budget else 4, abs=0.6)
    if case.budget:
        assert 0.8 * case.budget <= figures["learned"] <= case.budget
    assert len(figures["history"]) == 2


def test_a_rare_class_is_repeated_in_what_is_trained_on_alone(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = dataclasses.replace(subject_of(digits), rare=3)
    case = next(case for case in cases(subject) if case.name == "balanced@2000")
    trained: list[Compression] = []

    def run(compression: Compression, folder: Path, key: str) -> CompressedModel:
        trained.append(compression)
        return compression.restore()

    monkeypatch.setattr(Compression, "run", run)
    build = Run(case, 0, tmp_path / "rows", tmp_path).build
    build.folder.mkdir(parents=True)
    methods.select(build, tmp_path / "kept")
    methods.make(build, case, "key")
    (compression,) = trained
    labels = [int(compression.train[index][1]) for index in range(len(compression.train))]
    before = build.data.rest.tensors()[1].tolist()
    assert labels[: len(before)] == before
    assert labels[len(before) :] == [3] * before.count(3) * (baselines.TIMES - 1)
    assert compression.goal.budget == 2_000
    assert not compression.guide_share


def test_float_that_is_trained_as_long_stays_float_and_learns(digits: Path, tmp_path: Path) -> None:
    rows = {case.name: case for case in cases(subject_of(digits))}
    before, after = (Run(rows[name], 0, tmp_path / "rows", tmp_path).result() for name in ("float", "longer"))
    assert after.figures["learned"] == before.figures["learned"]
    assert after.scores["train"].loss < before.scores["train"].loss - 0.1


def test_a_row_whose_setting_is_unknown_says_what_it_needs(digits: Path, tmp_path: Path) -> None:
    unknown = Variant("new", "ours", "new", settings=("compress.teleport=true",))
    needs = Run(Case(subject_of(digits), unknown, 2_000), 0, tmp_path).needs()
    assert needs is not None
    assert "teleport" in needs


# --- which set predicts ---------------------------------------------------------------------------


def models(generator: np.random.Generator, skills: np.ndarray, telling: range) -> list[Result]:
    """Models of these test accuracies, that tell themselves apart on some samples of the pool alone."""
    found = []
    for skill in skills:
        pool = generator.random(1000) < 0.9
        pool[telling] = np.arange(len(telling)) < skill * len(telling)
        test = np.arange(1000) < skill * 1000
        found.append(Result({}, {"test": scores(test.tolist())}, outcome(pool.tolist())))
    return found


def test_the_set_that_follows_test_accuracy_predicts_best() -> None:
    generator = np.random.default_rng(0)
    telling, idle = range(100), range(200, 300)
    judged = prediction.Judged(
        models(generator, np.linspace(0.5, 0.9, 12), telling),
        {"telling": list(telling), "idle": list(idle), "longer": list(range(300, 500))},
        watched=list(range(10)),
    )
    found = {one.name: one for one in prediction.predictions([judged, judged], "accuracy")}
    assert found["telling"].correlation > 0.95
    assert found["telling"].beaten > 0.95
    assert abs(found["idle"].correlation) < 0.7
    assert 0.02 < found["idle"].beaten < 0.98
    *_, chance = found.values()
    assert chance.name == "1,000 random subsets"
    assert abs(chance.correlation) < found["telling"].correlation
    assert np.isnan(chance.beaten)
    assert {one.samples for one in found.values()} == {90}  # less those that were watched, all of one size
    sets = prediction.equal(judged)
    assert all(not set(positions) & set(judged.watched) for positions in sets.values())
    assert prediction.predictions([dataclasses.replace(judged, models=judged.models[:2])], "accuracy") == []


def test_equal_models_count_once() -> None:
    first, second = models(np.random.default_rng(0), np.array([0.5, 0.6]), range(100))
    assert prediction.distinct([first, second, first]) == [first, second]


def test_sets_are_judged_by_models_that_none_guarded_and_by_those_of_one_size() -> None:
    budget = SUBJECTS["mnist"].ablated
    names = ["ptq8", "unsafe@8000", *(f"{name}@{budget}" for name in ("unsafe", "ours", "plain", "lambda4"))]
    names += [f"{name}@{budget}" for name in variants.SETS.values()]
    rows = {name: {0: result(60 + number, budget)} for number, name in enumerate(dict.fromkeys(names))}
    found = measured(rows)
    free, guarded = (tables.judged(found, guarded=one) for one in (False, True))
    assert [len(seed.models) for seed in (*free, *guarded)] == [1, 1]  # equal on the pool
    apart = {
        name: {0: result(60 + number, budget, 50 + number)}
        for number, name in enumerate(dict.fromkeys(names))
    }
    free, guarded = (tables.judged(measured(apart), guarded=one) for one in (False, True))
    assert [seed.models for seed in free] == [
        [apart[n][0] for n in ("ptq8", "unsafe@8000", f"unsafe@{budget}")]
    ]
    kept = [f"{name}@{budget}" for name in ("unsafe", "ours", "lambda4", "plain")]
    assert [seed.models for seed in guarded] == [[apart[name][0] for name in kept]]


# --- tables and pictures --------------------------------------------------------------------------


def result(right: int, size: int, certify: int = 90) -> Result:
    """100 test samples of which so many are right, and a pool of 100 of which all are certify samples."""
    pool = [index < certify for index in range(100)]
    parts = {"train": [True] * 100, "test": [index < right for index in range(100)], "pool": pool}
    places = list(range(100))
    sizes = {"learned": size, "in_8_bits": 2 * size}
    course = {"seconds": 60.0, "actions": 4, "history": [{"guide_multiplier": 0.5}]}
    figures = sizes | course | {"certify": places, "watch": []}
    return Result(figures, {name: scores(one) for name, one in parts.items()}, outcome(pool))


def measured(rows: Mapping[str, Mapping[int, Result]], subject: str = "mnist") -> tables.Measured:
    floats = {seed: result(99, 350_000, 99) for seed in range(3)}
    needs = {"bits16@1500": "a range of bits"}
    return tables.Measured(SUBJECTS[subject], {"float": floats, **rows}, needs, ())


def test_the_table_shows_means_what_is_needed_and_what_is_missing() -> None:
    ours = {seed: result(right, 3_000) for seed, right in enumerate((95, 96, 97))}
    names = ("ours@3000", "unsafe@3000", "set-saliency@1500", "controller-on@1500")
    found = measured(dict.fromkeys(names, ours))
    shown = {row[0]: row for row in tables.main_table(found).rows}
    line = shown["ours: λ and size as constraints, 3,000"]
    assert line[1:4] == ("3,000 ± 0", "6,000 ± 0", "96.00% ± 1.00%")
    assert line[6:] == ("9 ± 0", "", "0.50 ± 0.00")
    assert shown["by sensitivity"][6:] == ("9 ± 0", "4 ± 0", "0.50 ± 0.00")
    assert shown["ours without preservation loss and controller, 3,000"][6:] == ("9 ± 0", "", "")
    assert shown["saliency alone"][5:] == ("", "", "", "0.50 ± 0.00")  # may have watched certify samples
    assert shown["float"][1:3] == ("350,000 ± 0", "")
    assert shown["at random, classes covered"][1] == "not measured"
    assert shown["up to 16 bits"][1] == "needs: a range of bits"


@pytest.mark.parametrize(
    ("rights", "says"),
    [
        ((90, 91, 92), "worse than ours"),
        ((95, 97, 96), "no difference shown"),
        ((99, 99, 99), "better than ours"),
    ],
)
def test_differences_are_of_pairs_and_say_what_they_show(rights: tuple[int, ...], says: str) -> None:
    ours = {seed: result(right, 1_500) for seed, right in enumerate((95, 96, 97))}
    unsafe = {seed: result(right, 1_500, 80) for seed, right in enumerate(rights)}
    table = tables.difference_table(measured({"ours@1500": ours, "unsafe@1500": unsafe, "alpha1@1500": ours}))
    rows = {row[0]: row for row in table.rows}
    row = rows["baselines: ours without preservation loss and controller"]
    assert (row[3], row[4], row[5]) == ("-10.00 ± 0.00", "+10.0 ± 0.0", says)
    assert rows["baselines: float"][5] == "better than ours"
    assert rows["α: α = 1"][5] == "the same models"
    losses = tables.difference_table(measured({"ours@41000": ours, "unsafe@41000": unsafe}, "names"))
    assert [row[1] for row in losses.rows][-1] == "+0.0000 ± 0.0000"


@pytest.mark.parametrize(("kept", "met"), [(99, True), (90, False)])
def test_a_point_is_looked_for_where_unsafe_forgets_and_a_safe_run_does_not(kept: int, met: bool) -> None:
    rows = {"unsafe@3000": {0: result(93, 3_000)}, "kept@3000": {0: result(kept, 3_000)}}
    *_, verdict = tables.rare_rows(measured(rows, "rare"), rare=1)
    assert verdict.met is met
    assert ("kept at 3,000" in verdict.value) is met


def test_results_are_written_when_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (record, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(plots, "IMAGES", tmp_path / "images")
    found = measured({"ours@3000": {seed: result(95, 3_000) for seed in range(3)}})
    incomplete = dataclasses.replace(found, missing=("ours@8000 of seed 0",))
    assert command.write(incomplete, partial=False) == 0
    assert "ours@8000 of seed 0" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    command.write(incomplete, partial=True)
    assert (tmp_path / "paper.mnist.json").is_file()
    page = report.section("paper.mnist", "Paper", "Text.")
    assert "python -m benchmarks.paper --model mnist" in page
    assert "![MNIST CNN: test accuracy, %](images/paper-mnist.svg)" in page
    assert "| ours: λ and size as constraints, 3,000 | 3,000 ± 0 |" in page
    tree = ET.fromstring((tmp_path / "images/paper-mnist.svg").read_text())
    assert "MNIST CNN: test accuracy, %" in [element.text for element in tree.iter()]


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0, 100), st.floats(0, 5)), max_size=8))
def test_every_picture_is_well_formed(points: list[tuple[float, float, float]]) -> None:
    curve = plots.Curve("<a> & b", tuple((size, Spread(mean, off, 3)) for size, mean, off in points))
    ET.fromstring(plots.svg("t", "kB", [curve], level=50.0, level_name="float"))


def test_a_curve_that_the_axis_does_not_reach_is_cut_off() -> None:
    near, far = (Spread(mean, 0.1, 3) for mean in (99.0, 20.0))
    curves = [plots.Curve("near", ((1.0, near), (2.0, near))), plots.Curve("far", ((1.0, far),), shown=False)]
    page = plots.svg("t", "kB", curves, level=99.5, level_name="float")
    assert "far (cut off)" in page
    assert "near (cut off)" not in page
    assert ">20<" not in page


def test_every_model_has_its_section() -> None:
    sections = {name for name in report.SECTIONS if name.startswith("paper.")}
    assert sections == {f"paper.{model}" for model in (*SUBJECTS, scale.NAME)}


@pytest.mark.parametrize("module", [statistics, plots, report])
def test_examples_in_docstrings(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


# --- the larger network ---------------------------------------------------------------------------


def test_the_larger_network_has_the_size_of_resnet_18() -> None:
    network = resnet18().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_172_810
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_factors_of_growth() -> None:
    values = dict.fromkeys([field.name for field in dataclasses.fields(scale.Cost)], 0.0)
    small, large = (scale.Cost(**{**values, "float_step": seconds}) for seconds in (0.5, 2.0))
    shown = {row[0]: row[1:] for row in scale.table(small, large).rows}
    assert shown["seconds of a float step"] == ("0.500", "2.000", "4.0")
    assert shown["parameters"] == ("0", "0", "")


def test_the_clock_reads_times_off_the_log() -> None:
    clock = scale.Clock()
    clock.lines = [(10.0, "epoch 1/4"), (30.0, "epoch 2/4"), (35.0, "widths chosen")]
    assert clock.between("epoch 1/", "epoch 2/") == 20
    assert clock.total() == 35
    with pytest.raises(SystemExit, match="logged no line"):
        clock.between("epoch 1/", "epoch 3/")


def test_calls_are_timed_while_it_lasts() -> None:
    class Sleeper:
        def sleep(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    with scale.timed(Sleeper, "sleep") as seconds:
        assert Sleeper().sleep(0.05) == 0.05
    Sleeper().sleep(0.0)
    assert len(seconds) == 1
    assert 0.05 <= seconds[0] < 5


def test_default_learning_rate_is_the_projects() -> None:
    subject = SUBJECTS["mnist"]
    rates = {s for case in cases(subject) for s in case.settings(0) if s.startswith("compress.learning_rate")}
    assert {float(rate.split("=")[1]) for rate in rates} == {CompressSection().learning_rate}
