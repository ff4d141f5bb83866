"""What widths of 1 to 8 bits a channel buy: accuracy at equal bytes, and what storing and unpacking cost.

Digits are built for three targets under the same budgets, each in bytes as the target stores weights, biases
and scales: in a ``.tflite``, or as constants of C code; and with learned widths in what the others take as C
code. Storage is the packed weights with their widths over the bits that these widths ask for; instructions
are those of an inference on the virtual Cortex-M4 over those of the same integers in 8 bits. Test sets are
measured and choose nothing::

    python -m benchmarks.learned_widths [--seeds 0 1 2] [--no-mnist]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.digits_budget import stored_bytes
from benchmarks.mnist_budget import known
from benchmarks.networks_budget import NETWORKS
from benchmarks.record import Row, build, finish, trained
from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.run import run_package
from sgsc_edge.certification import read_certificate
from sgsc_edge.graph.ir import Graph
from sgsc_edge.numerics import filter_widths, pack_filters
from sgsc_edge.packaging import package_c_code, read_source
from sgsc_edge.targets import channel_axis

LEARNED = "c-learned"
TARGETS = ("tflite-int8", "tflm-int4", LEARNED)
BUDGETS = (2_660, 1_770)
"""15 % and 10 % of what the digits example takes in plain int8."""

IN_CODE = {2_660: 1_970, 1_770: 1_230}
"""What the other targets' builds take as C code: a channel has fewer bytes beside weights there."""

MNIST_BUDGET, NETWORK_BUDGET = 8_000, 7_000
STORAGE_LIMIT, INSTRUCTIONS_LIMIT = 1.05, 1.5
BOARD = "virtual-cortex-m4"


@dataclass(frozen=True)
class Accuracy:
    """One build: wrong decisions of its test samples on TFLM, certify accuracy there, and bytes.

    ``stored``: as its target stores weights, biases and scales; ``code``: the same as constants of C code.
    """

    errors: int
    certify: float
    stored: int
    code: int


@dataclass(frozen=True)
class Cost:
    """What packing costs: bytes over the widths' bits, instructions over int8, and the mean width in bits."""

    storage: float
    instructions: float
    bits: float


def main() -> int:
    """Build and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-mnist", action="store_true", help="leave out what takes longest")
    arguments = parser.parse_args()
    seeds = arguments.seeds
    digits = {seed: trained("digits", seed) for seed in seeds}
    wanted = [(target, budget) for budget in BUDGETS for target in TARGETS]
    folders = {
        (target, budget): [within(digits[seed], seed, budget, target) for seed in seeds]
        for target, budget in (*wanted, *((LEARNED, budget) for budget in IN_CODE.values()))
    }
    accuracies = {key: [accuracy(folder, key[0]) for folder in built] for key, built in folders.items()}
    networks = {
        **{f"digits at {budget:,d} bytes": folders[LEARNED, budget][0] for budget in BUDGETS},
        **{
            name: within(trained("digits", 0, model), 0, NETWORK_BUDGET, LEARNED)
            for name, model in NETWORKS.items()
        },
    }
    if not arguments.no_mnist:
        networks["MNIST CNN"] = within(trained("mnist", 0), 0, MNIST_BUDGET, LEARNED)
    costs = {name: cost(folder) for name, folder in networks.items()}
    detail = {
        "seeds": seeds,
        "digits": {
            f"{target} {budget}": [asdict(one) for one in each]
            for (target, budget), each in accuracies.items()
        },
        "costs": {name: asdict(one) for name, one in costs.items()},
    }
    return finish("learned_widths", [*accuracy_rows(accuracies), *cost_rows(costs)], detail)


def within(project: Path, seed: int, budget: int, target: str) -> Path:
    """Build for a target under a budget."""
    settings = (f"compress.seed={seed}", f"compress.budget={budget} B")
    options = [part for setting in settings for part in ("--set", setting)]
    return build(project, project / f"widths-{budget}", *options, target=target)


def accuracy(folder: Path, target: str) -> Accuracy:
    """Read a build's certificate, and count its bytes."""
    predicate = read_certificate(folder / "certificate.json").predicate
    (tflm,) = (row for row in predicate.runtimes if row.name == "tflm")
    test = predicate.test["tflm"]
    with tempfile.TemporaryDirectory() as out:
        code = int(package_c_code(read_source(folder), Path(out)).description["constant_bytes"])
    return Accuracy(
        errors=round(test.samples * (1 - known(test.metrics["accuracy"]))),
        certify=known(tflm.sets["certify"].metrics["accuracy"]),
        stored=code if target == LEARNED else stored_bytes(folder),
        code=code,
    )


