"""From kept rows to the tables, plots and sentences of docs/results.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.paper.measure import Outcome
from benchmarks.paper.plots import Curve, plot
from benchmarks.paper.prediction import Judged, distinct, predictions
from benchmarks.paper.running import Result
from benchmarks.paper.statistics import Spread
from benchmarks.paper.subjects import Metric, Subject
from benchmarks.paper.variants import OURS, SAME_AS_OURS, SETS, UNCOMPRESSED, Case, Variant, cases
from benchmarks.record import Picture, Row, Table

Seeds = Mapping[int, Result]
"""Seed -> what was measured of a row."""

Pair = tuple[int, Result, Result]
"""A seed, a row and ours."""


@dataclass(frozen=True)
class Measured:
    """All rows of a subject.

    Parameters
    ----------
    rows: case name -> results by seed; rows that were not run are not in it.
    needs: case name -> what this version lacks for it.
    missing: case names with seeds that are still to be run.
    """

    subject: Subject
    rows: Mapping[str, Seeds]
    needs: Mapping[str, str]
    missing: tuple[str, ...]

    def cases(self) -> list[Case]:
        """In the table's order."""
        return list(cases(self.subject))

    def at(self, variant: str, budget: int | None) -> Seeds:
        """A row's results by seed, empty where there are none."""
        return self.rows.get(variant if budget is None else f"{variant}@{budget}", {})

    @property
    def floats(self) -> Seeds:
        """The float models."""
        return self.rows.get("float", {})

    def has_floats(self, seeds: Seeds) -> bool:
        """Whether there is a float model of each of these seeds."""
        return seeds.keys() <= self.floats.keys()


COLUMNS = ("", "bytes, learned widths", "bytes, int8", "test", "gap", "certify", "flips", "actions", "λ")


def main_table(found: Measured) -> Table:
    """Every row: sizes, test metric, train less test, certify metric, decisions that turned wrong there, how
    often the controller gave bits back, and the weight of the preservation loss at the end."""
    rows: list[tuple[str, ...]] = []
    group = ""
    ablated = found.subject.ablated
    for case in found.cases():
        if case.variant.group != group:
            group = case.variant.group
            rows.append((f"*{group}*", *[""] * (len(COLUMNS) - 1)))
            if group in SAME_AS_OURS:
                rows.append(_line(found, SAME_AS_OURS[group], f"{OURS.name}@{ablated}", OURS))
        budget = "" if case.budget is None else f", {case.budget:,d}"
        shown = budget if case.variant.everywhere else ""
        rows.append(_line(found, f"{case.variant.text}{shown}", case.name, case.variant))
    return Table(
        f"{found.subject.title}: every row (where none is named, the budget is {ablated:,d} bytes)",
        COLUMNS,
        tuple(rows),
    )


def _line(found: Measured, text: str, name: str, variant: Variant) -> tuple[str, ...]:
    """One row; a cell is empty where it would say nothing.

    The certify samples are those of our own set: a row with another set may have been watched by them.
    """
    if name in found.needs:
        return (text, f"needs: {found.needs[name]}", *[""] * (len(COLUMNS) - 2))
    seeds = found.rows.get(name, {})
    if not seeds:
        return (text, "not measured", *[""] * (len(COLUMNS) - 2))
    metric = found.subject.metric

    def cell(figure: Callable[[int, Result], float], form: str, shown: bool = True) -> str:
        return _spread(seeds, figure).text(form) if shown else ""

    form = ".2%" if metric == "accuracy" else ".3f"
    compressed = variant.how not in UNCOMPRESSED
    comparable = found.has_floats(seeds) and not variant.chooses
    return (
        text,
        cell(lambda _, one: one.figures["learned"], ",.0f"),
        cell(lambda _, one: one.figures["in_8_bits"], ",.0f", compressed),
        cell(lambda _, one: one.scores["test"].metric(metric), form),
        cell(lambda _, one: gap(one, metric), f"+{form}"),
        cell(lambda seed, one: certified(found, seed, one).metric(metric), form, comparable),
        cell(lambda seed, one: flips(found, seed, one), ",.0f", comparable),
        cell(lambda _, one: one.figures["actions"], ".0f", variant.acts),
        cell(lambda _, one: one.figures["history"][-1]["guide_multiplier"], ".2f", variant.weighs),
    )


def _spread(seeds: Seeds, figure: Callable[[int, Result], float]) -> Spread:
    return Spread.of([figure(seed, one) for seed, one in sorted(seeds.items())])


def gap(one: Result, metric: Metric) -> float:
    """By how much the training samples do better than the test set."""
    difference = one.scores["train"].metric(metric) - one.scores["test"].metric(metric)
    return difference if metric == "accuracy" else -difference


