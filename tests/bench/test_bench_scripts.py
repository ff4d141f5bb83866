"""The benchmarks' own arithmetic: limits, verdicts, alternation, the results page."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import (  # noqa: E402
    digits_seeds,
    exactness,
    learned_widths,
    lowering_time,
    mnist_build_time,
    mnist_int8,
    mnist_learned,
    mnist_narrow,
    names_learned,
    preserve_time,
    record,
    report,
    timing,
)
from sgsc_edge.graph import ir  # noqa: E402
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor  # noqa: E402
from sgsc_edge.preservation.selection import Selection, SideCounts  # noqa: E402
from sgsc_edge.targets import load_target  # noqa: E402


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("verdicts", "code"), [([True, None], 0), ([True, False], 1), ([None], 0)])
def test_finish_fails_on_an_unmet_limit(results: Path, verdicts: list[bool | None], code: int) -> None:
    rows = [record.Row(f"figure {index}", "1", "0", met) for index, met in enumerate(verdicts)]
    assert record.finish("exactness", rows, {"raw": [1.5]}) == code
    stored = json.loads((results / "exactness.json").read_text())
    assert stored["detail"] == {"raw": [1.5]}
    assert set(stored["environment"]["packages"]) == set(record.STAMPED)
    assert record.read_rows(results / "exactness.json")[0] == rows


def test_report_shows_rows_or_says_that_nothing_was_measured(results: Path) -> None:
    title, text = report.SECTIONS["cli_time"]
    assert "Not measured yet." in report.section("cli_time", title, text)
    record.finish("cli_time", [record.Row("help", "0.4 s", "≤ 0.3 s", False)])
    shown = report.section("cli_time", title, text)
    assert "| help | 0.4 s | ≤ 0.3 s | **no** |" in shown
    assert "python -m benchmarks.cli_time" in shown
    assert "Not measured" not in shown


@pytest.mark.parametrize("name", [name for name in report.SECTIONS if not name.startswith("paper.")])
def test_every_section_has_its_script(name: str) -> None:
    assert importlib.util.find_spec(f"benchmarks.{name}") is not None
    script = (ROOT / "benchmarks" / f"{name.replace('.', '/')}.py").read_text()
    assert f'finish("{name}"' in script.replace("\n        ", "")


def test_one_different_integer_is_not_exact() -> None:
    outputs = np.zeros((3, 10), np.int8)
    other = outputs.copy()
    other[2, 9] = 1
    folder = Path("examples/digits/build/tflite-int8")
    assert exactness.row(folder, "tflm", outputs, outputs.copy()).met is True
    row = exactness.row(folder, "tflm", outputs, other)
    assert row.met is False
    assert row.value == "1 of 30 (3 samples)"


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (np.zeros((3, 10), np.int8), np.zeros((2, 10), np.int8)),
        (np.zeros((3, 10), np.int8), np.zeros((3, 10), np.int16)),
        (np.zeros((0, 10), np.int8), np.zeros((0, 10), np.int8)),
    ],
)
def test_other_shapes_or_nothing_are_refused(outputs: np.ndarray, expected: np.ndarray) -> None:
    with pytest.raises(SystemExit, match="tflm"):
        exactness.row(Path("a/b/c"), "tflm", outputs, expected)


def test_xnnpack_is_compared_op_by_op_with_what_the_target_tolerates() -> None:
    unit = Quantization.per_tensor(1.0, 0)
    tensors = {name: Tensor(name, (1, 4), DType.INT8, unit) for name in "xry"}
    twice = {"y": Tensor("y", (1, 4), DType.INT8, Quantization.per_tensor(2.0, 0))}
    nodes = (Node(ir.Relu(), ("x",), ("r",)), Node(ir.Add(), ("r", "x"), ("y",)))
    graph = Graph("g", tensors | twice, nodes, ("x",), ("y",))
    samples = np.random.default_rng(0).integers(-128, 128, (20, 4)).astype(np.int8)
    rows = exactness.op_rows(Path("a/b/c"), load_target("tflite-int8"), graph, samples)
    assert [(row.measure.split()[-4], row.limit, row.met) for row in rows] == [
        ("Add,", "≤ 1", True),
        ("Relu,", "≤ 0", True),
    ]
    assert exactness.alone(graph, nodes[1]).inputs == ("r", "x")


@pytest.mark.parametrize(("wrong", "met"), [(40, True), (50, True), (51, False)])
def test_mnist_limit_is_a_tenth_of_a_point(wrong: int, met: bool) -> None:
    rows = mnist_int8.rows(10_000, 40, {"tflm": wrong, "litert": 900})
    assert [row.met for row in rows] == [None, met, None]
    assert rows[0].value == "99.60%"


@pytest.mark.parametrize(("more", "met"), [((0, 4), True), ((2, 3), False)])
def test_digits_limit_is_on_the_mean(more: tuple[int, ...], met: bool) -> None:
    measured = [
        {"seed": seed, "samples": 355, "float": 3, "int8": 3 + errors} for seed, errors in enumerate(more)
    ]
    assert digits_seeds.rows(measured)[0].met is met


def test_converters_alternate_and_the_first_pair_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    def append(name: str) -> list[str | Path]:
        return [sys.executable, "-c", f"open({str(log)!r}, 'a').write({name!r})"]

    ours, theirs = lowering_time.alternate(append("a"), append("b"), 2, tmp_path)
    assert log.read_text() == "ab" * 3
    assert len(ours) == len(theirs) == 2


def test_a_failing_process_is_not_timed() -> None:
    with pytest.raises(SystemExit, match=r"(?s)exit code 3.*reason"):
        timing.wall_time([sys.executable, "-c", "import sys; print('reason'); sys.exit(3)"])
    assert timing.wall_time([sys.executable, "-c", "raise SystemExit(1)"], allowed=(0, 1)) > 0


@pytest.mark.parametrize(("seconds", "met"), [(89.0, True), (91.0, False)])
def test_preserve_limit_is_on_the_median(seconds: float, met: bool) -> None:
    counts = SideCounts(samples=30_000, different=30_000, labels={"0": 30_000})
    selection = Selection(
        method="critical",
        shares={},
        seed=0,
        grad_cam=None,
        features="c",
        rest=counts,
        pool=counts,
        samples=(),
        must_keep=(),
    )
    rows = preserve_time.rows([1.0, seconds, 200.0], selection)
    assert [row.met for row in rows] == [met, None, None, None]
    assert "60,000" in rows[0].measure


@pytest.mark.parametrize(
    ("wide", "narrow", "value", "met"),
    [
        (5_600, 2_800, "98.00%, 99.10%", True),
        (5_600, 4_000, "98.00%, 98.00%", False),
        (4_000, 2_800, "99.10%, 99.10%", False),  # that int8 needs more than 4,000 is not shown
    ],
)
def test_int4_has_less_than_a_share_of_what_int8_needs(wide: int, narrow: int, value: str, met: bool) -> None:
    def steps(target: str, enough: int) -> dict[int, list[mnist_narrow.Built]]:
        return {
            budget: [mnist_narrow.Built(0.991 if budget >= enough else 0.98, 0.996, budget, budget, {})]
            for budget in mnist_narrow.LADDER[target]
        }

    targets = {mnist_narrow.WIDE: wide, mnist_narrow.NARROW: narrow}
    *each, first, second, row = mnist_narrow.ladder_rows(
        {target: steps(target, enough) for target, enough in targets.items()}
    )
    assert (row.value, row.met) == (value, met)
    assert [one.met for one in each] == [None] * 5
    assert (first.met, second.met) == (True, True)


@pytest.mark.parametrize(("wrong", "met"), [(3, True), (4, True), (5, False)])
def test_learned_widths_have_no_more_errors_at_equal_bytes(wrong: int, met: bool) -> None:
    budgets = (*learned_widths.BUDGETS, *learned_widths.IN_CODE.values())
    measured = {
        (target, budget): [learned_widths.Accuracy(errors, 0.98, round(0.99 * budget), budget)]
        for budget in budgets
        for target, errors in zip(learned_widths.TARGETS, (8, 4, wrong), strict=True)
    }
    verdicts = [row.met for row in learned_widths.accuracy_rows(measured) if row.limit]
    assert verdicts == [met, met, True]


def test_packed_filters_cost_little_more_than_the_bits_of_their_widths() -> None:
    filters = np.zeros((2, 1, 1, 40), np.int8)
    filters[0], filters[1, 0, 0, 0] = 1, 100  # 1 bit and 8 bits a weight
    weights = Tensor("w", filters.shape, DType.INT8, Quantization.per_tensor(1.0, 0), filters)
    values = {name: Tensor(name, (1, 1, 1, 40), DType.INT8) for name in "xy"}
    graph = Graph("g", values | {"w": weights}, (Node(ir.Conv2D(), ("x", "w"), ("y",)),), ("x",), ("y",))
    assert learned_widths.packed(graph) == (40 * 9, 80, 46)
    cost = learned_widths.Cost(8 * 46 / (40 * 9), 1.6, 4.5)
    storage, instructions = learned_widths.cost_rows({"g": cost})
    assert (storage.met, instructions.met) == (True, False)


def test_accuracy_at_learned_widths_is_the_mean_of_the_seeds() -> None:
    def built(errors: int, code: int = 7_990) -> mnist_learned.Result:
        return mnist_learned.Result(errors, 40, 10_000, code, 20_000, 3.0)

    accuracy, stored, _ = mnist_learned.rows_of(8_000, [built(50), built(70)])
    assert (accuracy.value, accuracy.met, stored.met) == ("99.40% (99.50%, 99.30%)", True, True)
    accuracy, stored, *_ = mnist_learned.rows_of(8_000, [built(50), built(71, code=8_001)])
    assert (accuracy.met, stored.met) == (False, False)
    assert mnist_learned.rows_of(1_000, [built(500)])[0].met is None


@pytest.mark.parametrize(("minutes", "met"), [(15.0, True), (15.1, False)])
def test_the_time_of_a_build_has_a_limit(minutes: float, met: bool) -> None:
    time, processor, memory, load = mnist_build_time.rows_of(minutes, 20.06, 812.4, 0.0)
    assert (time.value, time.met) == (f"{minutes}", met)
    assert [row.value for row in (processor, memory, load)] == ["20.1", "812 MB", "0.0"]


def test_the_rise_of_a_loss_is_the_mean_of_the_seeds() -> None:
    def built(loss: float) -> names_learned.Result:
        return names_learned.Result(loss, 2.0, 1.9, 1.95, 0.8, 164_000, passed=loss < 2.02)

    rise, *_, passed = names_learned.rows_of("0.2x", [built(2.01), built(2.028)])
    assert (rise.value, rise.met) == ("+0.019 (+0.010, +0.028)", True)
    assert passed.value == "1 of 2"
    assert names_learned.rows_of("0.2x", [built(2.021)])[0].met is False
    assert names_learned.rows_of("0.1x", [built(2.5)])[0].met is None


def test_float_checkpoints_are_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FLOATS", tmp_path / "floats")
    calls: list[Path] = []

    def train(_: str, script: Path, *options: str) -> None:
        assert options == ("--seed", "3")
        calls.append(script)
        (script.parent / "float.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(record, "run", train)
    for attempt in ("first", "second"):
        project = tmp_path / attempt / "mnist-3"
        project.mkdir(parents=True)
        record.own_float(project, 3)
        assert (project / "float.safetensors").read_bytes() == b"weights"
    assert calls == [tmp_path / "first/mnist-3/train.py"]
    record.own_float(project, 3, kept=False)
    assert calls[1:] == [tmp_path / "second/mnist-3/train.py"]