def cost(folder: Path) -> Cost:
    """Package a build with its learned widths and in 8 bits, and count."""
    source = read_source(folder)
    samples = next(iter(source.inputs.values()))
    fed = samples.reshape(len(samples), -1)
    instructions = []
    for learned in (True, False):
        with tempfile.TemporaryDirectory() as out:
            package_c_code(source, Path(out), learned=learned)
            run = run_package(Path(out), load_board(BOARD), fed)
        instructions.append(known(run.instructions))
    bits, weights, stored = packed(source.graph)
    return Cost(8 * stored / bits, instructions[0] / instructions[1], bits / weights)


def packed(graph: Graph) -> tuple[int, int, int]:
    """Bits that the widths of a model's weights ask for, weights, and bytes of them packed."""
    bits = weights = stored = 0
    for node in graph.nodes:
        if node.kind not in ("Conv2D", "DepthwiseConv2D", "FullyConnected"):
            continue
        data = graph[node.inputs[1]].data
        if data is None:
            continue
        filters = np.moveaxis(data, channel_axis(node.kind), 0)
        bits += int(filter_widths(filters).astype(int).sum()) * filters[0].size
        weights += filters.size
        stored += len(pack_filters(filters))
    return bits, weights, stored


def accuracy_rows(accuracies: Mapping[tuple[str, int], Sequence[Accuracy]]) -> list[Row]:
    """Errors of each target at equal bytes, certify accuracies, and how well the budgets are met."""
    found = []
    for (target, budget), builds in accuracies.items():
        figures = (
            ", ".join(str(one.errors) for one in builds),
            ", ".join(f"{one.certify:.1%}" for one in builds),
            ", ".join(f"{one.code:,d}" for one in builds),
        )
        found.append(
            Row(
                f"digits, {target} at {budget:,d} bytes: test errors; certify accuracy; bytes in C, by seed",
                "; ".join(figures),
            )
        )
    for budget in BUDGETS:
        means = _means(accuracies, (budget, budget, budget))
        in_code = _means(accuracies, (budget, budget, IN_CODE[budget]))
        measure = f"test errors, {' → '.join(TARGETS)}, mean of the seeds"
        met = means[-1] <= min(means)
        found += [
            Row(f"digits at {budget:,d} bytes: {measure}", _arrows(means), "no more", met),
            Row(f"digits at {IN_CODE[budget]:,d} bytes of C code: {measure}", _arrows(in_code)),
        ]
    learned = [(budget, each) for (target, budget), each in accuracies.items() if target == LEARNED]
    used = [one.stored / budget for budget, each in learned for one in each]
    found.append(
        Row(
            f"digits, {LEARNED}: share of the budget that the C code's constants use",
            f"{min(used):.3f} to {max(used):.3f}",
            "0.98 to 1",
            all(0.98 <= share <= 1 for share in used),
        )
    )
    return found


def _means(
    accuracies: Mapping[tuple[str, int], Sequence[Accuracy]], budgets: tuple[int, int, int]
) -> list[float]:
    """Test errors of each target at its budget."""
    pairs = zip(TARGETS, budgets, strict=True)
    return [statistics.mean(one.errors for one in accuracies[pair]) for pair in pairs]


def _arrows(means: Sequence[float]) -> str:
    return " → ".join(f"{mean:.1f}" for mean in means)


def cost_rows(costs: Mapping[str, Cost]) -> list[Row]:
    """Storage and instructions of each network against their limits."""
    return [
        row
        for name, one in costs.items()
        for row in (
            Row(
                f"{name} ({one.bits:.1f} bits a weight): packed weights over the bits of their widths",
                f"{one.storage:.3f}",
                f"≤ {STORAGE_LIMIT}",
                one.storage <= STORAGE_LIMIT,
            ),
            Row(
                f"{name}: instructions on {BOARD}, learned widths over 8 bits",
                f"{one.instructions:.2f}",
                f"≤ {INSTRUCTIONS_LIMIT}",
                one.instructions <= INSTRUCTIONS_LIMIT,
            ),
        )
    ]


if __name__ == "__main__":
    raise SystemExit(main())
