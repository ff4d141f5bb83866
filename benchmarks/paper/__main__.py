"""Runs the rows of a model that are not kept yet, and writes its tables: `python -m benchmarks.paper`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch

from benchmarks.paper import scale
from benchmarks.paper.running import THREADS, Result, Run, subject_runs
from benchmarks.paper.subjects import SUBJECTS, Subject
from benchmarks.paper.tables import (
    Measured,
    curve_picture,
    difference_table,
    main_table,
    prediction_table,
    rare_rows,
    recall_picture,
    recall_table,
)
from benchmarks.paper.variants import cases
from benchmarks.record import Row, finish

SEEDS = (0, 1, 2)


def main() -> int:
    """Run, and write what all kept rows say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--model", choices=[*SUBJECTS, scale.NAME], default="mnist")
    parser.add_argument("--rows", nargs="+", default=[], help="names such as ours or ours@3000; unset: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--list", action="store_true", help="name the rows, and whether they are kept")
    parser.add_argument(
        "--partial", action="store_true", help="run nothing; write the results of the rows that are kept"
    )
    options = parser.parse_args()
    if options.model == scale.NAME:
        return scale.main()
    torch.set_num_threads(THREADS)
    subject = SUBJECTS[options.model]
    known = {name for case in cases(subject) for name in (case.name, case.variant.name)}
    if unknown := set(options.rows) - known:
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    wanted = subject_runs(subject, tuple(options.rows), tuple(options.seeds))
    if options.list:
        return _list(wanted)
    for run in () if options.partial else wanted:
        if run.needs() is None:
            result = run.result()
            print(f"seed {run.seed}, {run.case.name}: {_short(subject, result)}", flush=True)
    return write(gather(subject, tuple(options.seeds)), partial=options.partial)


def _list(runs: Sequence[Run]) -> int:
    for run in runs:
        print(f"seed {run.seed}, {run.case.name}: {_state(run)}")
    return 0


def _state(run: Run) -> str:
    if not run.case.subject.is_trained(run.seed):
        return "to run, and its float model to train"
    if (needs := run.needs()) is not None:
        return f"needs: {needs}"
    return "to run" if run.kept() is None else "kept"


def _short(subject: Subject, result: Result) -> str:
    """What a run may be judged by while anything is still to be chosen: never the test set."""
    metric = result.scores["pool"].metric(subject.metric)
    return f"pool {metric:.4f}, {result.figures['learned']:,d} bytes, {result.figures['seconds']:.0f} s"


def gather(subject: Subject, seeds: tuple[int, ...]) -> Measured:
    """All rows that are kept."""
    rows: dict[str, dict[int, Result]] = {}
    needs: dict[str, str] = {}
    missing = []
    for run in subject_runs(subject, (), seeds):
        if (lacks := run.needs()) is not None:
            needs[run.case.name] = lacks
        elif (result := run.kept()) is None:
            missing.append(f"{run.case.name} of seed {run.seed}")
        else:
            rows.setdefault(run.case.name, {})[run.seed] = result
    return Measured(subject, rows, needs, tuple(missing))


def write(found: Measured, *, partial: bool) -> int:
    """Write the results, where no row is missing or ``partial``; 1 when a limit is not met, else 0."""
    if found.missing and not partial:
        print(
            f"{len(found.missing)} rows are not measured yet, nothing is written: {', '.join(found.missing)}"
        )
        return 0
    subject = found.subject
    tables = [main_table(found)]
    rows = [_schedule(subject)]
    if found.missing:
        rows.append(Row("rows that were not measured", f"{len(found.missing)}"))
    if subject.rare is not None:
        rows += rare_rows(found, subject.rare)
        tables.append(recall_table(found, subject.rare))
        picture = recall_picture(found, subject.rare)
    else:
        tables.append(difference_table(found))
        picture = curve_picture(found)
        if (predicted := prediction_table(found)) is not None:
            tables.append(predicted)
    detail = {name: _detail(subject, seeds) for name, seeds in found.rows.items()}
    return finish(f"paper.{subject.name}", rows, detail, tables=tables, pictures=[picture])


def _schedule(subject: Subject) -> Row:
    return Row(
        f"{subject.title}: schedule of every trained row",
        f"{subject.epochs} epochs, batches of {subject.batch_size} (a quarter guide samples; without a "
        "guide as much smaller)",
    )


def _detail(subject: Subject, seeds: Mapping[int, Result]) -> dict[str, object]:
    """The figures behind a row, by seed, but for times: rows may be run side by side."""
    return {
        str(seed): {
            **{name: scores.metric(subject.metric) for name, scores in one.scores.items()},
            **{k: v for k, v in one.figures.items() if isinstance(v, int | float) and "seconds" not in k},
        }
        for seed, one in sorted(seeds.items())
    }


if __name__ == "__main__":
    raise SystemExit(main())