def certified(found: Measured, seed: int, one: Result) -> Outcome:
    """A row on the certify samples of our own set, the same ones for all rows of a seed."""
    return one.pool.take(np.array(found.floats[seed].figures["certify"], np.int64))


def flips(found: Measured, seed: int, one: Result) -> int:
    """Certify decisions that float has right and a row has wrong."""
    return certified(found, seed, one).flips(certified(found, seed, found.floats[seed]))


DIFFERENCES = ("", "test", "95 % interval", "certify", "flips", "says")


def difference_table(found: Measured) -> Table:
    """What each part buys at the ablated budget: the row less ours, by pairs of the same seed."""
    budget, metric = found.subject.ablated, found.subject.metric
    ours, rows = found.at(OURS.name, budget), []
    unit, factor, form = ("points", 100, "+.2f") if metric == "accuracy" else ("nats", 1, "+.4f")
    for case in found.cases():
        seeds = found.rows.get(case.name, {})
        pairs = [(seed, seeds[seed], ours[seed]) for seed in sorted(seeds) if seed in ours]
        if case.budget not in (None, budget) or case.variant == OURS or not pairs:
            continue

        def less(figure: Callable[[int, Result], float], pairs: Sequence[Pair] = pairs) -> Spread:
            return Spread.of([figure(seed, one) - figure(seed, own) for seed, one, own in pairs])

        test = less(lambda _, one: factor * one.scores["test"].metric(metric))
        certify = flipped = ""
        if found.has_floats({seed: one for seed, one, _ in pairs}) and not case.variant.chooses:
            certify = less(lambda seed, one: factor * certified(found, seed, one).metric(metric)).text(form)
            flipped = less(lambda seed, one: flips(found, seed, one)).text("+.1f")
        said = "the same models" if all(_same(one, own) for _, one, own in pairs) else says(test, metric)
        name = f"{case.variant.group}: {case.variant.text}"
        rows.append((name, test.text(form), _bounds(test.interval(), form), certify, flipped, said))
    title = f"{found.subject.title}: each row less ours at {budget:,d} bytes, {unit}, by pairs of a seed"
    return Table(title, DIFFERENCES, tuple(rows))


def _same(one: Result, other: Result) -> bool:
    """Whether two rows' models answer equally."""
    return one.scores == other.scores and bool((one.pool.right == other.pool.right).all())


def says(less: Spread, metric: Metric) -> str:
    """In words what a row's difference to ours tells at :data:`statistics.LEVEL`."""
    bounds = less.interval()
    if bounds is None:
        return "one seed"
    low, high = bounds
    if low <= 0 <= high:
        return "no difference shown"
    return "worse than ours" if (less.mean < 0) == (metric == "accuracy") else "better than ours"


def _bounds(bounds: tuple[float, float] | None, form: str) -> str:
    return "" if bounds is None else f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def prediction_table(found: Measured) -> Table | None:
    """Rank correlations of candidate sets with test; None where too little has been measured."""
    metric, budget = found.subject.metric, found.subject.ablated
    free, guarded = (predictions(judged(found, guarded=one), metric) for one in (False, True))
    if not free or not guarded:
        return None
    rows = tuple(
        (a.name, f"{a.correlation:.3f}", _share(a.beaten), f"{b.correlation:.3f}", _share(b.beaten))
        for a, b in zip(free, guarded, strict=True)
    )
    return Table(
        f"{found.subject.title}: Spearman's rank correlation of a set's {metric} with the test set's, over "
        f"models, mean of the seeds; sets of {free[0].samples:,d} and {guarded[0].samples:,d} samples",
        (
            "set",
            "models of all sizes that no set has guarded",
            "random subsets that do worse",
            f"models of {budget:,d} bytes",
            "random subsets that do worse",
        ),
        rows,
    )


def _share(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.0%}"


def judged(found: Measured, *, guarded: bool) -> list[Judged]:
    """For each seed with all candidates: models, and the candidates.

    Parameters
    ----------
    guarded: models of the ablated budget that our own set has guarded, or none; in place of those of all
        sizes that none has.
    """
    budget, seeds = found.subject.ablated, []
    own = [
        case.name
        for case in found.cases()
        if case.variant.how not in UNCOMPRESSED
        and (case.budget == budget and not case.variant.chooses if guarded else not case.variant.guarded)
    ]
    for seed, one in sorted(found.floats.items()):
        sets = {name: found.at(variant, budget).get(seed) for name, variant in SETS.items()}
        if any(result is None for result in sets.values()):
            continue
        models = distinct([found.rows[name][seed] for name in own if seed in found.rows.get(name, {})])
        chosen = {name: result.figures["certify"] for name, result in sets.items() if result is not None}
        seeds.append(Judged(models, chosen, one.figures["watch"] if guarded else ()))
    return seeds


