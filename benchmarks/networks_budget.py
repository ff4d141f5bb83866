"""Is the budget met on other kinds of network, with the digits example's recipe untouched?

A depthwise-separable and a residual network are trained in float on the digits (the pool left out), then
built under three budgets, shares of the bytes of their plain int8 form. Bytes are weights, biases and their
scales in the files that ship. Test errors inform only. The last row is the time that the exact choice of
channels takes on a wide network::

    python -m benchmarks.networks_budget [--only NAME]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.digits_budget import stored_bytes
from benchmarks.networks import dscnn, resnet
from benchmarks.record import ROOT, WORK, Row, build, finish, run
from benchmarks.test_set import device_errors, float_errors
from sgsc_edge.compression.fit import fit
from sgsc_edge.compression.fit import stored_bytes as counted_bytes
from sgsc_edge.compression.layers import quantize_model

NETWORKS = {"dscnn": Path(dscnn.__file__), "resnet": Path(resnet.__file__)}
SHARES = (0.5, 0.3, 0.15)
WIDE = (128, 256, 256, 512, 512, 512, 512)
"""Widths of the separable network on which the choice is timed."""


@dataclass(frozen=True)
class Built:
    """One build: its budget (None for the plain one), the bytes of its file, its errors on the test set."""

    budget: int | None
    bytes: int
    errors: int

    @property
    def used(self) -> float:
        """Share of the budget that is used."""
        return self.bytes / self.budget if self.budget else 0.0


@dataclass(frozen=True)
class Measured:
    """One network: test samples, errors of the float model, the plain build and those under budgets."""

    samples: int
    errors: int
    plain: Built
    small: tuple[Built, ...]


def main() -> int:
    """Build each network plainly (calibration only) and under each budget, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(NETWORKS))
    only = parser.parse_args().only
    measured = {name: measure(name) for name in NETWORKS if only in (None, name)}
    found = [row for name, network in measured.items() for row in rows(name, network)]
    detail = {name: asdict(network) for name, network in measured.items()}
    return finish("networks_budget", [*found, choice_time()], {"networks": detail})


def measure(name: str) -> Measured:
    """Train a network and build it under every budget."""
    project = WORK / f"networks-{name}"
    shutil.rmtree(project, ignore_errors=True)
    ignored = shutil.ignore_patterns("build", "float.*", "__*")
    shutil.copytree(ROOT / "examples/digits", project, ignore=ignored)
    shutil.copyfile(NETWORKS[name], project / "model.py")
    run(sys.executable, project / "train.py")
    errors, samples = float_errors(project)
    plain = _built(project, None, "--method", "ptq")
    budgets = [int(share * plain.bytes) for share in SHARES]
    small = [_built(project, budget, "--set", f"compress.budget={budget} B") for budget in budgets]
    return Measured(samples, errors, plain, tuple(small))


def _built(project: Path, budget: int | None, *options: str) -> Built:
    folder = build(project, project / f"build-{budget or 'plain'}", *options)
    return Built(budget, stored_bytes(folder), device_errors(project, folder, "tflm"))


def rows(name: str, network: Measured) -> list[Row]:
    """How well the budgets are met, and the errors beside them."""
    used = [built.used for built in network.small]
    shares = ", ".join(f"{share:.0%}" for share in SHARES)
    errors = ", ".join(str(built.errors) for built in network.small)
    return [
        Row(
            f"{name}: share of the budget used at {shares} of plain int8 ({network.plain.bytes} bytes)",
            f"{min(used):.3f} to {max(used):.3f}",
            "0.98 to 1",
            all(0.98 <= share <= 1 for share in used),
        ),
        Row(
            f"{name}: errors of {network.samples} test samples, float → plain int8 → those budgets, on TFLM",
            f"{network.errors} → {network.plain.errors} → {errors}",
        ),
    ]


def choice_time() -> Row:
    """Time of ``fit`` at 30 % of a wide network's bytes, the ledger's making included."""
    torch.manual_seed(0)
    model = quantize_model(dscnn.separable(WIDE).eval(), torch.rand(1, 8, 8))
    masks = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    importance = {name: torch.rand(len(mask)) for name, mask in masks.items()}
    started = time.perf_counter()
    budget = int(0.3 * counted_bytes(model, masks))
    fit(model, masks, importance, budget)
    seconds = time.perf_counter() - started
    channels = sum(len(mask) for mask in masks.values())
    return Row(f"the exact choice of {channels} channels of a separable network", f"{seconds:.2f} s")


if __name__ == "__main__":
    raise SystemExit(main())