# --- the class with few samples -------------------------------------------------------------------

LOST, HELD = 5.0, 1.0
"""Points of the rare class's recall: what an unsafe run must have lost, and a safe one may."""


def recall_table(found: Measured, rare: int) -> Table:
    """The rare class's recall on the test set beside the others', by size."""
    rows = []
    for case in found.cases():
        seeds = found.rows.get(case.name, {})
        if not seeds:
            continue
        recalls = [one.scores["test"].recalls for _, one in sorted(seeds.items())]
        others = [{label: share for label, share in one.items() if label != rare} for one in recalls]
        size = Spread.of([one.figures["learned"] for one in seeds.values()])
        rows.append(
            (
                _named(case.variant),
                size.text(",.0f"),
                Spread.of([one[rare] for one in recalls]).text(".1%"),
                Spread.of([statistics.mean(one.values()) for one in others]).text(".2%"),
                Spread.of([min(one.values()) for one in others]).text(".2%"),
            )
        )
    columns = (
        "",
        "bytes, learned widths",
        f"recall of {rare}",
        "recall of the others",
        "least of the others",
    )
    return Table(f"{found.subject.title}: recall on the test set", columns, tuple(rows))


def _named(variant: Variant) -> str:
    """With what is varied, where the table has no row for it."""
    alone = variant.everywhere or variant.how in UNCOMPRESSED
    return variant.text if alone else f"ours, {variant.group} {variant.text}"


def recall(one: Result, rare: int) -> float:
    """The share of the class's test samples that are decided rightly."""
    return one.scores["test"].recalls[rare]


def fall(found: Measured, variant: str, budget: int, rare: int) -> Spread | None:
    """Points of the rare class's recall that a row has lost to float, over the seeds that have both."""
    seeds = found.at(variant, budget)
    lost = [
        100 * (recall(found.floats[seed], rare) - recall(one, rare))
        for seed, one in sorted(seeds.items())
        if seed in found.floats
    ]
    return Spread.of(lost) if lost else None


def rare_rows(found: Measured, rare: int) -> list[Row]:
    """At each size what is lost; and whether somewhere the unsafe run forgets what a safe one keeps."""
    rows, held = [], []
    safe = [name for name in found.subject.variants if name not in ("float", "unsafe", "balanced")]
    for budget in found.subject.budgets:
        falls = {name: fall(found, name, budget, rare) for name in ("unsafe", "balanced", *safe)}
        known = {name: one for name, one in falls.items() if one is not None}
        text = "; ".join(f"{name} {one.text('.1f')}" for name, one in known.items())
        rows.append(
            Row(f"{budget:,d} bytes: points of digit {rare}'s recall below float", text or "not measured")
        )
        if "unsafe" in known and known["unsafe"].mean >= LOST:
            held += [f"{n} at {budget:,d}" for n, one in known.items() if n in safe and one.mean <= HELD]
    measure = f"where unsafe loses {LOST:g} points or more, a safe run loses at most {HELD:g}"
    return [*rows, Row(measure, ", ".join(held) or "nowhere", "somewhere", bool(held))]


# --- curves ---------------------------------------------------------------------------------------


def curve_picture(found: Measured) -> Picture:
    """Test metric by size of the rows that are run at every budget, float as a line."""
    metric = found.subject.metric
    factor = 100.0 if metric == "accuracy" else 1.0
    return _picture(
        found,
        f"paper-{found.subject.name}.svg",
        f"{found.subject.title}: test {metric}" + (", %" if metric == "accuracy" else ", nats"),
        lambda one: factor * one.scores["test"].metric(metric),
    )


def recall_picture(found: Measured, rare: int) -> Picture:
    """The rare class's recall by size."""
    title = f"{found.subject.title}: recall of {rare} on the test set, %"
    return _picture(
        found,
        f"paper-{found.subject.name}.svg",
        title,
        lambda one: 100 * recall(one, rare),
    )


def _picture(found: Measured, name: str, title: str, figure: Callable[[Result], float]) -> Picture:
    curves = []
    for variant in dict.fromkeys(case.variant for case in found.cases() if case.variant.everywhere):
        points = []
        for budget in found.subject.budgets:
            seeds = found.at(variant.name, budget)
            if seeds:
                size = Spread.of([one.figures["learned"] for one in seeds.values()])
                points.append((size.mean / 1000, Spread.of([figure(one) for one in seeds.values()])))
        if points:
            curves.append(Curve(variant.text, tuple(points), shown=variant.how != "pruned"))
    level = Spread.of([figure(one) for one in found.floats.values()]).mean if found.floats else None
    return plot(name, title, "kB, learned widths", curves, level=level, level_name="float")
